"""Every command and every example of the READMEs and of the documentation runs."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Server, free_ports
from tests.golden import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = (ROOT / "README.md", ROOT / "client" / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)
BLOCKS = [
    (kind, text)
    for document in DOCUMENTS
    for kind, text in re.findall(r"^ *```(sh|python)\n(.*?)^ *```$", document.read_text(), re.DOTALL | re.MULTILINE)
]
LINES = [line.split("  #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line]
COMMANDS = [line.removeprefix(".venv/bin/") for line in LINES]
EXAMPLES = [text for kind, text in BLOCKS if kind == "python"]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

PROGRAMS: dict[str, set[str]] = {}
"""Programs that are started by `python -m`, with the options that documents give them: other tests run them whole."""
for _command in COMMANDS:
    if _command.startswith("python -m "):
        _words = shlex.split(_command)
        _options = [word for word in _words if word.startswith("--")]
        _program = _words[: _words.index(_options[0])] if _options else _words
        PROGRAMS.setdefault(shlex.join(_program), set()).update(word.partition("=")[0] for word in _options)

ROOMS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build", "demo", "weights"}  # what commands make
LATER = ROOT / "benchmarks/results/gpu_check.json"
"""What a document names and nobody has made yet, for want of a GPU."""

HERE = ("make ", "scripts/", "python -m ", "deepfake-client ", "python examples/", ".triton/bin/perf_analyzer ")
"""How commands begin that a test of this file tries."""


A_SHORT_PROBE = (
    "from deepfake_client.cli import main; from deepfake_client.cli.output import forecast; "
    "forecast.PROBE_SECONDS = 1; main()"
)
"""`deepfake-client`, but that a forecast takes seconds, not half a minute."""


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done


def test_every_command_is_tried_by_a_test_of_this_file() -> None:
    assert len(COMMANDS) > 20
    assert EXAMPLES
    assert all(command.startswith(HERE) for command in COMMANDS)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make ")}))
def test_make_targets_exist(command: str) -> None:
    target = command.split()[1]
    assert target in run(["make", "help"]).stdout.split()
    run(["make", "--dry-run", *command.split()[1:]])


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("scripts/")}))
def test_scripts_exist_and_are_executable(command: str) -> None:
    script, *words = command.split()
    assert os.access(ROOT / script, os.X_OK)
    assert [word for word in words if word.startswith("tests/") and not (ROOT / word).exists()] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "SECURITY.md", ROOT / "samples/README.md"], ids=str)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [document.parent / link for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text)]
    named = [ROOT / path for path in re.findall(r"`([a-z_]+/[\w./-]+)`", text) if path.split("/")[0] in ROOMS]
    assert [str(path) for path in (*links, *named) if not path.exists() and path != LATER] == []


@pytest.mark.filterwarnings("ignore:.* found in sys.modules after import:RuntimeWarning")  # other tests imported them
@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_have_the_options_that_are_named(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported most of what they need: twenty new ones would do nothing else for minutes."""
    module, *commands = shlex.split(program.removeprefix("python -m "))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [module, *commands, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert not ended.value.code
    text = capsys.readouterr().out
    assert {option for option in PROGRAMS[program] if option not in text} == set()


@pytest.mark.server
def test_the_line_for_perf_analyzer_works(server: Server, tmp_path: Path) -> None:
    lines = [c for c in dict.fromkeys(COMMANDS) if c.startswith(("python examples/", ".triton/bin/"))]
    assert any("perf_analyzer -m deepfake_detector" in line for line in lines)
    for line in lines:
        line = line.replace("build/", f"{tmp_path}/").replace("localhost:8001", server.url)
        run(["sh", "-c", re.sub(r"--request-count \d+", "--request-count 8", line)])


@pytest.mark.server
@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("deepfake-client ")}))
def test_client_commands_run(command: str, server: Server, tmp_path: Path) -> None:
    face = ROOT / "tests/golden/images/00_face.png"
    for folder in ("photos", "shards"):
        (tmp_path / folder).mkdir()
    for path in ("photo.jpg", "photos/0.png", "photos/1.png"):
        shutil.copy(face, tmp_path / path)
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as shard:
        shard.add(face, "face.png")
    (tmp_path / "images.csv").write_text("file\nphoto.jpg\n")
    command = re.sub(r" (--url|-u) \S+", "", command)
    if command.endswith("--forecast"):
        command = command.replace("deepfake-client", f"{sys.executable} -c '{A_SHORT_PROBE}'")
    run(["sh", "-c", f"cd {tmp_path} && {command} --url {server.url}"])


@pytest.mark.server
@pytest.mark.parametrize("text", EXAMPLES)
def test_python_examples_run(text: str, server: Server) -> None:
    text = re.sub(r'(DetectorClient\()("localhost:8001")?(, )?', rf'\1"{server.url}"\3', text)
    text = text.replace("photo.jpg", "tests/golden/images/00_face.png")
    run([sys.executable, "-c", text])


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(1200)  # it exports three networks, on a machine that may be busy
def test_the_demo_prints_what_the_readme_shows() -> None:
    shown = re.search(r"It ends with\n\n```console\n(.*?)```", DOCUMENTS[0].read_text(), re.DOTALL)
    assert shown is not None
    grpc, http, metrics = map(str, free_ports(3))
    ports = {"GRPC_PORT": grpc, "HTTP_PORT": http, "METRICS_PORT": metrics}
    done = subprocess.run(
        ["scripts/demo"], cwd=ROOT, env={**ENVIRONMENT, **ports}, capture_output=True, text=True, timeout=1100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
    *table, summary = shown.group(1).splitlines()
    assert set(table) <= set(printed)
    assert any(
        line.startswith("scored 8 of 8 images") and line.endswith(summary.partition("): ")[2]) for line in printed
    )
