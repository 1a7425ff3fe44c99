"""What a client says of its server, and whether that is ready."""

import asyncio
import json
import threading
from typing import Any

import grpc
import pytest
from deepfake_client import (
    AsyncDetectorClient,
    DetectorClient,
    InvalidResponseError,
    Provenance,
    RequestFailedError,
    ServerInfo,
    ServerUnavailableError,
)

from tests.fakes.triton import FakeTriton, fail_times, hang, untrained
from tests.unit.client.scoring.asking import Scorer
from tests.waiting import PATIENCE


def test_server_info_gives_version_and_limit(client: DetectorClient, server: FakeTriton) -> None:
    server.max_batch_size = 5
    assert client.server_info() == ServerInfo("triton", "2.51.0", "deepfake_detector", 5)


def test_unknown_model_is_named(server: FakeTriton, score_many: Scorer) -> None:
    with pytest.raises(RequestFailedError, match="has no model 'nothing'"):
        score_many(server.url, [b"0.1"], model="nothing")


def test_provenance_says_untrained(client: DetectorClient, server: FakeTriton) -> None:
    assert client.provenance() is None
    server.provenance = untrained()
    provenance = client.provenance()
    assert provenance is not None
    assert provenance.untrained is True
    assert provenance.document["precision"] == "fp32"


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"untrained": "no"}', "null"])
def test_damaged_provenance_is_an_error(client: DetectorClient, server: FakeTriton, text: str) -> None:
    server.provenance = text
    with pytest.raises(InvalidResponseError, match="provenance"):
        client.provenance()


def test_asyncio_client_has_the_same_face(server: FakeTriton) -> None:
    async def run() -> None:
        server.provenance = untrained()
        async with AsyncDetectorClient(server.url) as client:
            await client.wait_ready(PATIENCE)
            assert await client.server_info() == ServerInfo("triton", "2.51.0", "deepfake_detector", 32)
            assert await client.provenance() == Provenance(True, json.loads(untrained()))
            server.provenance = None
            assert await client.provenance() is None
            assert (await client.score(b"0.6", face_box=(1, 2, 3, 4))).verdict == "fake"
            with pytest.raises(FileNotFoundError):
                await client.score("missing.jpg")

    asyncio.run(run())
    public = {name for name in dir(DetectorClient) if not name.startswith("_")}
    assert public == {name for name in dir(AsyncDetectorClient) if not name.startswith("_")}


@pytest.mark.parametrize(
    "fault", [hang(2 * PATIENCE), fail_times(10**6, grpc.StatusCode.INTERNAL)], ids=["hangs", "fails"]
)
def test_ready_server_with_a_dead_step_is_not_ready(client: DetectorClient, server: FakeTriton, fault: Any) -> None:
    server.fault = fault
    with pytest.raises(ServerUnavailableError, match=r"was not ready within 1 s"):
        client.wait_ready(1)


@pytest.mark.usefixtures("patient_probes")
def test_asyncio_wait_ready_gives_up_in_time() -> None:
    async def run() -> None:
        async with AsyncDetectorClient(FakeTriton().url) as client:
            with pytest.raises(ServerUnavailableError, match="was not ready within 1 s: no server answers"):
                await client.wait_ready(1)

    asyncio.run(run())


@pytest.mark.usefixtures("patient_probes")
def test_server_that_scores_nothing_is_not_ready(client: DetectorClient, server: FakeTriton) -> None:
    server.garble = lambda outputs: outputs["STATUS"].fill(b"non_finite_logits")
    with pytest.raises(ServerUnavailableError, match="answers a test image with 'non_finite_logits'"):
        client.wait_ready(1)


def test_wait_ready_waits_for_a_server_that_starts_late() -> None:
    server = FakeTriton()
    starter = threading.Timer(1, server.start)
    starter.start()
    with DetectorClient(server.url) as client:
        client.wait_ready(PATIENCE)
    starter.join()
    server.stop()


def test_wait_ready_tells_of_a_wrong_model_at_once(server: FakeTriton) -> None:
    with DetectorClient(server.url, model="nothing") as client, pytest.raises(RequestFailedError, match="no model"):
        client.wait_ready(60)
