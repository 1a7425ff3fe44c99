"""One function of tritonserver's library is patched: the release in the wheel dies of requests that clients give up.

Where a client gives a request up (its deadline, Ctrl-C, a lost connection), release 24.10 cancels those steps of an
ensemble that are still to run. The first of them ends the ensemble while others are under way, the next one ends it a
second time, and the server ends by SIGSEGV or keeps the request for ever. Later releases have mended it
(triton-inference-server/core pull request 466, server pull requests 7840, 8078 and 8220); no wheel holds one of them.
Here `TRITONSERVER_InferenceRequestCancel` does nothing, so a request that was given up is computed to its end.
"""

import os
from pathlib import Path

from server.errors import InstallError

FUNCTION = "TRITONSERVER_InferenceRequestCancel"
_OFFSET = 0x32F3A0  # of the function in the library's file; the wheel's version is pinned
_BEFORE = bytes.fromhex("f30f1efa 415455534883ec6064488b04")
_AFTER = bytes.fromhex("f30f1efa 31c0 c3")  # endbr64; xor eax, eax; ret: null, which is success


def patch_cancellation(library: Path, target: Path) -> None:
    """Write the patched copy of tritonserver's library.

    Args:
        library: As it came in the wheel.
        target: The copy to write, in a folder that may be missing.

    Raises:
        InstallError: The library is another than the one that this is for.
    """
    code = bytearray(library.read_bytes())
    if code[_OFFSET : _OFFSET + len(_BEFORE)] != _BEFORE:
        raise InstallError(
            f"{library} is not the library of the release that this installs: {FUNCTION} does not begin at "
            f"{_OFFSET:#x}; remove the folder of the wheel and run again"
        )
    code[_OFFSET : _OFFSET + len(_AFTER)] = _AFTER
    target.parent.mkdir(exist_ok=True)
    staging = target.with_name(f".{target.name}-{os.getpid()}")
    staging.write_bytes(code)
    staging.rename(target)
