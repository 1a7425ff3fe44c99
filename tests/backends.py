"""Small graphs in the real tritonserver: what the tests of the stand-in backends share."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.standin.layout import BACKENDS, Layout
from server.supervision.process import Options, TritonProcess, has_lost_stub
from tests.fakes.backend import Backend
from tests.waiting import PATIENCE, wait_for

RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((48, 2)).astype(np.float32)
TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)


def free_ports() -> dict[str, int]:
    """Three ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(("grpc", "http", "metrics"), ports, strict=True))


def save_graph(
    folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]
) -> None:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, folder.name, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"untrained": "true"})
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")


def save_net(
    folder: Path, config: str = "", dims: str = "4, 4, 3", features: int = 48, backend: str = "onnxruntime"
) -> None:
    """PIXELS uint8 [4, 4, 3] → LOGITS = pixels · WEIGHT, FEATURES = pixels."""
    nodes = [
        helper.make_node("Cast", ["PIXELS"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["FEATURES"]),
        helper.make_node("MatMul", ["FEATURES", "weight"], ["LOGITS"]),
    ]
    inputs = [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["batch", 4, 4, 3])]
    outputs = [
        helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("FEATURES", TensorProto.FLOAT, ["batch", 48]),
    ]
    save_graph(folder, nodes, inputs, outputs, {"weight": WEIGHT})
    (folder / "config.pbtxt").write_text(f"""
        backend: "{backend}" default_model_filename: "model.onnx" max_batch_size: 8
        input [ {{ name: "PIXELS" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
        output [ {{ name: "LOGITS" data_type: TYPE_FP32 dims: [ 2 ] }} ]
        output [ {{ name: "FEATURES" data_type: TYPE_FP32 dims: [ {features} ] }} ]
        instance_group [ {{ count: 1 kind: KIND_CPU }} ]
        {config}""")


def save_lookup(folder: Path) -> None:
    """IDS int64 [n] → ROWS = TABLE[ids]: fails where an id is not in the table."""
    nodes = [helper.make_node("Gather", ["table", "IDS"], ["ROWS"])]
    inputs = [helper.make_tensor_value_info("IDS", TensorProto.INT64, ["batch", "n"])]
    outputs = [helper.make_tensor_value_info("ROWS", TensorProto.FLOAT, ["batch", "n", 4])]
    save_graph(folder, nodes, inputs, outputs, {"table": TABLE})
    (folder / "config.pbtxt").write_text("""
        backend: "onnxruntime" max_batch_size: 8
        input [ { name: "IDS" data_type: TYPE_INT64 dims: [ -1 ] } ]
        output [ { name: "ROWS" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]
        instance_group [ { count: 1 kind: KIND_CPU } ]
        dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 200000 }""")


def start(
    layout: Layout, repository: Path, log: list[str], *extra: str
) -> tuple[TritonProcess, triton.InferenceServerClient]:
    """Start a server, with further options, and wait until it is ready or has ended: then its log is whole.

    One that ends because a busy machine kept a stub from its sign of life is started again, as the launcher does.
    """
    for attempts_left in (2, 1, 0):
        ports = free_ports()
        process = TritonProcess(layout, Options(repository, "127.0.0.1", ports, extra=extra), log.append)
        client = triton.InferenceServerClient(f"127.0.0.1:{ports['grpc']}")
        try:
            wait_for(partial(_is_ready_or_has_ended, process, client), hint=lambda: log[-40:])
        except BaseException:
            process.kill()
            raise
        if process.exit_status() is None:
            break
        process.kill()  # which waits for the rest of the log
        if not attempts_left or not has_lost_stub(process.error_lines()):
            break
        client.close()
    return process, client


def _is_ready_or_has_ended(process: TritonProcess, client: triton.InferenceServerClient) -> bool:
    if process.exit_status() is not None:
        return True
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


def infer(client: triton.InferenceServerClient, model: str, value: Any, outputs: tuple[str, ...] = ()) -> Any:
    name = "IDS" if model == "lookup" else "PIXELS"
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    wanted = [triton.InferRequestedOutput(output) for output in outputs] or None
    return client.infer(model, [tensor], outputs=wanted, client_timeout=PATIENCE)


def pixels(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def assert_each_request_gets_its_own_rows(client: triton.InferenceServerClient) -> None:
    """Sends requests of several sizes to the model `net` at once, until some of them shared a run."""

    def statistics() -> Any:
        return client.get_inference_statistics("net").model_stats[0]

    def some_share_a_run() -> bool:
        before = statistics()
        images = [pixels(size, 4, 4, 3) for size in (1, 2, 1, 3, 1)]
        with ThreadPoolExecutor(len(images)) as pool:
            answers = list(pool.map(lambda image: infer(client, "net", image), images))
        for image, answer in zip(images, answers, strict=True):
            flat = image.reshape(len(image), 48).astype(np.float32)
            np.testing.assert_array_equal(answer.as_numpy("FEATURES"), flat)
            np.testing.assert_allclose(answer.as_numpy("LOGITS"), flat @ WEIGHT, rtol=1e-5, atol=1e-2)
        # They are counted after their answers have gone.
        wait_for(lambda: statistics().inference_count >= before.inference_count + sum(map(len, images)))
        return bool(statistics().execution_count - before.execution_count < len(images))

    wait_for(some_share_a_run)  # otherwise nothing was tested


@contextmanager
def backend_module(name: str) -> Iterator[Any]:
    """A backend's module, for its pure functions; its Triton import is not needed by them."""
    yield Backend().load(BACKENDS / name / "model.py")
    sys.modules.pop("server.standin.backends.graph_model", None)
