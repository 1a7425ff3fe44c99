"""Puts a calibration into a model repository, where `voter` reads it."""

import re
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.calibration_file import ECHO_PARAMETER, FILE_PARAMETER, CalibrationError, echo_of, read_in_force
from forensics.common.errors import ForensicsError

CALIBRATION_FILE = "calibration.json"
_STRING = r'"(?:[^"\\]|\\.)*"'


def install_calibration(repository: Path, text: str) -> Path:
    """Writes a calibration file beside `voter`, and names it in its config.pbtxt; all else there stays as it is.

    A server that is running keeps its vote until it is started again.

    Args:
        repository: The model repository.
        text: Text of the calibration file.

    Returns:
        The file.

    Raises:
        ForensicsError: There is no such voter, its checkpoints are others than those of the calibration, or its
            configuration has no such parameters. Nothing is changed then.
        OSError: A file cannot be written.
    """
    config, folder = repository / "voter" / "config.pbtxt", repository / "voter" / "1"
    if not config.is_file():
        raise ForensicsError(f"{config} is not there; give a model repository that the export wrote")
    before = config.read_text(encoding="utf-8")
    after = with_parameters(before, {FILE_PARAMETER: CALIBRATION_FILE, ECHO_PARAMETER: echo_of(text)})
    partial = folder / f".{CALIBRATION_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    try:
        read_in_force(folder, partial.name, echo_of(text))
        new_config = config.with_suffix(".partial")
        new_config.write_text(after, encoding="utf-8")
    except CalibrationError as error:
        partial.unlink()
        raise ForensicsError(f"not installed: {error}") from error
    partial.replace(folder / CALIBRATION_FILE)
    new_config.replace(config)
    return folder / CALIBRATION_FILE


def with_parameters(config: str, values: Mapping[str, str]) -> str:
    """The text of a config.pbtxt with other values of parameters that it has.

    Raises:
        ForensicsError: A parameter is not there exactly once in the form that the project writes.
    """
    expected = text_format.Parse(config, model_config_pb2.ModelConfig())
    for name, value in values.items():
        pattern = rf'(parameters\s*\{{\s*key:\s*"{name}"\s*value\s*\{{\s*string_value:\s*){_STRING}'
        escaped = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        config, count = re.subn(pattern, lambda found, new=escaped: found[1] + new, config)  # type: ignore[misc]
        if count != 1:
            form = f'parameters {{ key: "{name}" value {{ string_value: "" }} }}'
            raise ForensicsError(f"voter/config.pbtxt must have this line once, and has it {count} times: {form}")
        expected.parameters[name].string_value = value
    assert text_format.Parse(config, model_config_pb2.ModelConfig()) == expected
    return config
