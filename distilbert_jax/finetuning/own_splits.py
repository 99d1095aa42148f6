"""Splits of a task that come from tables: what is held out, and rows in files of the temporary directory."""

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilbert_jax.base.progress import progress
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.files import Table
from distilbert_jax.finetuning.own_rows import ID, SEVERAL, Reader, group_of

TRAIN, DEV = "train", "validation"
_AT_ONCE = 1000  # rows of a record batch


def is_held_out(text: str) -> bool:
    """Whether a row is of the tenth of train that is held out where no dev is named: by another part of the same hash as the split
    on which settings are chosen, so that this one is a tenth of what is left."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[8:16]) % 10 == 0


@dataclasses.dataclass(frozen=True)
class Pinned:
    """A table and what it held before its rows were first read. Files are replaced and objects changed while a run is set up; what
    is said of a task has to be true of the rows that it learns from.

    Attributes:
        columns: that are read.
        digest: SHA-256 of their content then.
    """

    table: Table
    columns: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, table: Table, columns: Sequence[str]) -> "Pinned":
        """As the table is now."""
        return cls(table, tuple(columns), table.digest(columns))

    def check(self) -> None:
        """Raise InputError unless the table still holds the same."""
        if self.table.digest(self.columns) != self.digest:
            name = self.table.name
            raise InputError(
                f"{name}: was changed or replaced after its rows had been looked at; start again to read those that it has now",
                path=name,
            )


class OwnSplits:
    """The splits of a task that come from tables. They are converted once, when the first of them is asked for, into files of the
    temporary directory that are read as they are used and end with the process: neither has to fit into memory.

    Args:
        reader: of rows.
        train: rows to learn from, and, where `dev` is None, a tenth to score.
        dev: rows to score.
    """

    def __init__(self, reader: Reader, train: Pinned, dev: Pinned | None):
        self.reader, self.train, self.dev = reader, train.table, dev.table if dev else None
        self._train, self._dev = train, dev
        self._loaded: dict[str, Any] = {}

    def fingerprint(self, split: str) -> str:
        """SHA-256 of what a split comes from, and of which part it is."""
        part = "" if self._dev else f" {split} by hash"
        return hashlib.sha256(f"{self._of(split).digest}{part}".encode()).hexdigest()

    def _of(self, split: str) -> Pinned:
        return self._train if split == TRAIN or self._dev is None else self._dev

    def load(self, split: str) -> Any:
        """A split as a `datasets.Dataset`, see `Reader.rows`.

        Raises:
            InputError: a row is wrong, or the source is not what it was.
        """
        if split not in self._loaded:
            source = self._of(split)
            written = self._written(source.table, apart=self._dev is None)
            source.check()  # not before: what was read meanwhile is what counts
            self._loaded |= written if self._dev is None else {split: written[TRAIN]}
        return self._loaded[split]

    def _written(self, table: Table, *, apart: bool = False) -> dict[str, Any]:
        files = {name: _ArrowFile(_schema(self.reader, table)) for name in ((TRAIN, DEV) if apart else (TRAIN,))}
        try:
            with progress(f"reading {table.name}", table.size) as done:
                for read, (_, row) in enumerate(self.reader.rows(table), 1):
                    held_out = apart and is_held_out(group_of(self.reader.roles, row))
                    files[DEV if held_out else TRAIN].write(row)
                    done(read)
            return {name: file.dataset() for name, file in files.items()}
        finally:
            for file in files.values():
                file.path.unlink(missing_ok=True)


def _schema(reader: Reader, table: Table) -> Any:
    import pyarrow as pa

    roles, labels = reader.roles, reader.labels
    inputs = {name: pa.list_(pa.string()) if name == roles.tokens else pa.string() for name in roles.inputs}
    if not reader.labelled:
        return pa.schema(inputs)
    if roles.answers:
        learned = {roles.answers: pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int64())})}
        learned |= {ID: pa.string()} if ID in reader.columns(table) else {}
    elif roles.tags:
        learned = {roles.tags: pa.list_(pa.int64())}
    elif len(roles.label) > 1 or (labels and labels.kind == "multi_label"):
        learned = {SEVERAL: pa.list_(pa.float64())}
    else:
        learned = {roles.one_label: pa.float64() if labels and labels.kind == "regression" else pa.int64()}
    return pa.schema(inputs | learned)


class _ArrowFile:
    """Rows in a file of Arrow record batches, written as they come and then mapped into memory."""

    def __init__(self, schema: Any):
        import pyarrow as pa

        number, name = tempfile.mkstemp(suffix=".arrow")
        os.close(number)
        self.path, self._rows, self._schema = Path(name), [], schema
        self._file = pa.OSFile(name, "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def dataset(self) -> Any:
        """What was written, as a `datasets.Dataset`, which holds the file, also when that has no name any more."""
        import datasets
        import pyarrow as pa

        if self._rows:
            self._flush()
        self._writer.close()
        self._file.close()
        table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        return datasets.Dataset(table)
