"""Requests that a step answers in threads of its own, so that what it admits does not wait for one another's work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ensemble.admission.steps import StepAdmission


class RequestExecutor:
    """Requests with a permit, answered one after the other in each thread. Each gets an answer, whatever goes wrong.

    Args:
        step: The step's name, for its errors.
        admission: Where permits come from and go back to.
        threads: Requests that are worked on at once.
        backend: The module `triton_python_backend_utils`, which there is only inside the server.
    """

    def __init__(self, step: str, admission: StepAdmission, threads: int, backend: Any) -> None:
        self._step = step
        self._admission = admission
        self._backend = backend
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="admitted")

    def admit(self, request: Any, images: int, size: int, answer: Callable[[int], Any]) -> Any:
        """Let a request in that has no permit.

        Args:
            request: As the step was given it.
            images: Images of the request.
            size: Bytes of its images.
            answer: From the permit to the response.

        Returns:
            None where it is admitted and will be answered, else the response that refuses it.
        """
        permit, refusal = self._admission.admit(images, size)
        if refusal is not None:
            return self.error(refusal, self._backend.TritonError.UNAVAILABLE)
        self.answer(request, permit, answer)
        return None

    def answer(self, request: Any, permit: int, answer: Callable[[int], Any]) -> None:
        """Answer a request later, and give its permit back before that."""
        sender = request.get_response_sender()

        def work() -> None:
            try:
                response = answer(permit)
            except Exception as error:  # noqa: BLE001 - the process boundary: without an answer the request would hang
                text = f"{self._step}: {type(error).__name__}: {error}"
                response = self.error(text, self._backend.TritonError.INTERNAL)
            self._admission.release(permit)
            sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        self._threads.submit(work)

    def error(self, message: str, code: Any) -> Any:
        """A response that says why there is no other."""
        return self._backend.InferenceResponse(error=self._backend.TritonError(message, code))

    def close(self) -> None:
        """Wait until all are answered."""
        self._threads.shutdown()
