"""A request that is given up before its deadline is ended at its server too."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from deepfake_client.balancing.addresses import Address
from deepfake_client.transport import channels, early_timeout
from deepfake_client.transport.channels import ChannelPool
from deepfake_client.transport.early_timeout import ainfer, infer
from deepfake_client.transport.settings import Settings
from tritonclient.utils import InferenceServerException

ARGUMENTS = {"model_name": "net"}


def test_a_call_that_is_given_up_is_cancelled_and_one_that_is_answered_is_not() -> None:
    client = Mock()
    timeouts = iter([0.01, 0.0, 0.0])  # learnt meanwhile
    with pytest.raises(InferenceServerException, match="no answer in time") as caught:
        infer(client, ARGUMENTS, 600.0, lambda: next(timeouts))
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    client.async_infer.return_value.cancel.assert_called_once_with()
    assert client.async_infer.call_args.kwargs["client_timeout"] == 600.0

    answering = Mock()
    answering.async_infer.side_effect = lambda callback, **_: callback("answer", None)
    assert infer(answering, ARGUMENTS, 600.0, lambda: 600.0) == "answer"
    failing = Mock()
    failing.async_infer.side_effect = lambda callback, **_: callback(None, InferenceServerException("no"))
    with pytest.raises(InferenceServerException, match="no"):
        infer(failing, ARGUMENTS, 600.0, lambda: 600.0)


def test_a_call_that_turns_out_to_have_more_time_is_waited_for() -> None:
    client = Mock()
    asked: list[None] = []

    def learnt() -> float:
        asked.append(None)
        if len(asked) == 4:
            client.async_infer.call_args.kwargs["callback"]("late", None)
        return 0.01 if len(asked) == 1 else 60.0

    assert infer(client, ARGUMENTS, 600.0, learnt) == "late"
    client.async_infer.return_value.cancel.assert_not_called()


def test_by_asyncio_too() -> None:
    asked: list[None] = []

    async def run() -> str:
        late = asyncio.Event()

        async def answer(**_: Any) -> str:
            await late.wait()
            return "late"

        def learnt() -> float:
            asked.append(None)
            if len(asked) == 4:
                late.set()
            return 0.01 if len(asked) == 1 else 60.0

        return await ainfer(Mock(infer=answer), ARGUMENTS, 600.0, learnt)

    assert asyncio.run(run()) == "late"


def test_so_it_is_by_asyncio() -> None:
    ended: list[str] = []

    async def answer(**arguments: Any) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "late"

    async def run() -> None:
        with pytest.raises(InferenceServerException, match="no answer in time"):
            await ainfer(Mock(infer=answer), ARGUMENTS, 600.0, lambda: 0.01)
        await asyncio.sleep(0)
        assert ended == ["cancelled"]

    asyncio.run(run())


def test_by_asyncio_an_answer_and_an_error_come_as_they_are_within_the_deadline() -> None:
    given: list[float] = []

    async def answer(client_timeout: float, model_name: str) -> str:
        given.append(client_timeout)
        return f"of {model_name}"

    async def fail(**_: Any) -> str:
        raise InferenceServerException("no")

    async def run() -> None:
        assert await ainfer(Mock(infer=answer), ARGUMENTS, 600.0, lambda: 600.0) == "of net"
        with pytest.raises(InferenceServerException, match="no"):
            await ainfer(Mock(infer=fail), ARGUMENTS, 600.0, lambda: 600.0)

    asyncio.run(run())
    assert given == [600.0]


@pytest.mark.parametrize(
    ("waited", "timeout", "pause"),
    [(0.0, 600.0, 1.0), (0.0, 0.25, 0.25), (10.0, 10.75, 0.75), (10.0, 10.0, 0.0), (10.0, 3.0, 0.0)],
)
def test_what_was_learnt_is_looked_at_each_second_and_the_end_is_not_overslept(
    monkeypatch: pytest.MonkeyPatch, waited: float, timeout: float, pause: float
) -> None:
    monkeypatch.setattr(early_timeout.time, "monotonic", lambda: 100.0 + waited)
    assert early_timeout._pause(100.0, timeout) == pause


def test_each_connection_of_a_pool_is_closed_and_has_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Mock] = []
    monkeypatch.setattr(channels, "InferenceServerClient", lambda **options: made.append(Mock(**options)) or made[-1])
    pool = ChannelPool(Settings(("h:1",), "net", 30.0, 3, 4, 8))
    addresses = [Address(f"10.0.0.{n}:9", "farm:9") for n in (1, 2)]
    for address in addresses:
        pool.to(address)
        pool.to(address, pixels=True)
    pool.close()
    assert [each.url for each in made] == ["10.0.0.1:9", "10.0.0.1:9", "10.0.0.2:9", "10.0.0.2:9"]
    for each in made:
        each.close.assert_called_once_with()


def test_closed_connections_are_not_made_anew() -> None:
    pool = ChannelPool(Settings(("h:1",), "net", 30.0, 3, 4, 8))
    address = Address("127.0.0.1:9", "127.0.0.1:9")
    assert pool.to(address) is pool.to(address) is not pool.to(address, pixels=True)
    pool.close()
    with pytest.raises(ValueError, match="the client is closed"):
        pool.to(address)
