"""What the command line refuses, and the next step that it names."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server import cli
from server.diagnosis import checks
from server.errors import RefusedError, RepositoryError
from server.findings import Finding, Level
from server.refusals import needs, refuse_own_options
from server.repository import read_models
from server.standin import checks as standin
from tests.backends import save_net


def findings(repository: Path, config_name: str = "") -> tuple[str, str]:
    found = next(iter(checks.check_repository(repository, config_name, standin.SERVED_BACKENDS)))
    assert found.level is Level.WRONG
    return found.detail, found.fix


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("docter", "did you mean `doctor`?"),
        ("instal", "did you mean `install`?"),
        ("sreve", "did you mean `serve`?"),
        ("model_repository", "there are serve, install, doctor"),
    ],
)
def test_a_misspelt_command_is_told_the_right_one(word: str, hint: str) -> None:
    answer = CliRunner().invoke(cli.main, [word])
    assert answer.exit_code == 2
    assert f"no command '{word}'; {hint}" in answer.output


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    detail, fix = findings(tmp_path / "models")
    assert detail == f"{tmp_path / 'models'}: no such model repository"
    assert fix.startswith("run `make export WEIGHTS=dir`")
    assert str(tmp_path / "models") in fix


def test_an_empty_repository(tmp_path: Path) -> None:
    detail, fix = findings(tmp_path)
    assert "no model in it" in detail
    assert fix.startswith("run `make export")


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    save_net(tmp_path / "net")
    (tmp_path / "stray").mkdir()
    with pytest.raises(RepositoryError, match=r"stray has no config\.pbtxt") as caught:
        read_models(tmp_path)
    assert caught.value.fix == "remove it, or wait until the export that writes it is done"


def test_a_configuration_that_exists_nowhere_is_told_those_that_do(tmp_path: Path) -> None:
    save_net(tmp_path / "net")
    detail, fix = findings(tmp_path, "tensort")
    assert "no model has a configuration 'tensort'" in detail
    assert fix.startswith("run `make export")
    (tmp_path / "net" / "configs").mkdir()
    for name in ("tensorrt", "openvino"):
        (tmp_path / "net" / "configs" / f"{name}.pbtxt").write_text("")
    assert findings(tmp_path, "tensort")[1] == "choose openvino or tensorrt, or leave --model-config-name out"


def test_engines_are_for_nvidia_s_container_whether_they_are_built_or_not(tmp_path: Path) -> None:
    save_net(tmp_path / "net")
    (tmp_path / "net" / "configs").mkdir()
    (tmp_path / "net" / "configs" / "tensorrt.pbtxt").write_text('backend: "tensorrt"')
    detail, fix = findings(tmp_path, "tensorrt")
    assert detail == "this server has no backend tensorrt (net), only python, onnxruntime, openvino"
    assert "`make engines`" in fix
    assert "`make serve-gpu CONFIG=tensorrt`" in fix


@pytest.mark.parametrize(
    "word",
    [
        *("--grpc-port=1", "--http-port=1", "--metrics-port=1", "--grpc-address=::", "--http-address=::"),
        *("--metrics-address=::", "--model-repository=a", "--model-store=a", "--model-config-name=a"),
        *("--model-control-mode=poll", "--rate-limit", "--exit-timeout-secs=1", "--backend-directory=a"),
    ],
)
def test_options_that_the_launcher_sets_itself_are_refused(word: str) -> None:
    with pytest.raises(RefusedError, match="this launcher sets"):
        refuse_own_options((word,))


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("--grpc-addr=0.0.0.0", "--grpc-address"),
        ("--http-a=0.0.0.0", "--http-address"),
        ("--model-control=explicit", "--model-control-mode"),
        ("--model-rep", "--model-repository"),
    ],
)
def test_beginnings_of_such_options_are_refused_by_their_whole_names(word: str, option: str) -> None:
    with pytest.raises(RefusedError, match=f"{word}: this launcher sets {option} itself"):
        refuse_own_options((word,))


@pytest.mark.parametrize(
    "word",
    ["--allow-sagemaker=true", "--allow-s", "--sagemaker-port=1", "--allow-vertex-ai", "--vertex-ai-default-model=x"],
)
def test_end_points_without_a_key_are_refused(word: str) -> None:
    with pytest.raises(RefusedError, match="without a key"):
        refuse_own_options((word,))


def test_before_a_start_everything_that_it_needs_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def finds(name: str) -> Finding:
        return Finding(name, Level.OK, "")

    monkeypatch.setattr(checks, "check_ports", lambda host, ports: [finds(f"{host} {ports}")])
    monkeypatch.setattr(checks, "check_repository", lambda *about: iter([finds(f"{about[0]} {about[1]}")]))
    monkeypatch.setattr(checks, "check_shared_memory", lambda: finds("shared memory"))
    monkeypatch.setattr(standin, "needs", lambda layout: iter([finds(f"{layout}")]))
    layout: Any = "layout"
    found = needs(layout, Path("models"), "openvino", "::1", {"grpc": 1})
    assert {each.subject for each in found} == {"::1 {'grpc': 1}", "models openvino", "layout", "shared memory"}


def test_other_options_are_taken() -> None:
    """All of tritonserver 2.51 that are not refused."""
    refuse_own_options(
        (
            "--log-verbose=1",
            *("--grpc-use-ssl", "true", "--grpc-use-ssl-mutual=true", "--grpc-restricted-protocol=inference:a=b"),
            *(
                "--allow-http=true",
                "--allow-grpc",
                "--allow-metrics",
                "--http-thread-count=2",
                "--metrics-interval-ms=9",
            ),
            *(
                "--rate-limit-resource=x:1",
                "--model-load-thread-count=2",
                "--model-namespacing=true",
                "--exit-on-error",
            ),
            *("--grpc-server-cert=a", "--http-header-forward-pattern=x", "--backend-config=x", "--reuse-grpc-port=1"),
        )
    )


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        cli.write_line(full, "no room")
    finally:
        os.close(full)
    reader, writer = os.pipe()
    cli.write_line(writer, "räume")
    assert os.read(reader, 100) == "räume\n".encode()
    os.close(reader)
    cli.write_line(writer, "nobody reads")
    os.close(writer)
