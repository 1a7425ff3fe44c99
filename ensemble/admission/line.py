"""Requests that a step answers in threads of its own, so that what it admits does not wait for one another's work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ensemble.admission.doors import SideDoor


class Line:
    """Requests with a ticket, answered one after the other in each thread. Each gets an answer, whatever goes wrong.

    Args:
        step: The step's name, for its errors.
        door: Where tickets come from and go back to.
        threads: Requests that are worked on at once.
        backend: The module `triton_python_backend_utils`, which there is only inside the server.
    """

    def __init__(self, step: str, door: SideDoor, threads: int, backend: Any) -> None:
        self._step = step
        self._door = door
        self._backend = backend
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="line")

    def admit(self, request: Any, images: int, size: int, answer: Callable[[int], Any]) -> Any:
        """Let a request in that has no ticket.

        Args:
            request: As the step was given it.
            images: Images of the request.
            size: Bytes of its images.
            answer: From the ticket to the response.

        Returns:
            None where it is admitted and will be answered, else the response that refuses it.
        """
        ticket, refusal = self._door.admit(images, size)
        if refusal is not None:
            return self.error(refusal, self._backend.TritonError.UNAVAILABLE)
        self.answer(request, ticket, answer)
        return None

    def answer(self, request: Any, ticket: int, answer: Callable[[int], Any]) -> None:
        """Answer a request later, and give its ticket back before that."""
        sender = request.get_response_sender()

        def work() -> None:
            try:
                response = answer(ticket)
            except Exception as error:  # noqa: BLE001 - the process boundary: without an answer the request would hang
                text = f"{self._step}: {type(error).__name__}: {error}"
                response = self.error(text, self._backend.TritonError.INTERNAL)
            self._door.release(ticket)
            sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        self._threads.submit(work)

    def error(self, message: str, code: Any) -> Any:
        """A response that says why there is no other."""
        return self._backend.InferenceResponse(error=self._backend.TritonError(message, code))

    def close(self) -> None:
        """Wait until all are answered."""
        self._threads.shutdown()
