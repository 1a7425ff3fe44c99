"""The response cache on the real server: repeated images are answered from memory, and by nothing else than before."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from deepfake_client import DetectorClient
from tritonclient import grpc as triton

from tests.conftest import Server, start_server
from tests.golden import BOXES, IMAGES, ROOT
from tests.integration.models.test_verdict import EARLY, FULL, ask, column
from tests.waiting import wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]

FILES = [path.read_bytes() for path in IMAGES]


@pytest.fixture(scope="module")
def cached(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("cached") / "log"
    running = start_server(tiny_repository, log, launcher=["--response-cache", "1"])
    yield running
    assert running.stop() == 0, log.read_text()[-4000:]


def counts(server: Server, model: str) -> tuple[int, int]:
    """Images that were looked for, and those that were found."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    names = ("lookups_total", "hits_total")
    found = [
        re.search(rf'^deepfake_detector_cache_{name}{{model="{model}"}} (\d+)', text, re.MULTILINE) for name in names
    ]
    return tuple(0 if each is None else int(each[1]) for each in found)  # type: ignore[return-value]


def executions(server: Server, model: str) -> int:
    with triton.InferenceServerClient(server.url) as client:
        (stats,) = client.get_inference_statistics(model).model_stats
    return int(stats.inference_count)


def wait_for_executions(server: Server, model: str, count: int) -> int:
    """Waits for this many at least, and tells how many there are: they are counted after the answer has gone."""
    return wait_for(lambda: (ran := executions(server, model)) >= count and ran, hint=lambda: executions(server, model))


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
        assert values.dtype == other[name].dtype


@pytest.mark.parametrize("model", [FULL, EARLY])
def test_a_repeated_image_runs_no_network_and_has_the_same_answer(cached: Server, model: str) -> None:
    before, ran = counts(cached, model), executions(cached, "global_texture")
    first = ask(cached.url, model, IMAGE=column(FILES))
    ran = wait_for_executions(cached, "global_texture", ran + len(FILES))
    again = ask(cached.url, model, IMAGE=column(FILES))
    equal(first, again)
    backwards = ask(cached.url, model, IMAGE=column(FILES[::-1]))  # each image is kept for itself
    equal(first, {name: values[::-1] for name, values in backwards.items()})
    assert executions(cached, "global_texture") - ran < len(FILES)  # the launcher's own probe may have come between
    looked, hit = (now - then for now, then in zip(counts(cached, model), before, strict=True))
    assert (looked, hit) == (3 * len(FILES), 2 * len(FILES))
    assert set(first["STATUS"][:, 0]) == {b"ok"}


def test_the_answer_is_that_of_a_server_without_a_cache(cached: Server, server: Server) -> None:
    for model in (FULL, EARLY):
        inputs = {"IMAGE": column(FILES[:2]), "FACE_BOX": np.float32([BOXES[path.name] for path in IMAGES[:2]])}
        for _ in range(2):
            equal(ask(cached.url, model, **inputs), ask(server.url, model, **inputs))


def test_the_dashboard_draws_what_the_server_counts(cached: Server) -> None:
    dashboard = (ROOT / "deploy/grafana/dashboards/deepfake-detector.json").read_text()
    drawn = set(re.findall(r"deepfake_detector_cache_\w+", dashboard))
    with urllib.request.urlopen(f"http://127.0.0.1:{cached.metrics_port}/metrics") as answer:
        assert drawn == set(re.findall(r"^(deepfake_detector_cache_\w+total)", answer.read().decode(), re.MULTILINE))


def test_whatever_is_asked_otherwise_is_another_question(cached: Server) -> None:
    file = column(FILES[:1])
    plain = ask(cached.url, FULL, IMAGE=file)
    boxed = ask(cached.url, FULL, IMAGE=file, FACE_BOX=np.float32([[90, 90, 120, 120]]))
    assert boxed["FACE_SOURCE"][0, 0] == b"too_small"
    equal(ask(cached.url, FULL, IMAGE=file), plain)
    probability = plain["PROBABILITY"][0, 0]
    for threshold in (np.nextafter(probability, np.float32(0)), probability):
        for _ in range(2):
            early = ask(cached.url, EARLY, IMAGE=file, THRESHOLD=np.float32([[threshold]]))
            assert early["VERDICT"][0, 0] == (b"fake" if probability > threshold else b"real")


def test_a_request_for_some_outputs_spoils_none(cached: Server) -> None:
    """As Triton's own cache would."""
    image = triton.InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(column([FILES[3] + b"trailing"]))
    with triton.InferenceServerClient(cached.url) as client:
        for outputs in (["SCORE"], ["STATUS", "SCORE"], None, ["PROBABILITY"]):
            asked = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
            answer = client.infer(FULL, [image], outputs=asked).get_response()
            names = {output.name for output in answer.outputs}
            assert names == set(outputs) if outputs else len(names) == 8


def test_bad_images_are_looked_at_each_time(cached: Server) -> None:
    ask(cached.url, FULL, IMAGE=column(FILES[:1]))
    before = counts(cached, FULL)
    for _ in range(2):
        bad, good = ask(cached.url, FULL, IMAGE=column([b"junk", FILES[0]]))["STATUS"][:, 0]
        assert (bad != b"ok", good) == (True, b"ok")
    looked, hit = (now - then for now, then in zip(counts(cached, FULL), before, strict=True))
    assert (looked, hit) == (4, 2)


def test_probes_are_answered_by_the_steps_themselves(cached: Server) -> None:
    before, ran = counts(cached, FULL), executions(cached, "global_texture")
    with DetectorClient(cached.url) as client:
        for _ in range(2):
            client.wait_ready()
    wait_for_executions(cached, "global_texture", ran + 2)
    assert counts(cached, FULL) == before


def test_a_client_can_have_every_image_computed(cached: Server) -> None:
    """As a forecast does, whose sample comes again and again."""
    before, ran = [counts(cached, model) for model in (FULL, EARLY)], executions(cached, "global_texture")
    with DetectorClient(cached.url, fresh=True) as client:
        for asking in (client, client.deciding(0.3)):
            assert asking.score(FILES[0]) == asking.score(FILES[0])
    wait_for_executions(cached, "global_texture", ran + 4)  # the launcher's own probe may have come between
    assert [counts(cached, model) for model in (FULL, EARLY)] == before


def test_it_ends_with_its_server_and_refuses_what_is_too_much(tiny_repository: Path, tmp_path: Path) -> None:
    """Another start of the same server looks at every image anew, and leaves nothing behind."""
    server = start_server(tiny_repository, tmp_path / "log", launcher=["--response-cache", "1"])
    try:
        ask(server.url, FULL, IMAGE=column(FILES[:1]))
        assert counts(server, FULL)[1] == 0
        (process,) = [p for p in psutil.Process(server.process.pid).children() if "tritonserver" in p.name()]
        (folder,) = [w.partition("=")[2] for w in process.cmdline() if w.startswith("--model-repository=")]
        assert Path(folder).is_dir()
    finally:
        assert server.stop() == 0
    assert not Path(folder).exists()
