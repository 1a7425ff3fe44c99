"""The three streams as torch modules, and their checkpoints.

`load_stream` reads a checkpoint strictly into the network of its stream; `write_random_weights` makes seeded
checkpoints in the same layout; what can go wrong is in `networks.errors`.
"""

from networks.errors import WeightsError
from networks.streams import StreamNetwork
from networks.weights.checkpoints import load_stream
from networks.weights.random_weights import PRESETS, is_untrained, write_random_weights
from networks.weights.stand_in import stand_in_note

__all__ = [
    "PRESETS",
    "StreamNetwork",
    "WeightsError",
    "is_untrained",
    "load_stream",
    "stand_in_note",
    "write_random_weights",
]
