"""The authors' own training steps, run again: losses, rates, gradients and the parameters after them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from networks import write_random_weights
from tests.golden import GOLDEN, read_rgb
from training.bases import start
from training.data.augmentation import frame, normalised
from training.data.images import Batch
from training.networks import Network, evaluating, learning
from training.recipe import Recipe, read_recipe
from training.run.window import Micro, accumulate_window, adam, step
from training.schedule import Schedule

STEPS = GOLDEN / "training" / "steps"
RUNS: dict[str, Any] = json.loads((STEPS / "runs.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


def recipe_of(name: str) -> Recipe:
    run = RUNS["runs"][name]
    published = {"fusion_phase1": "semantic_fusion_phase1", "fusion_phase2": "semantic_fusion_phase2"}
    return read_recipe(
        published.get(name, "global_texture"),
        [
            "network.hidden=128",
            "network.blocks=2",
            "network.rank=4",
            "network.alpha=8",
            "network.lora_dropout=0.0",
            "network.head_dropout=0.0",
            f"optimiser.learning_rate={run['lr']}",
            f"optimiser.learning_rate_floor={run['eta_min']}",
            f"optimiser.warmup_updates={run['warmup_steps']}",
            f"optimiser.weight_decay={float(run['weight_decay'])}",
            f"optimiser.epochs={run['epochs']}",
            f"optimiser.batch={run['batch']}",
            f"optimiser.accumulation={run['accumulation']}",
        ],
    )


def pixels_of(recipe: Recipe) -> Tensor:
    images = [frame(read_rgb(GOLDEN / "images" / name), recipe.specification) for name in RUNS["images"]]
    return torch.stack([torch.from_numpy(normalised(np.float32(image) / np.float32(255))) for image in images])


def logits_of(network: Network, pixels: Tensor) -> np.ndarray[Any, Any]:
    with evaluating(network):
        return network(pixels).numpy()


@pytest.mark.parametrize("name", list(RUNS["runs"]))
def test_steps_are_the_authors(name: str, tiny: Path) -> None:
    run, golden = RUNS["runs"][name], np.load(STEPS / f"{name}.npz")
    recipe = recipe_of(name)
    torch.set_num_threads(1)
    checkpoint = tiny / ("dinov2_clip.pth" if name.startswith("fusion") else "dinov2_252.pth")
    network = start(recipe, None, None, checkpoint)
    if name == "fusion_phase2":
        phase1 = np.load(STEPS / "fusion_phase1.npz")
        head = {key[6:]: torch.from_numpy(phase1[key]) for key in phase1.files if key.startswith("param:")}
        assert len(head) == 4
        network.load_state_dict(head, strict=False)
    assert sorted(key for key, _ in learning(network)) == sorted(run["trainable"])
    pixels, labels = pixels_of(recipe), torch.tensor(RUNS["labels"])
    np.testing.assert_allclose(logits_of(network, pixels), golden["logits_init"], rtol=0, atol=3e-4)

    accelerator = Accelerator(cpu=True)
    optimiser = adam(network, recipe.optimiser)
    schedule = Schedule(run["lr"], run["eta_min"], run["warmup_steps"], run["total_steps_given_to_scheduler"])
    losses: list[float] = []
    item, update = 0, 0
    for _ in range(run["epochs"]):
        micros = []
        for _ in range(run["micro_batches_per_epoch"]):
            indices = [(k + k // 8) % 8 for k in range(item, item + run["batch"])]
            item += run["batch"]
            micros.append(Micro(Batch(pixels[indices], labels[indices], indices, []), seed=0))
        for first in range(0, len(micros), run["accumulation"]):
            window = micros[first : first + run["accumulation"]]
            losses += accumulate_window(accelerator, network, window, run["accumulation"], 2.0).tolist()
            if update == 0:
                compare_gradients(network, golden)
            assert schedule(update) == pytest.approx(golden["lrs"][update], rel=1e-12)
            step(optimiser, schedule(update))
            np.testing.assert_allclose(logits_of(network, pixels), golden["logits_after"][update], rtol=0, atol=3e-4)
            update += 1
    assert update == run["updates"]
    np.testing.assert_allclose(losses, golden["losses"], rtol=0, atol=3e-5)
    compared = 0
    for key, parameter in learning(network):
        for stored in (f"param:{key}", f"param:{key}[:8]"):
            if stored in golden.files:
                value = parameter.detach().numpy()[: len(golden[stored])]
                np.testing.assert_allclose(value, golden[stored], rtol=0, atol=1.5e-5, err_msg=key)
                compared += 1
    assert compared == len(run["trainable"])


def compare_gradients(network: Network, golden: Any) -> None:
    compared = 0
    squares = 0.0
    for key, parameter in learning(network):
        assert parameter.grad is not None
        squares += float((parameter.grad.double() ** 2).sum())
        if f"grad1:{key}" in golden.files:
            expected = golden[f"grad1:{key}"]
            limit = 2e-4 * np.abs(expected).max()
            np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=0, atol=limit, err_msg=key)
            compared += 1
    assert compared >= 3
    assert squares**0.5 == pytest.approx(float(golden["grad1_norm"]), rel=1e-4)
