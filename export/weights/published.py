"""SHA-256 and sizes of published weights that were known before they were fetched.

Of the detector's file and of GFPGAN's, several projects that verify their downloads give the same digests. Of the
authors' checkpoints none was found: what the hub says of them is trusted on first use, and recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from export.weights.checkpoints import FACE_DETECTOR_FILE
from networks.faces.gfpgan_checkpoints import ALIGNER_FILE, GFPGAN_FILE, PARSENET_FILE


@dataclass(frozen=True)
class Known:
    """A published file.

    Attributes:
        size: Bytes.
        sha256: Hash, hexadecimal.
    """

    size: int
    sha256: str


KNOWN: Mapping[str, Known] = {
    FACE_DETECTOR_FILE: Known(118667368, "ecb2393a89da3dd3d6796ad86660e298f62a0c8ae7578d92eb6af14e0bb93adf"),
    GFPGAN_FILE: Known(348632874, "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad"),
    ALIGNER_FILE: Known(109497761, "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d"),
    PARSENET_FILE: Known(85331193, "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2"),
}
"""By file name."""


def is_known(name: str, sha256: str) -> bool:
    """Whether a file is the published one of its name, by a digest that was known beforehand."""
    return name in KNOWN and KNOWN[name].sha256 == sha256
