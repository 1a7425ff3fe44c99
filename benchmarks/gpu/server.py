"""The server that `benchmarks.gpu` measures: in NVIDIA's container, or the one that this repository runs without."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click
import tritonclient.grpc as triton
from deepfake_client import DetectorClient, ServerUnavailableError
from tritonclient.grpc import model_config_pb2

from benchmarks.common import serving as stand_in
from benchmarks.gpu import IMAGE
from ensemble.streams import STREAMS

CONTAINER, STAND_IN = SERVERS = ("container", "stand-in")
_CONTAINER_PORTS = {"grpc": 18111, "metrics": 18112}
_START_SECONDS = 1800


@dataclass(frozen=True)
class Endpoint:
    """A running server.

    Attributes:
        url: HOST:PORT of its gRPC port.
        metrics_url: Of its Prometheus metrics.
    """

    url: str
    metrics_url: str


CONFIGURATIONS = {"onnxruntime": "fused", "tensorrt": "tensorrt"}
"""What a repository can be served with on a GPU, and the models' configuration for it."""


def runtimes(repository: Path, server: str) -> list[str]:
    """What a repository can be served with: its ONNX models; its engines, where it has all and the server runs them."""
    engines = all((repository / stream.name / "1" / "model.plan").is_file() for stream in STREAMS)
    return list(CONFIGURATIONS) if engines and server == CONTAINER else ["onnxruntime"]


@contextmanager
def serving(repository: Path, server: str, runtime: str, gpu: int = 0) -> Iterator[Endpoint]:
    """Serve a repository until the end of the block.

    Args:
        repository: The model repository.
        server: Of `SERVERS`.
        runtime: Of `runtimes`.
        gpu: Number of the GPU that it gets, the only one: figures are compared with the peak of one.

    Raises:
        click.ClickException: The server did not start.
    """
    if server == STAND_IN:
        with one_gpu(gpu), stand_in.serve(repository, CONFIGURATIONS[runtime]) as server_here:
            yield Endpoint(server_here.url, server_here.metrics_url)
        return
    name = f"{IMAGE}-benchmark-{os.getpid()}"
    log = repository.parent / "container.log"
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                container_command(repository, runtime, name, gpu), stdout=stream, stderr=subprocess.STDOUT
            )
        except FileNotFoundError as error:
            raise click.ClickException("docker is not installed: install it, or use --server stand-in") from error
    try:
        endpoint = Endpoint(
            f"localhost:{_CONTAINER_PORTS['grpc']}", f"http://localhost:{_CONTAINER_PORTS['metrics']}/metrics"
        )
        _wait(endpoint.url, process, log)
        yield endpoint
    finally:
        subprocess.run(["docker", "stop", "--time", "30", name], capture_output=True, check=False)
        process.wait(60)


def require_gpu(url: str) -> None:
    """Refuse to call a measurement one of a GPU where the server put the networks on the processor.

    Raises:
        click.ClickException: It did.
    """
    with triton.InferenceServerClient(url) as client:
        for stream in STREAMS:
            groups = client.get_model_config(stream.name).config.instance_group
            if any(group.kind != model_config_pb2.ModelInstanceGroup.KIND_GPU for group in groups):
                raise click.ClickException(
                    f"the server runs {stream.name} on the processor, not on a GPU: see that nvidia-smi shows one "
                    "where it runs (docker run --gpus all)"
                )


@contextmanager
def without_gpu() -> Iterator[None]:
    """Hide the GPUs from the processes that are started in the block."""
    with patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):
        yield


@contextmanager
def one_gpu(index: int) -> Iterator[None]:
    """Show processes that are started in the block one GPU, numbered as NVIDIA's driver does, unless all are hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield
        return
    with patch.dict(os.environ, CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=str(index)):
        yield


def container_command(repository: Path, runtime: str, name: str, gpu: int) -> list[str]:
    """The `docker run` that serves a repository on one GPU, its ports on loopback."""
    return [
        *("docker", "run", "--rm", "--name", name, "--gpus", f"device={gpu}", "--shm-size", "1g"),
        *("--publish", f"127.0.0.1:{_CONTAINER_PORTS['grpc']}:8001"),
        *("--publish", f"127.0.0.1:{_CONTAINER_PORTS['metrics']}:8002"),
        *("--volume", f"{repository.resolve()}:/models:ro"),
        IMAGE,
        f"--model-config-name={CONFIGURATIONS[runtime]}",
    ]


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with DetectorClient(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.wait_ready(timeout=5)
            except ServerUnavailableError:
                continue
            return
    raise click.ClickException(
        f"the container did not serve (exit code {process.poll()}); its log is {log}. Is the image there (make image)?"
    )
