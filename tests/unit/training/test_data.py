"""Data sets as users bring them, whole and broken; splits, leaks, and the same batch made twice."""

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble.faces.crop import crop_face
from ensemble.streams import GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION
from tests.golden import IMAGES, read_rgb
from training.data import splits
from training.data.augmentation import TooSmallError, frame
from training.data.copies import Fingerprint, require_no_copies, require_one_label
from training.data.images import TrainingImages, ValidationImages, read_framed
from training.data.manifest import Item, read_manifest, require_both_classes
from training.data.order import micro_batches, shuffled
from training.data.splits import require_groups_apart, split_by_group
from training.data.survey import survey
from training.errors import DataError, RecipeError
from training.recipe import published, read_recipe
from training.run.begin import choose_images


def fingerprints(items: list[Item]) -> list[Fingerprint | None]:
    return [each.fingerprint for each in survey(items, GLOBAL_TEXTURE)]


def manifest(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,colour\na.png,real,red\n", "unknown column 'colour'; known are path, label"),
        ("path\na.png\n", "no column 'label'"),
        ("path,label\na.png,genuine\n", "line 2: the label is 'genuine'; it must be real or fake"),
        ("path,label\n,real\n", "line 2: no path"),
        ("path,label,split\na.png,real,dev\n", "the split is 'dev'"),
        ("path,label,x1,y1,x2,y2\na.png,real,9,0,3,4\n", "x1 < x2"),
        ("path,label,x1,y1,x2,y2\na.png,real,a,0,3,4\n", "four numbers"),
        ("path,label\na.png,real\na.png,fake\n", "a.png is there twice"),
        ("path,label\na.png\n", "line 2: not 2 values"),
        ("path,label\n", "no image in it"),
        ("path,label,label\na.png,real,fake\n", "the column 'label' is there twice"),
        ("path,label\na\0.png,real\n", "line 2: the path .* holds a NUL"),
        ("", "no column 'path'"),
    ],
)
def test_wrong_manifests(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        read_manifest(manifest(tmp_path, text))


def test_one_class_only(tmp_path: Path) -> None:
    items = read_manifest(manifest(tmp_path, "path,label\na.png,real\nb.png,0\n"))
    with pytest.raises(DataError, match="no fake image among 2"):
        require_both_classes(items, "it")


def test_folder_shards_and_manifest_hold_the_same(tmp_path: Path) -> None:
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        for number, source in enumerate(IMAGES[:4]):
            label = ("real", "fake")[number % 2]
            (folder / label).mkdir(parents=True, exist_ok=True)
            (folder / label / source.name).write_bytes(source.read_bytes())
            members = {"png": source.read_bytes(), "json": json.dumps({"label": label, "group": "a"}).encode()}
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{source.stem}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    in_folder, in_shards = read_manifest(folder), read_manifest(shards)
    assert {(item.label, item.read()) for item in in_folder} == {(item.label, item.read()) for item in in_shards}
    assert {item.group for item in in_shards} == {"a"}


def test_truncated_shard(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"\0" * 100 + b"x" * 700)
    with pytest.raises(DataError, match="not a whole shard"):
        read_manifest(tmp_path / "0.tar")


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"path": ["a.png", "b.png"], "label": ["real", "fake"], "x1": [None, 1.5]})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(DataError, match="line 2: the face box"):
        read_manifest(tmp_path / "m.parquet")
    table = table.drop_columns("x1").append_column("group", pyarrow.array([float("nan")] * 2))
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    assert [(item.label, item.group) for item in read_manifest(tmp_path / "m.parquet")] == [(0, "a.png"), (1, "b.png")]


def test_groups_stay_together_and_apart() -> None:
    items = [Item(Path("x"), f"{n}.png", n % 2, group=f"person {n // 5}") for n in range(500)]
    split = split_by_group(items, 0.2, 1)
    require_groups_apart(split)
    share = sum(item.split == "validation" for item in split) / len(split)
    assert 0.05 < share < 0.4
    assert split_by_group(items[100:], 0.2, 1) == split[100:]
    leak = [Item(Path("x"), "a", 0, group="ann", split="train"), Item(Path("x"), "b", 1, group="ann", split="test")]
    with pytest.raises(DataError, match=r"ann \(test and train\)"):
        require_groups_apart(leak)


def test_a_split_has_both_classes_where_groups_allow_it() -> None:
    """Ten images of each class: by the hashes alone, a class has no group in the validation in many of these draws."""
    items = [Item(Path("x"), f"{n}.png", n % 2, group=f"{n}") for n in range(20)]
    for seed in range(40):
        split = split_by_group(items, 0.1, seed)
        found = {(item.split, item.label) for item in split}
        assert found == {(name, label) for name in ("train", "validation") for label in (0, 1)}
        assert split_by_group(items, 0.1, seed) == split
    assert {item.split for item in split_by_group(items, 0.0, 1)} == {"train"}
    one_group = [Item(Path("x"), "a", 0, group="g"), Item(Path("x"), "b", 1, group="g")]
    assert len({item.split for item in split_by_group(one_group, 0.1, 1)}) == 1
    given = [Item(Path("x"), f"{n}", n % 2, group=f"{n}", split="train") for n in range(20)]
    assert split_by_group(given, 0.1, 1) == given


def test_a_split_without_a_class_names_what_sets_it(tmp_path: Path) -> None:
    rows = "path,label,split\na.png,real,train\nb.png,fake,train\nc.png,real,validation\n"
    with pytest.raises(DataError, match=r"split validation: no fake image among 1.*data\.validation_share"):
        choose_images(manifest(tmp_path, rows), read_recipe("global_texture"))


@pytest.mark.parametrize("change", ["same", "jpeg", "smaller", "mirrored"])
def test_copies_between_splits_are_found(tmp_path: Path, change: str) -> None:
    image = cv2.imread(str(IMAGES[5]))
    original = IMAGES[5].read_bytes()
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    smaller = cv2.imencode(".png", cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA))[1].tobytes()
    mirrored = cv2.imencode(".png", image[:, ::-1])[1].tobytes()
    changes = {"same": original, "jpeg": jpeg, "smaller": smaller, "mirrored": mirrored}
    (tmp_path / "copy").write_bytes(changes[change])
    items = [
        Item(IMAGES[5], "a", 0, group="a", split="train"),
        Item(tmp_path / "copy", "b", 1, group="b", split="validation"),
        Item(IMAGES[6], "c", 1, group="c", split="validation"),
    ]
    with pytest.raises(DataError, match=r"a .*and b "):
        require_no_copies(items, fingerprints(items))
    require_no_copies(items[::2], fingerprints(items[::2]))


def test_one_file_has_one_label(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGES[0].read_bytes())
    items = read_manifest(manifest(tmp_path, "path,label,group\na.png,real,g\n./a.png,fake,g\n"))
    with pytest.raises(DataError, match=r"a\.png \(real\) and \./a\.png \(fake\) are the same file"):
        require_one_label(items, fingerprints(items))
    require_one_label(items[:1] * 2, fingerprints(items[:1] * 2))


def test_a_stream_of_faces_sees_the_face_in_its_box(tmp_path: Path) -> None:
    image = cv2.resize(read_rgb(IMAGES[0]), (900, 700), interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    box = (100.0, 50.0, 400.0, 350.0)
    rows = "path,label,x1,y1,x2,y2\na.png,real,100,50,400,350\n./a.png,real,,,,\na.png/../a.png,real,5000,1,5100,9\n"
    boxed, whole, outside = read_manifest(manifest(tmp_path, rows))
    np.testing.assert_array_equal(read_framed(boxed, LOCAL_FACIAL), crop_face(image, box)[2:254, 2:254])
    np.testing.assert_array_equal(read_framed(boxed, GLOBAL_TEXTURE), image[224:476, 324:576])
    np.testing.assert_array_equal(read_framed(whole, LOCAL_FACIAL), image[224:476, 324:576])
    outside = Item(tmp_path / "a.png", "outside", 0, box=outside.box)
    assert "face box (5000.0" in survey([outside], LOCAL_FACIAL)[0].problem
    assert not survey([outside], GLOBAL_TEXTURE)[0].problem


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "members",
    [
        {"./000.png": b"i", "./000.json": b'{"label": "fake"}'},
        {"v1.0/000.png": b"i", "v1.0/000.json": b'{"label": "fake"}'},
        {"000.cls": b"1\n", "000.png": b"i"},
        {"000.PNG": b"i", "000.JSON": b'{"label": 1, "group": "ann"}'},
        {"._000.png": b"not an image", "000.png": b"i", "000.cls": b"fake", "000.txt": b"caption"},
    ],
)
def test_shards_as_others_write_them(tmp_path: Path, members: dict[str, bytes]) -> None:
    (item,) = read_manifest(write_tar(tmp_path / "0.tar", members))
    assert (item.label, item.read()) == (1, b"i")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ({"v1/f.0001.png": b"i", "v1/f.0001.json": b'{"label": 1}'}, r"1 images with a dot before .*f\.0001\.png"),
        ({".png": b"i"}, r"1 images with a dot"),
        ({"000.jpg": b"i"}, r"000\.png and 000\.jpg have one key"),
        ({"001.png": b"i"}, r"001\.png: no 001\.json or 001\.cls"),
        ({"001.png": b"i", "001.json": b"[1]"}, "no object of JSON"),
    ],
)
def test_no_image_of_a_shard_is_lost_in_silence(tmp_path: Path, lost: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(write_tar(tmp_path / "0.tar", {"000.png": b"i", "000.cls": b"0"} | lost))


def test_plain_surfaces_are_no_copies(tmp_path: Path) -> None:
    items = []
    for number, split in enumerate(("train", "validation")):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((256, 256, 3), number, np.uint8))
        items.append(Item(tmp_path / f"{number}.png", str(number), 0, group=str(number), split=split))
    require_no_copies(items, fingerprints(items))


def test_any_item_can_be_made_again() -> None:
    recipe = read_recipe("global_texture")
    items = [Item(path, path.name, n % 2) for n, path in enumerate(IMAGES)]
    first, again = (TrainingImages(items, GLOBAL_TEXTURE, recipe.augmentation, 7) for _ in range(2))
    differs = 0
    for epoch in range(4):
        for index in (3, 0):
            one, two = first[epoch, index].pixels, again[epoch, index].pixels
            assert one is not None
            assert two is not None
            np.testing.assert_array_equal(one, two)
            differs += not np.array_equal(one, first[epoch + 1, index].pixels)
    assert differs == 8
    clean, degraded = (ValidationImages(items, GLOBAL_TEXTURE, operation, 7) for operation in (None, 0.3))
    np.testing.assert_array_equal(degraded[2].pixels, degraded[2].pixels)
    assert not np.array_equal(clean[2].pixels, degraded[2].pixels)


def test_unreadable_images_are_told() -> None:
    items = [Item(Path("/nowhere/a.png"), "a.png", 0), Item(Path(__file__), "b.png", 1)]
    images = ValidationImages(items, GLOBAL_TEXTURE, None, 0)
    assert images[0].pixels is None
    assert images[0].problem.startswith("a.png: ")
    assert images[1].problem.startswith("b.png: ")


def test_framings() -> None:
    image = read_rgb(IMAGES[0])
    assert frame(image, GLOBAL_TEXTURE).shape == (252, 252, 3)
    np.testing.assert_array_equal(frame(image, GLOBAL_TEXTURE), image[2:254, 2:254])
    assert frame(image[:100], SEMANTIC_FUSION).shape == (224, 224, 3)
    with pytest.raises(TooSmallError, match="at least 252"):
        frame(image[:251], GLOBAL_TEXTURE)


@pytest.mark.parametrize(("count", "batch", "processes"), [(10, 4, 1), (10, 4, 2), (17, 3, 2), (64, 8, 4)])
def test_processes_share_one_order(count: int, batch: int, processes: int) -> None:
    order = shuffled(count, 1, 2, processes)
    parts = [micro_batches(order, batch, process, processes) for process in range(processes)]
    assert len({len(part) for part in parts}) == 1
    assert {index for part in parts for each in part for index in each.tolist()} == set(range(count))
    for together in zip(*parts, strict=True):
        assert len({len(each) for each in together}) == 1


def test_recipes_are_strict(tmp_path: Path) -> None:
    assert published() == ["global_texture", "local_facial", "semantic_fusion_phase1", "semantic_fusion_phase2"]
    for name in published():
        recipe = read_recipe(name)
        (tmp_path / "again.toml").write_text(recipe.to_toml())
        assert read_recipe(str(tmp_path / "again.toml")) == recipe
    with pytest.raises(RecipeError, match=r"unknown key optimiser\.learning_rat; known here are learning_rate,"):
        read_recipe("global_texture", ["optimiser.learning_rat=1e-4"])
    with pytest.raises(RecipeError, match="no such recipe; the published ones are"):
        read_recipe("globl")
    with pytest.raises(RecipeError, match="not twice the rank"):
        read_recipe("global_texture", ["network.alpha=32"])
    with pytest.raises(RecipeError, match="batch"):
        read_recipe("global_texture", ["optimiser.batch=0"])
    with pytest.raises(RecipeError, match=r"data\.balanced draws half a batch of each class"):
        read_recipe("global_texture", ["data.balanced=true", "optimiser.batch=1"])
    assert read_recipe("global_texture", ["data.balanced=true", "optimiser.batch=2"]).optimiser.batch == 2
    with pytest.raises(RecipeError, match=r"caps of DFDCP are \(-5, 2\)"):
        read_recipe("global_texture", ["data.caps.DFDCP=[-5,2]"])
    with pytest.raises(RecipeError, match=r"between quotes: data\.caps\.\"FaceForensics\+\+\"="):
        read_recipe("global_texture", ["data.caps.FaceForensics++=[1,2]"])
    with pytest.raises(RecipeError, match="optimiser is a value"):
        read_recipe("global_texture", ["optimiser=1", "optimiser.batch=2"])
    with pytest.raises(RecipeError, match=r"section\.key=value"):
        read_recipe("global_texture", ["epochs"])


def test_every_number_can_be_overridden() -> None:
    given = [
        'data.caps."DeeperForensics-1.0"=[1, 1]',
        "run.precision=bfloat16",
        "optimiser.epochs = 3",
        "data.drop_rates={DDL=[0.5, 0.5]}",
    ]
    recipe = read_recipe("global_texture", given)
    assert recipe.data.caps["DeeperForensics-1.0"] == (1, 1)
    assert recipe.data.caps["DFDCP"] == (-1, 2)
    assert recipe.data.drop_rates["DDL"] == (0.5, 0.5)
    assert (recipe.run.precision, recipe.optimiser.epochs) == ("bfloat16", 3)


BOUNDS = {
    "optimiser.learning_rate": (["1e-9"], ["0.0", "-1e-4", "nan", "inf"]),
    "optimiser.learning_rate_floor": (["0.0"], ["-1e-9"]),
    "optimiser.warmup_updates": (["0"], ["-1", "1.5"]),
    "optimiser.weight_decay": (["0.0"], ["-0.1"]),
    "optimiser.epochs": (["1"], ["0", "true"]),
    "optimiser.batch": (["2"], ["0"]),
    "optimiser.accumulation": (["1"], ["0"]),
    "network.hidden": (["64"], ["63"]),
    "network.blocks": (["1"], ["0"]),
    "network.alpha": (["64"], ["63", "65", "128"]),
    "network.lora_dropout": (["0.0", "0.99"], ["1.0", "-0.1"]),
    "network.head": (["1"], ["0"]),
    "network.head_dropout": (["0.0", "0.99"], ["1.0", "-0.1"]),
    "loss.gamma": (["0.0"], ["-0.1"]),
    "data.frames": (["1"], ["0"]),
    "data.test_frames": (["1"], ["0"]),
    "data.validation_share": (["0.0", "0.99"], ["1.0", "-0.1"]),
    "data.caps.DFDCP": (["[-1, 0]"], ["[-2, 1]", "[1, -2]", "[1]", "[1, 2, 3]"]),
    "data.drop_rates.DFDCP": (["[0.0, 1.0]"], ["[0.5, 1.1]", "[1.1, 0.5]", "[-0.1, 0.5]", "[0.5]"]),
    "augmentation.flip": (["0.0", "1.0"], ["-0.1", "1.1"]),
    "augmentation.rotate": (["0.0", "1.0"], ["-0.1", "1.1"]),
    "augmentation.degrees": (["0.0", "180.0"], ["-0.1", "180.1"]),
    "augmentation.degrade": (["0.0", "1.0"], ["-0.1", "1.1"]),
    "augmentation.operation": (["0.0", "1.0"], ["-0.1", "1.1"]),
    "run.precision": (["float32"], ["float16"]),
    "run.seed": (["0", str(2**32 - 1)], ["-1", str(2**32)]),
    "run.validations_per_epoch": (["0"], ["-1"]),
    "run.checkpoint_updates": (["1"], ["0"]),
    "run.checkpoint_minutes": (["0.1"], ["0.0"]),
    "run.early_stop": (["0"], ["-1"]),
    "stage": (["head", "lora"], ["all"]),
    "stream": (["local_facial"], ["clip"]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_recipe_takes_what_lies_in_its_bounds_and_nothing_beyond(name: str) -> None:
    fine, wrong = BOUNDS[name]
    for value in fine:
        read_recipe("global_texture", [f"{name}={value}"])
    for value in wrong:
        with pytest.raises(RecipeError, match=rf"{name.split('.')[-1]}"):
            read_recipe("global_texture", [f"{name}={value}"])


def test_a_recipe_is_a_file_or_the_name_of_a_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe("global_texture")
    assert recipe.specification == GLOBAL_TEXTURE
    with pytest.raises(ValueError, match="frozen"):
        recipe.optimiser.epochs = 7  # type: ignore[misc]
    monkeypatch.chdir(tmp_path)
    Path("global_texture").write_text("no recipe")  # a file of that name hides no published one
    assert read_recipe("global_texture") == recipe
    for content in (b"\xff", b"= 1", b""):
        Path("own.toml").write_bytes(content)
        with pytest.raises(RecipeError, match="not a TOML file" if content else "stream is missing"):
            read_recipe("own.toml")


def test_a_key_is_unknown_among_those_of_its_section() -> None:
    with pytest.raises(RecipeError, match=r"unknown key run\.sead; known here are precision, .*early_stop$"):
        read_recipe("global_texture", ["run.sead=1"])
    with pytest.raises(RecipeError, match=r"unknown key sead; known here are stream, .*run$"):
        read_recipe("global_texture", ["sead=1"])


@pytest.mark.parametrize(
    ("row", "group", "video"),
    [
        ("a.png,real,,", "a.png", "a.png"),
        ("a.png,real,g,", "g", "g"),
        ("a.png,real,,v", "v", "v"),
        ("a.png,real,g,v", "g", "v"),
    ],
)
def test_what_names_no_group_or_video_takes_the_other_s_name(tmp_path: Path, row: str, group: str, video: str) -> None:
    (item,) = read_manifest(manifest(tmp_path, f"path,label,group,video\n{row}\n"))
    assert (item.group, item.video) == (group, video)


def test_every_column_of_a_manifest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "\ufeffpath,label,dataset,group,video,split,x1,y1,x2,y2\na.png, Fake ,d,g,v,test,1,2.5,30,40\nb.png,0,,,,,,,,\n"
    )
    manifest(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    first, second = read_manifest(Path("manifest.csv"))
    monkeypatch.chdir("/")
    assert first == Item(tmp_path / "a.png", "a.png", 1, "d", "g", "v", "test", box=(1.0, 2.5, 30.0, 40.0))
    assert second == Item(tmp_path / "b.png", "b.png", 0, group="b.png", video="b.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,real,more\n", "line 2: not 2 values"),
        ("path,label,x1,y1,x2,y2\na.png,real,1,5,3,4\n", "y1 < y2"),
        ("path,label,x1,y1,x2,y2\na.png,real,1,2,,4\n", "four numbers, or empty"),
        ('path,label\n"a.png,real\n', "not a CSV file in UTF-8"),
        ("label,path,path\nreal,a.png,b.png\n", "the column 'path' is there twice"),
    ],
)
def test_other_wrong_manifests(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(manifest(tmp_path, text))


def test_a_folder_s_frames_are_those_of_a_video_and_its_folders_are_no_images(tmp_path: Path) -> None:
    for name in ("real/v/1.JPG", "real/v/2.png", "real/a.png", "fake/v/1.png", "fake/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "fake" / "folder.png").mkdir()
    assert [(item.name, item.label, item.group, item.video) for item in read_manifest(tmp_path)] == [
        ("real/a.png", 0, "real/a.png", "real/a.png"),
        ("real/v/1.JPG", 0, "real/v", "real/v"),
        ("real/v/2.png", 0, "real/v", "real/v"),
        ("fake/v/1.png", 1, "fake/v", "fake/v"),
    ]
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_manifest(tmp_path / "damaged.parquet")


def test_shards_of_a_folder_are_read_by_name_and_their_members_are_their_own(tmp_path: Path) -> None:
    for shard in ("1.tar", "0.tar"):
        write_tar(tmp_path / shard, {"a.png": shard.encode(), "a.cls": b"0", "b.png": b"b", "b.cls": b"1"})
    items = read_manifest(tmp_path)
    assert [item.name for item in items] == ["0.tar#a.png", "0.tar#b.png", "1.tar#a.png", "1.tar#b.png"]
    assert [item.read() for item in items] == [b"0.tar", b"b", b"1.tar", b"b"]


def test_a_group_given_to_a_split_counts_for_it_and_groups_of_both_classes_move_whole() -> None:
    """Validation has both classes already by the manifest: nothing else moves there."""
    given = [Item(Path("x"), f"v{n}", n, group=f"v{n}", split="validation") for n in (0, 1)]
    drawn = [Item(Path("x"), f"{n}", n % 2, group=f"{n}") for n in range(6)]
    split = split_by_group([*given, *drawn], 1e-9, 0)
    assert [item.split for item in split] == ["validation"] * 2 + ["train"] * 6
    both = [Item(Path("x"), f"{n} {label}", label, group=f"{n}") for n in range(4) for label in (0, 1)]
    split = split_by_group(both, 1e-9, 0)
    require_groups_apart(split)
    assert [sum(item.split == "validation" and item.label == label for item in split) for label in (0, 1)] == [1, 1]
    # The last group of a class stays where it is: the other split would lose that class.
    last = [Item(Path("x"), "0", 0, group="0"), *(Item(Path("x"), f"{n}", 1, group=f"{n}") for n in range(1, 5))]
    split = split_by_group(last, 1e-9, 0)
    assert split[0].split == "train"
    assert sum(item.split == "validation" for item in split[1:]) == 1


def kinds(groups: dict[str, tuple[int, ...]], seed: int) -> dict[str, set[int]]:
    """The classes of each split, where groups of these classes are split and hardly any is drawn for validation."""
    items = [Item(Path("x"), f"{name} {n}", n, group=name) for name, labels in groups.items() for n in labels]
    found: dict[str, set[int]] = {"train": set(), "validation": set()}
    for item in split_by_group(items, 1e-9, seed):
        found[item.split].add(item.label)
    return found


def test_no_group_moves_that_takes_a_class_s_last_with_it() -> None:
    for seed in range(20):
        assert kinds({"a": (0, 1), "b": (1,), "c": (1,)}, seed) == {"train": {0, 1}, "validation": {1}}
        assert kinds({"a": (0,), "b": (0, 1), "c": (1,)}, seed) == {"train": {0, 1}, "validation": {0, 1}}


def test_the_group_that_moves_is_the_one_whose_share_is_nearest() -> None:
    items = [Item(Path("x"), f"{n}", n % 2, group=f"{n}") for n in range(40)]
    shares = {item.group: splits._share(item.group, 3) for item in items}
    for share, name, chosen in ((1e-9, "validation", min), (1 - 1e-9, "train", max)):
        moved = {item.group for item in split_by_group(items, share, 3) if item.split == name}
        assert moved == {chosen((str(n) for n in range(label, 40, 2)), key=shares.__getitem__) for label in (0, 1)}
