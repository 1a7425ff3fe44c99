"""Scores the images of a Spark DataFrame: `pip install './client[spark]'`.

score = predict_batch_udf(
    partial(make_predict_fn, url="gpu-box:8001", max_in_flight=2), return_type=VERDICT_TYPE, batch_size=64
)
images = spark.read.format("binaryFile").load("s3://bucket/images")
verdicts = images.select("path", score("content").alias("verdict")).select("path", "verdict.*")
verdicts.write.parquet("s3://bucket/verdicts")
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from pyspark.sql.types import DoubleType, StringType, StructField, StructType
except ImportError as error:
    raise ImportError(f"Spark is not installed ({error}): pip install './client[spark]'") from error

from .client import DetectorClient
from .column_scoring import score_columns
from .columns import COLUMNS

__all__ = ["VERDICT_TYPE", "make_predict_fn"]

VERDICT_TYPE = StructType(
    [StructField(name, StringType() if kind is str else DoubleType()) for name, kind in COLUMNS.items()]
)
"""The struct that scoring returns, the fields of `Verdict` made flat: `status`, `score` (0 to 1 in steps of 0.1),
`probability` (0 to 1), `verdict`; for each stream `global_texture_probability`, `global_texture_vote` and so on;
`face_x1`, `face_y1`, `face_x2`, `face_y2` (pixels of the decoded image), `face_confidence` (0 to 1), `face_source`;
`error`; `threshold` and `weights` that decided. Null where there is no value."""


def make_predict_fn(**client_options: Any) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """What `pyspark.ml.functions.predict_batch_udf` takes: bind the options with `functools.partial`.

    Spark calls it once in every Python worker, of which an executor has one for each of its cores: each has a client
    of its own.

    Args:
        client_options: Those of `DetectorClient`: url, timeout, max_in_flight, batch_size ...

    Returns:
        A function from one column of images, bytes of encoded files or paths that the executors can read, to the fields
        of `VERDICT_TYPE`. An image that could not be scored has a `status` that says why, like a null, which is an
        "empty_image". It raises TypeError where a cell is neither bytes nor a path and a DetectorError as
        `DetectorClient.score_many` does: no server answers, or it is not the detector.

    Raises:
        TypeError: There is no such option.
        ValueError: The value of an option is out of range.
    """
    client = DetectorClient(**client_options)

    def predict(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {name: np.array(values, np.object_) for name, values in score_columns(client, images).items()}

    return predict
