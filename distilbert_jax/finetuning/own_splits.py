"""Splits of a task that come from tables: what is held out, and rows in files of the temporary directory."""

import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilbert_jax.base.progress import progress
from distilbert_jax.finetuning.files import Table
from distilbert_jax.finetuning.own_rows import SEVERAL, Reader, group_of

TRAIN, DEV = "train", "validation"
_AT_ONCE = 1000  # rows of a record batch


def is_held_out(text: str) -> bool:
    """Whether a row is of the tenth of train that is held out where no dev is named: by another part of the same hash as the split
    on which settings are chosen, so that this one is a tenth of what is left."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[8:16]) % 10 == 0


class OwnSplits:
    """The splits of a task that come from tables. They are converted once, when the first of them is asked for, into files of the
    temporary directory that are read as they are used and end with the process: neither has to fit into memory.

    Args:
        reader: of rows.
        train: rows to learn from, and, where `dev` is None, a tenth to score.
        dev: rows to score.
    """

    def __init__(self, reader: Reader, train: Table, dev: Table | None):
        self.reader, self.train, self.dev = reader, train, dev
        self._loaded: dict[str, Any] = {}

    def fingerprint(self, split: str) -> str:
        """SHA-256 of what a split comes from, and of which part it is."""
        table = self.train if split == TRAIN or self.dev is None else self.dev
        part = "" if self.dev else f" {split} by hash"
        return hashlib.sha256(f"{self.digests[table.name]}{part}".encode()).hexdigest()

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        tables = [self.train, *([self.dev] if self.dev else [])]
        return {table.name: table.digest(self.reader.columns) for table in tables}

    def load(self, split: str) -> Any:
        """A split as a `datasets.Dataset`, see `Reader.rows`.

        Raises:
            InputError: a row is wrong, or the source is not what it was.
        """
        if split not in self._loaded:
            if self.dev is None:
                self._loaded |= self._written(self.train, apart=True)
            else:
                self._loaded[split] = self._written(self.train if split == TRAIN else self.dev)[TRAIN]
        return self._loaded[split]

    def _written(self, table: Table, *, apart: bool = False) -> dict[str, Any]:
        files = {name: _ArrowFile(_schema(self.reader)) for name in ((TRAIN, DEV) if apart else (TRAIN,))}
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


def _schema(reader: Reader) -> Any:
    import pyarrow as pa

    roles, labels = reader.roles, reader.labels
    inputs = {name: pa.list_(pa.string()) if name == roles.tokens else pa.string() for name in roles.inputs}
    if not reader.labelled:
        return pa.schema(inputs)
    if roles.answers:
        learned = {roles.answers: pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int64())})}
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
