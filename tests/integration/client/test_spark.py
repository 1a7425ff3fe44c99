"""Scoring a Spark DataFrame: on the real Spark, against the real server."""

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.adapters import CELLS, check_against_the_client, readme_example, run_example, write_files
from tests.conftest import Server, free_ports
from tests.fakes.triton import serving
from tests.golden import IMAGES

pytest.importorskip("pyspark", reason="needs pip install './client[spark]'")

from deepfake_client.spark import VERDICT_TYPE, make_predict_fn
from pyspark.errors import PythonException
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17 or later"),
]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        options = {
            "spark.ui.enabled": "false",
            "spark.driver.memory": "512m",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # starts faster
            "spark.log.level": "OFF",
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        }
        session = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
        yield session
        session.stop()


def score(images: DataFrame, batch_size: int = 7, **options: Any) -> list[dict[str, Any]]:
    """Scores the column `image`; the rows with the columns of the verdict beside the others."""
    udf = predict_batch_udf(partial(make_predict_fn, **options), return_type=VERDICT_TYPE, batch_size=batch_size)
    scored = images.withColumn("scored", udf("image")).drop("image").select("*", "scored.*").drop("scored")
    return [row.asDict() for row in scored.collect()]


@pytest.mark.server
def test_the_example_of_the_readme(server: Server, spark: SparkSession, tmp_path: Path) -> None:
    replacements = {
        "s3://bucket/images": str(IMAGES[0].parent),
        "s3://bucket/verdicts": str(tmp_path / "verdicts"),
        "gpu-box:8001": server.url,
    }
    exec(readme_example("predict_batch_udf", replacements), {})
    table = spark.read.parquet(str(tmp_path / "verdicts")).collect()
    rows = {Path(row.path).name: row.asDict() for row in table}
    assert rows.pop("boxes.json")["status"] == "unsupported_format"
    assert set(rows) == {path.name for path in IMAGES}
    check_against_the_client(rows, server.url)


@pytest.mark.server
@pytest.mark.usefixtures("spark")  # which the example then uses
def test_the_example(server: Server, tmp_path: Path) -> None:
    (row,) = run_example("spark_score.py", tmp_path, server.url)
    check_against_the_client({IMAGES[0].name: row}, server.url, IMAGES[:1])


@pytest.mark.server
def test_every_image_is_a_row_with_its_status(server: Server, spark: SparkSession) -> None:
    images = spark.createDataFrame([(cell.name, cell.image) for cell in CELLS], "name string, image binary")
    rows = {row["name"]: row for row in score(images, url=server.url)}
    assert {name: row["status"] for name, row in rows.items()} == {cell.name: cell.status for cell in CELLS}
    for row in rows.values():
        numbers = [row["score"], row["probability"], row["verdict"], row["global_texture_vote"]]
        assert [number is not None for number in numbers] == [row["status"] == "ok"] * 4
    check_against_the_client(rows, server.url)


@pytest.mark.server
def test_paths(server: Server, spark: SparkSession, tmp_path: Path) -> None:
    statuses = write_files(tmp_path)
    images = spark.createDataFrame([(path, path) for path in statuses] + [("null", None)], "path string, image string")
    rows = {row["path"]: row for row in score(images, url=server.url)}
    assert {path: row["status"] for path, row in rows.items()} == statuses | {"null": "empty_image"}
    assert "No such file" in rows[str(tmp_path / "gone.png")]["error"]


def test_every_image_is_sent_once(spark: SparkSession) -> None:
    with serving() as server:
        images = spark.createDataFrame([(f"{n % 10 / 10}", n) for n in range(100)], "image string, n int")
        rows = score(images.selectExpr("cast(image as binary) image", "n").repartition(4), url=server.url)
        assert {row["n"]: row["score"] for row in rows} == {n: n % 10 / 10 for n in range(100)}
        assert sum(server.batches) == 100


def test_a_server_that_is_down_fails_the_job_with_a_clear_error(spark: SparkSession) -> None:
    url = f"localhost:{free_ports(1)[0]}"
    images = spark.createDataFrame([(b"0.3",)], "image binary")
    with pytest.raises(PythonException, match=f"ServerUnavailableError: no server answers at {url}"):
        score(images, url=url, retries=0)


def test_wrong_options_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        make_predict_fn(url="gpu-box")
    with pytest.raises(TypeError, match="batchsize"):
        make_predict_fn(batchsize=8)


def test_a_column_of_something_else_is_told() -> None:
    with serving() as server, pytest.raises(TypeError, match="an image is bytes or a path; got int"):
        make_predict_fn(url=server.url)(np.array([7], object))
