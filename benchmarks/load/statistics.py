"""Where requests spend their time, from Triton's own counters."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import InferenceServerClient

from ensemble.streams import STREAMS

STEPS = ("preprocess", "face_crop", *(stream.name for stream in STREAMS), "voter")
"""The models of the ensemble that every image passes, in order."""

_PARTS = ("compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Counters:
    """Of one model, since the server's start; times in ns.

    Attributes:
        images: Inferred.
        requests: Answered; with the ensemble's steps, one for each of its own.
        executions: Batches run.
        queue: Sum over the requests of the time until their batch ran.
        parts: Sum over the batches of the time for inputs, inference and outputs.
    """

    images: int = 0
    requests: int = 0
    executions: int = 0
    queue: int = 0
    parts: tuple[int, ...] = (0, 0, 0)

    def __add__(self, other: "Counters") -> "Counters":
        return self._combined(other, operator.add)

    def __sub__(self, other: "Counters") -> "Counters":
        return self._combined(other, operator.sub)

    def _combined(self, other: "Counters", combine: Callable[[int, int], int]) -> "Counters":
        return Counters(
            combine(self.images, other.images),
            combine(self.requests, other.requests),
            combine(self.executions, other.executions),
            combine(self.queue, other.queue),
            tuple(map(combine, self.parts, other.parts)),
        )


@dataclass(frozen=True)
class Step:
    """One model during a load.

    Attributes:
        model: Its name.
        mean_batch: Images in a batch.
        queue: Time that a request waited until its batch ran, mean, seconds.
        input: Time of gathering a batch's inputs, for an image, seconds.
        infer: Of running it.
        output: Of handing out its outputs.
        share: Of the time that all steps computed.
    """

    model: str
    mean_batch: float
    queue: float
    input: float
    infer: float
    output: float
    share: float


def read_counters(server: InferenceServerClient) -> dict[str, Counters]:
    """The counters of every step."""
    return {step: _counters(server.get_inference_statistics(step).model_stats[0]) for step in STEPS}


def steps(loads: Sequence[tuple[Mapping[str, Counters], Mapping[str, Counters]]]) -> list[Step]:
    """What the steps did between pairs of readings, all taken together.

    Times of computing are those of batches, each counted once however many requests it holds.
    """
    spent = {name: sum((after[name] - before[name] for before, after in loads), Counters()) for name in STEPS}
    total = sum(sum(each.parts) for each in spent.values())
    return [_step(name, each, total) for name, each in spent.items() if each.images]


def _step(name: str, spent: Counters, total: int) -> Step:
    gathered, inferred, handed_out = (part / spent.images / 1e9 for part in spent.parts)
    return Step(
        model=name,
        mean_batch=spent.images / spent.executions,
        queue=spent.queue / spent.requests / 1e9,
        input=gathered,
        infer=inferred,
        output=handed_out,
        share=sum(spent.parts) / total,
    )


def _counters(model: Any) -> Counters:
    stats = model.inference_stats
    batches = model.batch_stats
    return Counters(
        images=int(model.inference_count),
        requests=int(stats.queue.count),
        executions=int(model.execution_count),
        queue=int(stats.queue.ns),
        parts=tuple(sum(int(getattr(batch, part).ns) for batch in batches) for part in _PARTS),
    )
