"""What comes after the last update: the checkpoint with its card, where the export finds it."""

from pathlib import Path

from training.run.card import model_card
from training.run.loop import Training
from training.run.record import CARD_FILE, RECIPE_FILE, RUN_FILE, Record, publish, write_checkpoint
from training.run.state import BEST_FILE, read_state, read_tensors_file, restore_tensors, write_atomically
from training.run.validation import Judged


def finish(run: Training, ended: str, file: str, weights: Path, source: str) -> None:
    """Writes the checkpoint of a run that came to its end, and publishes it.

    Args:
        run: At its end.
        ended: Why.
        file: Name of the checkpoint.
        weights: Folder that the export takes.
        source: What its manifest says the checkpoint came from.

    Raises:
        RunError: It cannot be written.
    """
    folder, recipe, stream = run.folder, run.recipe, run.recipe.specification
    kept = "last" if run.progress.best is None else "best"
    if kept == "best":
        write_checkpoint(run.network, stream, folder / f"last_{file}")
        restore_tensors(run.network, read_tensors_file(folder / BEST_FILE))
    sha256 = write_checkpoint(run.network, stream, folder / file)
    rounds: list[tuple[str, Judged]] = []
    if run.judge is not None:
        for name, degraded in (("clean", False), ("degraded", True)):
            rounds.append((name, run.judge.judge(run.network, run.accelerator.device, degraded)))
    record = Record.from_json((folder / RUN_FILE).read_text(encoding="utf-8"))
    write_atomically(folder / CARD_FILE, model_card(recipe, record, run.progress, ended, kept, rounds))
    if recipe.stage != "head":
        stem = Path(file).stem
        beside = {f"{stem}.md": folder / CARD_FILE, f"{stem}.toml": folder / RECIPE_FILE}
        publish(folder / file, sha256, weights, source, record.commit, beside)


def keep_last_good(run: Training, file: str) -> str:
    """Writes what a run had learnt before its loss was no number any more, as a checkpoint to start another run from.

    The last state, except where the loss failed on its very weights: then the best, where there is one.

    Returns:
        What to do with it, for people.
    """
    state = read_state(run.folder)
    if state is None or not state.progress.updates:
        return "No weights had been saved before that: begin again, with another --output"
    update, tensors = state.progress.updates, state.learnt
    if update == run.progress.updates and state.progress.best_update:
        update, tensors = state.progress.best_update, read_tensors_file(run.folder / BEST_FILE)
    if not all(value.isfinite().all() for value in tensors.values()):
        return f"The weights saved after update {update} are no numbers either: begin again, with another --output"
    restore_tensors(run.network, tensors)
    path = run.folder / f"good_{file}"
    write_checkpoint(run.network, run.recipe.specification, path)
    return f"The weights after update {update} are good: go on from them with --from {path}, and another --output"
