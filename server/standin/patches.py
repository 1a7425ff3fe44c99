"""Two faults of the release in the wheel are patched in copies of its files. Each patch can go with a later release.

Cancellation: where a client gives a request up (its deadline, Ctrl-C, a lost connection), release 24.10 cancels those
steps of an ensemble that are still to run. The first of them ends the ensemble while others are under way, the next one
ends it a second time, and the server ends by SIGSEGV or keeps the request for ever. Later releases have mended it
(triton-inference-server/core pull request 466, server pull requests 7840, 8078 and 8220); no wheel holds one of them.
With the patch `TRITONSERVER_InferenceRequestCancel` does nothing: a request that was given up is computed to its end.

Message size: tritonserver sets gRPC's limit of a received message to 2 GiB, and no option of this release changes it.
A message is copied into shared memory that never shrinks again, before any model sees it. With the patch gRPC refuses
messages over `MAX_MESSAGE_BYTES` as RESOURCE_EXHAUSTED.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from server.errors import InstallError

MAX_MESSAGE_BYTES = 65 * 2**20
"""The most bytes of a request over gRPC: `max_request_bytes` of the model `preprocess`, and 1 MiB for the rest."""


@dataclass(frozen=True)
class Patch:
    """A change of a few bytes in a file of the wheel, whose version is pinned.

    Attributes:
        subject: What is changed, in words.
        offset: Where in the file.
        before: What is there.
        after: What is put there.
    """

    subject: str
    offset: int
    before: bytes
    after: bytes


CANCELLATION = Patch(
    "TRITONSERVER_InferenceRequestCancel",
    0x32F3A0,
    bytes.fromhex("f30f1efa 415455534883ec6064488b04"),
    bytes.fromhex("f30f1efa 31c0 c3"),  # endbr64; xor eax, eax; ret: null, which is success
)
MESSAGE_SIZE = Patch(
    "the limit of gRPC messages",
    0x1BC995,
    bytes.fromhex("41c74550 ffffff7f"),  # movl $0x7fffffff, 0x50(%r13)
    bytes.fromhex("41c74550") + MAX_MESSAGE_BYTES.to_bytes(4, "little"),
)


def is_applied(patch: Patch, target: Path) -> bool:
    """Whether a file is there and has the patch."""
    if not target.exists():
        return False
    with target.open("rb") as file:
        file.seek(patch.offset)
        return file.read(len(patch.after)) == patch.after


def apply(patch: Patch, source: Path, target: Path) -> None:
    """Write a patched copy of a file.

    Args:
        patch: What to change.
        source: As it came in the wheel.
        target: The copy to write, in a folder that may be missing.

    Raises:
        InstallError: The file is another than the one that the patch is for.
    """
    code = bytearray(source.read_bytes())
    if code[patch.offset : patch.offset + len(patch.before)] != patch.before:
        raise InstallError(
            f"{source} is not of the release that this installs: {patch.subject} is not at {patch.offset:#x}; remove "
            "the folder of the wheel and run again"
        )
    code[patch.offset : patch.offset + len(patch.after)] = patch.after
    target.parent.mkdir(exist_ok=True)
    staging = target.with_name(f".{target.name}-{os.getpid()}")
    staging.write_bytes(code)
    staging.chmod(source.stat().st_mode)
    staging.rename(target)
