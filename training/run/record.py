"""What a run was made of, and what it made: written beside its checkpoint."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from ensemble.streams import Stream
from networks.architecture import tensor_shapes
from networks.errors import ManifestError
from networks.weights.checkpoints import read_checkpoint
from networks.weights.manifest import Entry, describe_file, read_manifest, sha256_of, write_manifest
from training.data.manifest import LABEL_NAMES, Item
from training.errors import RunError
from training.networks import Network
from training.recipe import Recipe
from training.run.state import write_atomically

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "opencv-python-headless")
RECIPE_FILE, RUN_FILE, CARD_FILE = "recipe.toml", "run.json", "README.md"


@dataclass(frozen=True)
class Record:
    """What a run was made of.

    Attributes:
        recipe: Its name or file, as given.
        start: What it started from, as given.
        start_sha256: Of the weights that it started from.
        data: The data set, as given.
        data_sha256: Of all rows and files.
        counts: Images that can be used, by split, data set and class.
        left_out: Images of these splits that cannot be used.
        versions: Of the libraries.
        commit: Of the project; empty outside a checkout.
        notes: What whoever reads the card should know.
    """

    recipe: str
    start: str
    start_sha256: str
    data: str
    data_sha256: str
    counts: dict[str, int]
    left_out: int
    versions: dict[str, str]
    commit: str
    notes: str = ""

    def to_json(self) -> str:
        """For `RUN_FILE`."""
        return json.dumps(self.__dict__, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """What `to_json` gave."""
        return cls(**json.loads(text))


def library_versions() -> dict[str, str]:
    """Of what the result depends on."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}


def project_commit() -> str:
    """The commit of the checkout, with `+changes` where files differ from it; empty outside one."""
    folder = Path(__file__).parent
    try:
        run = ["git", "-C", str(folder)]
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+changes" if changes.stdout.strip() else "")


def hash_data(items: Sequence[Item]) -> str:
    """SHA-256 of what a run learns from and is judged on: every row, and the contents of every file."""

    def content(item: Item) -> str:
        try:
            return hashlib.sha256(item.read()).hexdigest()
        except OSError:
            return "gone"

    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for item, found in zip(items, pool.map(content, items), strict=True):
            row = (item.name, item.label, item.dataset, item.group, item.video, item.split, item.box, found)
            digest.update(f"{row}\n".encode())
    return digest.hexdigest()


def hash_start(network: Network, checkpoint: Path | None) -> str:
    """SHA-256 of the weights that a run starts from: the base, CLIP, and the checkpoint that it goes on from.

    What the seed draws, LoRA and a head, is left out: the recipe says it.
    """
    digest = hashlib.sha256((sha256_of(checkpoint) if checkpoint else "").encode())
    drawn = {id(parameter) for parameter in network.head.parameters()}
    for name, value in sorted(network.state_dict(keep_vars=True).items()):
        if id(value) not in drawn and ".lora_" not in name:
            digest.update(name.encode())
            digest.update(memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def count_items(items: Sequence[Item]) -> dict[str, int]:
    """Images by split, data set and class."""
    counts = Counter(f"{item.split}/{item.dataset}/{LABEL_NAMES[item.label]}" for item in items)
    return dict(sorted(counts.items()))


def write_checkpoint(network: Network, stream: Stream, path: Path) -> str:
    """Writes the complete state_dict, and reads it back as the export will.

    Args:
        network: On the weights to write.
        stream: Whose file it is.
        path: `.pth` or `.safetensors`; what is there is replaced in one step.

    Returns:
        SHA-256 of the file, hex.

    Raises:
        RunError: It cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        partial = path.with_name(f".{path.name}.partial")
        try:
            save_file(tensors, partial)
            partial.replace(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error}; make room and run the same command again") from error
        finally:
            partial.unlink(missing_ok=True)
    else:
        write_atomically(path, tensors)
    read, sizes = read_checkpoint(stream, path)
    assert set(read) == set(tensor_shapes(sizes))
    return sha256_of(path)


def _recorded(folder: Path) -> dict[str, Entry]:
    try:
        return read_manifest(folder)
    except ManifestError as error:
        raise RunError(str(error)) from error


def publish(checkpoint: Path, sha256: str, weights: Path, source: str, commit: str, beside: Mapping[str, Path]) -> None:
    """Puts a finished checkpoint into the folder that the export takes, and into its manifest.

    Args:
        checkpoint: The file.
        sha256: Its hash.
        weights: The folder; made if absent.
        source: What the manifest says it came from.
        commit: Of the project.
        beside: Files to copy beside it, by their name there.
    """
    weights.mkdir(parents=True, exist_ok=True)
    files = _recorded(weights)
    target = weights / checkpoint.name
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(checkpoint, partial)
    except OSError:  # another file system
        shutil.copyfile(checkpoint, partial)
    partial.replace(target)
    for name, path in beside.items():
        shutil.copyfile(path, weights / name)
    write_manifest(weights, files | {target.name: describe_file(target, source, commit, sha256)})


def require_free(weights: Path, checkpoint: str, source: str) -> None:
    """Refuses to train for hours and then find another checkpoint where the new one belongs.

    Raises:
        RunError: There is one that another run made.
    """
    recorded = _recorded(weights).get(checkpoint)
    if (weights / checkpoint).exists() and (recorded is None or recorded.source != source):
        raise RunError(
            f"{weights / checkpoint} is there already, and not of this run; give another --weights or move it away"
        )


def network_of(recipe: Recipe, network: Network) -> str:
    """Sizes of the network, for people."""
    total = sum(parameter.numel() for parameter in network.parameters())
    learnt = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    sizes = recipe.network
    return (
        f"DINOv2 of {sizes.hidden} channels and {sizes.blocks} blocks, LoRA of rank {sizes.rank}: "
        f"{total / 1e6:.1f} M parameters, {learnt / 1e6:.2f} M of them learn"
    )
