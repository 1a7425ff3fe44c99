"""The blocking client."""

import threading
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from tenacity import Retrying

from .balancing.request_state import RequestState
from .bulk.batcher import STALL_SECONDS, batching
from .bulk.memory_budget import BYTES, MemoryBudget
from .bulk.reorder import ReorderBuffer
from .calibration import Calibration
from .early import EarlyVerdict
from .errors import DetectorError, is_retryable
from .images.faces import FoundFace
from .images.items import (
    FaceBox,
    Faces,
    Image,
    ImageItem,
    ImageSource,
    Item,
    make_item,
    plan_requests,
    read,
    read_group,
    with_indexes,
)
from .results import Provenance, ServerInfo, ServerStatus, Verdict
from .transport.blocking import BlockingCalls
from .transport.calls import calibration_call, find_faces_call, not_ready, polling, probe_call, provenance_call
from .transport.channels import ChannelPool
from .transport.flows import limits, once, score_group, score_one, server_info

_MOST_THREADS = 1024
"""They are made when they are needed: how many are, follows from the servers' limits, and servers may join a run."""


class DetectorClient(BlockingCalls):
    """Blocking client of the detector; threads may share it. `AsyncDetectorClient` is the same for asyncio."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections and what is in flight on them."""
        if self._shared is not None:
            self._shared.close()

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """What is known of each server; none before the first request."""
        return () if self._fleet is None else self._fleet.status()

    def score(self, image: ImageSource | Image, face_box: FaceBox | None = None, *, faces: Faces = "main") -> Verdict:
        """Scores one image.

        Args:
            image: The encoded image (JPEG, PNG, WebP, BMP, TIFF) as bytes, or the path of its file; or an
                `Image`, which says the rest itself.
            face_box: x1, y1, x2, y2 in pixels of the decoded image, where the face is known: it replaces detection.
                NaN in all four means that it is not known.
            faces: "all" for a verdict on every face that is large enough to judge: see `Verdict.faces`. A face that is
                supplied is the only one.

        Returns:
            Its verdict. An image that the server cannot score has a `status` that says why.

        Raises:
            OSError: The file cannot be read.
            ServerUnavailableError: No server answered, after all retries.
            RequestFailedError: The server failed the request, after all retries where these can help.
            AccessDeniedError: TLS, the client certificate or the token do not fit.
            InvalidResponseError: The server answered something else than the detector does.
        """
        return self._run(score_one(self._settings, read(make_item(image, face_box, faces))))

    def score_many(self, items: Iterable[ImageItem], *, ordered: bool = True) -> Generator[Verdict, None, None]:
        """Scores any number of images in constant memory.

        Args:
            items: Images as bytes, paths, (image, face box) pairs, `Image` or `Item`. They are taken lazily, in a
                thread of their own, at most `2 * max_in_flight * batch_size` for each server ahead of what is scored;
                files are read in other threads. Where they stand still, a batch that is not full is sent after a fifth
                of a second. What they raise is raised after the verdicts of those before.
            ordered: Whether verdicts come in the order of their items, of which up to 4096 then wait for a slow one.
                Without it they come as they are there, and none ever waits; `Verdict.index` says which item each
                belongs to.

        Yields:
            A verdict for each item, as soon as it is there. A file that could not be read has the status
            "unreadable_file", an image whose request failed after all retries "request_failed".

        Raises:
            ServerUnavailableError: No server answered, after all retries.
            RequestFailedError: The server has no such model.
            AccessDeniedError: TLS, the client certificate or the token do not fit.
            InvalidResponseError: The model is not the detector.
        """
        stop = threading.Event()
        balancer = self._balancer
        channels = ChannelPool(self._settings)  # of its own: closing them cancels what this iterator has in flight
        budget = MemoryBudget(BYTES * len(balancer.status()))
        pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="deepfake-client")
        events: SimpleQueue[Future[list[Verdict]] | None] = SimpleQueue()  # a batch is scored; None: one may be taken
        start = 0
        try:
            size, most_bytes = self._run(limits(self._settings), channels, stop)
            score = partial(self._score_batch, channels, budget, most_bytes, stop)
            window: ReorderBuffer[Future[list[Verdict]]] = ReorderBuffer(size, ordered=ordered)
            with batching(items, size, partial(events.put, None)) as batcher:
                while window.pending or not batcher.exhausted:
                    while window.has_room(balancer.limit) and (batch := batcher.take()):
                        work = pool.submit(score, start, batch)
                        work.add_done_callback(events.put)
                        window.begin(work)
                        start += len(batch)
                    try:
                        scored = events.get(timeout=STALL_SECONDS)
                    except Empty:
                        batcher.flush()
                        continue
                    for each in window.end(scored) if scored else ():
                        yield from each.result()
                batcher.check()
        finally:
            stop.set()
            with balancer.room:
                balancer.room.notify_all()
            channels.close()
            pool.shutdown(cancel_futures=True)

    def decide(
        self, image: ImageSource | Image, face_box: FaceBox | None = None, *, threshold: float | None = None
    ) -> EarlyVerdict:
        """The verdict on one image, by as few streams as it takes.

        It is the verdict that `score` would give. A stream is asked only where it could change it, so the numbers of
        the full ensemble are known as ranges.

        Args:
            image: As of `score`.
            face_box: As of `score`.
            threshold: On the probability, 0 to 1: fake strictly above it, else real. None: by the score, as
                `Verdict.verdict` reads it.

        Raises:
            ValueError: The threshold is out of range.
            OSError, DetectorError: As `score`.
        """
        verdict = self.deciding(threshold).score(image, face_box)
        assert isinstance(verdict, EarlyVerdict)
        return verdict

    def decide_many(
        self, items: Iterable[ImageItem], *, threshold: float | None = None, ordered: bool = True
    ) -> Generator[Verdict, None, None]:
        """The verdicts on any number of images, by as few streams as they take: `decide` in the way of `score_many`.

        Args:
            items: As of `score_many`.
            threshold: As of `decide`.
            ordered: As of `score_many`.

        Yields:
            A verdict for each item; an `EarlyVerdict` where it was scored.

        Raises:
            ValueError: The threshold is out of range.
            DetectorError: As `score_many`.
        """
        return self.deciding(threshold).score_many(items, ordered=ordered)

    def deciding(self, threshold: float | None = None) -> Self:
        """A client on the connections of this one, whose `score` and `score_many` are `decide` and `decide_many`."""
        _ = self._balancer, self._channels  # made here, so that both have the same
        return self._deciding(threshold)

    def provenance(self) -> Provenance | None:
        """Which weights give the verdicts; None where the server does not say. It is asked once, without waiting.

        Raises:
            DetectorError: As `score`.
        """
        return self._run(once(provenance_call(self._settings)))

    def calibration(self) -> Calibration | None:
        """What the vote was calibrated with; None where the server does not say. It is asked once, without waiting.

        Raises:
            DetectorError: As `score`.
        """
        return self._run(once(calibration_call(self._settings)))

    def server_info(self) -> ServerInfo:
        """Name, version and limits of the server. It is asked once, without waiting: a quick check of the address.

        Raises:
            DetectorError: As `score`.
        """
        return self._run(server_info(self._settings))

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Waits until the server, or one of several, scores an image.

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
            seconds = max((end - time.monotonic()) / len(self._balancer.status()), 0.1)
            self._run(once(probe_call(self._settings, seconds)))

        try:
            Retrying(**polling(timeout))(probe)
        except DetectorError as error:
            if not is_retryable(error):
                raise
            raise not_ready(self._settings, timeout, error) from error

    def _find_faces(self, image: ImageSource) -> Sequence[FoundFace]:
        encoded = read(make_item(image, None, "all"))
        (found,) = self._retry(self._channels, find_faces_call(self._settings, [encoded]), RequestState())
        return found.faces

    def _score_batch(
        self,
        channels: ChannelPool,
        budget: MemoryBudget,
        most_bytes: int,
        stop: threading.Event,
        start: int,
        batch: list[Item],
    ) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for size, items in plan_requests(batch, most_bytes):
            with budget.reserve(size):
                group = read_group(items, most_bytes)
                verdicts += self._run(score_group(self._settings, group), channels, stop)
        return with_indexes(verdicts, start)
