"""Parquet, by pyarrow, which is installed only where it is wanted."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BATCH_ROWS = 10_000
"""Rows in memory at once."""


class ParquetError(ValueError):
    """pyarrow is not there, or a file is damaged or has no such column."""


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ParquetError("Parquet needs pyarrow; install it with: pip install 'deepfake-client[parquet]'") from None
    return pyarrow


def require_pyarrow() -> None:
    """Raises ParquetError with the command that installs pyarrow, where it is not there."""
    _pyarrow()


def column_names(path: str) -> list[str]:
    """The columns of text, bytes or numbers of a file, or of the first file of a folder.

    Raises:
        ParquetError: It cannot be read.
    """
    pa = _pyarrow()
    with _told(pa, path):
        schema = pa.parquet.read_schema(_files(path)[0])
        return [field.name for field in schema if _is_usable(pa, field.type)]


def read_columns(path: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """The values of some columns, a row at a time; of a folder, those of its files by name.

    Raises:
        ParquetError: It is damaged, or one of the files has no such column.
    """
    pa = _pyarrow()
    for file in _files(path):
        with _told(pa, file), pa.parquet.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if wrong := [name for name in columns if names.count(name) != 1]:
                raise ParquetError(f"{file} has no column {', '.join(wrong)}, or has it more than once")
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield from map(list, zip(*(batch.column(name).to_pylist() for name in columns), strict=True))


def write(path: Path, rows: Iterable[Sequence[dict[str, Any]]], columns: Sequence[str], text: set[str]) -> None:
    """Writes a file from batches of rows.

    Args:
        path: The file; an existing one is replaced.
        rows: Batches of rows; a name that is not in a row is null there.
        columns: The columns in order.
        text: Those that are text; the others are float64.
    """
    pa = _pyarrow()
    schema = pa.schema([(name, pa.string() if name in text else pa.float64()) for name in columns])
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for batch in rows:
            writer.write_batch(pa.RecordBatch.from_pylist(list(batch), schema=schema))


def copy_where(source: Path, target: Path, column: str, value: str) -> bool:
    """Copies the rows of a file whose `column` is `value`; whether it left any out."""
    pa = _pyarrow()
    kept = total = 0
    with pa.parquet.ParquetFile(source) as parquet, pa.parquet.ParquetWriter(target, parquet.schema_arrow) as writer:
        for batch in parquet.iter_batches(BATCH_ROWS):
            chosen = batch.filter(pa.compute.equal(batch.column(column), value))
            writer.write_batch(chosen)
            kept, total = kept + chosen.num_rows, total + batch.num_rows
    return kept < total


def _is_usable(pa: Any, kind: Any) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        test(value)
        for test in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_floating, pa.types.is_integer),
            *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_null),
            *(getattr(pa.types, name, pa.types.is_null) for name in ("is_string_view", "is_binary_view")),
        )
    )


def _files(path: str) -> list[Path]:
    files = [Path(path)]
    if files[0].is_dir():
        files = sorted(file for file in files[0].glob("*.parquet") if not file.name.startswith(("_", ".")))
    if not files:
        raise ParquetError(f"the folder {path} holds no .parquet files")
    for file in files:
        if file.exists() and not file.is_file():  # pyarrow would wait for what comes out of a pipe
            raise ParquetError(f"{file} is not a file; save the list as one")
    return files


@contextmanager
def _told(pa: Any, path: str | Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ParquetError(f"{path} is not readable as Parquet: {str(error).strip().splitlines()[0]}") from error
