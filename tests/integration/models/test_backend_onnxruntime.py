"""The stand-in `onnxruntime` backend, inside the real tritonserver."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from server.standin.layout import Layout
from server.supervision.process import TritonProcess
from tests.backends import (
    TABLE,
    WEIGHT,
    assert_each_request_gets_its_own_rows,
    backend_module,
    infer,
    pixels,
    save_lookup,
    save_net,
    start,
)
from tests.golden import ROOT
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def served(
    layout: Layout, log: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonProcess, triton.InferenceServerClient]]:
    repository = tmp_path_factory.mktemp("repository")
    batching = "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 200000 }"
    save_net(repository / "net", batching)
    for threads in (1, 4, -1):
        text = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}'
        save_net(repository / f"threads{threads}", text)
    save_net(repository / "reshaped")
    config = repository / "reshaped" / "config.pbtxt"
    reshaped = config.read_text().replace("dims: [ 4, 4, 3 ]", "dims: [ 48 ] reshape { shape: [ 4, 4, 3 ] }")
    config.write_text(reshaped.replace("dims: [ 48 ] }", "dims: [ 6, 8 ] reshape { shape: [ 48 ] } }"))
    save_lookup(repository / "lookup")
    config = repository / "lookup" / "config.pbtxt"
    limit = 'parameters { key: "max_input_elements" value { string_value: "6" } }'
    config.write_text(f"{config.read_text()}\n{limit}")
    process, client = start(layout, repository, log)
    assert process.exit_status() is None, log
    yield process, client
    client.close()
    process.kill()


@pytest.mark.server
def test_backend_gives_each_request_of_a_batch_its_own_rows(served: Any) -> None:
    assert_each_request_gets_its_own_rows(served[1])


@pytest.mark.server
def test_backend_sends_only_the_outputs_asked_for(served: Any) -> None:
    answer = infer(served[1], "net", pixels(2, 4, 4, 3), ("LOGITS",))
    assert answer.as_numpy("LOGITS").shape == (2, 2)
    assert answer.as_numpy("FEATURES") is None


@pytest.mark.server
@pytest.mark.parametrize("wanted", [(), ("LOGITS", "FEATURES")])
def test_backend_sends_outputs_in_the_order_of_their_names(served: Any, wanted: tuple[str, ...]) -> None:
    """As the C++ backend does, whatever the order in the configuration, where they stand the other way round."""
    answer = infer(served[1], "net", pixels(1, 4, 4, 3), wanted).get_response()
    assert [output.name for output in answer.outputs] == ["FEATURES", "LOGITS"]


@pytest.mark.server
def test_backend_serves_tensors_that_the_configuration_reshapes(served: Any) -> None:
    images = pixels(3, 48)
    answer = infer(served[1], "reshaped", images)
    np.testing.assert_array_equal(answer.as_numpy("FEATURES"), images.reshape(3, 6, 8).astype(np.float32))
    np.testing.assert_allclose(answer.as_numpy("LOGITS"), images.astype(np.float32) @ WEIGHT, rtol=1e-5, atol=1e-2)


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
def test_backend_refuses_more_elements_than_the_model_s_limit_and_no_neighbour(served: Any) -> None:
    _, client = served
    with ThreadPoolExecutor(6) as pool:
        failing = pool.submit(infer, client, "lookup", np.zeros((1, 7), np.int64))
        answers = list(pool.map(lambda size: infer(client, "lookup", np.zeros((2, size), np.int64)), [6] * 5))
    assert all(answer.as_numpy("ROWS").shape == (2, 6, 4) for answer in answers)
    with pytest.raises(InferenceServerException, match=r"lookup: input IDS is \[1, 7\]: over the limit of 6 elements"):
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
    wait_for(lambda: stubs["threads4"].num_threads() == stubs["threads1"].num_threads() + 3)
    assert infer(client, "threads-1", pixels(1, 4, 4, 3)).as_numpy("LOGITS").shape == (1, 2)
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
    save_net(tmp_path / "loose", dims="-1, -1, 3")
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
    assert "input PIXELS is with the batch, [-1, 5, 4, 3], the graph has [-1, 4, 4, 3]" in errors
    # As the C++ backend has it: what is free in the configuration must be free in the graph.
    assert "input PIXELS is with the batch, [-1, -1, -1, 3], the graph has [-1, 4, 4, 3]" in errors
    assert "output FEATURES is with the batch, [-1, -1], the graph has [-1, 48]" in errors
    assert f"{file}: " in errors
    assert "intra_op_thread_count is 'many'" in errors


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    with backend_module("onnxruntime") as module:
        yield module


def test_backend_repository_runs_on_cuda_where_there_is_a_gpu(backend: Any) -> None:
    for path in (ROOT / "model_repository").glob("*/config.pbtxt"):
        message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        config = json_format.MessageToDict(message, preserving_proto_field_name=True)
        if config.get("backend") == "onnxruntime":
            assert backend.execution_providers(config, "GPU", 1) == [
                ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}),
                ("CPUExecutionProvider", {}),
            ]
            assert backend.execution_providers(config, "CPU", 0) == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize("kind", ["gpu_execution_accelerator", "cpu_execution_accelerator"])
def test_backend_refuses_accelerators_that_it_does_not_have(backend: Any, kind: str) -> None:
    config = {"optimization": {"execution_accelerators": {kind: [{"name": "tensorrt"}]}}}
    with pytest.raises(backend.ConfigurationError, match="no execution_accelerators; serve the model in NVIDIA's"):
        backend.execution_providers(config, "GPU", 0)


def test_backend_refuses_a_search_for_algorithms_that_cudnn_does_not_have(backend: Any) -> None:
    config = {"parameters": {"cudnn_conv_algo_search": {"string_value": "7"}}}
    with pytest.raises(backend.ConfigurationError, match=r"is '7'; it must be one of \['0', '1', '2'\]"):
        backend.execution_providers(config, "GPU", 0)


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
    model.config = {}
    with pytest.raises(backend.ConfigurationError, match="install onnxruntime-gpu"):
        model.open(tmp_path / "net" / "1" / "model.onnx", "GPU", 0)
