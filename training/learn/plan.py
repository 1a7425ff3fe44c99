"""How the stand-ins are trained: the published recipes, with what the small size and the few minutes ask for."""

from dataclasses import dataclass, field
from pathlib import Path

from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION
from training.learn.base import Settings
from training.learn.spectral import CLIP, DINO
from training.run.fit import Options

SEED = 1024


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        pairs: Of a real and a fake image, by split.
        shown: Of the training's pairs, how many the streams learn from; the base learns from all.
        base: Training of the base.
        sweeps: Of `forensics robustness`.
        resamples: Of `forensics evaluate`, for its intervals.
    """

    pairs: dict[str, int]
    shown: int
    base: Settings
    sweeps: tuple[str, ...]
    resamples: int = 1000


FULL = Effort({"train": 400, "validation": 30, "test": 40}, 320, Settings(updates=120), ("jpeg", "noise"))
QUICK = Effort({"train": 200, "validation": 12, "test": 40}, 200, Settings(updates=60), (), resamples=100)
"""About two minutes and a half: enough for probabilities to leave the one step of the vote around a half."""


@dataclass(frozen=True)
class Phase:
    """One call of `fit`.

    Attributes:
        recipe: The published one.
        run: Folder of the run.
        start: `base`, or the run whose checkpoint it goes on from.
        overrides: What differs from the recipe, beside `COMMON`.
    """

    recipe: str
    run: str
    start: str = "base"
    overrides: tuple[str, ...] = field(default=())


COMMON = (
    f"network.hidden={DINO.hidden}",
    f"network.blocks={DINO.blocks}",
    f"network.rank={DINO.rank}",
    f"network.alpha={2 * DINO.rank}",
    f"network.head={CLIP.head}",
    "network.lora_dropout=0.05",
    "optimiser.learning_rate=2e-3",
    "optimiser.learning_rate_floor=1e-5",
    "optimiser.warmup_updates=5",
    "optimiser.weight_decay=0.0",
    "optimiser.batch=16",
    "optimiser.accumulation=1",
    "optimiser.epochs=1",
    "data.frames=1",
    "augmentation.rotate=0.1",
    "augmentation.degrade=0.1",
    "run.validations_per_epoch=1",
    "run.checkpoint_updates=1000",
)
"""Head and LoRA are new and must learn in tens of updates; what degradation hides can hardly be learnt at this size."""

PHASES = (
    Phase("global_texture", "global"),
    Phase("local_facial", "local", overrides=("run.seed=2048",)),
    Phase("semantic_fusion_phase1", "fusion1", "global"),
    Phase("semantic_fusion_phase2", "fusion2", "fusion1"),
)


def fit_options(phase: Phase, folder: Path, dino: Path, clip: Path, manifest: Path) -> Options:
    """What `python -m training fit` would be given for a phase."""
    runs = folder / "runs"
    from_base = phase.start == "base"
    checkpoint = (GLOBAL_TEXTURE if phase.start == "global" else SEMANTIC_FUSION).checkpoint
    return Options(
        recipe=phase.recipe,
        overrides=(*COMMON, *phase.overrides),
        data=manifest,
        base=str(dino) if from_base else None,
        clip=None if from_base else str(clip),
        checkpoint=None if from_base else runs / phase.start / checkpoint,
        output=runs / phase.run,
        weights=folder / "weights",
        workers=1,
        cpu=True,
    )
