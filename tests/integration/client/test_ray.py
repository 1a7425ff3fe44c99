"""Scoring a Ray Data dataset: on the real Ray, against the real server."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from deepfake_client import ServerUnavailableError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters import CELLS, check_against_the_client, readme_example, run_example, write_files
from tests.conftest import Server, free_ports
from tests.fakes.triton import FakeTriton, serving
from tests.golden import IMAGES
from tests.waiting import wait_for

pa = pytest.importorskip("pyarrow", reason="needs pip install './client[ray]'")
ray = pytest.importorskip("ray", reason="needs pip install './client[ray]'")

from deepfake_client.ray import VERDICT_SCHEMA, DetectorScorer  # noqa: E402 - where there is no Ray, this raises

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # its own settings
]


def patient(look_up: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Ray gives its own node 30 s to appear, too little where the machine is busy."""

    def ask(*of_what: Any) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            try:
                return look_up(*of_what)
            except RuntimeError:  # it is not there yet
                return None

        return wait_for(found)

    return ask


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default what runs beside the tests would starve its processes
        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        options |= {"num_cpus": 2, "object_store_memory": 100 << 20, "_temp_dir": folder}

        patch.setattr(ray._private.services, "get_node", patient(ray._private.services.get_node))
        ray.init("local", **options)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeTriton]:
    with serving() as server:
        yield server


@pytest.mark.server
@pytest.mark.usefixtures("cluster")
def test_the_example_of_the_readme(server: Server, tmp_path: Path) -> None:
    replacements = {
        "s3://bucket/images": str(IMAGES[0].parent),
        "s3://bucket/verdicts": str(tmp_path / "verdicts"),
        "gpu-box:8001": server.url,
    }
    exec(readme_example("DetectorScorer", replacements), {})
    rows = {Path(row["path"]).name: row for row in ray.data.read_parquet(str(tmp_path / "verdicts")).take_all()}
    assert rows.pop("boxes.json")["status"] == "unsupported_format"
    assert set(rows) == {path.name for path in IMAGES}
    check_against_the_client(rows, server.url)


@pytest.mark.server
@pytest.mark.usefixtures("cluster")
def test_the_example(server: Server, tmp_path: Path) -> None:
    (row,) = run_example("ray_score.py", tmp_path, server.url, "--scorers", "1")
    check_against_the_client({IMAGES[0].name: row}, server.url, IMAGES[:1])


@pytest.mark.server
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("batch_format", ["pyarrow", "numpy"])
def test_every_image_is_a_row_with_its_status(batch_format: str, server: Server) -> None:
    columns = {"image": [cell.image for cell in CELLS], "name": [cell.name for cell in CELLS]}
    schema = pa.schema([("image", pa.binary()), ("name", pa.string())])
    scored = ray.data.from_arrow(pa.table(columns, schema)).map_batches(
        DetectorScorer,
        fn_constructor_kwargs={"image": "image", "url": server.url},
        batch_format=batch_format,
        batch_size=7,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    table = pa.concat_tables(ray.get(scored.to_arrow_refs()))
    assert table.schema.names == ["name", *VERDICT_SCHEMA.names]
    assert [table.schema.field(field.name) for field in VERDICT_SCHEMA] == list(VERDICT_SCHEMA)
    assert [(row["name"], row["status"]) for row in table.to_pylist()] == [(cell.name, cell.status) for cell in CELLS]
    assert table.column("score").null_count == table.filter(pa.compute.field("status") != "ok").num_rows


@pytest.mark.server
@pytest.mark.usefixtures("cluster")
def test_paths_and_face_boxes_in_tasks(server: Server, tmp_path: Path) -> None:
    statuses = write_files(tmp_path)
    photo = str(tmp_path / IMAGES[0].name)
    boxes = {photo: [30.0, 40.0, 200.0, 220.0]}
    dataset = ray.data.from_items([{"path": path, "box": boxes.get(path, [float("nan")] * 4)} for path in statuses])
    scorer = DetectorScorer(image="path", face_box="box", url=server.url)
    rows = {row["path"]: row for row in dataset.map_batches(scorer, batch_format="pyarrow").take_all()}
    assert {path: row["status"] for path, row in rows.items()} == statuses
    assert [rows[photo][f"face_{corner}"] for corner in ("x1", "y1", "x2", "y2")] == boxes[photo]
    assert {path for path, row in rows.items() if row["face_source"] == "supplied"} == {photo}
    assert "No such file" in rows[str(tmp_path / "gone.png")]["error"]


@pytest.mark.usefixtures("cluster")
def test_a_server_that_is_down_fails_the_job_with_a_clear_error() -> None:
    url = f"localhost:{free_ports(1)[0]}"
    dataset = ray.data.from_items([{"bytes": b"0.3"}])
    arguments = {"url": url, "retries": 0}
    scored = dataset.map_batches(
        DetectorScorer, fn_constructor_kwargs=arguments, compute=ray.data.ActorPoolStrategy(size=1)
    )
    with pytest.raises(ray.exceptions.RayTaskError, match=f"ServerUnavailableError: no server answers at {url}"):
        scored.take_all()


# the scorer by itself


@settings(max_examples=30, deadline=None)
@given(
    cells=st.lists(st.sampled_from([b"0.3", b"0.8", b"status:too_many_pixels", b"", None]), min_size=1),
    batch_format=st.sampled_from(["pyarrow", "numpy"]),
)
def test_rows_stay_in_order(cells: list[bytes | None], batch_format: str, fake: FakeTriton) -> None:
    batch = {"bytes": np.array(cells, object), "row": np.arange(len(cells))}
    sent = sum(fake.batches)
    scored = DetectorScorer(url=fake.url, batch_size=3)(pa.table(batch) if batch_format == "pyarrow" else batch)
    assert sum(fake.batches) - sent == len(cells)
    rows = scored.to_pylist()
    assert [row["row"] for row in rows] == list(range(len(cells)))
    expected = {b"0.3": "real", b"0.8": "fake", b"": "uncertain", None: "uncertain", b"status:too_many_pixels": None}
    assert [row["verdict"] for row in rows] == [expected[cell] for cell in cells]


def test_a_scorer_can_be_pickled_after_use(fake: FakeTriton) -> None:
    scorer = DetectorScorer(url=fake.url, image="image", max_in_flight=2)
    batch = pa.table({"image": [b"0.3"]})
    assert scorer(batch) == pickle.loads(pickle.dumps(scorer))(batch)


def test_a_batch_of_nothing_but_images(fake: FakeTriton) -> None:
    scorer = DetectorScorer(url=fake.url)
    images = np.array([b"0.3", b"0.8"], object)
    assert scorer({"bytes": images}) == scorer(pa.table({"bytes": images}))


@pytest.mark.parametrize(
    ("arguments", "batch", "error", "message"),
    [
        ({}, {"content": [b""]}, ValueError, "no column 'bytes' among content; say which it is with image="),
        ({"face_box": "box"}, {"bytes": [b""]}, ValueError, "no column 'box' among bytes; .* face_box="),
        ({}, {"bytes": [b""], "score": [1]}, ValueError, "named like those of verdicts: score; rename or drop"),
        ({}, {"bytes": [7]}, TypeError, "an image is bytes or a path; got int"),
    ],
)
def test_wrong_columns_are_told(
    arguments: dict[str, Any], batch: dict[str, Any], error: type[Exception], message: str, fake: FakeTriton
) -> None:
    with pytest.raises(error, match=message):
        DetectorScorer(url=fake.url, **arguments)(pa.table(batch))


def test_another_batch_format_is_told(fake: FakeTriton) -> None:
    with pytest.raises(TypeError, match='batch_format="pyarrow"'):
        DetectorScorer(url=fake.url)(pytest.importorskip("pandas").DataFrame({"bytes": [b"0.3"]}))


def test_wrong_options_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        DetectorScorer(url="gpu-box")
    with pytest.raises(TypeError, match="batchsize"):
        DetectorScorer(batchsize=8)


def test_the_error_of_a_server_that_is_down_passes_between_processes() -> None:
    with pytest.raises(ServerUnavailableError) as caught:
        DetectorScorer(url=f"localhost:{free_ports(1)[0]}", retries=0)(pa.table({"bytes": [b"0.3"]}))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
