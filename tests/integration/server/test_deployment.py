"""The container and its monitoring, as far as they can be held against the real server without a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import yaml
from deepfake_client import DetectorClient

from ensemble.streams import STREAMS
from forensics.calibrate.install import install_calibration
from server.defaults import fixed_options
from server.standin.layout import default_layout
from tests.conftest import Server, free_ports, start_server
from tests.golden import ROOT, ROWS
from tests.integration.forensics.test_calibrate_command import calibration_for, copy_repository
from tests.waiting import PATIENCE, wait_for

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/deepfake-detector.json").read_text())
ENTRY = [sys.executable, "-m", "server.container"]
RESTRICTIONS = ("--grpc-restricted-protocol", "--http-restricted-api")
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

GPU_METRICS = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
    "nv_energy_consumption",
}
"""Known from NVIDIA's documentation (docs/user_guide/metrics.md) alone: a server without a GPU does not have them."""


def options_of_the_server(folder: Path, **environment: str) -> list[str]:
    """What the container gives to tritonserver, the model repository excepted."""
    (program := folder / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    more = [word.replace("${CONFIG:-fused}", "fused") for word in COMPOSE["services"]["triton"]["command"]]
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([*ENTRY, *more], env=path | environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return [option for option in done.stdout.splitlines() if not option.startswith("--model-repository")]


@pytest.fixture(scope="module")
def observed(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server with the container's options, those excepted that the launcher gives itself."""
    own = (*(option.split("=")[0] for option in fixed_options()), "--model-config-name", *RESTRICTIONS)
    folder = tmp_path_factory.mktemp("observed")
    options = [option for option in options_of_the_server(folder) if not option.startswith(own)]
    log = folder / "log"
    server = start_server(tiny_repository, log, *options, config_name="fused", launcher=("--response-cache", "16"))
    with DetectorClient(server.url) as client:
        for path in sorted((ROOT / "tests/golden/images").glob("*.png")):
            client.score(path)
    yield server
    assert server.stop() == 0


def metrics_of(server: Server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


# The image


def test_the_release_has_the_security_fixes() -> None:
    year, month = re.search(r"^ARG RELEASE=(\d+)\.(\d+)$", DOCKERFILE, re.MULTILINE).groups()
    assert (int(year), int(month)) >= (26, 7)


def test_all_packages_are_copied_and_nothing_is_ignored_that_is() -> None:
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {each.removesuffix("*") for each in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert {name for name in names if (ROOT / name).exists()} <= copied
    assert all((ROOT / name).exists() for name in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied


def test_images_are_pinned_by_digest() -> None:
    """NVIDIA's by what its registry says before the first build: nothing builds the image without asking."""
    digest = r"@sha256:[0-9a-f]{64}"
    assert re.search(rf"^ARG DIGEST=({digest})?$", DOCKERFILE, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    building = re.findall(
        r"^([a-z-]+):(.*)\n(?:\t.*\n)*\t.*docker (?:build|compose up --build)", makefile, re.MULTILINE
    )
    assert {target for target, _ in building} == {"image", "engines", "serve-gpu"}
    assert all("pinned" in needs.partition("##")[0].split() for _, needs in building)
    assert "FROM nvcr.io/nvidia/tritonserver:${RELEASE}-py3${DIGEST} AS serve" in DOCKERFILE
    pulled = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    assert pulled
    assert all(re.search(rf":[v0-9.]+{digest}$", image) for image in pulled)


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_services_are_confined(service: str) -> None:
    given = COMPOSE["services"][service]
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["read_only"] is True
    assert given["mem_limit"]
    assert given["pids_limit"] > 0
    assert "privileged" not in given
    assert "cap_add" not in given


def test_grafana_has_no_administrator() -> None:
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_each_start_of_the_container_has_a_key_of_its_own(tmp_path: Path) -> None:
    def restrictions(**environment: str) -> list[str]:
        given = options_of_the_server(tmp_path, **environment)
        return [option for option in given if option.startswith(RESTRICTIONS)]

    grpc, http = restrictions()
    assert re.search(r"=shared-memory,model-repository,trace,logging:deepfake-detector-key=[0-9a-f]{64}$", grpc)
    assert re.search(
        r"=shared-memory,model-repository,trace,logging,inference:deepfake-detector-key=[0-9a-f]{64}$", http
    )
    assert restrictions() != [grpc, http]
    assert "inference" not in restrictions(HTTP_INFERENCE="open")[1]


def test_the_server_runs_as_nobody_in_particular_and_is_judged_by_an_inference() -> None:
    stage = DOCKERFILE.partition("FROM serve AS export")[0]
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE)[-1] == "1000:1000"
    assert re.search(r'^HEALTHCHECK .* CMD \["deepfake-client", "info"\]$', stage, re.MULTILINE)


@pytest.mark.server
def test_tritonserver_has_every_option_that_the_container_gives(tmp_path: Path) -> None:
    text = subprocess.run([default_layout().tritonserver, "--help"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"^\s+(--[a-z-]+)", text.stdout + text.stderr, re.MULTILINE))
    given = {option.split("=")[0] for option in options_of_the_server(tmp_path)}
    assert given
    assert given <= known


@contextmanager
def contained(repository: Path, log: Path, **environment: str) -> Iterator[Server]:
    """What the container starts, on free ports, with the wheel's tritonserver in the place of NVIDIA's."""
    grpc, http, metrics = free_ports(3)
    layout = default_layout()
    path = f"{layout.tritonserver.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [*ENTRY, f"--backend-directory={layout.backends}"]
    command += [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
    given = os.environ | {"PATH": path, "MODELS": str(repository), "TMPDIR": str(log.parent)} | environment
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=given, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        with DetectorClient(f"localhost:{grpc}") as client:
            client.wait_ready(timeout=200)
        yield Server(process, repository, grpc, http, metrics, log)
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.server
def test_the_entry_point_serves_clients_and_nothing_else(tiny_repository: Path, tmp_path: Path) -> None:
    with contained(tiny_repository, tmp_path / "log") as server:
        with DetectorClient(server.url) as client:
            assert client.score(ROOT / "tests/golden/images/00_face.png").status == "ok"
        with tritonclient.grpc.InferenceServerClient(server.url) as client:
            for refused in (client.get_system_shared_memory_status, client.get_model_repository_index):
                with pytest.raises(tritonclient.grpc.InferenceServerException, match="restricted"):
                    refused()
        address = f"http://localhost:{server.http_port}/v2"
        request = urllib.request.Request(f"{address}/models/deepfake_detector/infer", b"{}")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
        assert urllib.request.urlopen(f"{address}/health/ready").status == 200


@pytest.mark.server
def test_the_container_keeps_answers_until_it_ends(tiny_repository: Path, tmp_path: Path) -> None:
    """Another calibration is read by another start, which knows no answer of before."""
    repository = copy_repository(tiny_repository, tmp_path / "models")
    image = ROOT / "tests/golden/images/00_face.png"
    answers = []
    for _ in range(2):
        with contained(repository, tmp_path / "log", RESPONSE_CACHE="1") as server:
            with DetectorClient(server.url) as client:
                first, again = client.score(image), client.score(image)
            assert first == again
            (hits,) = re.findall(
                r'^deepfake_detector_cache_hits_total{model="deepfake_detector"} (\d+)$',
                metrics_of(server),
                re.MULTILINE,
            )
            assert hits == "1"
        answers.append(first)
        install_calibration(repository, calibration_for(repository).to_text())
    assert answers[0].probability != answers[1].probability
    assert answers[0].streams["global_texture"].probability != answers[1].streams["global_texture"].probability


@pytest.mark.server
def test_the_server_scores_as_the_authors_with_them(observed: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(observed.url) as client:
        files = [client.get_model_config(stream.name).config.default_model_filename for stream in STREAMS]
    assert files == ["model.fused.onnx"] * 3
    with DetectorClient(observed.url) as client:
        for row in ROWS:
            verdict = client.score(ROOT / "tests/golden/images" / row["image"], face_box=row["box"])
            assert verdict.score == row["vote"]
            probabilities = [verdict.streams[stream.name].probability for stream in STREAMS]
            keys = ("global", "local", "semantic")
            assert probabilities == pytest.approx([row[key]["prob_fake"] for key in keys], abs=1e-4)


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_nothing_listens_beyond_loopback(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][service]["ports"])


def test_what_is_mounted_is_there() -> None:
    volumes = [mount for service in COMPOSE["services"].values() for mount in service["volumes"]]
    mounted = [mount for mount in volumes if isinstance(mount, str) and mount[0] == "."]
    assert mounted
    assert all((ROOT / mount.split(":")[0]).exists() for mount in mounted)


# The dashboard


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"prometheus"}
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert [each["uid"] for each in source["datasources"]] == ["prometheus"]


@pytest.mark.server
def test_the_real_server_has_every_metric_that_is_drawn(observed: Server) -> None:
    drawn = {name for expression in EXPRESSIONS for name in re.findall(r"nv_\w+", expression)}
    there = set(re.findall(r"^(nv_\w+)", metrics_of(observed), re.MULTILINE))
    assert drawn - there == GPU_METRICS
    labels = set(re.findall(r"(\w+)=\"", metrics_of(observed)))
    assert {label for expression in EXPRESSIONS for label in re.findall(r"[{,](\w+)[!=]", expression)} <= labels


def get(url: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}") as answer:
        return json.load(answer)


@pytest.mark.server
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (apt install prometheus)")
def test_prometheus_answers_every_panel_from_the_real_server(observed: Server, tmp_path: Path) -> None:
    text = (ROOT / "deploy/prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        text.replace("triton:8002", f"127.0.0.1:{observed.metrics_port}").replace("5s", "2s").replace("4s", "2s")
    )
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api/v1/query"
    try:
        with DetectorClient(observed.url) as client:

            def has_rates() -> bool:
                client.score(ROOT / "tests/golden/images/00_face.png")
                try:
                    return bool(get(url, query="rate(nv_inference_count[30s]) > 0")["data"]["result"])
                except OSError:  # it is starting
                    return False

            wait_for(has_rates)
        empty = []
        for expression in EXPRESSIONS:
            answer = get(url, query=expression.replace("$__rate_interval", "30s"))
            assert answer["status"] == "success"
            if not answer["data"]["result"]:
                empty.append(expression)
    finally:
        process.terminate()
        process.wait(120)
    assert all(any(name in expression for name in GPU_METRICS) for expression in empty)
