"""The way of images to their verdicts, without sending anything: shared by the blocking and the asyncio client.

A flow is a generator. It yields the calls that it needs, is sent their results, or has their errors thrown into it, and
returns what they come to. The clients drive it, each in its way of sending and waiting.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..balancing.request_state import DEATHS_BEFORE_SPLIT, RequestState, StateOf, state_of
from ..errors import AccessDeniedError, DetectorError, InvalidResponseError, RequestFailedError, ServerDiedError
from ..images.faces import EveryFace, is_searched
from ..images.items import MAX_IMAGE_BYTES, EncodedImage, Group, failed, images_of, may_be_one_image, merge
from ..results import ServerInfo, Verdict
from .answers import usable_batch_size
from .calls import Call, find_faces_call, max_batch_size_call, max_bytes_call, metadata_call, score_call
from .settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A call that a flow needs the result of.

    Attributes:
        call: The call.
        state: What is known of the request.
        retries: How often it waits and is sent again; None: as often as the client is set to.
    """

    call: Call[Any]
    state: RequestState
    retries: int | None = None


Flow = Generator[Ask, Any, T]
"""Asks for results; its value is what they come to."""


def once(call: Call[T]) -> Flow[T]:
    """The result of a call that runs no network, without waiting for a server that does not answer."""
    result: T = yield Ask(call, RequestState(light=True), retries=0)
    return result


def server_info(settings: Settings) -> Flow[ServerInfo]:
    """Name, version and limits of the server."""
    name, version = yield from once(metadata_call(settings))
    limit = yield from once(max_batch_size_call(settings))
    return ServerInfo(name, version, settings.model, limit)


def limits(settings: Settings) -> Flow[tuple[int, int]]:
    """Images that are sent in one request, and bytes above which an image is not sent."""
    most_images = yield Ask(max_batch_size_call(settings), RequestState(light=True))
    size = usable_batch_size(settings.batch_size, settings.model, most_images)
    most_bytes = yield Ask(max_bytes_call(settings), RequestState(light=True))
    return size, most_bytes or MAX_IMAGE_BYTES


def score_one(settings: Settings, image: EncodedImage) -> Flow[Verdict]:
    """The verdict on one image; a request that fails for good raises its error."""
    try:
        [verdict] = yield from _score(settings, [image], partial(state_of, bounded=False))
    except ServerDiedError as error:
        [verdict] = failed([image], error)
    return verdict


def score_group(settings: Settings, group: Group) -> Flow[list[Verdict]]:
    """The verdicts on the images of one request, which one of them cannot fail for the others."""
    images = images_of(group)
    try:
        scored = (yield from _score(settings, images, partial(state_of, bounded=True))) if images else []
    except AccessDeniedError:
        raise
    except (RequestFailedError, InvalidResponseError, ServerDiedError) as error:
        scored = yield from _score_apart(settings, images, error)
    return merge(group, scored)


def _score_apart(settings: Settings, images: list[EncodedImage], error: DetectorError) -> Flow[list[Verdict]]:
    """Each image by itself, where a request that failed may have failed for one of them."""
    if not may_be_one_image(images, error):
        return failed(images, error)
    state = partial(state_of, bounded=True, deaths=DEATHS_BEFORE_SPLIT * isinstance(error, ServerDiedError))
    verdicts: list[Verdict] = []
    for image in images:
        try:
            verdicts += yield from _score(settings, [image], state)
        except AccessDeniedError:
            raise
        except (RequestFailedError, InvalidResponseError, ServerDiedError) as its_own:
            verdicts += failed([image], its_own)
    return verdicts


def _score(settings: Settings, images: list[EncodedImage], state: StateOf) -> Flow[list[Verdict]]:
    searched = [image for image in images if is_searched(image)]
    if not searched:
        verdicts: list[Verdict] = yield Ask(score_call(settings, images), state(images))
        return verdicts
    found = yield Ask(find_faces_call(settings, searched), state(searched))
    search, scored = EveryFace(images, found), list[Verdict]()
    for frames in search.requests(settings.batch_size):
        scored += yield Ask(score_call(settings, frames), state(frames))
    return search.verdicts(scored)
