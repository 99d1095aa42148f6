"""Files of predicted rows, CSV, JSON lines or parquet: written row by row, and whole or not at all."""

import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distilbert_jax.base.files import atomic_file, check_writable, finite_values
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.files import ArrowRows, Table

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
    return check_writable(path, option, inputs=inputs)


def new_names(there: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Names of columns beside those that are there, which may come from another model's predictions: with a number where taken."""
    number = next(n for n in range(1, len(there) + 2) if not {_numbered(name, n) for name in wanted} & set(there))
    return [_numbered(name, number) for name in wanted]


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


@contextlib.contextmanager
def rows_to(path: Path, source: Table | None = None) -> Iterator[Write]:
    """A function that takes one row after the other, {column: value}, the columns those of the first. The file takes its name when
    the `with` block ends without an error; one of the name from before stays until then. Nothing is held but a group of rows.

    Args:
        source: whose rows these are, in their order, with columns beside its own. In parquet its columns keep their types and
            values, where it has them in Arrow.

    Raises:
        InputError: parquet has not the types of the source, said before the first row; or not the values of the rows.
    """
    arrow = source.arrow() if source and source.arrow and path.suffix.lower() == ".parquet" else None
    writers = {".csv": _csv, ".jsonl": _json_lines, ".parquet": functools.partial(_parquet, source=arrow)}
    if arrow:
        _check_types(arrow.schema, path)
    with atomic_file(path) as file, writers[path.suffix.lower()](file, path) as write:
        yield write


@contextlib.contextmanager
def _csv(file: BinaryIO, path: Path) -> Iterator[Write]:
    names: list[str] = []

    def line(values: Sequence[Any]) -> None:
        fields = [_quoted(_as_text(value)) for value in values]
        fields = fields if fields != [""] else ['""']  # a line of nothing would be no row
        file.write((",".join(fields) + "\n").encode())

    def write(row: Mapping[str, Any]) -> None:
        if not names:
            names.extend(row)
            line(names)
        line([row.get(name) for name in names])

    yield write


def _as_text(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _quoted(text: str) -> str:
    """A field as RFC 4180 has it. Python's writer leaves a carriage return bare, which its reader takes for the end of a row."""
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(sign in text for sign in ',"\r\n') else text


@contextlib.contextmanager
def _json_lines(file: BinaryIO, path: Path) -> Iterator[Write]:
    yield lambda row: file.write(
        json.dumps(finite_values(row), ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n"
    )


def _check_types(schema: Any, path: Path) -> None:
    """Raise InputError for a column of a type that parquet has not."""
    import pyarrow as pa
    from pyarrow import parquet

    for field in schema:
        try:
            parquet.ParquetWriter(io.BytesIO(), pa.schema([field])).close()
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: {field.name} is of the type {field.type}, which parquet has not ({error}); write .jsonl",
                path=path,
                field=field.name,
                hint=".jsonl",
            ) from None


@contextlib.contextmanager
def _parquet(file: BinaryIO, path: Path, source: ArrowRows | None = None) -> Iterator[Write]:
    """Groups of rows lie in a temporary file, each with the types that its own values have, until the types of all are known; of
    rows of a source in Arrow what they have beside its columns."""
    import pyarrow as pa
    from pyarrow import parquet

    given = pa.schema([]) if source is None else source.schema
    own = {*given.names}
    rows: list[Mapping[str, Any]] = []
    schemas: list[Any] = []
    counts: list[int] = []
    take = _taker(source, path)
    several = lambda error: InputError(
        f"{path}: a column has values of several kinds, which parquet has not ({error}); write .jsonl",
        path=path,
        hint=".jsonl",
    )

    with tempfile.TemporaryFile() as scratch:

        def flush() -> None:
            try:
                table = pa.Table.from_pylist(rows)
            except (pa.ArrowException, OverflowError) as error:
                raise several(error) from None
            schemas.append(table.schema)
            counts.append(len(rows))
            with pa.ipc.new_stream(scratch, table.schema) as stream:
                stream.write_table(table)
            rows.clear()

        def write(row: Mapping[str, Any]) -> None:
            rows.append({name: value for name, value in row.items() if name not in own})
            if len(rows) == _AT_ONCE:
                flush()

        yield write
        if rows:
            flush()
        if not schemas:
            return
        scratch.seek(0)
        try:
            made = pa.unify_schemas(schemas, promote_options="permissive")
            whole = pa.schema([*given, *made], metadata=given.metadata)
            with parquet.ParquetWriter(file, whole) as writer:
                for each, count in zip(schemas, counts, strict=True):
                    with pa.ipc.open_stream(scratch) as stream:
                        table = stream.read_all()
                    table = table if each == made else pa.Table.from_pylist(table.to_pylist(), made)
                    writer.write_table(pa.Table.from_arrays([*take(count), *table.columns], schema=whole))
        except (pa.ArrowException, OverflowError) as error:
            raise several(error) from None


def _taker(source: ArrowRows | None, path: Path) -> Callable[[int], Sequence[Any]]:
    """A function that takes so many rows of a source, the next ones each time, and gives their columns."""
    if source is None:
        return lambda count: ()
    import pyarrow as pa

    batches, schema = iter(source.batches()), source.schema
    rest = schema.empty_table()

    def take(count: int) -> Sequence[Any]:
        nonlocal rest
        parts = [rest]
        while sum(part.num_rows for part in parts) < count:
            batch = next(batches, None)
            if batch is None:
                raise InputError(
                    f"{path}: the rows that it is written from are fewer now: give the command again", path=path
                )
            part = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
            parts.append(part if part.schema.equals(schema) else part.cast(schema))
        whole = pa.concat_tables(parts)
        rest = whole.slice(count)
        return whole.slice(0, count).columns

    return take
