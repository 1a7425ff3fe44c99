"""Inference that is given up early, at a time that is learnt while it is under way.

gRPC's own deadline is fixed when a request is sent. The first requests are sent before any answer has told how long one
takes: held to that deadline, those at a server that hangs from the start would hold a run up for all of it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient
from tritonclient.utils import InferenceServerException

_LOOK = 1.0
"""Seconds after which a request that is under way is looked at again."""


def infer(
    client: InferenceServerClient, arguments: dict[str, Any], deadline: float, early_timeout: Callable[[], float]
) -> Any:
    """Infers as `client.infer` does.

    Args:
        client: The connection.
        arguments: Of `client.infer`, but for the deadline.
        deadline: Seconds after which gRPC gives the request up.
        early_timeout: Tells after how many seconds in all it is given up, by what is known at present.

    Raises:
        InferenceServerException: It failed, or was given up: then it is DEADLINE_EXCEEDED.
    """
    answer: Future[Any] = Future()

    def answered(result: Any, error: InferenceServerException | None) -> None:
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    started = time.monotonic()
    call = client.async_infer(**arguments, callback=answered, client_timeout=deadline)
    while True:
        try:
            return answer.result(_pause(started, early_timeout()))
        except TimeoutError:
            if time.monotonic() - started >= early_timeout():
                call.cancel()
                raise _given_up() from None


async def ainfer(
    client: AsyncInferenceServerClient, arguments: dict[str, Any], deadline: float, early_timeout: Callable[[], float]
) -> Any:
    """The same for asyncio."""
    started = time.monotonic()
    answer = asyncio.ensure_future(client.infer(**arguments, client_timeout=deadline))
    try:
        while not (await asyncio.wait({answer}, timeout=_pause(started, early_timeout())))[0]:
            if time.monotonic() - started >= early_timeout():
                raise _given_up()
        return answer.result()
    finally:
        answer.cancel()


def _pause(started: float, early_timeout: float) -> float:
    return min(max(started + early_timeout - time.monotonic(), 0.0), _LOOK)


def _given_up() -> InferenceServerException:
    return InferenceServerException("no answer in time", status="StatusCode.DEADLINE_EXCEEDED")
