"""Networks with seeded numbers, made in place and on their own device: no checkpoint is written or read."""

import torch

from ensemble.streams import STREAMS, Stream
from networks.architecture import StreamArchitecture
from networks.streams import StreamNetwork, build_stream
from networks.weights.random_weights import PRESETS, fill_seeded


def seeded_stream(stream: Stream, preset: str, device: str = "cpu") -> StreamNetwork:
    """Build a stream in float32 with seeded weights, like those of `write_random_weights`: they detect nothing.

    Args:
        stream: The stream; each has numbers of its own.
        preset: A key of `PRESETS`.
        device: Torch's name of where it is to be; the same kind of device gives the same numbers.
    """
    dino, clip = PRESETS[preset]
    architecture = StreamArchitecture(dino, clip if stream.has_clip else None)
    with torch.device("meta"):
        network = build_stream(architecture, stream.pixels)
    network.to_empty(device=device)
    fill_seeded(network, dino.blocks, torch.Generator(device).manual_seed(STREAMS.index(stream)))
    return network.requires_grad_(False)
