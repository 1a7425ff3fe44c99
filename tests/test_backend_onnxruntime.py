"""The stand-in `onnxruntime` backend, inside the real tritonserver."""

import importlib.util
import socket
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format, text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.install import install
from server.layout import BACKENDS, Layout, default_layout
from server.process import Options, TritonProcess

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


def save_net(folder: Path, config: str = "", dims: str = "4, 4, 3", features: int = 48) -> None:
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
        backend: "onnxruntime" max_batch_size: 8
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


@pytest.fixture(scope="module")
def layout() -> Layout:
    layout = default_layout()
    install(layout, print)
    return layout


def start(layout: Layout, repository: Path, log: list[str]) -> tuple[TritonProcess, triton.InferenceServerClient]:
    """Start a server and wait until it is ready or has ended."""
    ports = free_ports()
    process = TritonProcess(layout, Options(repository, "127.0.0.1", ports), log.append)
    client = triton.InferenceServerClient(f"127.0.0.1:{ports['grpc']}")
    deadline = time.monotonic() + 60
    while process.exit_status() is None and time.monotonic() < deadline:
        try:
            if client.is_server_ready():
                break
        except InferenceServerException:
            time.sleep(0.1)
    return process, client


@pytest.fixture(scope="module")
def log() -> list[str]:
    return []


@pytest.fixture(scope="module")
def served(
    layout: Layout, log: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonProcess, triton.InferenceServerClient]]:
    repository = tmp_path_factory.mktemp("repository")
    batching = "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 200000 }"
    save_net(repository / "net", batching)
    for threads in (1, 4):
        text = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}'
        save_net(repository / f"threads{threads}", text)
    save_lookup(repository / "lookup")
    process, client = start(layout, repository, log)
    assert process.exit_status() is None, log
    yield process, client
    client.close()
    process.kill()


def infer(client: triton.InferenceServerClient, model: str, value: Any, outputs: tuple[str, ...] = ()) -> Any:
    name = "IDS" if model == "lookup" else "PIXELS"
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    wanted = [triton.InferRequestedOutput(output) for output in outputs] or None
    return client.infer(model, [tensor], outputs=wanted, client_timeout=30)


def pixels(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.server
def test_backend_gives_each_request_of_a_batch_its_own_rows(served: Any) -> None:
    _, client = served
    before = client.get_inference_statistics("net").model_stats[0].execution_count
    images = [pixels(size, 4, 4, 3) for size in (1, 2, 1, 3, 1)]
    with ThreadPoolExecutor(len(images)) as pool:
        answers = list(pool.map(lambda image: infer(client, "net", image), images))
    for image, answer in zip(images, answers, strict=True):
        flat = image.reshape(len(image), 48).astype(np.float32)
        np.testing.assert_array_equal(answer.as_numpy("FEATURES"), flat)
        np.testing.assert_allclose(answer.as_numpy("LOGITS"), flat @ WEIGHT, rtol=1e-5, atol=1e-2)
    executions = client.get_inference_statistics("net").model_stats[0].execution_count - before
    assert executions < len(images)  # they did share runs: otherwise nothing was tested


@pytest.mark.server
def test_backend_sends_only_the_outputs_asked_for(served: Any) -> None:
    answer = infer(served[1], "net", pixels(2, 4, 4, 3), ("LOGITS",))
    assert answer.as_numpy("LOGITS").shape == (2, 2)
    assert answer.as_numpy("FEATURES") is None


@pytest.mark.server
@pytest.mark.parametrize("good_shape", [(1, 2), (1, 3)])
def test_backend_failing_request_fails_alone(served: Any, good_shape: tuple[int, int]) -> None:
    _, client = served
    bad = np.array([[99, 0]], dtype=np.int64)  # 99 is not in the table; the same shape as its neighbours, or another
    good = [np.full(good_shape, i, dtype=np.int64) for i in range(5)]
    with ThreadPoolExecutor(6) as pool:
        failing = pool.submit(infer, client, "lookup", bad)
        answers = list(pool.map(lambda ids: infer(client, "lookup", ids), good))
    for ids, answer in zip(good, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("ROWS"), TABLE[ids])
    with pytest.raises(InferenceServerException, match=r"lookup.*out of data bounds"):
        failing.result()


@pytest.mark.server
def test_backend_wrong_shape_is_an_error_and_the_model_lives_on(served: Any) -> None:
    _, client = served
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        infer(client, "net", pixels(1, 5, 4, 3))
    assert infer(client, "net", pixels(1, 4, 4, 3)).as_numpy("LOGITS").shape == (1, 2)


@pytest.mark.server
def test_backend_honours_thread_count_and_idles_without_spinning(served: Any) -> None:
    process, client = served
    stubs = {Path(stub.cmdline()[1]).parents[1].name: stub for stub in process.stubs()}
    assert stubs["threads4"].num_threads() == stubs["threads1"].num_threads() + 3
    for _ in range(20):
        infer(client, "threads4", pixels(8, 4, 4, 3))
    before = sum(stubs["threads4"].cpu_times()[:2])
    time.sleep(1.5)
    assert sum(stubs["threads4"].cpu_times()[:2]) - before < 0.1


@pytest.mark.server
def test_backend_log_tells_providers_threads_and_untrained_weights(served: Any, log: list[str]) -> None:
    text = "\n".join(log)
    assert "threads4: model.onnx on ['CPUExecutionProvider'], intra-op threads: 4" in text
    assert "net: UNTRAINED" in text


@pytest.mark.server
def test_backend_load_error_says_what_does_not_fit(layout: Layout, tmp_path: Path) -> None:
    save_net(tmp_path / "misfit", dims="5, 4, 3")
    save_net(tmp_path / "free", features=-1)
    save_net(tmp_path / "truncated")
    file = tmp_path / "truncated" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:60])
    save_net(tmp_path / "threads", 'parameters { key: "intra_op_thread_count" value { string_value: "many" } }')
    process, client = start(layout, tmp_path, [])
    client.close()
    ended = process.exit_status()
    process.kill()
    errors = "\n".join(process.error_lines())
    assert ended == "exit code 1"
    assert "input PIXELS is with the batch, [-1, 5, 4, 3], the graph has ['batch', 4, 4, 3]" in errors
    # As the C++ backend has it: what is free in the configuration must be free in the graph.
    assert "output FEATURES is with the batch, [-1, -1], the graph has ['batch', 48]" in errors
    assert f"{file}: " in errors
    assert "intra_op_thread_count is 'many'" in errors


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    """The backend's module, for its pure functions; its Triton import is not needed by them."""
    name = "triton_python_backend_utils"
    had = sys.modules.get(name)
    sys.modules[name] = types.ModuleType(name)
    spec = importlib.util.spec_from_file_location("onnxruntime_backend", BACKENDS / "onnxruntime" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    if had is None:
        del sys.modules[name]
    else:
        sys.modules[name] = had


def accelerators(**kinds: list[dict[str, Any]]) -> dict[str, Any]:
    return {"optimization": {"execution_accelerators": kinds}}


def test_backend_gpu_instance_gets_tensorrt_then_cuda_of_its_device(backend: Any) -> None:
    parameters = {"precision_mode": "FP16", "max_workspace_size_bytes": "1024", "trt_engine_cache_enable": "1"}
    config = accelerators(gpu_execution_accelerator=[{"name": "tensorrt", "parameters": parameters}])
    providers = dict(backend.execution_providers(config, "GPU", 3))
    assert list(providers) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers["TensorrtExecutionProvider"] == {
        "trt_fp16_enable": "True",
        "trt_max_workspace_size": "1024",
        "trt_engine_cache_enable": "True",
        "device_id": "3",
    }
    assert providers["CUDAExecutionProvider"] == {"device_id": "3"}
    # The same configuration on a CPU instance ignores the GPU's accelerators, as the C++ backend does.
    assert backend.execution_providers(config, "CPU", 0) == [("CPUExecutionProvider", {})]


def test_backend_repository_runs_on_cuda_where_there_is_a_gpu(backend: Any) -> None:
    for path in (Path(__file__).parent.parent / "model_repository").glob("*/config.pbtxt"):
        message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        config = json_format.MessageToDict(message, preserving_proto_field_name=True)
        if config.get("backend") == "onnxruntime":
            assert backend.execution_providers(config, "GPU", 1) == [
                ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}),
                ("CPUExecutionProvider", {}),
            ]
            assert backend.execution_providers(config, "CPU", 0) == [("CPUExecutionProvider", {})]


def test_backend_cpu_accelerator_is_openvino_or_an_error(backend: Any) -> None:
    config = accelerators(cpu_execution_accelerator=[{"name": "openvino"}])
    assert [name for name, _ in backend.execution_providers(config, "CPU", 0)] == [
        "OpenVINOExecutionProvider",
        "CPUExecutionProvider",
    ]
    with pytest.raises(backend.ConfigurationError, match="unknown CPU execution accelerator 'magic'"):
        backend.execution_providers(accelerators(cpu_execution_accelerator=[{"name": "magic"}]), "CPU", 0)


@pytest.mark.parametrize(
    ("level", "name"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_backend_graph_level_is_triton_s(backend: Any, level: int, name: str) -> None:
    options = backend.session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level.name == name


def test_backend_missing_provider_is_an_error_that_names_the_package(backend: Any, tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in backend.ort.get_available_providers():
        pytest.skip("this build of onnxruntime has CUDA")
    save_net(tmp_path / "net")
    model = backend.TritonPythonModel()
    model._config = {}
    with pytest.raises(backend.ConfigurationError, match="install onnxruntime-gpu"):
        model._open(tmp_path / "net" / "1" / "model.onnx", "GPU", 0)
