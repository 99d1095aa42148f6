"""Files of predicted rows, CSV, JSON lines or parquet: written row by row, and whole or not at all."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distilbert_jax.base.files import atomic_file, check_writable, finite_values
from distilbert_jax.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet")
_AT_ONCE = 1000  # rows of a group in parquet
Write = Callable[[Mapping[str, Any]], Any]


def check_out(path: str | Path, option: str, inputs: Sequence[str | Path] = ()) -> Path:
    """A path that predictions can be written to, asked before the work.

    Raises:
        InputError: its name says no format, it cannot be written, or it is one of the files that are read.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{option} {path}: expected a name that ends with {', '.join(SUFFIXES)}",
            path=path,
            field=option,
            hint=SUFFIXES[0],
        )
    for given in inputs:
        with contextlib.suppress(OSError):
            if path.exists() and Path(given).samefile(path):
                raise InputError(
                    f"{option} {path}: is the file that is read; choose another name", path=path, field=option
                )
    return check_writable(path, option)


def new_names(there: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Names of columns beside those that are there, which may come from another model's predictions: with a number where taken."""
    number = next(n for n in range(1, len(there) + 2) if not {_numbered(name, n) for name in wanted} & set(there))
    return [_numbered(name, number) for name in wanted]


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


@contextlib.contextmanager
def rows_to(path: Path) -> Iterator[Write]:
    """A function that takes one row after the other, {column: value}, the columns those of the first. The file takes its name when
    the `with` block ends without an error; one of the name from before stays until then. Nothing is held but a group of rows.
    """
    writers = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
    with atomic_file(path) as file, writers[path.suffix.lower()](file, path) as write:
        yield write


@contextlib.contextmanager
def _csv(file: BinaryIO, path: Path) -> Iterator[Write]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    names: list[str] = []

    def write(row: Mapping[str, Any]) -> None:
        if not names:
            names.extend(row)
            writer.writerow(names)
        writer.writerow([_as_text(row.get(name)) for name in names])

    yield write
    text.detach()  # the file is not this one's to close


def _as_text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


@contextlib.contextmanager
def _json_lines(file: BinaryIO, path: Path) -> Iterator[Write]:
    yield lambda row: file.write(
        json.dumps(finite_values(row), ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n"
    )


@contextlib.contextmanager
def _parquet(file: BinaryIO, path: Path) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[Mapping[str, Any]] = []
    writers: list[Any] = []

    def flush() -> None:
        try:
            schema = writers[0].schema if writers else None
            table = pa.Table.from_pylist(rows, schema=schema) if schema else pa.Table.from_pylist(rows)
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"{path}: a column has values of several kinds, which parquet has not ({error}); write .jsonl",
                path=path,
                hint=".jsonl",
            ) from None
        if not writers:
            writers.append(parquet.ParquetWriter(file, table.schema))
        writers[0].write_table(table)
        rows.clear()

    def write(row: Mapping[str, Any]) -> None:
        rows.append(row)
        if len(rows) == _AT_ONCE:
            flush()

    yield write
    if rows:
        flush()
    if writers:
        writers[0].close()
