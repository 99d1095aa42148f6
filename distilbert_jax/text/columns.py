"""Columns of files that have columns: `.csv`, `.tsv` (or `.tab`), `.jsonl`, `.json` and `.parquet`, read row by row."""

import codecs
import contextlib
import csv
import difflib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilbert_jax.base.files import check_file, open_file, parse_json, read_bytes
from distilbert_jax.errors import InputError, counted, few, shortened, warn_once

_LARGEST_JSON = 256 << 20
_SAY_EACH = (".jsonl", ".ndjson", ".json")  # files of which each row says its columns
_LONGEST_FIELD = 16 << 20  # letters
Rows = Iterator[tuple[int, dict[str, Any]]]  # the line or row, as errors count them, and the values of its columns


@dataclass(frozen=True)
class Layout:
    """What the name of a file does not say of how its columns lie.

    Attributes:
        delimiter: of a .csv; "": a comma.
        names: of the columns, where the first line is a row already; empty: the first line names them.
        drop_uneven: leave out rows with another number of fields, and tell how many, in the place of an error.
    """

    delimiter: str = ""
    names: tuple[str, ...] = ()
    drop_uneven: bool = False


USUAL = Layout()


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
    for number, row in READERS[path.suffix.lower()](path, columns, USUAL):
        if not columns or any(name not in row for name in columns):
            raise absent_column(path, columns, tuple(row), row=number)
        for name in columns:
            if what := no_text(row[name]):
                raise InputError(f"{path}, row {number}: {name} {what}", path=path, field=name, row=number)
        yield row[columns[0]] if len(columns) == 1 else tuple(row[name] for name in columns)
    if not number:
        raise InputError(f"{path}: is empty; expected rows under the names of columns", path=path)


def no_text(value: object) -> str:
    """Why a value is none that can be read: "is blank" …; "" of a text."""
    if not isinstance(value, str):
        return f"is {value!r:.60}, expected a text"
    if not value.strip():
        return "is blank"
    return "has a null character, which text has not" if "\0" in value else ""


def absent_column(
    name: object, wanted: Sequence[str], there: Sequence[str], *, option: str = "--column", row: int | None = None
) -> InputError:
    """The error for columns that are not there: what there is, nearest first, and why it may be none of these.

    Args:
        name: of the file or table.
        wanted: the columns; empty: none was named.
        option: that names them.
        row: the row that lacks them, of a file in which each says for itself.
    """
    missing = [column for column in wanted if column not in there]
    alike = lambda column: difflib.SequenceMatcher(None, missing[0].lower(), column.lower()).ratio()
    nearest_first = sorted(there, key=alike, reverse=True) if missing else list(there)
    shown = few([shortened(column, 40) for column in nearest_first], ", ", 12) or "none"
    hint = f"{option} {shortened(nearest_first[0], 40) if nearest_first else 'NAME'}"
    field = missing[0] if missing and option != "--column" else option
    place = f"{name}, row {row}" if row and missing else str(name)
    said = f"no column {', '.join(missing)}; it has {shown}" if missing else f"has columns ({shown})"
    if advice := _misread(there):
        return InputError(f"{name}: {said}: {advice}", path=name, field=field, row=row, hint=advice)
    text = "" if missing else "; a file of one text a line is a .txt"
    return InputError(
        f"{place}: {said}: name the one that is meant, such as {hint}{text}",
        path=name,
        field=field,
        row=row,
        hint=hint,
    )


def _misread(names: Sequence[str]) -> str:
    """What to do about names of columns that are none: of another delimiter, or the values of a row."""
    if len(names) == 1:
        for sign, called in (("\t", "tabs"), (";", "semicolons"), ("|", "bars"), (",", "commas")):
            if sign in names[0]:
                mend = {"\t": "name it .tsv", ",": "name it .csv"}.get(
                    sign, f"write it with tabs (.tsv), or say --delimiter '{sign}' where the command has it"
                )
                return f"its first line is one column and has {called}: is it separated by {called}? {mend}"
    if any(_is_value(name) for name in names):
        said = "its first line looks like a row: write the names of the columns above it"
        return f"{said}, or give them by --columns where the command has it"
    return ""


def _is_value(name: str) -> bool:
    """Whether the name of a column looks like a value: a number, or a sentence."""
    try:
        float(name)
    except ValueError:
        return len(name) > 60 or len(name.split()) > 6
    return True


def column_names(path: Path, layout: Layout = USUAL) -> tuple[str, ...]:
    """The columns of a file, of a .jsonl or .json those of all of its rows; none of an empty file.

    Raises:
        InputError: it is not what its name says.
    """
    if path.suffix.lower() == ".parquet":
        return tuple(_parquet_names(path))
    rows = READERS[path.suffix.lower()](path, (), layout)
    if path.suffix.lower() in _SAY_EACH:
        return tuple(dict.fromkeys(itertools.chain.from_iterable(row for _, row in rows)))
    return tuple(next(rows, (0, {}))[1])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell what a reader raises with the name of the file."""
    try:
        yield
    except InputError:
        raise
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: damaged, or not what its name says ({error})", path=path) from None


_MARKS = {codecs.BOM_UTF16_LE: "UTF-16LE", codecs.BOM_UTF16_BE: "UTF-16BE"}


def _not_utf8(path: Path) -> InputError:
    """The error for a file of another encoding: its first byte that UTF-8 has not, and how to convert it."""
    before = 0
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                start = b"" if before else line[:2]
                encoding = _MARKS.get(start, "WINDOWS-1252")
                hint = f"iconv -f {encoding} -t UTF-8 {path} > NEW{path.suffix}"
                guess = "by its first bytes" if start in _MARKS else "if it was written on Windows"
                return InputError(
                    f"{path}, line {number}: not UTF-8 (byte {before + error.start:,} of the file is "
                    f"0x{line[error.start]:02x}); convert it first: {hint} ({guess})",
                    path=path,
                    row=number,
                    hint=hint,
                )
            before += len(line)
    return InputError(f"{path}: not UTF-8; convert it to UTF-8 first", path=path)


def _lines(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline=newline)


def _separated(usual: str, quoting: Any) -> Callable[[Path, Sequence[str], Layout], Rows]:
    def read(path: Path, columns: Sequence[str], layout: Layout) -> Rows:
        delimiter = layout.delimiter or usual
        csv.field_size_limit(
            max(csv.field_size_limit(), _LONGEST_FIELD)
        )  # whole documents are longer than Python's 131,072
        with _reading(path), _lines(path, newline="") as stream:
            rows = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
            names = layout.names or tuple(_named(_next(path, rows, 0) or []))
            check_names(path, names)
            last, dropped = rows.line_num, 0
            while (fields := _next(path, rows, last)) is not None:
                begins, last = last + 1, rows.line_num
                if not fields:  # a blank line, such as the last
                    continue
                given = tuple(fields)
                again = given == names or (bool(layout.names) and begins == 1 and _folded(given) == _folded(names))
                if again and len(names) > 1:
                    raise _names_again(path, begins, layout)
                if len(fields) != len(names):
                    if layout.drop_uneven:
                        dropped += 1
                        continue
                    raise _uneven(path, begins, last, len(fields), names, delimiter, quoting)
                yield begins, dict(zip(names, fields, strict=True))
        if dropped:
            warn_once(f"{path}: {counted(dropped, 'row')} of another number of fields left out")

    return read


def _next(path: Path, rows: Any, last: int) -> list[str] | None:
    """The fields of the next row, or None; `last` is the line in which the one before it ends."""
    try:
        return next(rows, None)
    except csv.Error as error:
        place = f"line {last + 1}"
        said = f"{error}"
        if "unexpected end" in said:
            what = f"a quote that opens in the row of {place} is never closed"
        elif "field larger" in said:
            what = f"a field in the row of {place} has more than {csv.field_size_limit():,} letters: is a quote never closed there?"
        elif "expected after" in said:
            what = (
                f"in the row that begins in {place} a closing quote is followed by more text: a quote is not closed, or one inside "
                'a text is not doubled ("")'
            )
        else:
            what = f"the row of {place} is damaged ({said})"
        raise InputError(f"{path}: {what}", path=path, row=last + 1) from None


def _named(header: Sequence[str]) -> list[str]:
    """Names of columns; one without a name, such as the index that pandas writes, goes by its place."""
    return [name.strip() or f"column {place}" for place, name in enumerate(header, 1)]


def _folded(names: Sequence[str]) -> list[str]:
    """Names without blanks at their ends, and without case."""
    return [name.strip().casefold() for name in names]


def check_names(path: object, names: Sequence[str]) -> None:
    """Raise InputError where two columns have one name, or the names are not text."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        advice = f": {_misread(names)}" if _misread(names) else ""
        raise InputError(f"{path}: two columns are named {twice!r}{advice}", path=path, field=twice, row=1)
    if any("\0" in name for name in names):
        hint = f"iconv -f UTF-16 -t UTF-8 {path} > NEW"
        raise InputError(
            f"{path}, line 1: has null characters, which text has not; UTF-16 is converted first: {hint}",
            path=path,
            row=1,
            hint=hint,
        )


def _names_again(path: Path, row: int, layout: Layout) -> InputError:
    """The error for a row that holds the names of the columns: labels would come to be called so."""
    hint = "leave --columns out" if layout.names and row == 1 else "remove that line"
    return InputError(f"{path}, line {row}: names the columns once more; {hint}", path=path, row=row, hint=hint)


def _uneven(
    path: Path, begins: int, ends: int, number: int, names: Sequence[str], delimiter: str, quoting: Any
) -> InputError:
    where = f"line {begins}" if ends == begins else f"lines {begins} to {ends}"
    hint = f": {advice}" if len(names) == 1 and (advice := _misread(names)) else ""
    if not hint and quoting != csv.QUOTE_NONE:
        hint = f'; a text that holds {delimiter!r} or a line end stands in quotes ("…")'
    return InputError(
        f"{path}, {where}: {counted(number, 'field')} under {counted(len(names), 'name')} of columns{hint}",
        path=path,
        row=begins,
    )


def _objects(path: Path, values: Iterator[tuple[int, Any]]) -> Rows:
    for number, value in values:
        if not isinstance(value, dict):
            raise InputError(
                f"{path}, row {number}: is {value!r:.60}, expected an object with the names of columns",
                path=path,
                row=number,
            )
        yield number, value


def _json_lines(path: Path, columns: Sequence[str], layout: Layout) -> Rows:
    def values() -> Iterator[tuple[int, Any]]:
        with _lines(path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, parse_json(line, dict, str(path), row=number)

    with _reading(path):
        yield from _objects(path, values())


def _json(path: Path, columns: Sequence[str], layout: Layout) -> Rows:
    with _reading(path):
        content = read_bytes(path, _LARGEST_JSON).removeprefix(codecs.BOM_UTF8)
        values = parse_json(content, object, str(path))
        if isinstance(values, dict) and isinstance(values.get("data"), list):
            yield from squad_rows(path, values)
            return
        if not isinstance(values, list):
            what = f"expected a list of rows, or what SQuAD's files hold, got {shortened(repr(values))}"
            raise InputError(f"{path}: {what}", path=path)
        yield from _objects(path, iter(enumerate(values, 1)))


def squad_rows(path: Path, content: Mapping[str, Any]) -> Rows:
    """The questions of a file as SQuAD (Rajpurkar et al. 2016, 2018) gives them, by the names of columns that the hub has: id,
    title, context, question, answers {text, answer_start}. Of a question without an answer both are empty; of one that comes
    without `answers`, as in a test set, the column is not there.

    Raises:
        InputError: it is not laid out so; the place in it is named.
    """

    def of(owner: Any, name: str, kind: type, place: str) -> Any:
        value = owner.get(name) if isinstance(owner, dict) else None
        if not isinstance(value, kind):
            raise InputError(
                f"{path}: {place} has no {name} that is {kind.__name__}, as a file of SQuAD has", path=path, field=name
            )
        return value

    number = 0
    for a, article in enumerate(of(content, "data", list, "the file")):
        for p, paragraph in enumerate(of(article, "paragraphs", list, f"data[{a}]")):
            place = f"data[{a}].paragraphs[{p}]"
            context = of(paragraph, "context", str, place)
            for q, asked in enumerate(of(paragraph, "qas", list, place)):
                number += 1
                where = f"{place}.qas[{q}]"
                question, name = of(asked, "question", str, where), str(asked.get("id", number))
                row = {"id": name, "title": article.get("title", ""), "context": context, "question": question}
                if "answers" in asked:
                    given = of(asked, "answers", list, where)
                    texts = [of(one, "text", str, where) for one in given]
                    starts = [of(one, "answer_start", int, where) for one in given]
                    none = asked.get("is_impossible") is not None and of(asked, "is_impossible", bool, where)
                    row["answers"] = {"text": [] if none else texts, "answer_start": [] if none else starts}
                yield number, row


def _parquet_names(path: Path) -> list[str]:
    """The columns of a parquet file.

    Raises:
        InputError: it is damaged, or two have one name.
    """
    with _parquet_file(path) as file:
        return file.schema_arrow.names


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    import pyarrow  # seconds that other files need not spend
    from pyarrow import parquet

    with _reading(path):
        try:
            with parquet.ParquetFile(check_file(path)) as file:
                check_names(path, file.schema_arrow.names)
                yield file
        except (pyarrow.ArrowException, OSError, OverflowError, LookupError) as error:
            raise InputError(f"{path}: damaged or not parquet ({error})", path=path) from None


def parquet_schema(path: Path) -> Any:
    """The `pyarrow.Schema` of a parquet file; InputError as for its columns."""
    with _parquet_file(path) as file:
        return file.schema_arrow


def parquet_batches(path: Path) -> Iterator[Any]:
    """The rows of a parquet file as `pyarrow.RecordBatch`es of all of its columns; InputError where it is damaged."""
    with _parquet_file(path) as file:
        yield from file.iter_batches()


def _parquet(path: Path, columns: Sequence[str], layout: Layout) -> Rows:
    number = 0
    with _parquet_file(path) as file:
        names = file.schema_arrow.names
        if file.metadata.num_rows and not (columns and set(columns) <= set(names)):
            yield 1, dict.fromkeys(names)  # enough to say what there is
            return
        # What the other columns hold, such as dates beyond those of Python, is no matter.
        for batch in file.iter_batches(columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield number, row


READERS: dict[str, Callable[[Path, Sequence[str], Layout], Rows]] = {
    ".csv": _separated(",", csv.QUOTE_MINIMAL),
    ".tsv": _separated("\t", csv.QUOTE_NONE),
    ".tab": _separated("\t", csv.QUOTE_NONE),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
