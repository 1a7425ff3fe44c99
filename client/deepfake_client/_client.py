"""The blocking client."""

import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from tenacity import Retrying, sleep_using_event, stop_any, stop_when_event_set
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ._calibration import Calibration
from ._calls import (
    Call,
    calibration_call,
    max_batch_size_call,
    metadata_call,
    not_ready,
    polling,
    probe_call,
    provenance_call,
    retrying,
    score_call,
)
from ._errors import DetectorError, InvalidResponseError, RequestFailedError, is_retryable
from ._items import (
    FaceBox,
    Image,
    ImageItem,
    Item,
    batched,
    failed,
    images_of,
    make_item,
    merge,
    numbered,
    read,
    read_groups,
)
from ._results import Provenance, ServerInfo, Verdict
from ._settings import CHANNEL_ARGS, Configured
from ._wire import usable_batch_size

T = TypeVar("T")


class DetectorClient(Configured):
    """Blocking client of the detector; threads may share it. `AsyncDetectorClient` is the same for asyncio."""

    _channel: InferenceServerClient | None = None
    _connecting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and what is in flight on it."""
        if self._channel is not None:
            self._channel.close()

    def score(self, image: Image, face_box: FaceBox | None = None) -> Verdict:
        """Scores one image.

        Args:
            image: The encoded image (JPEG, PNG, WebP, BMP, TIFF) as bytes, or the path of its file.
            face_box: x1, y1, x2, y2 in pixels of the decoded image, where the face is known: it replaces detection.
                NaN in all four means that it is not known.

        Returns:
            Its verdict. An image that the server cannot score has a `status` that says why.

        Raises:
            OSError: The file cannot be read.
            ServerUnavailableError: No server answered, after all retries.
            RequestFailedError: The server failed the request, after all retries where these can help.
            InvalidResponseError: The server answered something else than the detector does.
        """
        images = [read(make_item(image, face_box))]
        return self._retry(self._connected, score_call(self._settings, images))[0]

    def score_many(self, items: Iterable[ImageItem], *, ordered: bool = True) -> Generator[Verdict, None, None]:
        """Scores any number of images in constant memory.

        Args:
            items: Images as bytes, paths, or (image, face box) pairs. They are taken lazily, from this thread, at most
                `2 * max_in_flight * batch_size` ahead of the verdicts; files are read in other threads.
            ordered: Whether verdicts come in the order of their items. Without it they come as they are there, and one
                slow request holds no other up; `Verdict.index` says which item each belongs to.

        Yields:
            A verdict for each item, as soon as it is there. A file that could not be read has the status
            "unreadable_file", an image whose request failed after all retries "request_failed".

        Raises:
            ServerUnavailableError: No server answered, after all retries.
            RequestFailedError: The server has no such model.
            InvalidResponseError: The model is not the detector.
        """
        stop = threading.Event()
        channel = self._connect()  # a channel of its own: closing it cancels what this iterator has in flight
        pool = ThreadPoolExecutor(self._settings.max_in_flight, thread_name_prefix="deepfake-client")
        pending: list[Future[list[Verdict]]] = []
        start = 0
        try:
            limit = self._retry(channel, max_batch_size_call(self._settings), stop)
            size = usable_batch_size(self._settings.batch_size, self._settings.model, limit)
            for batch in batched(items, size):
                pending.append(pool.submit(self._score_batch, channel, start, batch, stop))
                start += len(batch)
                while pending and (done := _take(pending, ordered, len(pending) >= self._settings.window)):
                    yield from done.result()
            while done := _take(pending, ordered, bool(pending)):
                yield from done.result()
        finally:
            stop.set()
            channel.close()
            pool.shutdown(cancel_futures=True)

    def provenance(self) -> Provenance | None:
        """Which weights give the verdicts; None where the server does not say. It is asked once, without retries.

        Raises:
            DetectorError: As `score`.
        """
        try:
            return self._send(self._connected, provenance_call(self._settings))
        except RequestFailedError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    def calibration(self) -> Calibration | None:
        """What the vote was calibrated with; None where the server does not say. It is asked once, without retries.

        Raises:
            DetectorError: As `score`.
        """
        try:
            return self._send(self._connected, calibration_call(self._settings))
        except RequestFailedError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    def server_info(self) -> ServerInfo:
        """Name, version and limits of the server. It is asked once, without retries: a quick check of the address.

        Raises:
            DetectorError: As `score`.
        """
        name, version = self._send(self._connected, metadata_call(self._settings))
        limit = self._send(self._connected, max_batch_size_call(self._settings))
        return ServerInfo(name, version, self._settings.model, limit)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until the server scores an image.

        Only a real inference tells: Triton's ready end-points still answer yes when a step of the ensemble has died.

        Args:
            timeout: Longest time to wait, in seconds.

        Raises:
            ServerUnavailableError: No verdict came in time.
            RequestFailedError: The server has no such model, or refuses the request.
            InvalidResponseError: The server answered something else than the detector does.
        """
        end = time.monotonic() + timeout

        def probe() -> None:
            self._send(self._connected, probe_call(self._settings, max(end - time.monotonic(), 0.1)))

        try:
            Retrying(**polling(timeout))(probe)
        except DetectorError as error:
            if not is_retryable(error):
                raise
            raise not_ready(self._settings, timeout, error) from error

    @property
    def _connected(self) -> InferenceServerClient:
        with self._connecting:
            if self._channel is None:
                self._channel = self._connect()
            return self._channel

    def _connect(self) -> InferenceServerClient:
        return InferenceServerClient(self._settings.url, channel_args=CHANNEL_ARGS)

    def _score_batch(
        self, channel: InferenceServerClient, start: int, batch: list[Item], stop: threading.Event
    ) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for group in read_groups(batch):
            images = images_of(group)
            try:
                scored = self._retry(channel, score_call(self._settings, images), stop) if images else []
            except (RequestFailedError, InvalidResponseError) as error:
                scored = failed(images, error)
            verdicts += merge(group, scored)
        return numbered(verdicts, start)

    def _retry(self, channel: InferenceServerClient, call: Call[T], stop: threading.Event | None = None) -> T:
        policy = retrying(self._settings.retries)
        if stop is not None:
            policy |= {"sleep": sleep_using_event(stop), "stop": stop_any(policy["stop"], stop_when_event_set(stop))}
        result: T = Retrying(**policy)(partial(self._send, channel, call))
        return result

    @staticmethod
    def _send(channel: InferenceServerClient, call: Call[T]) -> T:
        try:
            response: Any = getattr(channel, call.method)(**call.arguments)
        except InferenceServerException as error:
            raise call.explain(error) from error
        return call.parse(response)


def _take(pending: list[Future[list[Verdict]]], ordered: bool, must: bool) -> Future[list[Verdict]] | None:
    """Takes out the first future where order is kept, else one that is done; None where it need not wait for it."""
    if must:
        wait(pending[:1] if ordered else pending, return_when=FIRST_COMPLETED)
    for place, future in enumerate(pending[:1] if ordered else pending):
        if future.done():
            return pending.pop(place)
    return None
