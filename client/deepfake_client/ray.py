"""Scores the images of a Ray Data dataset: `pip install './client[ray]'`.

images = ray.data.read_binary_files("s3://bucket/images", include_paths=True)
verdicts = images.map_batches(
    DetectorScorer,
    fn_constructor_kwargs={"url": "gpu-box:8001"},
    batch_format="pyarrow",
    batch_size=256,
    num_cpus=0.25,
    compute=ray.data.ActorPoolStrategy(size=2),
)
verdicts.write_parquet("s3://bucket/verdicts")
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import pyarrow as pa
    from ray.data.block import BlockAccessor
except ImportError as error:
    raise ImportError(f"Ray Data is not installed ({error}): pip install './client[ray]'") from error

from .client import DetectorClient
from .column_scoring import score_columns
from .columns import COLUMNS

__all__ = ["VERDICT_SCHEMA", "DetectorScorer"]

VERDICT_SCHEMA = pa.schema([(name, pa.string() if kind is str else pa.float64()) for name, kind in COLUMNS.items()])
"""What `DetectorScorer` adds, the fields of `Verdict` made flat: `status`, `score` (0 to 1 in steps of 0.1),
`probability` (0 to 1), `verdict`; for each stream `global_texture_probability`, `global_texture_vote` and so on;
`face_x1`, `face_y1`, `face_x2`, `face_y2` (pixels of the decoded image), `face_confidence` (0 to 1), `face_source`;
`error`; `threshold` and `weights` that decided. Null where there is no value."""


class DetectorScorer:
    """A callable class for `ray.data.Dataset.map_batches`: each worker makes one, and with it one client.

    Give the class itself, with its arguments as `fn_constructor_kwargs`, for a pool of actors; an instance, which can
    be pickled, for tasks. It mostly waits: with a whole CPU for each, a pool may leave none to read the images, and
    the job stands still.
    """

    def __init__(self, *, image: str = "bytes", face_box: str | None = None, **client_options: Any) -> None:
        """Makes a scorer; nothing is sent yet.

        Args:
            image: Name of the column with the images, as bytes of encoded files or as paths that the workers can read.
                "bytes" is what `ray.data.read_binary_files` calls it.
            face_box: Name of a column with the boxes of the faces where they are known: x1, y1, x2, y2 in pixels of the
                decoded image. A null, or four NaN, leaves that image to the server's detection.
            client_options: Those of `DetectorClient`: url, timeout, max_in_flight, batch_size ...

        Raises:
            TypeError: There is no such option.
            ValueError: The value of an option is out of range.
        """
        self._arguments = {"image": image, "face_box": face_box, **client_options}
        self._image, self._face_box = image, face_box
        self._client = DetectorClient(**client_options)

    def __reduce__(self) -> tuple[Any, ...]:  # a connection stays in its process
        return partial(DetectorScorer, **self._arguments), ()

    def __call__(self, batch: pa.Table | Mapping[str, NDArray[Any]]) -> pa.Table:
        """Scores one batch.

        Args:
            batch: As Ray Data gives it with `batch_format` "pyarrow" or "numpy".

        Returns:
            The columns of the batch, followed by those of `VERDICT_SCHEMA`; rows and their order stay. A column of
            image bytes is left out, as the verdicts would carry all images along. An image that could not be scored
            has a `status` that says why, like a null, which is an "empty_image".

        Raises:
            ValueError: The batch has no column of that name, or has a column with the name of a new one already.
            TypeError: The batch is of another format, or a cell is neither bytes nor a path.
            DetectorError: As `DetectorClient.score_many`: no server answers, or it is not the detector.
        """
        if not isinstance(batch, pa.Table | Mapping):
            raise TypeError(f'a batch is {type(batch).__name__}; give map_batches batch_format="pyarrow" or "numpy"')
        names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
        self._check(names)
        images = batch[self._image]
        boxes = None if self._face_box is None else _cells(batch[self._face_box])
        scored = score_columns(self._client, _cells(images), boxes)
        if _holds_bytes(images):
            names.remove(self._image)
        if isinstance(batch, pa.Table):
            kept = batch.select(names)
        else:
            kept = BlockAccessor.batch_to_arrow_block({name: batch[name] for name in names})
        columns = [pa.array(scored[field.name], field.type) for field in VERDICT_SCHEMA]
        return pa.table([*kept.columns, *columns], schema=pa.schema([*kept.schema, *VERDICT_SCHEMA]))

    def _check(self, names: list[str]) -> None:
        for option, name in (("image", self._image), ("face_box", self._face_box)):
            if name is not None and name not in names:
                raise ValueError(f"no column {name!r} among {', '.join(names)}; say which it is with {option}=")
        if taken := [name for name in names if name in COLUMNS]:
            raise ValueError(f"columns named like those of verdicts: {', '.join(taken)}; rename or drop them first")


def _cells(column: pa.ChunkedArray | NDArray[Any]) -> Iterator[Any]:
    return iter(column) if isinstance(column, np.ndarray) else (cell.as_py() for cell in column)


def _holds_bytes(column: pa.ChunkedArray | NDArray[Any]) -> bool:
    if isinstance(column, np.ndarray):
        return any(isinstance(cell, bytes) for cell in column)
    return bool(pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type))
