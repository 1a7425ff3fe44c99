"""A model repository with the cache in front of its ensembles, made of links to another one."""

import re
import shutil
from pathlib import Path

ENSEMBLES = ("deepfake_detector", "deepfake_verdict")
"""What is cached. Each keeps its name; the ensemble itself is then called `NAME_uncached`."""

FACE_NETWORK = "face_detector"

_FRONT = Path(__file__).with_name("front") / "1" / "model.py"

_CONFIGURATION = """\
{interface}
parameters {{ key: "uncached" value {{ string_value: "{uncached}" }} }}
parameters {{ key: "bytes" value {{ string_value: "{size}" }} }}
parameters {{ key: "face_networks" value {{ string_value: "{face_networks}" }} }}

instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def lay_over(repository: Path, target: Path, mebibytes: int) -> None:
    """Write such a repository.

    Args:
        repository: The one to serve.
        target: An empty folder, which must outlast the server.
        mebibytes: Memory for the kept answers of each ensemble.
    """
    for model in sorted(path for path in repository.iterdir() if path.is_dir()):
        if model.name in ENSEMBLES:
            _put_in_front(model, target, mebibytes, (repository / FACE_NETWORK).is_dir())
        else:
            (target / model.name).symlink_to(model.resolve())


def _put_in_front(model: Path, target: Path, mebibytes: int, face_networks: bool) -> None:
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    uncached = f"{model.name}_uncached"
    for name in (model.name, uncached):
        (target / name / "1").mkdir(parents=True)
    ensemble = re.sub(r'^name: ".*"', f'name: "{uncached}"', text, count=1, flags=re.MULTILINE)
    (target / uncached / "config.pbtxt").write_text(ensemble, encoding="utf-8")
    interface, _, _ = text.partition("ensemble_scheduling")
    front = _CONFIGURATION.format(
        interface=interface.replace('platform: "ensemble"', 'backend: "python"'),
        uncached=uncached,
        size=mebibytes << 20,
        face_networks=str(face_networks).lower(),
    )
    (target / model.name / "config.pbtxt").write_text(front, encoding="utf-8")
    shutil.copy(_FRONT, target / model.name / "1")
