"""The model card of a run: only what happened."""

from collections.abc import Sequence

import numpy as np

from training.recipe import Recipe
from training.run.record import Record
from training.run.state import Progress
from training.run.validation import ALL, Judged


def model_card(
    recipe: Recipe, record: Record, progress: Progress, ended: str, kept: str, rounds: Sequence[tuple[str, Judged]]
) -> str:
    """Markdown for the checkpoint of a run.

    Args:
        recipe: As resolved.
        record: What the run was made of.
        progress: Where it ended.
        ended: Why.
        kept: Which weights the checkpoint holds: `best` or `last`.
        rounds: Name and judgement of each round of the validation with these weights; empty where there was none.
    """
    stream = recipe.specification
    lines = [
        f"# {stream.title}: `{stream.checkpoint}`",
        "",
        record.notes
        or "A checkpoint of one training run. What it was judged on is below, and nothing else is known of it.",
        "",
        "## Data",
        "",
        f"`{record.data}` (sha256 `{record.data_sha256}`), images by split, data set and class:",
        "",
        "| images | |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in record.counts.items()),
        "",
        f"{record.left_out} more cannot be used and were left out. {progress.skipped} images could not be used during "
        "the run, counted once an epoch.",
        "",
        "## Training",
        "",
        f"Recipe `{record.recipe}`, resolved in `recipe.toml`: stage {recipe.stage}, started from `{record.start}` "
        f"(sha256 of its weights `{record.start_sha256}`).",
        f"{progress.updates} updates, {progress.epoch} whole epochs; ended: {ended}. The {kept} weights are kept"
        + (f", from update {progress.best_update}." if kept == "best" else "."),
        f"Code: commit `{record.commit or 'unknown'}`; "
        + ", ".join(f"{name} {number}" for name, number in record.versions.items())
        + ".",
        "",
        "## Measures",
        "",
        *_measures(rounds),
        "",
        "## Limits",
        "",
        *_limits(recipe, record, kept, rounds),
        "",
    ]
    return "\n".join(lines)


def _measures(rounds: Sequence[tuple[str, Judged]]) -> list[str]:
    if not any(judged.by_dataset() for _, judged in rounds):
        return ["None: there was no validation image of both classes."]
    lines = [
        "ROC AUC on the validation images, with the 95 % interval over groups (persons or videos); the last column "
        "is of probabilities rounded to one decimal.",
        "",
        "| round | data set | AUC | 95 % | rounded | images |",
        "|---|---|---|---|---|---|",
    ]
    for name, judged in rounds:
        for dataset, each in judged.by_dataset().items():
            interval = ""
            if dataset == ALL:
                low, high = judged.interval()
                interval = f"{low:.3f} – {high:.3f}" if np.isfinite(low) else "too few groups"
            lines.append(f"| {name} | {dataset} | {each.value:.3f} | {interval} | {each.rounded:.3f} | {each.images} |")
    return lines


def _limits(recipe: Recipe, record: Record, kept: str, rounds: Sequence[tuple[str, Judged]]) -> list[str]:
    lines = ["- Nothing is known of it on images of another origin than the data above."]
    if kept == "best":
        lines.append("- The weights were chosen on the validation images: the figures on them are optimistic.")
    groups = len({item.group for _, judged in rounds for item in judged.items})
    if rounds and groups < 30:
        lines.append(f"- The validation images come from {groups} groups only: the intervals are rough.")
    classes = [
        sum(count for name, count in record.counts.items() if name.startswith("train/") and name.endswith(kind))
        for kind in ("real", "fake")
    ]
    if max(classes) > 3 * min(classes) and not recipe.data.balanced:
        lines.append(f"- {classes[0]} real and {classes[1]} fake training images: the scores lean to the larger class.")
    if recipe.augmentation.degrade == 0:
        lines.append("- It never saw degraded images in training.")
    return lines
