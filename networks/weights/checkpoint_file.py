"""Reading the tensors of a checkpoint file, `.pth` or `.safetensors`, without trusting it."""

import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from networks.errors import (
    CheckpointLayoutError,
    CheckpointValueError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
    shortened,
)

PREFIXES = ("backbone.", "module.backbone.")
"""What every name begins with: the second comes from distributed training."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types that weights may have; the halves are widened to float32 when they are used."""

OBSOLETE_BUFFER = "position_ids"
"""Last part of the name of integer buffers that old versions of transformers wrote and nothing reads."""


_ZIP_ERRORS = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error)
"""What zipfile raises on a damaged archive, depending on where the damage is."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, their names without the prefix.

    The tensors are views of the mapped file where its format allows: they cost memory when they are touched, and
    that memory can be reclaimed. Names, shapes and values are for the caller to check.

    Args:
        path: A state_dict written by torch.save, or a `.safetensors` file.

    Returns:
        Name to tensor, float32, float16 or bfloat16, without obsolete integer buffers.

    Raises:
        UnreadableCheckpointError: The file is absent, empty, truncated, damaged or something else.
        UnsafeCheckpointError: The pickle asks for code to be run.
        CheckpointLayoutError: It holds something other than tensors, or names have no common prefix.
        CheckpointValueError: Tensors are of another type.
    """
    entries = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    tensors = only_tensors(path, entries)
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() or name.rpartition(".")[2] != OBSOLETE_BUFFER
    }
    check_storage(path, tensors)
    return _strip_prefix(path, tensors)


def read_pickle(path: Path) -> object:
    _refuse_other_files(path)
    is_archive = _check_archive(path)
    try:
        # Only archives can be mapped; files from before PyTorch 1.6 are read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # a damaged or hostile pickle can raise anything; all of it means the same
        if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
            raise UnsafeCheckpointError(
                f"{path}: refused, and nothing in it was run: besides tensors it holds a reference to Python code "
                f"({forbidden[1]}); save the plain state_dict again with torch.save(model.state_dict(), …)"
            ) from error
        # After its first sentence torch advises loading what could run code.
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise UnreadableCheckpointError(f"{path}: not a checkpoint that torch.load can read: {reason}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _refuse_other_files(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise UnreadableCheckpointError(
            f"{path}: not a whole safetensors file ({error}); copy or download it again"
        ) from error


def _refuse_other_files(path: Path) -> None:
    """Name what people have at hand when a download went wrong."""
    if not path.is_file():
        raise UnreadableCheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UnreadableCheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    size = path.stat().st_size
    if size == 0:
        problem = "is empty (0 bytes)"
    elif start.startswith(b"version https://git-lfs"):
        problem = f"is a Git LFS pointer ({size} bytes), not the weights themselves: run git lfs pull"
    elif start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        problem = "is a web page, not a checkpoint: download the file itself"
    else:
        return
    raise UnreadableCheckpointError(f"{path}: {problem}")


def _check_archive(path: Path) -> bool:
    """Whether torch.save wrote an archive (it does since PyTorch 1.6), having checked that it is whole.

    Mapped tensors are read past torch's own checks, so a damaged byte would go unnoticed into the model.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if not is_archive:
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UnreadableCheckpointError(
                    f"{path}: a compressed archive, not what torch.save wrote; take the original file"
                )
            damaged = archive.testzip()
    except _ZIP_ERRORS as error:
        size = path.stat().st_size
        raise UnreadableCheckpointError(
            f"{path}: truncated or damaged ({size:,} bytes): {error}; copy or download it again"
        ) from error
    if damaged:
        raise UnreadableCheckpointError(
            f"{path}: damaged: the checksum of {damaged} inside it does not match; copy or download it again"
        )
    return True


def only_tensors(path: Path, entries: object) -> dict[str, Tensor]:
    if not isinstance(entries, Mapping):
        raise CheckpointLayoutError(f"{path}: holds a {type(entries).__name__}, not a state_dict of named tensors")
    if not entries:
        raise CheckpointLayoutError(f"{path}: holds no tensors")
    others = {str(name): value for name, value in entries.items() if not isinstance(value, Tensor)}
    if others:
        nested = next((name for name, value in others.items() if isinstance(value, Mapping)), None)
        hint = f"; save the dictionary under {nested!r} alone" if nested else ""
        listed = shortened(f"{name}: {type(value).__name__}" for name, value in others.items())
        raise CheckpointLayoutError(
            f"{path}: not a plain state_dict: {len(others)} of its {len(entries)} entries are no tensors "
            f"({listed}){hint}",
            unexpected=others,
        )
    return {str(name): tensor for name, tensor in entries.items()}


def check_storage(path: Path, tensors: Mapping[str, Tensor]) -> None:
    wrong = {name: str(tensor.dtype) for name, tensor in tensors.items() if tensor.dtype not in DTYPES}
    if wrong:
        listed = shortened(f"{name}: {dtype.removeprefix('torch.')}" for name, dtype in wrong.items())
        raise CheckpointValueError(
            f"{path}: {len(wrong)} tensors are not of type float32, float16 or bfloat16 ({listed})"
        )
    # A few bytes can pose as a tensor of any size by repeating them; weights never do.
    posing = [name for name, tensor in tensors.items() if not _is_backed(tensor)]
    if posing:
        raise CheckpointValueError(
            f"{path}: {len(posing)} tensors are sparse, or larger than the data behind them ({shortened(posing)})"
        )


def sharing_memory(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that lie, at least in part, where another one lies, or whose own elements overlap.

    A state_dict of tied weights is saved so; nothing may be written into such a tensor.
    """
    shared: set[str] = {name for name, tensor in tensors.items() if not _is_dense(tensor)}
    furthest, end = "", 0
    for name, tensor in sorted(tensors.items(), key=lambda entry: entry[1].untyped_storage().data_ptr()):
        storage = tensor.untyped_storage()
        if storage.data_ptr() < end:
            shared |= {name, furthest}
        if storage.data_ptr() + storage.nbytes() > end:
            furthest, end = name, storage.data_ptr() + storage.nbytes()
    return shared


def _is_dense(tensor: Tensor) -> bool:
    """Whether each element has a place of its own."""
    strides = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    place = 1
    for stride, size in strides:
        if stride < place:
            return False
        place = stride * size
    return True


def _is_backed(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _strip_prefix(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        others = [name for name in tensors if not name.startswith(prefix)]
        if not others:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(others) < len(tensors):
            raise CheckpointLayoutError(
                f"{path}: names are mixed: {len(tensors) - len(others)} tensors begin with {prefix!r}, "
                f"{len(others)} do not ({shortened(others)})",
                unexpected=others,
            )
    raise CheckpointLayoutError(
        f"{path}: not in the layout of the published checkpoints: none of its {len(tensors)} tensors begins with "
        f"{' or '.join(map(repr, PREFIXES))} ({shortened(tensors)})",
        unexpected=tensors,
    )
