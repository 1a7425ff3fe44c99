"""Inference that is given up when it is overdue. What counts as overdue is learnt while it is under way.

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
    client: InferenceServerClient, arguments: dict[str, Any], deadline: float, patience: Callable[[], float]
) -> Any:
    """Infers as `client.infer` does.

    Args:
        client: The connection.
        arguments: Of `client.infer`, but for the deadline.
        deadline: Seconds after which gRPC gives the request up.
        patience: Tells after how many seconds in all it is overdue, by what is known at present.

    Raises:
        InferenceServerException: It failed, or was overdue: then it is DEADLINE_EXCEEDED.
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
            return answer.result(_pause(started, patience()))
        except TimeoutError:
            if time.monotonic() - started >= patience():
                call.cancel()
                raise _overdue() from None


async def ainfer(
    client: AsyncInferenceServerClient, arguments: dict[str, Any], deadline: float, patience: Callable[[], float]
) -> Any:
    """The same for asyncio."""
    started = time.monotonic()
    answer = asyncio.ensure_future(client.infer(**arguments, client_timeout=deadline))
    try:
        while not (await asyncio.wait({answer}, timeout=_pause(started, patience())))[0]:
            if time.monotonic() - started >= patience():
                raise _overdue()
        return answer.result()
    finally:
        answer.cancel()


def _pause(started: float, patience: float) -> float:
    return min(max(started + patience - time.monotonic(), 0.0), _LOOK)


def _overdue() -> InferenceServerException:
    return InferenceServerException("overdue", status="StatusCode.DEADLINE_EXCEEDED")
