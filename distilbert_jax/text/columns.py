"""Columns of text in files that have columns: `.csv`, `.tsv` (or `.tab`), `.jsonl`, `.json` and `.parquet`."""

import codecs
import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilbert_jax.base.files import check_file, open_file, parse_json, read_bytes
from distilbert_jax.errors import InputError

_LARGEST_JSON = 256 << 20
Rows = Iterator[tuple[int, dict[str, Any]]]  # the line or row, as errors count them, and the values of its columns


def has_columns(path: Path) -> bool:
    """Whether a file, by its name, is one of columns."""
    return path.suffix.lower() in READERS


def column_texts(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """The texts of a column, one after the other, or tuples of those of several columns.

    A .csv has quotes as RFC 4180 has them; of a .tsv a quote is a letter like any other. Their first line names the columns. A
    .jsonl has an object a line, a .json a list of objects.

    Raises:
        InputError: no column is named, or one that the file has not; the file is damaged, empty or not UTF-8; a row has another
            number of fields, or no text in a column, or a null character in one.
    """
    number = 0
    for number, row in READERS[path.suffix.lower()](path, columns):
        if not columns or (missing := [name for name in columns if name not in row]):
            names = ", ".join(row) or "none"
            hint = f"--column {next(iter(row), 'NAME')}"
            said = f"no column {', '.join(missing)}; it has {names}" if columns else f"has columns ({names})"
            raise InputError(
                f"{path}, row {number}: {said}: name the one with the texts, such as {hint}"
                if columns
                else f"{path}: {said}: name the one with the texts, such as {hint}; a file of one text a line is a .txt",
                path=path,
                field="--column",
                row=number,
                hint=hint,
            )
        for name in columns:
            text = row[name]
            if not isinstance(text, str) or not text.strip():
                what = "blank" if isinstance(text, str) else f"{text!r:.60}, expected a text"
                raise InputError(f"{path}, row {number}: {name} is {what}", path=path, field=name, row=number)
            if "\0" in text:
                what = "has a null character, which text has not"
                raise InputError(f"{path}, row {number}: {name} {what}", path=path, field=name, row=number)
        yield row[columns[0]] if len(columns) == 1 else tuple(row[name] for name in columns)
    if not number:
        raise InputError(f"{path}: is empty; expected rows under the names of columns", path=path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell what a reader raises with the name of the file."""
    try:
        yield
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); convert it to UTF-8 first", path=path) from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: damaged, or not what its name says ({error})", path=path) from None


def _lines(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline=newline)


def _separated(delimiter: str, quoting: Any) -> Callable[[Path, Sequence[str]], Rows]:
    def read(path: Path, columns: Sequence[str]) -> Rows:
        with _reading(path), _lines(path, newline="") as stream:
            rows = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
            names = next(rows, [])
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise InputError(f"{path}: two columns are named {twice!r}", path=path, field=twice, row=1)
            for fields in rows:
                if not fields:  # a blank line, such as the last
                    continue
                if len(fields) != len(names):
                    raise InputError(
                        f"{path}, line {rows.line_num}: {len(fields)} fields under {len(names)} names of columns",
                        path=path,
                        row=rows.line_num,
                    )
                yield rows.line_num, dict(zip(names, fields, strict=True))

    return read


def _objects(path: Path, values: Iterator[tuple[int, Any]]) -> Rows:
    for number, value in values:
        if not isinstance(value, dict):
            raise InputError(
                f"{path}, row {number}: is {value!r:.60}, expected an object with the names of columns",
                path=path,
                row=number,
            )
        yield number, value


def _json_lines(path: Path, columns: Sequence[str]) -> Rows:
    def values() -> Iterator[tuple[int, Any]]:
        with _lines(path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, parse_json(line, dict, str(path), row=number)

    with _reading(path):
        yield from _objects(path, values())


def _json(path: Path, columns: Sequence[str]) -> Rows:
    with _reading(path):
        content = read_bytes(path, _LARGEST_JSON).removeprefix(codecs.BOM_UTF8)
        values = parse_json(content, list, str(path))
        yield from _objects(path, iter(enumerate(values, 1)))


def _parquet(path: Path, columns: Sequence[str]) -> Rows:
    import pyarrow  # seconds that other files need not spend
    from pyarrow import parquet

    number = 0
    with _reading(path):
        try:
            with parquet.ParquetFile(check_file(path)) as file:
                names = file.schema_arrow.names
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise InputError(f"{path}: two columns are named {twice!r}", path=path, field=twice)
                if file.metadata.num_rows and not (columns and set(columns) <= set(names)):
                    yield 1, dict.fromkeys(names)  # enough to say what there is
                    return
                # What the other columns hold, such as dates beyond those of Python, is no matter.
                for batch in file.iter_batches(columns=list(columns)):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pyarrow.ArrowException, OSError, OverflowError, LookupError) as error:
            raise InputError(f"{path}: damaged or not parquet ({error})", path=path) from None


READERS: dict[str, Callable[[Path, Sequence[str]], Rows]] = {
    ".csv": _separated(",", csv.QUOTE_MINIMAL),
    ".tsv": _separated("\t", csv.QUOTE_NONE),
    ".tab": _separated("\t", csv.QUOTE_NONE),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
