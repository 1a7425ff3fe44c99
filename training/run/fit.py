"""`fit`: from what the user gave to a finished checkpoint. All that can fail is tried before the first update."""

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from rich.console import Console

from networks.weights.manifest import TRAINING_RUN
from training.bases import start
from training.errors import NotFiniteError, RunError
from training.networks import Network
from training.recipe import Recipe, read_recipe
from training.run.begin import Images, alone_in, begin, choose_images, require_same
from training.run.budget import estimate, peak_bytes, require_disk, shortage
from training.run.finish import finish, keep_last_good
from training.run.journal import Journal
from training.run.loop import Training
from training.run.plan import Plan
from training.run.record import (
    Record,
    hash_data,
    hash_start,
    library_versions,
    network_of,
    project_commit,
    require_free,
)
from training.run.state import Progress, State, read_state
from training.run.stopping import StopRequest, stop_on_signals
from training.run.validation import Judge

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
    try:
        ended = _fit(options, recipe, accelerator, console)
    except OSError as error:
        raise RunError(
            f"{error.filename or options.output}: {error.strerror or error}; make room or mend it, and give the same "
            "command again: it goes on from what was saved"
        ) from error
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return ended


def _fit(options: Options, recipe: Recipe, accelerator: Accelerator, console: Console) -> str:
    folder, main = options.output, accelerator.is_main_process
    file = f"{Path(recipe.specification.checkpoint).stem}.{options.file_format}"
    source = f"{TRAINING_RUN}{folder.name}"
    if recipe.stage != "head":
        require_free(options.weights, file, source)
    images = choose_images(options.data, recipe)
    console.print(
        f"{len(images.training)} training and {len(images.validation)} validation images",
        highlight=False,
        soft_wrap=True,
    )
    network = start(recipe, options.base, options.clip, options.checkpoint)
    _tell_needs(recipe, network, accelerator, console)
    folder.mkdir(parents=True, exist_ok=True)
    require_disk(folder, network)
    with alone_in(folder) if main else nullcontext(), stop_on_signals() as stop:
        state = read_state(folder)
        with accelerator.main_process_first():
            identity = (
                _identify(options, recipe, images, network, state, accelerator.num_processes, console) if main else {}
            )
        run = _training(options, recipe, images, network, accelerator, identity, stop)
        _describe(run.plan, recipe, accelerator.num_processes, console)
        if state is not None:
            run.resume(state)
            console.print(f"going on after update {run.progress.updates}", highlight=False, soft_wrap=True)
        try:
            with Journal(folder, run.plan.updates, run.progress, console) if main else nullcontext() as journal:
                ended = run.run(journal)
        except NotFiniteError as error:
            advice = keep_last_good(run, file) if main else ""
            accelerator.wait_for_everyone()
            raise NotFiniteError(f"{error} {advice}") from error
        console.print(
            f"{ended} after {run.progress.updates} updates; peak memory {peak_bytes(accelerator.device) / 1e9:.2f} GB"
        )
        if ended in ("finished", "early stop") and main:
            finish(run, ended, file, options.weights, source)
            console.print(f"{folder / file}", highlight=False, soft_wrap=True)
    return ended


def _identify(
    options: Options,
    recipe: Recipe,
    images: Images,
    network: Network,
    state: State | None,
    processes: int,
    console: Console,
) -> dict[str, str]:
    """What must be the same to go on; compared with what the folder holds, or written there."""
    identity = {
        "recipe": recipe.to_toml(),
        "data": hash_data(images.used),
        "start": hash_start(network, options.checkpoint),
        "processes": str(processes),
    }
    if state is not None:
        require_same(state.identity, identity, options.output)
        return identity
    record = Record(
        recipe=options.recipe,
        start=str(options.checkpoint or options.base),
        start_sha256=identity["start"],
        data=str(options.data),
        data_sha256=identity["data"],
        counts={},
        left_out=0,
        versions=library_versions(),
        commit=project_commit(),
        notes=options.notes,
    )
    begin(options.output, recipe, images, record, options.allow_duplicates, console)
    return identity


def _training(
    options: Options,
    recipe: Recipe,
    images: Images,
    network: Network,
    accelerator: Accelerator,
    identity: dict[str, str],
    stop: StopRequest,
) -> Training:
    judge = None
    if images.validation:
        judge = Judge(
            images.validation,
            recipe.specification,
            recipe.augmentation.operation,
            recipe.run.seed,
            recipe.optimiser.batch,
            options.workers,
        )
    return Training(
        accelerator,
        network,
        recipe,
        images.training,
        judge,
        options.output,
        identity,
        options.workers,
        stop,
        Progress(),
    )


def _tell_needs(recipe: Recipe, network: Network, accelerator: Accelerator, console: Console) -> None:
    budget = estimate(recipe, network)
    console.print(network_of(recipe, network), highlight=False, soft_wrap=True)
    console.print(f"{budget.describe()} in each process", highlight=False, soft_wrap=True)
    if warning := shortage(budget, accelerator.device):
        console.print(f"[yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)


def _describe(plan: Plan, recipe: Recipe, processes: int, console: Console) -> None:
    sizes = recipe.optimiser
    console.print(
        f"{sizes.epochs} epochs of {plan.micro_batches} micro-batches, {sizes.batch}×{sizes.accumulation}×{processes} "
        f"images an update: {plan.updates} updates",
        highlight=False,
    )
