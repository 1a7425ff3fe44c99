"""What a model repository holds, as far as a launcher must know before the server reads it."""

import json
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from server.errors import RepositoryError

ENSEMBLE = "deepfake_detector"
MODEL_FILES = {"python": "model.py", "onnxruntime": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan"}
EXPORT_HINT = "run `make export WEIGHTS=dir` (or `python -m export --weights DIR --repository {repository}`)"


@dataclass(frozen=True)
class Model:
    """One model of a repository.

    Attributes:
        name: Its folder, which is its name.
        backend: Its backend; empty for an ensemble.
        file: The file that the server will load; None for an ensemble.
        max_batch_size: The most images in one request; 0 where it does not batch.
        steps: For an ensemble, the names of the models it chains.
    """

    name: str
    backend: str
    file: Path | None
    max_batch_size: int
    steps: tuple[str, ...]


def read_models(repository: Path, config_name: str = "") -> list[Model]:
    """Read every model's configuration.

    Args:
        repository: The folder with a folder per model.
        config_name: The value of `--model-config-name`: `configs/NAME.pbtxt` where a model has it.

    Raises:
        RepositoryError: The folder is missing or empty, no model has the named configuration, or one does not parse.
    """
    export = EXPORT_HINT.format(repository=repository)
    if not repository.is_dir():
        raise RepositoryError(f"{repository}: no such model repository", export)
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    if not any((folder / "config.pbtxt").is_file() for folder in folders):
        raise RepositoryError(f"{repository}: no model in it (looked for */config.pbtxt)", export)
    for folder in folders:
        if not (folder / "config.pbtxt").is_file():
            raise RepositoryError(
                f"{folder} has no config.pbtxt, and tritonserver starts with no such folder in its repository",
                "remove it, or wait until the export that writes it is done",
            )
    # Triton itself serves a model without the named configuration by its default one, and says nothing.
    if config_name and not any((folder / "configs" / f"{config_name}.pbtxt").is_file() for folder in folders):
        there = sorted({path.stem for path in repository.glob("*/configs/*.pbtxt")})
        raise RepositoryError(
            f"{repository}: no model has a configuration {config_name!r} (configs/{config_name}.pbtxt)",
            f"choose {' or '.join(there)}, or leave --model-config-name out" if there else export,
        )
    return [_read_model(folder, config_name) for folder in folders]


def _read_model(folder: Path, config_name: str) -> Model:
    path = folder / "configs" / f"{config_name}.pbtxt"
    if not config_name or not path.is_file():
        path = folder / "config.pbtxt"
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{path}: not a Triton model configuration: {error}", "mend or remove it") from error
    steps = tuple(step.model_name for step in config.ensemble_scheduling.step)
    backend = "" if steps else config.backend or config.platform.split("_")[0]
    versions = [int(child.name) for child in folder.iterdir() if child.is_dir() and child.name.isdigit()]
    name = config.default_model_filename or MODEL_FILES.get(backend)
    file = None if steps or name is None else folder / str(max(versions, default=1)) / name
    return Model(folder.name, backend, file, config.max_batch_size, steps)


def missing_parts(models: list[Model], repository: Path) -> list[str]:
    """What the models name and the repository lacks, one line each; empty when it can be served."""
    names = {model.name for model in models}
    problems = []
    if ENSEMBLE not in names:
        problems.append(f"{repository} has no model {ENSEMBLE}; it has {', '.join(sorted(names))}")
    for model in models:
        problems += [
            f"{model.name} needs the model {step}, which is not there" for step in model.steps if step not in names
        ]
        if model.file is not None and not model.file.is_file():
            problems.append(f"{model.name} needs {model.file}, which is not there")
        if model.file is None and not any(child.name.isdigit() for child in (repository / model.name).iterdir()):
            problems.append(f"{model.name} needs a version folder, {repository / model.name / '1'} (it may be empty)")
    return problems


def describe_weights(repository: Path) -> tuple[str, bool]:
    """Say which weights give the verdicts.

    Returns:
        One line, and whether the weights are known to be trained ones.
    """
    path = repository / "provenance" / "1" / "provenance.json"
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
        untrained, created = bool(provenance["untrained"]), str(provenance["created"])
        precision = str(provenance["precision"])
        checkpoints = ", ".join(str(stream["checkpoint"]) for stream in provenance["streams"].values())
    except FileNotFoundError:
        return f"weights of unknown origin ({path} is missing)", False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"weights of unknown origin ({path} is unreadable: {type(error).__name__}: {error})", False
    if note := str(provenance.get("stand_in", "")):
        return f"STAND-IN weights: {note} (exported {created}, {precision})", False
    if untrained:
        return f"UNTRAINED random weights (exported {created}, {precision}): the scores mean nothing", False
    return f"weights {checkpoints} (exported {created}, {precision})", True


def describe_framing(repository: Path) -> str:
    """Say what the streams look at of an image that is not 256×256; empty where `preprocess` does not say."""
    path = repository / "preprocess" / "config.pbtxt"
    if not path.is_file():
        return ""
    parameters = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig()).parameters
    framing = parameters["framing"].string_value
    return f"face, margin {parameters['face_margin'].string_value}" if framing == "face" else framing


def describe_face_detector(repository: Path) -> str:
    """Say which face detector `face_crop` uses, and in how many versions of an image; empty without such a model."""
    path = repository / "face_crop" / "config.pbtxt"
    if not path.is_file():
        return ""
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    setting, attempts = (config.parameters[name].string_value for name in ("detector", "attempts"))
    if setting == "auto":
        setting = "retinaface" if (repository / "face_detector").is_dir() else "haar"
    restores = (repository / "face_restorer").is_dir()
    return f"{setting}, {attempts} attempts{', with GFPGAN' if restores else ''}"
