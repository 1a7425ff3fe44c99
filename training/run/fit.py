"""`fit`: from what the user gave to a finished checkpoint. All that can fail is tried before the first update."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from rich.console import Console

from networks.errors import shortened
from networks.weights.manifest import TRAINING_RUN
from training.bases import start
from training.data.manifest import Item, read_manifest, require_both_classes
from training.data.selection import Selection, select
from training.data.splits import Fingerprint, fingerprints, require_groups_apart, require_no_copies, split_by_group
from training.errors import RunError
from training.recipe import Recipe, read_recipe
from training.run.budget import estimate, peak_bytes, require_disk, shortage
from training.run.card import model_card
from training.run.journal import Journal
from training.run.loop import Training
from training.run.plan import Plan
from training.run.record import (
    CARD_FILE,
    RECIPE_FILE,
    RUN_FILE,
    Record,
    count_items,
    hash_contents,
    hash_rows,
    library_versions,
    network_of,
    project_commit,
    publish,
    require_free,
    write_checkpoint,
)
from training.run.state import BEST_FILE, Progress, read_state, read_tensors_file, restore_tensors
from training.run.stopping import stop_on_signals
from training.run.validation import Judge, Judged

EVALUATION_TIMEOUT = timedelta(hours=12)
"""How long the other processes wait while the first one judges."""


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        recipe: Name or file.
        overrides: `section.key=value` each.
        data: Folder, manifest or shards.
        base: Starting weights of DINOv2, or None.
        clip: Of CLIP, or None.
        checkpoint: To go on from instead of `base`, or None.
        output: Folder of the run.
        weights: Folder that the export takes.
        file_format: `pth` or `safetensors`.
        workers: Processes that read images, for each training process.
        allow_duplicates: Whether near-duplicates in two splits are let pass.
        cpu: Whether a GPU is left alone.
        notes: For the model card.
    """

    recipe: str
    overrides: tuple[str, ...]
    data: Path
    base: str | None
    clip: str | None
    checkpoint: Path | None
    output: Path
    weights: Path
    file_format: str = "pth"
    workers: int = 2
    allow_duplicates: bool = False
    cpu: bool = False
    notes: str = ""


def fit(options: Options, console: Console) -> str:
    """Trains one stream and phase.

    Returns:
        Why it ended: `finished`, `early stop`, or the name of the signal that stopped it (the same command goes on).

    Raises:
        TrainingError: Before or during the run; the message says what to do.
    """
    recipe = read_recipe(options.recipe, options.overrides)
    accelerator = Accelerator(
        cpu=options.cpu,
        mixed_precision="bf16" if recipe.run.precision == "bfloat16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=EVALUATION_TIMEOUT)],
    )
    if not accelerator.is_main_process:
        console.quiet = True
    stream = recipe.specification
    file = f"{Path(stream.checkpoint).stem}.{options.file_format}"
    source = f"{TRAINING_RUN}{options.output.name}"
    if recipe.stage != "head":
        require_free(options.weights, file, source)

    items = split_by_group(read_manifest(options.data), recipe.data.validation_share, recipe.run.seed)
    require_groups_apart(items)
    training, validation = _selected(items, recipe)
    require_both_classes(training, f"{options.data}, split train")
    if validation:
        require_both_classes(validation, f"{options.data}, split validation")
    state = read_state(options.output)
    identity = {
        "recipe": recipe.to_toml(),
        "data": hash_rows([*training, *validation]),
        "processes": str(accelerator.num_processes),
    }
    if state is not None:
        _require_same(state.identity, identity, options.output)

    console.print(f"{len(training)} training and {len(validation)} validation images", highlight=False, soft_wrap=True)
    network = start(recipe, options.base, options.clip, options.checkpoint)
    budget = estimate(recipe, network)
    console.print(network_of(recipe, network), highlight=False, soft_wrap=True)
    console.print(f"{budget.describe()} in each process", highlight=False, soft_wrap=True)
    if warning := shortage(budget, accelerator.device):
        console.print(f"[yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    options.output.mkdir(parents=True, exist_ok=True)
    require_disk(options.output, network)

    with stop_on_signals() as stop:
        judge = None
        if validation:
            judge = Judge(
                validation,
                stream,
                recipe.augmentation.operation,
                recipe.run.seed,
                recipe.optimiser.batch,
                options.workers,
            )
        run = Training(
            accelerator,
            network,
            recipe,
            training,
            judge,
            options.output,
            identity,
            options.workers,
            stop,
            Progress(),
        )
        _describe(run.plan, recipe, accelerator.num_processes, console)
        if state is not None:
            run.resume(state)
            console.print(f"going on after update {run.progress.updates}", highlight=False, soft_wrap=True)
        else:
            _begin(options, recipe, training, validation, accelerator, console)
        main = accelerator.is_main_process
        progress = run.progress
        with (
            Journal(options.output, run.plan.updates, progress.updates, progress.logged, console)
            if main
            else nullcontext() as journal
        ):
            ended = run.run(journal)
    console.print(
        f"{ended} after {run.progress.updates} updates; peak memory {peak_bytes(accelerator.device) / 1e9:.2f} GB"
    )
    if ended in ("finished", "early stop") and accelerator.is_main_process:
        _finish(options, run, ended, file, source)
        console.print(f"{options.output / file}", highlight=False, soft_wrap=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return ended


def _selected(items: Sequence[Item], recipe: Recipe) -> tuple[list[Item], list[Item]]:
    data = recipe.data
    training = Selection(data.frames, data.caps, data.drop_rates, recipe.run.seed)
    judging = replace(training, frames=data.test_frames, drop_rates={})
    return (
        select([item for item in items if item.split == "train"], training),
        select([item for item in items if item.split == "validation"], judging),
    )


def _require_same(before: dict[str, str], now: dict[str, str], folder: Path) -> None:
    differing = [name for name in now if before.get(name) != now[name]]
    if not differing:
        return
    detail = ""
    if "recipe" in differing:
        old, new = before.get("recipe", "").splitlines(), now["recipe"].splitlines()
        changed = [line for line in new if line not in old]
        detail = f" ({'; '.join(changed[:3])})"
    raise RunError(
        f"{folder} holds a run with another {' and another '.join(differing)}{detail}: it cannot go on with this one. "
        "Give another --output, or the same command as before"
    )


def _begin(
    options: Options,
    recipe: Recipe,
    training: Sequence[Item],
    validation: Sequence[Item],
    accelerator: Accelerator,
    console: Console,
) -> None:
    """Looks for leaks and for images that cannot be read, and writes down what the run is made of."""
    with accelerator.main_process_first():
        if not accelerator.is_main_process:
            return
        if (options.output / RUN_FILE).exists():
            raise RunError(
                f"{options.output} holds a run without a state to go on from; give another --output, or remove it"
            )
        items = [*training, *validation]
        prints = fingerprints(items)
        _require_readable(items, prints, options.data, console)
        if not options.allow_duplicates:
            require_no_copies(items, prints)
        record = Record(
            recipe=options.recipe,
            start=str(options.checkpoint or options.base),
            data=str(options.data),
            data_sha256=hash_contents(items, prints),
            counts=count_items(items),
            versions=library_versions(),
            commit=project_commit(),
            notes=options.notes,
        )
        (options.output / RECIPE_FILE).write_text(recipe.to_toml(), encoding="utf-8")
        (options.output / RUN_FILE).write_text(record.to_json(), encoding="utf-8")


def _require_readable(
    items: Sequence[Item], prints: Sequence[Fingerprint | None], data: Path, console: Console
) -> None:
    """Tells which images will be left out; both classes of a split must be there without them."""
    unreadable = [item.name for item, found in zip(items, prints, strict=True) if found is None]
    if not unreadable:
        return
    console.print(
        f"[yellow]warning:[/] {len(unreadable)} of {len(items)} images cannot be read and will be left out: "
        f"{shortened(unreadable)}",
        highlight=False,
        soft_wrap=True,
    )
    readable = [item for item, found in zip(items, prints, strict=True) if found is not None]
    for split in {item.split for item in items}:
        require_both_classes((item for item in readable if item.split == split), f"{data}, split {split}, readable")


def _describe(plan: Plan, recipe: Recipe, processes: int, console: Console) -> None:
    sizes = recipe.optimiser
    console.print(
        f"{sizes.epochs} epochs of {plan.micro_batches} micro-batches, {sizes.batch}×{sizes.accumulation}×{processes} "
        f"images an update: {plan.updates} updates",
        highlight=False,
    )


def _finish(options: Options, run: Training, ended: str, file: str, source: str) -> None:
    """Writes the checkpoint with its card, and puts it where the export finds it."""
    folder, recipe, stream = options.output, run.recipe, run.recipe.specification
    best = folder / BEST_FILE
    if best.exists():
        write_checkpoint(run.network, stream, folder / f"last_{file}")
        restore_tensors(run.network, read_tensors_file(best))
    sha256 = write_checkpoint(run.network, stream, folder / file)
    rounds: list[tuple[str, Judged]] = []
    if run.judge is not None:
        for name, degraded in (("clean", False), ("degraded", True)):
            rounds.append((name, run.judge.judge(run.network, run.accelerator.device, degraded)))
    record = Record.from_json((folder / RUN_FILE).read_text(encoding="utf-8"))
    kept = "best" if best.exists() else "last"
    card = model_card(recipe, record, run.progress, ended, kept, rounds)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if recipe.stage != "head":
        stem = Path(file).stem
        beside = {f"{stem}.md": folder / CARD_FILE, f"{stem}.toml": folder / RECIPE_FILE}
        publish(folder / file, sha256, options.weights, source, record.commit, beside)
