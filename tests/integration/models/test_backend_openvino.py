"""The stand-in `openvino` backend, inside the real tritonserver."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.standin.layout import Layout
from tests.backends import WEIGHT, assert_each_request_gets_its_own_rows, backend_module, infer, pixels, save_net, start

BF16 = 'parameters { key: "HINT_BF16" value { string_value: "YES" } }'
BATCHING = "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 200000 }"


@pytest.fixture(scope="module")
def client(layout: Layout, log: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("repository")
    save_net(repository / "net", BATCHING, backend="openvino")
    save_net(repository / "bf16", BF16, backend="openvino")
    process, client = start(layout, repository, log)
    assert process.exit_status() is None, log
    yield client
    client.close()
    process.kill()


@pytest.mark.server
def test_openvino_gives_each_request_of_a_batch_its_own_rows_in_float32(client: Any) -> None:
    assert_each_request_gets_its_own_rows(client)


@pytest.mark.server
def test_openvino_answers_do_not_change_when_the_next_request_runs(client: Any) -> None:
    first, second = pixels(1, 4, 4, 3), pixels(1, 4, 4, 3)
    answer = infer(client, "net", first).as_numpy("FEATURES")
    infer(client, "net", second)
    np.testing.assert_array_equal(answer, first.reshape(1, 48).astype(np.float32))


@pytest.mark.server
def test_openvino_hint_is_honoured_and_the_log_tells_precision_and_untrained_weights(
    client: Any, log: list[str]
) -> None:
    image = pixels(4, 4, 4, 3)
    exact = image.reshape(4, 48).astype(np.float32) @ WEIGHT
    np.testing.assert_allclose(infer(client, "bf16", image).as_numpy("LOGITS"), exact, rtol=0.05, atol=20)
    text = "\n".join(log)
    assert "net: model.onnx on OpenVINO 20" in text
    assert ", f32, threads: " in text
    assert "net: UNTRAINED" in text


@pytest.mark.server
def test_openvino_load_error_says_what_does_not_fit(layout: Layout, tmp_path: Path) -> None:
    save_net(tmp_path / "misfit", dims="5, 4, 3", backend="openvino")
    save_net(tmp_path / "truncated", backend="openvino")
    file = tmp_path / "truncated" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:60])
    process, client = start(layout, tmp_path, [])
    client.close()
    ended = process.exit_status()
    process.kill()
    errors = "\n".join(process.error_lines())
    assert ended == "exit code 1"
    assert "input PIXELS is with the batch, [-1, 5, 4, 3], the graph has [-1, 4, 4, 3]" in errors
    assert f"{file}: " in errors


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    with backend_module("openvino") as module:
        yield module


def configured(**parameters: str) -> dict[str, Any]:
    return {"parameters": {name: {"string_value": text} for name, text in parameters.items()}}


def test_openvino_is_exact_unless_asked_otherwise(backend: Any) -> None:
    assert backend.properties({}, bfloat16=True) == {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    asking = configured(HINT_BF16="YES", NUM_STREAMS="1", INFERENCE_NUM_THREADS="2")
    assert backend.properties(asking, bfloat16=True) == {
        "INFERENCE_PRECISION_HINT": "bf16",
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "2",
    }


def test_openvino_keeps_float32_where_the_processor_has_no_bfloat16(backend: Any) -> None:
    flags = "flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni{}\nbugs : spectre_v2"
    assert [backend.has_bfloat16(flags.format(more)) for more in ("", " avx512_bf16", " amx_bf16 amx_tile")] == [
        False,
        True,
        True,
    ]
    assert backend.properties(configured(HINT_BF16="YES"), bfloat16=False)["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HINT_BF16", "NO"),
        ("NUM_STREAMS", "many"),
        ("INFERENCE_NUM_THREADS", "-1"),
        ("PERFORMANCE_HINT", "SPEED"),
        ("TARGET_DEVICE", "GPU"),
    ],
)
def test_openvino_wrong_parameters_are_named_with_their_value(backend: Any, name: str, text: str) -> None:
    with pytest.raises(backend.ConfigurationError, match=f"parameter {name} is '{text}'"):
        backend.properties(configured(**{name: text}), bfloat16=True)


def test_openvino_refuses_a_gpu_instance(backend: Any, tmp_path: Path) -> None:
    model = backend.TritonPythonModel()
    model.config = {}
    with pytest.raises(backend.ConfigurationError, match="KIND_CPU"):
        model.open(tmp_path / "model.onnx", "GPU", 0)


WEIGHTS = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
BIAS = np.random.default_rng(1).standard_normal(1024).astype(np.float32)


def large_net_answers(backend: Any, rows: Any, precision: str) -> Any:
    """rows · WEIGHTS + BIAS, by a graph whose weights are held in bfloat16."""
    ops = backend.ops
    parameter = ops.parameter([-1, 1024], np.float32, name="ROWS")
    product = ops.matmul(parameter, ops.constant(WEIGHTS), False, False)
    model = backend.ov.Model([ops.add(product, ops.constant(BIAS))], [parameter], "net")
    backend.hold_weights_in_bfloat16(model)
    large = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant" and node.data.size > 1024]
    assert [node.get_element_type().get_type_name() for node in large] == ["bf16"]
    return backend.ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})(rows)[0]


def test_openvino_weights_held_in_bfloat16_are_the_nearest_and_small_constants_stay(backend: Any) -> None:
    eye = np.eye(1024, dtype=np.float32)
    # Eight significant bits: the nearest is off by a half of the last, 2⁻⁸ of the value, at most.
    np.testing.assert_allclose(large_net_answers(backend, eye, "f32") - BIAS, WEIGHTS, rtol=2**-8, atol=1e-6)
    np.testing.assert_array_equal(large_net_answers(backend, 0 * eye, "f32")[0], BIAS)


def test_openvino_answers_with_weights_held_in_bfloat16_stay_within_its_rounding(backend: Any) -> None:
    rows = np.random.default_rng(2).standard_normal((3, 1024)).astype(np.float32)
    # 1024 products of unit normal numbers, each factor off by under 2⁻⁸: deviations under 32 · 2⁻⁸ · 1.4 ≈ 0.18.
    np.testing.assert_allclose(large_net_answers(backend, rows, "bf16"), rows @ WEIGHTS + BIAS, atol=1)
