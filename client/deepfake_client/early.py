"""Verdicts from as few streams as they take: what `DetectorClient.decide` gives back."""

from dataclasses import dataclass, field
from typing import Any

from .results import Decision, Verdict, as_single


@dataclass(frozen=True)
class Decide:
    """A request for verdicts alone.

    Attributes:
        threshold: On the probability: fake strictly above it, else real; the float32 next to what was given. None: by
            the score, as `results.decide` reads it.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be a probability from 0 to 1")
        if self.threshold is not None:
            object.__setattr__(self, "threshold", as_single(self.threshold))


@dataclass(frozen=True)
class EarlyVerdict(Verdict):
    """A verdict, by as few streams as it took. It is the full ensemble's.

    `score` and `probability` are None where not all streams ran, and so are the values of a stream that did not.

    Attributes:
        decision: The verdict. None where the image was not scored.
        score_range: Lowest and highest score that the full ensemble could have given. None where there is none.
        probability_range: The same of the probability.
        streams_run: Names of the streams that were asked.
    """

    decision: Decision | None = None
    score_range: tuple[float, float] | None = None
    probability_range: tuple[float, float] | None = None
    streams_run: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Decision | None:
        """The server's word."""
        return self.decision

    def extra_columns(self) -> dict[str, Any]:
        """The ranges and the streams, as columns of a file."""
        score, probability = self.score_range or (None, None), self.probability_range or (None, None)
        return {
            **super().extra_columns(),
            "score_low": score[0],
            "score_high": score[1],
            "probability_low": probability[0],
            "probability_high": probability[1],
            "streams_run": ",".join(self.streams_run),
        }

    def to_dict(self) -> dict[str, Any]:
        """The row of a JSONL file: as `Verdict.to_dict`, with the ranges and the streams that ran."""
        return super().to_dict() | {
            "score_range": None if self.score_range is None else list(self.score_range),
            "probability_range": None if self.probability_range is None else list(self.probability_range),
            "streams_run": list(self.streams_run),
        }
