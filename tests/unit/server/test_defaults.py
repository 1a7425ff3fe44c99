"""The launcher and the container start tritonserver alike, in all that a user would notice."""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from server.cli import serve
from server.container import command
from server.defaults import DRAIN_SECONDS, PORTS
from server.supervision.process import Options, arguments
from tests.golden import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
TRITON = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["triton"]

THE_LAUNCHERS_OWN = {
    "--model-repository": "where the models lie",
    "--backend-directory": "the wheel's",
    "--cache-directory": "the wheel's",
    "--backend-config": "its stubs' shared memory, told from that of others",
    "--rate-limit": "one network at a time, on a CPU",
    **{f"--{name}-{what}": "the container's are published by Docker" for name in PORTS for what in ("address", "port")},
}


def of_the_launcher(extra: tuple[str, ...] = (), *, http_inference: bool = False) -> dict[str, str]:
    paths = SimpleNamespace(tritonserver="tritonserver", backends="b", caches="c", environment={})
    options = Options(Path("models"), "127.0.0.1", PORTS, extra=extra, http_inference=http_inference)
    return as_options(arguments(paths, options, "prefix")[1:])


def as_options(words: list[str]) -> dict[str, str]:
    """Option to value; what a random key is, is left out."""
    return {word.partition("=")[0]: re.sub(r"[0-9a-f]{64}$", "KEY", word.partition("=")[2]) for word in words}


@pytest.mark.parametrize("extra", [(), ("--grpc-restricted-protocol=inference:token=SECRET", "--log-verbose=1")])
@pytest.mark.parametrize("http_inference", [False, True])
def test_the_container_starts_as_the_launcher_does(extra: tuple[str, ...], http_inference: bool) -> None:
    environment = {"HTTP_INFERENCE": "open"} if http_inference else {}
    there = as_options(command(extra, environment, Path("models"))[1:])
    here = of_the_launcher(extra, http_inference=http_inference)
    assert {option: value for option, value in here.items() if option not in THE_LAUNCHERS_OWN} == {
        option: value for option, value in there.items() if option != "--model-repository"
    }


@pytest.mark.parametrize("word", ["", "closed", "0", "no", "OPEN "])
def test_one_word_alone_opens_inference_over_http_in_the_container(word: str) -> None:
    options = as_options(command([], {"HTTP_INFERENCE": word}, Path("models")))
    assert "inference" in options["--http-restricted-api"].partition(":")[0].split(",")


def test_quantiles_are_measured_by_both() -> None:
    for options in (of_the_launcher(), as_options(command([], {}, Path("models")))):
        assert options["--metrics-config"] == "summary_latencies=true"
        assert options["--exit-timeout-secs"] == str(DRAIN_SECONDS)


def test_the_same_ports_and_seconds_are_told_everywhere() -> None:
    defaults = {parameter.name: parameter.default for parameter in serve.params}
    assert {name: defaults[f"{name}_port"] for name in PORTS} == PORTS
    assert defaults["drain"] == DRAIN_SECONDS
    assert set(map(int, re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[1].split())) == set(PORTS.values())
    published = {port.rpartition(":")[2] for port in TRITON["ports"]}
    assert published == set(map(str, PORTS.values()))
    assert int(TRITON["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS


def test_the_container_runs_that_command() -> None:
    assert '"python3", "-m", "server.container"]' in DOCKERFILE.partition("FROM serve AS export")[0]


def pin(tmp_path: Path, answer: str) -> tuple[int, str]:
    """Run scripts/pin-image on a copy, with a docker that answers so; give its status and the Dockerfile."""
    (scripts := tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/pin-image", scripts)
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    (docker := tmp_path / "docker").write_text(f"#!/bin/sh\necho \"$@\" >asked\necho '{answer}'\n")
    docker.chmod(0o755)
    done = subprocess.run([scripts / "pin-image"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    return done.returncode, (tmp_path / "Dockerfile").read_text()


def test_the_image_is_pinned_to_what_its_registry_says(tmp_path: Path) -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    status, dockerfile = pin(tmp_path, digest)
    assert status == 0
    release = re.search(r"^ARG RELEASE=(.*)$", DOCKERFILE, re.MULTILINE)[1]
    assert (tmp_path / "asked").read_text().endswith(f"nvcr.io/nvidia/tritonserver:{release}-py3\n")
    assert f"\nARG DIGEST=@{digest}\n" in dockerfile
    assert "tritonserver:${RELEASE}-py3${DIGEST}" in dockerfile


def test_an_answer_that_is_no_digest_changes_nothing(tmp_path: Path) -> None:
    status, dockerfile = pin(tmp_path, "not found")
    assert status == 1
    assert dockerfile == DOCKERFILE
