"""A study of 16 bits as figures for machines and as tables for people."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ensemble.streams import STREAMS, Stream
from ensemble.voting import score_logits
from export.half.arithmetic import STREAM
from export.half.conversion import LARGEST
from export.half.study import FP8, HALF_SUMS, LARGEST_ALLOWED, P999_ALLOWED, StreamStudy, measure_change

WAYS = ("fp32", "fp16", HALF_SUMS, "bf16", FP8)
_KINDS_SHOWN = 4


def describe(
    studies: dict[Stream, StreamStudy], groups: dict[str, slice], untrained: bool
) -> tuple[dict[str, Any], bool]:
    within = True
    ways = [way for way in WAYS if all(way in study.logits for study in studies.values())]
    streams: dict[str, Any] = {}
    for stream, study in studies.items():
        changes: dict[str, Any] = {}
        for precision in ways:
            changes[precision] = {}
            for group, part in groups.items():
                change = measure_change(study.logits["torch"][part], study.logits[precision][part])
                within &= change.within(precision)
                changes[precision][group] = {**asdict(change), "within": change.within(precision)}
        headroom = [{**asdict(each), "share": each.share} for each in study.ranges]
        within &= not any(each.overflows for each in study.ranges)
        gains = [
            {
                "gain": gain.gain,
                "largest": {each.kind: each.largest for each in gain.ranges},
                "overflow": gain.overflow and asdict(gain.overflow),
            }
            for gain in study.gains
        ]
        streams[stream.name] = {"changes": changes, "headroom": headroom, "scaled_up": gains}
    scores = {precision: _scores_changed(studies, precision) for precision in ways}
    return {
        "untrained": untrained,
        "tolerances": {"largest": dict(LARGEST_ALLOWED), "p999": dict(P999_ALLOWED)},
        "float16_largest": LARGEST,
        "streams": streams,
        "scores_changed": scores,
        "within": within,
    }, within


def finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scores_changed(studies: dict[Stream, StreamStudy], precision: str) -> float:
    """Share of images whose vote of the three streams together is another."""

    def scores(way: str) -> NDArray[np.float32]:
        return score_logits(np.stack([studies[stream].logits[way] for stream in STREAMS], axis=1)).score

    return float((scores("torch") != scores(precision)).mean())


def print_report(console: Console, figures: dict[str, Any]) -> None:
    table = Table(box=SIMPLE, title="Change of the probability against torch in float32", title_justify="left")
    for column in ("stream", "", "images"):
        table.add_column(column, no_wrap=True)
    for column in ("", "largest", "99.9 %", "votes changed", ""):
        table.add_column(column, justify="right")
    for name, stream in figures["streams"].items():
        for precision, groups in stream["changes"].items():
            for group, change in groups.items():
                verdict = "[green]ok[/]" if change["within"] else "[bold red]above[/]"
                verdict = "experiment" if precision == FP8 else verdict
                texts = f"{change['largest']:.1e}", f"{change['p999']:.1e}", f"{change['votes_changed']:.1%}"
                table.add_row(name, precision, group, str(change["images"]), *texts, verdict)
    console.print(table)
    for precision, share in figures["scores_changed"].items():
        console.print(f"SCORE of the three together, {precision}: changed for {share:.1%} of the images")
    for name, stream in figures["streams"].items():
        nearest = [each for each in stream["headroom"] if each["kind"] != STREAM][:_KINDS_SHOWN]
        listed = "; ".join(f"{each['kind']} {each['largest']:.3g} ({each['share']:.2%})" for each in nearest)
        console.print(f"\n[bold]{name}[/], nearest to the end of float16: {listed}", highlight=False)
        *fitting, last = stream["scaled_up"]
        overflow = last["overflow"]
        if overflow is None:
            console.print(f"Activations {last['gain']} times as large still fit", highlight=False)
        elif fitting:
            fits = fitting[-1]
            console.print(
                f"Activations {fits['gain']} times as large still fit, with {fits['largest'][STREAM]:.3g} in the "
                f"residual stream; at {last['gain']} times, {overflow['kind']} reaches {overflow['largest']:.3g}",
                highlight=False,
            )
        else:
            console.print(f"[bold red]Does not fit:[/] {overflow['kind']} reaches {overflow['largest']:.3g}")
    if figures["untrained"]:
        console.print(
            "\n[bold red]UNTRAINED[/]: seeded weights. How float16 rounds shows on them; how large the activations of "
            "trained weights become does not. Run this on those, on photographs, before trusting fp16."
        )
