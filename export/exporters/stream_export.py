"""One stream: from its checkpoint to a validated ONNX model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.streams import Stream
from export.exporters.exporter import ModelExport, OnStage, Source, export_model
from export.exporters.other_methods import adopt_model
from export.onnx.graph import INLINE_LIMIT
from export.onnx.interface import stream_interface
from export.samples import sample_batches
from export.weights.base_weights import base_digests
from networks import is_untrained, load_stream, stand_in_note


@dataclass(frozen=True)
class StreamExport(ModelExport):
    """What came of one stream.

    Attributes:
        stream: The stream.
        base: Digest of each tensor of the base network (`export.weights.base_weights`); empty for another method.
    """

    stream: Stream
    base: Mapping[str, str]

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint."""
        return self.weights[0]

    @property
    def sha256(self) -> str:
        """Hash of the checkpoint, hexadecimal."""
        return self.hashes[0]


def export_stream(
    stream: Stream,
    checkpoint: Path,
    folder: Path,
    *,
    precision: str = "fp32",
    inline_limit: int = INLINE_LIMIT,
    on_stage: OnStage = lambda stage: None,
) -> StreamExport:
    """Export a stream to ONNX and hold the result against the network.

    Args:
        stream: The stream.
        checkpoint: Its checkpoint (`networks.load_stream`), or its ONNX model (`export.exporters.other_methods`).
        folder: Where the model's files are written; files of the same name are overwritten.
        precision: Of `export.half.conversion.PRECISIONS`; a model of another method stays as it is.
        inline_limit: Bytes of weights up to which they stay inside model.onnx.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ManifestError: It is not what the manifest beside it says.
        ParityError: The model computes something else than the network; its files are in the folder.
        HalfRangeError: With precision fp16, a weight or a value on the way is beyond float16.
        ExportError: The graph is not as it should be.
    """
    if stream.is_of_another_method:
        adopted = adopt_model(stream, checkpoint, folder, inline_limit=inline_limit, on_stage=on_stage)
        return StreamExport(**vars(adopted), stream=stream, base={})
    base = base_digests(checkpoint)
    source = Source(
        name=stream.name,
        weights=(checkpoint,),
        load=lambda: load_stream(stream, checkpoint),
        is_untrained=lambda network: is_untrained(stream, checkpoint, network),
        stand_in_note=lambda network: stand_in_note(checkpoint, network),
        interface=stream_interface(stream),
        batches=sample_batches(stream.pixels),
        fuses_attention=True,
        metadata={"stream": stream.name},
    )
    export = export_model(source, folder, precision=precision, inline_limit=inline_limit, on_stage=on_stage)
    return StreamExport(**vars(export), stream=stream, base=base)
