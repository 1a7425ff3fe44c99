"""A request that is given up before its deadline is ended at its server too."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from deepfake_client.balancing.addresses import Address
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


def test_closed_connections_are_not_made_anew() -> None:
    pool = ChannelPool(Settings(("h:1",), "net", 30.0, 3, 4, 8))
    address = Address("127.0.0.1:9", "127.0.0.1:9")
    assert pool.to(address) is pool.to(address) is not pool.to(address, pixels=True)
    pool.close()
    with pytest.raises(ValueError, match="the client is closed"):
        pool.to(address)
