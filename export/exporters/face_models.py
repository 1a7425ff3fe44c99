"""The face crop's networks: from the weights files of `retina-face`, `gfpgan` and `facexlib` to validated ONNX models.

`face_detector` finds faces; for the attempts with GFPGAN, `face_aligner` finds those that `face_restorer` restores.
Around them are `ensemble.faces.retinaface` and `ensemble.faces.gfpgan`.
"""

from pathlib import Path

from ensemble.faces.gfpgan import FACE_SIDE
from export.exporters.exporter import ModelExport, OnStage, Source, export_model
from export.onnx.interface import ALIGNER_INTERFACE, DETECTOR_INTERFACE, RESTORER_INTERFACE
from export.samples import SCENE, batches_of_two_sizes, sample_batches
from networks.faces import ALIGNER, DETECTOR, RESTORER
from networks.faces.gfpgan_checkpoints import is_random, load_face_aligner, load_face_restorer
from networks.faces.retinaface_weights import is_random_retinaface, load_retinaface


def export_face_detector(
    weights: Path, folder: Path, *, precision: str = "fp32", on_stage: OnStage = lambda stage: None
) -> ModelExport:
    """Export RetinaFace to ONNX and hold the result against the network.

    Args:
        weights: `retinaface.h5` (`networks.faces.retinaface_weights.load_retinaface`).
        folder: Where the model's files are written; files of the same name are overwritten.
        precision: Of `export.half.conversion.PRECISIONS`.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `INPUT` uint8 [batch, height, width, 3] and gives
        `OUTPUTS` float32 [batch, rows, columns, channels] (`ensemble.faces.retinaface`); batch, height and width are
        free.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the network; its files are in the folder.
        HalfRangeError: With precision fp16, a weight or a value on the way is beyond float16.
        ExportError: The graph is not as it should be.
    """
    source = Source(
        name=DETECTOR,
        weights=(weights,),
        load=lambda: load_retinaface(weights),
        is_untrained=lambda network: is_random_retinaface(weights),
        interface=DETECTOR_INTERFACE,
        batches=batches_of_two_sizes(),
    )
    return export_model(source, folder, precision=precision, on_stage=on_stage)


def export_face_aligner(weights: Path, folder: Path, *, on_stage: OnStage = lambda stage: None) -> ModelExport:
    """Export facexlib's RetinaFace to ONNX, float32, and hold the result against the network.

    Args:
        weights: `detection_Resnet50_Final.pth` (`networks.faces.gfpgan_checkpoints`).
        folder: Where the model's files are written; files of the same name are overwritten.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `ALIGNER_INPUT` and gives `ALIGNER_OUTPUTS`
        (`ensemble.faces.gfpgan`); batch, height and width are free.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the network; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    source = Source(
        name=ALIGNER,
        weights=(weights,),
        load=lambda: load_face_aligner(weights),
        is_untrained=is_random,
        interface=ALIGNER_INTERFACE,
        batches=batches_of_two_sizes(),
    )
    return export_model(source, folder, precision="fp32", on_stage=on_stage)


def export_face_restorer(
    gfpgan_weights: Path,
    parsenet_weights: Path,
    folder: Path,
    *,
    on_stage: OnStage = lambda stage: None,
) -> ModelExport:
    """Export GFPGAN with ParseNet behind it to ONNX, float32, and hold the result against the networks.

    Args:
        gfpgan_weights: `GFPGANv1.4.pth` (`networks.faces.gfpgan_checkpoints`).
        parsenet_weights: `parsing_parsenet.pth`.
        folder: Where the model's files are written; files of the same name are overwritten.
        on_stage: Called with what begins, for people.

    Returns:
        What was written and how it compares. The model takes `RESTORER_INPUT` and gives `RESTORER_OUTPUTS`
        (`ensemble.faces.gfpgan`); the batch is free.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: They are not what the manifest beside them says.
        ParityError: The model computes something else than the networks; its files are in the folder.
        ExportError: The graph is not as it should be.
    """
    samples = sample_batches(FACE_SIDE)
    source = Source(
        name=RESTORER,
        weights=(gfpgan_weights, parsenet_weights),
        load=lambda: load_face_restorer(gfpgan_weights, parsenet_weights),
        is_untrained=is_random,
        interface=RESTORER_INTERFACE,
        batches={SCENE: samples[SCENE], "mixed": samples["mixed"][:2]},
    )
    return export_model(source, folder, precision="fp32", on_stage=on_stage)
