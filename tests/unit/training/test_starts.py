"""What a run may start from, and what is refused before it does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Model

from ensemble.streams import GLOBAL_TEXTURE, STREAMS
from networks import PRESETS, load_stream, write_random_weights
from networks.weights.stand_in import MARKER, UNMARKED, stand_in_note, write_marker
from tests.unit.training.fits import SMALL
from training.bases import dino_config, start
from training.errors import BaseError, RecipeError
from training.learn.manipulation import manipulated
from training.learn.photographs import PHOTOGRAPHS, TEST, VALIDATION, read_photograph, split_of
from training.learn.samples import draw_samples
from training.learn.spectral import DINO, spectral_base
from training.networks import evaluating, learning
from training.recipe import published, read_recipe
from training.run.budget import estimate


def test_a_recipe_is_for_a_stream_that_is_declared() -> None:
    assert {read_recipe(name).stream for name in published()} == {stream.name for stream in STREAMS}
    with pytest.raises(RecipeError, match="'nose' is no stream of the method; it must be global_texture, local_facial"):
        read_recipe("global_texture", ["stream='nose'"])


def test_folder_checkpoint_and_their_network_agree(tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe("global_texture", SMALL)
    from_file = start(recipe, str(tiny / "dinov2_252.pth"), None, None)
    from_file.dino[0].save_pretrained(tmp_path / "folder")
    # PEFT has wrapped the layers: a folder holds the base alone.
    plain = Dinov2Model(dino_config(PRESETS["tiny"][0]))
    names = plain.state_dict().keys()
    base = {name.replace(".base_layer", ""): value for name, value in from_file.dino[0].state_dict().items()}
    plain.load_state_dict({name: base[name] for name in names})
    plain.save_pretrained(tmp_path / "folder")
    from_folder = start(recipe, str(tmp_path / "folder"), None, None)
    pixels = torch.randn(2, 3, 252, 252)
    with evaluating(from_file), evaluating(from_folder):
        torch.testing.assert_close(from_file(pixels), from_folder(pixels))


@pytest.mark.parametrize(
    ("overrides", "base", "checkpoint", "message"),
    [
        ((), None, None, "either --base"),
        ((), "dinov2_252.pth", "dinov2_252.pth", "either --base"),
        (("network.hidden=1536", "network.blocks=40"), "dinov2_252.pth", None, "128 channels and 2 blocks; the recipe"),
        (("network.rank=8", "network.alpha=16"), None, "dinov2_252.pth", "LoRA of rank 4"),
        ((), None, "dinov2_clip.pth", "goes on from one without CLIP"),
        ((), "absent.pth", None, "absent.pth"),
    ],
)
def test_wrong_starts(
    tiny: Path, overrides: tuple[str, ...], base: str | None, checkpoint: str | None, message: str
) -> None:
    recipe = read_recipe("global_texture", [*SMALL, *overrides])
    with pytest.raises(BaseError, match=message):
        start(recipe, base and str(tiny / base), None, checkpoint and tiny / checkpoint)


def test_fusion_takes_the_global_streams_lora(tiny: Path) -> None:
    recipe = read_recipe("semantic_fusion_phase1", SMALL)
    with pytest.raises(BaseError, match="needs a CLIP"):
        start(recipe, None, None, tiny / "dinov2_252.pth")
    with pytest.raises(BaseError, match="with --from"):
        start(recipe, str(tiny / "dinov2_252.pth"), None, None)
    network = start(recipe, None, str(tiny / "dinov2_clip.pth"), tiny / "dinov2_252.pth")
    stored = torch.load(tiny / "dinov2_252.pth", weights_only=True)
    taken = network.state_dict()
    shared = [name for name in stored if ".vision_model." in name]
    assert any(".lora_B." in name for name in shared)
    assert all(torch.equal(stored[name], taken[name]) for name in shared)
    assert all(name.startswith("backbone.fusion_head.") for name, _ in learning(network))


def test_checkpointing_changes_memory_and_not_the_gradient(tiny: Path) -> None:
    gradients, estimates = [], []
    for wanted in ("false", "true"):
        overrides = (*SMALL, "network.lora_dropout=0.0", f"run.activation_checkpointing={wanted}")
        recipe = read_recipe("global_texture", overrides)
        network = start(recipe, None, None, tiny / "dinov2_252.pth")
        network(torch.ones(1, 3, 252, 252)).sum().backward()
        gradients.append({name: each.grad for name, each in learning(network)})
        estimates.append(estimate(recipe, network).activations)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
    assert estimates[1] < estimates[0]


def test_stand_ins_are_known_by_marker_and_by_content(tiny: Path, tmp_path: Path) -> None:
    random = load_stream(GLOBAL_TEXTURE, tiny / "dinov2_252.pth")
    assert stand_in_note(tiny / "dinov2_252.pth", random) == ""
    write_random_weights(tmp_path, "tiny")
    path = tmp_path / "dinov2_252.pth"
    tensors = torch.load(path, weights_only=True)
    positions = next(name for name in tensors if name.endswith("position_embeddings"))
    tensors[positions].zero_()
    torch.save(tensors, path)
    assert stand_in_note(path, load_stream(GLOBAL_TEXTURE, path)) == UNMARKED
    write_marker(tmp_path, 600, 11)
    assert "600 manipulations of 11 sample photographs" in stand_in_note(path, load_stream(GLOBAL_TEXTURE, path))
    assert (tmp_path / MARKER).is_file()


def test_base_that_sees_spectra() -> None:
    """A sharp patch and its smoothed copy are told apart before anything is learnt."""
    base = spectral_base(0).eval()
    rng = np.random.default_rng(0)
    sharp = torch.from_numpy(rng.standard_normal((1, 3, 252, 252)).astype(np.float32))
    smooth = torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2)
    smooth = smooth * (sharp.std() / smooth.std())
    with torch.inference_mode():
        first, second = (base(pixels).last_hidden_state[0, 1:].mean(dim=0) for pixels in (sharp, smooth))
        again = base(sharp.flip(3)).last_hidden_state[0, 1:].mean(dim=0)
    assert (first - second).norm() > 3 * (first - again).norm()
    assert not base.embeddings.position_embeddings.any()
    assert base.config.hidden_size == DINO.hidden


def test_manipulations_stay_within_their_mask() -> None:
    image = read_photograph(PHOTOGRAPHS["chelsea"].files[0])[:256, :256]
    for seed in range(5):
        fake, mask = manipulated(image, np.random.default_rng(seed))
        changed = (fake != image).any(axis=2)
        assert not changed[mask == 0].any()
        assert changed[mask > 0.9].mean() > 0.8
        assert 0.05 < mask.mean() < 0.6
        again, _ = manipulated(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(again, fake)


def test_grey_photographs_stay_grey() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (256, 256, 1)).astype(np.uint8), 3, axis=2)
    fake, _ = manipulated(grey, np.random.default_rng(1))
    assert (fake == fake[..., :1]).all()


def test_no_photograph_is_in_two_splits() -> None:
    assert not set(TEST) & set(VALIDATION)
    others = set(PHOTOGRAPHS) - set(TEST) - set(VALIDATION)
    assert {split_of(name) for name in others} == {"train"}
    assert {split_of(name) for name in VALIDATION} == {"validation"}
    for split in ("train", "validation", "test"):
        samples = list(draw_samples(split, 12, 0))
        assert {split_of(sample.photograph) for sample in samples} == {split}
        assert [sample.label for sample in samples] == [0, 1] * 12
        assert all(sample.image.shape == (256, 256, 3) for sample in samples)
        assert all(bool(sample.mask.any()) == bool(sample.label) for sample in samples)
