"""Tables of labelled rows: files (CSV, TSV, JSON lines, JSON, parquet, CoNLL columns, SQuAD's JSON), data sets of the `datasets`
library, and tables of Python. They are read as streams: memory does not grow with a file.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distilbert_jax.base.files import fingerprint_of, open_file
from distilbert_jax.errors import InputError, counted, few, nearest
from distilbert_jax.text.columns import (
    READERS,
    USUAL,
    Layout,
    Rows,
    absent_column,
    check_names,
    column_names,
    has_columns,
    no_text,
    parquet_batches,
    parquet_schema,
)

CONLL = (".conll", ".iob", ".iob2", ".bio", ".txt")  # files of a token a line
_LAID_OUT = (".csv", ".tsv", ".tab", *CONLL)  # files that a `Layout` may say more of
TOKENS, TAGS = "tokens", "tags"  # what the first and the last column of such a file are called
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BATCH = 1000  # rows that are taken from a table of Python at once


@dataclasses.dataclass(frozen=True)
class ArrowRows:
    """The rows of a table in Arrow, which says of what types they are: what Python has for some of these holds less, such as a time
    in whole microseconds.

    Attributes:
        schema: the `pyarrow.Schema` of all columns.
        batches: of rows, `pyarrow.RecordBatch`es or `pyarrow.Table`s, each time from the first on.
    """

    schema: Any
    batches: Callable[[], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under the names of columns.

    Attributes:
        name: what errors call it: the file, or the kind of object.
        columns: their names.
        read: the rows, with these columns at least, each time from the first on, with the line or row that errors name.
        digest: SHA-256 of the content of these columns (of a file: of all of it, and of how it is laid out).
        classes: {column: names of its ids}, where the source says them (`ClassLabel`).
        size: rows, where they are known without reading all.
        arrow: the same rows in Arrow, of a source that has its types from there; None: Python's values are all there is.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Rows]
    digest: Callable[[Sequence[str]], str]
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    size: int | None = None
    arrow: Callable[[], ArrowRows] | None = None

    def named(self, column: str, value: Any) -> Any:
        """A value of a column, an id by the name of its class where this source names its ids; of a list each element."""
        if isinstance(value, list):
            return [self.named(column, one) for one in value]
        names = self.classes.get(column, ())
        is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)
        return names[value] if is_id else value

    def require(self, columns: Sequence[str], option: str) -> None:
        """Raise InputError where a column is not there, with those that are, the nearest first; `option` names them."""
        if any(column not in self.columns for column in columns):
            raise absent_column(self.name, columns, self.columns, option=option)

    def rows(self, columns: Sequence[str] | None = None) -> Rows:
        """Rows with these columns, None: all, as a stream.

        Raises:
            InputError: a column is not there, a row lacks one, there are no rows, or the source is damaged.
        """
        wanted = self.columns if columns is None else tuple(columns)
        self.require(wanted, "--column")
        number = 0
        for number, row in self.read(wanted):
            if absent := next((name for name in wanted if name not in row), None):
                raise absent_column(self.name, [absent], tuple(row), row=number)
            yield number, row
        if not number:
            raise InputError(f"{self.name}: has no rows", path=self.name)


def open_table(
    source: Any, *, layout: Layout = USUAL, what: str = "data", split: str | None = None, option: str = "--data"
) -> Table:
    """The table of a file, a data set or an object.

    Args:
        source: a file by its suffix (.csv, .tsv, .jsonl, .json, .parquet; CoNLL columns: .conll, .iob, .iob2, .bio, .txt), a
            folder that `datasets` saved or an id of its hub (`ID`, `ID:SPLIT`, `ID:CONFIG:SPLIT`), a `datasets.Dataset`, a table
            of pandas, pyarrow or polars, a list of dicts, or a dict of columns.
        what: what errors call an object.
        split: of a source that has several and names none; None: it has to name one.
        option: that gave it, for errors.

    Raises:
        InputError: there is no such thing, it is empty, or not what it seems.
    """
    if isinstance(source, str | Path):
        table = _named_source(str(source), layout, split, option)
    else:
        table = _object(source, what)
    check_names(table.name, table.columns)
    if not table.columns:
        raise InputError(f"{table.name}: is empty; expected rows under the names of columns", path=table.name)
    return table


def _named_source(name: str, layout: Layout, split: str | None, option: str) -> Table:
    path = Path(name)
    if path.is_dir():
        return _saved(path, split, option)
    suffix = path.suffix.lower()
    if not path.exists() and not has_columns(path) and suffix not in CONLL:
        folder, _, part = name.partition(":")
        if Path(folder).is_dir():
            return _saved(Path(folder), part or split, option)
        if _HUB_ID.fullmatch(folder) and folder:
            return _on_hub(name, split, option)
    try:
        file = open_file(path, "a file of labelled rows")
    except InputError as error:
        close = nearest(path.name, [one.name for one in path.parent.glob("*")]) if path.parent.is_dir() else ""
        hint = close if close.startswith("did you mean") else None
        said = f"; {hint}" if hint else ""
        raise InputError(f"{option} {error}{said}", path=path, field=option, hint=hint) from None
    with file:
        begin = file.read(1 << 12)
    if layout != USUAL and suffix not in _LAID_OUT:
        given = "--columns" if layout.names else "--delimiter"
        raise InputError(f"{given}: {path} says itself how its columns lie; leave it out", path=path, field=given)
    if has_columns(path):
        return _file(path, _of_glue(path, layout, begin))
    if suffix in CONLL:
        return _conll(path, layout)
    known = ", ".join((*READERS, *CONLL))
    hint = "unpack it first" if suffix in (".gz", ".xz", ".bz2", ".zst", ".zip") else f"expected one of {known}"
    if suffix in (".xlsx", ".xls", ".ods"):
        hint = "save the sheet as .csv"
    raise InputError(
        f"{option} {path}: a file of columns is told by its name; {hint}", path=path, field=option, hint=hint
    )


def _digest(path: Path, layout: Layout) -> Callable[[Sequence[str]], str]:
    return lambda columns: hashlib.sha256(
        f"{fingerprint_of(path)} {layout if layout != USUAL else ''}".encode()
    ).hexdigest()


def _file(path: Path, layout: Layout) -> Table:
    read = READERS[path.suffix.lower()]
    size, classes, arrow = None, {}, None
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        names = column_names(path)
        size, classes = parquet.read_metadata(path).num_rows, _classes_of_schema(parquet.read_schema(path).metadata)
        arrow = _of_parquet(path)
    else:
        names = column_names(path, layout)
        if not names and layout.names:
            names = layout.names
    if not names:
        raise InputError(f"{path}: is empty; expected rows under the names of columns", path=path)
    return Table(
        str(path), names, lambda columns: read(path, columns, layout), _digest(path, layout), classes, size, arrow
    )


def _of_parquet(path: Path) -> Callable[[], ArrowRows]:
    state = lambda: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino)
    opened = state()

    def batches() -> Iterator[Any]:
        if state() != opened:
            raise InputError(f"{path}: has been changed since it was read: give the command again", path=path)
        yield from parquet_batches(path)

    return lambda: ArrowRows(parquet_schema(path), batches)


_COLA = ("source", "label", "mark", "sentence")
_QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"


def _of_glue(path: Path, layout: Layout, begin: bytes) -> Layout:
    """How a .tsv of GLUE lies where it is not as others: CoLA's has no names of columns, QQP's three rows that are broken, which
    the hub's copy leaves out."""
    if path.suffix.lower() != ".tsv" or layout != USUAL:
        return layout
    first = begin.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode(errors="replace").rstrip("\r")
    fields = first.split("\t")
    if len(fields) == 4 and fields[1] in ("0", "1") and fields[2] in ("", "*"):
        return Layout(names=_COLA)
    return Layout(drop_uneven=True) if first == _QQP else layout


def _classes_of_schema(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Names of ids that `datasets` has left in the schema of a parquet file."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: tuple(names) for name, feature in features.items() if (names := _class_names(feature))}


def _class_names(feature: Any) -> list[str] | None:
    """Of a feature as JSON has it: its own, or of the elements of its list."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    return feature.get("names") if feature.get("_type") == "ClassLabel" else _class_names(feature.get("feature"))


def _conll(path: Path, layout: Layout) -> Table:
    read = functools.partial(_sentences, path, layout.names)
    first = next(iter(read()), None)
    if first is None:
        raise InputError(f"{path}: is empty; expected a token a line, its columns apart by blanks", path=path)
    return Table(str(path), tuple(first[1]), lambda columns: read(), _digest(path, layout))


def _sentences(path: Path, names: Sequence[str]) -> Rows:
    """The sentences of a file of a token a line (Tjong Kim Sang and De Meulder 2003): columns apart by blanks, an empty line
    between sentences; lines of -DOCSTART- are passed over. A row holds a list for each column, and is known by its first line."""
    sentence: list[list[str]] = []
    begins, width = 0, len(names)

    def row() -> tuple[int, dict[str, Any]]:
        return begins, {name: [fields[at] for fields in sentence] for at, name in enumerate(names)}

    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            fields = _decoded(line, number, path).split()
            if not fields or fields[0] == "-DOCSTART-":
                if sentence:
                    yield row()
                    sentence = []
                continue
            width = width or len(fields)
            if len(fields) != width:
                raise InputError(
                    f"{path}, line {number}: {counted(len(fields), 'column')} ({few(fields, ' ')}), and {width} in the lines "
                    "above; a line is a token and its columns, apart by blanks",
                    path=path,
                    row=number,
                )
            names = names or _conll_names(width)
            begins = begins if sentence else number
            sentence.append(fields)
    if sentence:
        yield row()


def _conll_names(width: int) -> tuple[str, ...]:
    return (TOKENS, *(f"column {place}" for place in range(2, width)), TAGS)[:width] if width > 1 else (TOKENS,)


def _decoded(line: bytes, number: int, path: Path) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        hint = f"iconv -f WINDOWS-1252 -t UTF-8 {path} > NEW{path.suffix}"
        raise InputError(
            f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x}); convert it first, as by {hint}",
            path=path,
            row=number,
            hint=hint,
        ) from None
    if "\0" in text:
        raise InputError(f"{path}, line {number}: has a null character, which text has not", path=path, row=number)
    return text


def _saved(folder: Path, split: str | None, option: str) -> Table:
    """A data set in a folder: as `datasets` saved it, or a parquet file a split."""
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        files = {path.stem: path for path in sorted(folder.glob("*")) if has_columns(path) and path.is_file()}
        if split in files:
            return _named_source(str(files[split]), USUAL, None, option)
        hint = f"name a file in it: {few([str(path) for path in files.values()], ', ')}" if files else "it holds none"
        raise InputError(
            f"{option} {folder}: is a directory; expected a file of labelled rows, or a data set that `datasets` saved; {hint}",
            path=folder,
            field=option,
            hint=hint,
        )
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many kinds
        raise InputError(f"{option} {folder}: damaged ({error})", path=folder, field=option) from None
    data, name = _split_of(loaded, str(folder), split, option)
    return _dataset(data, name)


def _on_hub(name: str, split: str | None, option: str) -> Table:
    import datasets

    identity, *parts = name.split(":")
    if len(parts) > 2:
        raise InputError(f"{option} {name}: expected ID, ID:SPLIT or ID:CONFIG:SPLIT of a data set", field=option)
    config, wanted = (parts[0] if len(parts) == 2 else None), (parts[-1] if parts else split)
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(identity, config)
    except Exception as error:  # of many kinds, all of them mean that the data is not to be had
        raise InputError(
            f"{option} {name}: no such file, nor a data set that is to be had from the hub "
            f"({type(error).__name__}: {error!s:.200})",
            path=name,
            field=option,
        ) from None
    data, called = _split_of(loaded, name, wanted, option)
    return _dataset(data, name if parts else called)


def _split_of(loaded: Any, name: str, split: str | None, option: str) -> tuple[Any, str]:
    """A split of what was loaded, and the name that tells it from the others."""
    if not isinstance(loaded, Mapping):
        return loaded, name
    if split is None and len(loaded) == 1:
        split = next(iter(loaded))
    if split not in loaded:
        known = ", ".join(f"{name.partition(':')[0]}:{one}" for one in loaded)
        said = "has several splits" if split is None else f"has no split {split!r}"
        raise InputError(f"{option} {name}: {said}; name one: {known}", path=name, field=option, hint=known)
    return loaded[split], f"{name}:{split}"


def _object(source: Any, what: str) -> Table:
    name = f"{what} ({type(source).__name__})"
    if isinstance(getattr(source, "column_names", None), dict):  # a DatasetDict
        hint = f"{what}[{next(iter(source), 'train')!r}]"
        raise InputError(f"{name}: has several splits; give one of them, such as {hint}", field=what, hint=hint)
    if table := _of_library(source, name):
        return table
    if isinstance(source, Mapping):
        _check_columns(source, name, what)
        sizes = {column: len(values) for column, values in source.items()}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{column} {size}" for column, size in sizes.items())
            raise InputError(f"{name}: its columns have not as many rows ({said})", field=what)
        of = lambda values: map(_of_pandas, values) if hasattr(values, "iloc") else values
        rows = lambda: [(dict(zip(source, row, strict=True)) for row in zip(*map(of, source.values()), strict=True))]
        return _in_memory(name, list(source), rows, next(iter(sizes.values()), 0))
    if isinstance(source, list | tuple):
        bad = next((place for place, row in enumerate(source, 1) if not isinstance(row, Mapping)), None)
        if bad is not None:
            raise InputError(
                f"{name}: row {bad} is a {type(source[bad - 1]).__name__}; expected dicts with the names of columns",
                field=what,
                row=bad,
            )
        return _in_memory(name, list(dict.fromkeys(itertools.chain(*source))), lambda: [source], len(source))
    raise InputError(
        f"{name}: expected a file, a datasets.Dataset, a DataFrame, a list of dicts or a dict of columns", field=what
    )


def _check_columns(columns: Mapping[Any, Any], name: str, what: str) -> None:
    """Raise InputError unless each of these columns is values in an order, and those of pandas go by one index."""
    index = None
    for column, values in columns.items():
        wrong = lambda said, column=column: InputError(f"{name}: column {column!r} {said}", path=name, field=what)
        ordered = hasattr(values, "__len__") and hasattr(values, "__getitem__")
        if not ordered or isinstance(values, str | bytes | bytearray | Mapping):
            raise wrong(f"is a {type(values).__name__}; expected a list of values, one a row")
        if (own := getattr(values, "index", None)) is not None and hasattr(own, "equals"):  # a Series of pandas
            index = own if index is None else index
            if not own.equals(index):
                raise wrong(
                    "has another index than the columns before it; make a DataFrame of them, which puts rows together"
                )


def _of_library(source: Any, name: str) -> Table | None:
    """Of a table of datasets, pyarrow, polars or pandas."""
    names = getattr(source, "column_names", None)
    if isinstance(names, list) and hasattr(source, "features"):
        return _dataset(source, name)
    if isinstance(names, list) and hasattr(source, "to_batches"):
        batches = lambda: (batch.to_pylist() for batch in source.to_batches(max_chunksize=_BATCH))
        return dataclasses.replace(_in_memory(name, names, batches, source.num_rows), arrow=lambda: _of_arrow(source))
    if hasattr(source, "iter_rows") and hasattr(source, "columns"):  # polars
        table = _in_memory(name, source.columns, lambda: [source.iter_rows(named=True)], len(source))
        return dataclasses.replace(table, arrow=lambda: _of_arrow(source.to_arrow()))
    if hasattr(source, "to_dict") and hasattr(source, "iloc") and hasattr(source, "columns"):  # pandas
        names = list(source.columns)
        cut = lambda: (source.iloc[i : i + _BATCH].to_dict("records") for i in range(0, len(source), _BATCH))
        plain = lambda: ([{key: _of_pandas(row[key]) for key in row} for row in rows] for rows in cut())
        return _in_memory(name, names, plain, len(source))
    return None


def _of_pandas(value: Any) -> Any:
    """A value of pandas, where NaN is what is missing, of a text as of a number."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _of_arrow(source: Any) -> ArrowRows:
    """Of a `pyarrow.Table`."""
    return ArrowRows(source.schema, lambda: source.to_batches(max_chunksize=_BATCH))


def _in_memory(name: str, names: Sequence[Any], batches: Callable[[], Iterable[Iterable[Any]]], size: int) -> Table:
    if bad := [column for column in names if not isinstance(column, str)]:
        raise InputError(f"{name}: a column is named {bad[0]!r}, which is no text: rename it", field=name)

    def read(columns: Sequence[str]) -> Rows:
        rows = (row for batch in batches() for row in batch)
        for number, row in enumerate(rows, 1):
            yield number, {column: _plain(row[column]) for column in columns if column in row}

    return Table(name, tuple(names), read, functools.partial(_content_digest, read), size=size)


def _plain(value: Any) -> Any:
    """A value as Python has it: of NumPy and pandas, whose missing values become None."""
    if isinstance(value, str | int | float | bool | type(None)):
        return value if type(value) in (str, int, float, bool, type(None)) else _base(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # an array, or a number of NumPy
        return _plain(value.tolist())
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _base(value: Any) -> Any:
    """Of a class that is derived from one of Python's, such as numpy.str_ and numpy.float64, the plain value."""
    return next(kind(value) for kind in (str, bool, int, float) if isinstance(value, kind))


def _dataset(data: Any, name: str) -> Table:
    """A `datasets.Dataset`, whose rows stay on the disk."""
    features = data.features.to_dict() if data.features else {}
    classes = {column: tuple(names) for column, value in features.items() if (names := _class_names(value))}

    def read(columns: Sequence[str]) -> Rows:
        number = 0
        for batch in data.select_columns(list(columns)).with_format("arrow").iter(_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row

    return Table(
        name,
        tuple(data.column_names),
        read,
        functools.partial(_content_digest, read),
        classes,
        data.num_rows,
        lambda: ArrowRows(data.features.arrow_schema, lambda: data.with_format("arrow").iter(_BATCH)),
    )


def _content_digest(read: Callable[[Sequence[str]], Rows], columns: Sequence[str]) -> str:
    total = hashlib.sha256(json.dumps(list(columns)).encode())
    for _, row in read(columns):
        total.update(json.dumps([row.get(column) for column in columns], default=str, skipkeys=True).encode())
    return total.hexdigest()


def check_texts(table: Table, number: int, row: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Raise InputError unless these columns of a row are there and hold texts."""
    for column in columns:
        if column not in row:
            raise absent_column(table.name, [column], tuple(row), row=number)
        if what := no_text(row[column]):
            raise InputError(f"{table.name}, row {number}: {column} {what}", path=table.name, field=column, row=number)
