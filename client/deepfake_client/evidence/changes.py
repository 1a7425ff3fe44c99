"""What would change a verdict, and how the votes add up; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration import Calibration
from ..contract.streams import STREAMS
from ..results import Decision, Verdict, decide

_PAPER_STEP = 0.1


@dataclass(frozen=True)
class VoteRule:
    """How votes become a score: their weighted mean, rounded.

    Attributes:
        weights: Of the streams, in order.
        step: Of the score, and of the votes.
    """

    weights: Sequence[float] = tuple(float(stream.weight) for stream in STREAMS)
    step: float = _PAPER_STEP

    def score(self, votes: Sequence[float]) -> float:
        """The score of votes."""
        mean = float(np.average(np.asarray(votes, np.float64), weights=self.weights))
        return (
            round(float(np.round(mean / self.step)) * self.step, 6)
            if self.step != _PAPER_STEP
            else float(np.round(mean, 1))
        )

    def arithmetic(self, verdict: Verdict) -> str:
        """How the votes add up, as a line."""
        votes = [stream.vote or 0.0 for stream in verdict.streams.values()]
        products = " + ".join(f"{weight:g} · {vote:g}" for weight, vote in zip(self.weights, votes, strict=True))
        total = sum(self.weights)
        mean = sum(weight * vote for weight, vote in zip(self.weights, votes, strict=True)) / total
        return f"({products}) / {total:g} = {round(mean, 4):g}, rounded: {verdict.score:g}"


def rule_of(calibration: Calibration | None) -> VoteRule:
    """The rule that a server has in force: the published one, or a calibrated one."""
    document: Mapping[str, Any] = (calibration and calibration.document) or {}
    if not document:
        return VoteRule()
    streams = document.get("streams", {})
    weights = [float(streams.get(stream.name, {}).get("weight", stream.weight)) for stream in STREAMS]
    return VoteRule(weights, float(document.get("rounding_step", _PAPER_STEP)))


@dataclass(frozen=True)
class Change:
    """What one stream would have to say for another verdict.

    Attributes:
        stream: Its name.
        verdict: What the verdict would be.
        bound: The vote, or with an operating point the probability, up to which (or from which on) it would be so.
        at_most: Whether the bound is an upper one.
        margin: How far the stream is from it.
        text: The same in words.
    """

    stream: str
    verdict: Decision
    bound: float
    at_most: bool
    margin: float
    text: str


def what_would_change(verdict: Verdict, rule: VoteRule) -> list[Change]:
    """For each stream what it alone would have to say for another verdict; none for one that cannot change it."""
    if not verdict.ok or verdict.score is None:
        return []
    changes = []
    for place, stream in enumerate(STREAMS):
        found = _bound(verdict, rule, place)
        if found is None:
            continue
        to, bound, at_most, margin = found
        direction = "or less" if at_most else "or more"
        text = f"{to} if {stream.title} were {bound:g} {direction}; margin {margin:g}"
        changes.append(Change(stream.name, to, bound, at_most, margin, text))
    return changes


def _bound(verdict: Verdict, rule: VoteRule, place: int) -> tuple[Decision, float, bool, float] | None:
    now = verdict.verdict
    downwards = now == "fake"
    if verdict.threshold is not None and verdict.probability is not None:
        probabilities = [stream.probability or 0.0 for stream in verdict.streams.values()]
        weight, total = rule.weights[place], sum(rule.weights)
        if not weight:
            return None
        needed = probabilities[place] + (verdict.threshold - verdict.probability) * total / weight
        if not 0 <= needed <= 1:
            return None
        other: Decision = "real" if downwards else "fake"
        return other, round(needed, 4), downwards, round(abs(probabilities[place] - needed), 4)
    votes = [stream.vote or 0.0 for stream in verdict.streams.values()]
    current = votes[place]
    steps = [round(number * rule.step, 6) for number in range(round(1 / rule.step) + 1)]
    outcomes = {vote: decide(rule.score([*votes[:place], vote, *votes[place + 1 :]])) for vote in steps}
    below = [vote for vote in reversed(steps) if vote < current]
    above = [vote for vote in steps if vote > current]
    wanted: list[tuple[Decision, list[float]]] = [("real", below), ("fake", above)]
    if now == "fake":
        wanted[1] = "uncertain", below
    elif now == "real":
        wanted[:] = [("fake", above), ("uncertain", above)]
    found = [(to, next((vote for vote in side if outcomes[vote] == to), None)) for to, side in wanted]
    reached = [(to, vote) for to, vote in found if vote is not None]
    if not reached:
        return None
    to, vote = min(reached, key=lambda each: abs(each[1] - current)) if now == "uncertain" else reached[0]
    return to, vote, vote < current, round(abs(vote - current), 6)
