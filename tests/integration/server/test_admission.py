"""What is over the limits is refused by the real server, under four times what it can do."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as aio
from deepfake_client import DetectorClient
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.conftest import Server, start_server
from tests.golden import BOXES, GOLDEN, ROWS
from tests.waiting import PATIENCE, wait_for

LIMIT = 32
BATCH = 7
"""Images of a request: so many that the launcher's own request, of one image, takes nobody's place."""
FIT = LIMIT // BATCH
GATE = "closed"
GATED_NETWORK = f"""
import time
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"])
        self.gate = folder / "{GATE}"
        self.session = onnxruntime.InferenceSession(folder / args["model_version"] / "model.onnx")
        self.names = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        while self.gate.exists():
            time.sleep(0.01)
        pixels = [pb_utils.get_input_tensor_by_name(request, "PIXELS").as_numpy() for request in requests]
        answers = [self.session.run(None, {{self.session.get_inputs()[0].name: each}}) for each in pixels]
        return [pb_utils.InferenceResponse(list(map(pb_utils.Tensor, self.names, answer))) for answer in answers]
"""
"""A network that keeps its batch for as long as a file is there."""


@pytest.fixture(scope="module")
def small_server(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(tiny_repository, folder / "models")
    network = folder / "models" / "global_texture"
    (network / "1" / "model.py").write_text(GATED_NETWORK)
    settings = (network / "config.pbtxt").read_text()
    settings = settings.replace('backend: "onnxruntime"', 'backend: "python"')
    (network / "config.pbtxt").write_text(settings.replace('default_model_filename: "model.onnx"', ""))
    config = folder / "models" / "preprocess" / "config.pbtxt"
    text = config.read_text()
    assert '"max_pending" value { string_value: "256" }' in text
    config.write_text(text.replace('"256" }', f'"{LIMIT}" }}', 1))
    server = start_server(folder / "models", folder / "log")
    yield server
    assert server.stop() == 0


async def ask(
    client: aio.InferenceServerClient, image: bytes, batch: int, timeout: float, outputs: tuple[str, ...] = ()
) -> str:
    tensor = InferInput("IMAGE", [batch, 1], "BYTES")

    tensor.set_data_from_numpy(np.array([[image]] * batch, np.object_))
    try:
        wanted = [InferRequestedOutput(name) for name in outputs] or None
        await client.infer("deepfake_detector", [tensor], outputs=wanted, client_timeout=timeout)
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "ok"


@pytest.mark.server
@pytest.mark.slow
def test_overload_is_refused_at_once_and_the_server_recovers_at_once(small_server: Server) -> None:
    image = (GOLDEN / "images" / "00_face.png").read_bytes()

    async def flood() -> list[str]:
        async with aio.InferenceServerClient(small_server.url) as client:
            answers = await asyncio.gather(*(ask(client, image, BATCH, PATIENCE) for _ in range(60)))
            assert await ask(client, image, BATCH, PATIENCE) == "ok"
            return answers

    with InferenceServerClient(small_server.url) as raw:

        def computed() -> int:
            return int(raw.get_inference_statistics("global_texture").model_stats[0].inference_count)

        before = computed()
        answers = asyncio.run(flood())
        kinds = Counter(answer.partition(":")[0] for answer in answers)
        assert set(kinds) == {"ok", "StatusCode.UNAVAILABLE"}
        assert kinds["ok"] >= FIT
        assert all(f"limits of {LIMIT} images" in answer for answer in answers if answer != "ok")
        # Whoever was refused is not waited for: no image of theirs is computed, but one of the launcher's now and then.
        asked = BATCH * (kinds["ok"] + 1)
        wait_for(lambda: computed() - before >= asked)
        assert computed() - before - asked < kinds["StatusCode.UNAVAILABLE"]
    # Nobody stays behind.
    with DetectorClient(small_server.url, batch_size=16, max_in_flight=16, timeout=PATIENCE) as client:
        items = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS] * 8
        assert [verdict.score for verdict in client.score_many(items)] == [row["vote"] for row in ROWS] * 8


@pytest.mark.server
def test_what_is_over_is_refused_while_a_network_keeps_its_batch(small_server: Server) -> None:
    """Not one refusal waits for a network: all are there before the first of the admitted is answered."""
    image = (GOLDEN / "images" / "00_face.png").read_bytes()
    gate = small_server.repository / "global_texture" / GATE

    async def flood() -> tuple[list[str], list[str]]:
        async with aio.InferenceServerClient(small_server.url) as client:
            tasks = {asyncio.create_task(ask(client, image, BATCH, 2 * PATIENCE)) for _ in range(40)}
            refused: list[str] = []
            while tasks and len(refused) < 40 - FIT:
                done, tasks = await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                assert done, f"after {len(refused)} refusals none came while the network was busy"
                refused += [task.result() for task in done]
            gate.unlink()
            return refused, await asyncio.gather(*tasks)

    gate.touch()
    try:
        refused, admitted = asyncio.run(flood())
    finally:
        gate.unlink(missing_ok=True)
    assert {answer.partition(":")[0] for answer in refused} == {"StatusCode.UNAVAILABLE"}
    assert admitted == ["ok"] * FIT


@pytest.mark.server
@pytest.mark.parametrize("outputs", [("FACE",), ("FACE_CONFIDENCE", "FACE_SOURCE"), ("STREAM_VOTES",)])
def test_a_request_for_a_part_of_the_outputs_gives_its_place_back(
    small_server: Server, outputs: tuple[str, ...]
) -> None:
    """More images than half of the limit, again and again: Triton leaves out steps whose outputs nobody asks for."""

    async def ask_again_and_again() -> list[str]:
        async with aio.InferenceServerClient(small_server.url) as client:
            return [await ask(client, b"no image", LIMIT // 2 + 1, PATIENCE, outputs) for _ in range(3)]

    assert asyncio.run(ask_again_and_again()) == ["ok"] * 3


@pytest.mark.server
@pytest.mark.slow
def test_clients_that_hang_up_take_nobody_s_place(small_server: Server) -> None:
    image = (GOLDEN / "images" / "00_face.png").read_bytes()

    async def hang_up() -> None:
        async with aio.InferenceServerClient(small_server.url) as client:
            await asyncio.gather(*(ask(client, image, BATCH, 0.02) for _ in range(40)))

    asyncio.run(hang_up())
    with DetectorClient(small_server.url, timeout=PATIENCE) as client:
        assert client.score(GOLDEN / "images" / "00_face.png").ok
