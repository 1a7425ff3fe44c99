"""RetinaFace's weights file, as Keras writes it: read strictly, or written with seeded random values."""

import zlib
from collections.abc import Container
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from networks.errors import CheckpointLayoutError, CheckpointValueError, UnreadableCheckpointError, shortened
from networks.faces.retinaface import RetinaFace

_ADVICE = "give the file retinaface.h5 that the PyPI package retina-face downloads"


def load_retinaface(path: Path) -> RetinaFace:
    """Reads the package's weights file into the network, strictly.

    Args:
        path: `retinaface.h5`, as Keras writes it with `save_weights` (or inside a whole saved model).

    Returns:
        The network in evaluation mode, float32, on the CPU, without gradients.

    Raises:
        CheckpointError: The file cannot be read, does not hold this network, or holds unusable values.
    """
    network = RetinaFace()
    expected = {name: _keras_layout(tensor) for name, tensor in _keras_variables(network).items()}
    variables = _read_variables(path)
    missing = sorted(expected.keys() - variables.keys())
    unexpected = sorted(variables.keys() - expected.keys())
    shared = sorted(expected.keys() & variables.keys())
    misshapen = [name for name in shared if variables[name].shape != expected[name].shape]
    if missing or unexpected or misshapen:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        listed = "; ".join(f"{len(names)} {how}: {shortened(names)}" for how, names in found.items() if names)
        raise CheckpointLayoutError(
            f"{path}: does not hold RetinaFace-ResNet50 ({listed}); {_ADVICE}", missing, unexpected, misshapen
        )
    unusable = [name for name in shared if variables[name].dtype.kind != "f" or not np.isfinite(variables[name]).all()]
    if unusable:
        raise CheckpointValueError(f"{path}: values that are not finite numbers in {shortened(unusable)}; {_ADVICE}")
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(torch.from_numpy(variables[name]))
    return network.eval().requires_grad_(False)


def write_random_retinaface(path: Path) -> None:
    """Writes seeded weights in the layout of the package's file. UNTRAINED: what such a detector finds is chance.

    Every value follows from the variable's name. The scales keep activations of order 1 to 10 through all layers for
    pixels in 0..255, and let probabilities vary without saturating.

    Args:
        path: Overwritten; 118 MB.
    """
    shapes = {name: tuple(_keras_layout(tensor).shape) for name, tensor in _keras_variables(RetinaFace()).items()}
    variables_of: dict[str, list[str]] = {}
    for name in shapes:
        variables_of.setdefault(name.split("/")[0], []).append(name)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            file.attrs["layer_names"] = [layer.encode() for layer in variables_of]
            for layer, names in variables_of.items():
                group = file.create_group(layer)
                group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
                for name in names:
                    group[f"{name}:0"] = _seeded_values(name, shapes[name])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_random_retinaface(path: Path) -> bool:
    """Whether a weights file is one of `write_random_retinaface`, by its content.

    Raises:
        CheckpointError: The file cannot be read.
    """
    name = "bn_data/moving_mean"
    values = _read_variables(path, {name}).get(name)
    return values is not None and np.array_equal(values, _seeded_values(name, values.shape))


def _keras_variables(network: RetinaFace) -> dict[str, Tensor]:
    """The network's tensors by Keras's names, `layer/variable`."""
    kinds = {
        nn.Conv2d: {"kernel": "weight", "bias": "bias"},
        nn.BatchNorm2d: {
            "gamma": "weight",
            "beta": "bias",
            "moving_mean": "running_mean",
            "moving_variance": "running_var",
        },
    }
    return {
        f"{path.replace('.', '_')}/{variable}": getattr(module, attribute)
        for path, module in network.named_modules()
        for variable, attribute in kinds.get(type(module), {}).items()
        if getattr(module, attribute) is not None
    }


def _keras_layout(tensor: Tensor) -> Tensor:
    """A view of a tensor with Keras's order of axes: kernels are height, width, inputs, outputs."""
    return tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _read_variables(path: Path, only: Container[str] | None = None) -> dict[str, NDArray[np.generic]]:
    """The arrays of a Keras weights file by `layer/variable`; all unless told otherwise."""
    variables = {}
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            for layer in _names(root, "layer_names"):
                for variable in _names(root[layer], "weight_names"):
                    name = f"{layer}/{variable.rsplit('/', 1)[-1].removesuffix(':0')}"
                    if only is None or name in only:
                        variables[name] = np.asarray(root[layer][variable])
    except FileNotFoundError as error:
        raise UnreadableCheckpointError(f"{path}: there is no such file; {_ADVICE}") from error
    except (OSError, KeyError) as error:
        raise UnreadableCheckpointError(f"{path}: not a weights file of Keras ({error}); {_ADVICE}") from error
    return variables


def _names(group: h5py.Group, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _seeded_values(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    layer, variable = name.split("/")
    random = np.random.RandomState(zlib.crc32(f"retinaface:{name}".encode()))
    if variable == "kernel":
        deviation = np.sqrt(2 / np.prod(shape[:-1]))  # He: keeps the second moment through a ReLU
        values = random.standard_normal(shape) * deviation * _random_gain(layer)
    elif variable in ("gamma", "moving_variance"):
        values = random.uniform(0.8, 1.2, shape)
    else:
        values = random.standard_normal(shape) * 0.1
    if layer == "bn_data" and variable.startswith("moving"):
        values = values * 64**2 if variable == "moving_variance" else values * 64 + 127.5
    return np.asarray(values, dtype=np.float32)


def _random_gain(layer: str) -> float:
    if layer.startswith("face_rpn_"):
        return 0.3 if "cls_score" in layer else 0.05  # probabilities vary, boxes stay near their anchors
    return 0.3 if layer.endswith(("_conv3", "_aggr")) else 1.0  # what is added up again and again must not grow
