"""Rows of GLUE's tasks from local parquet or the hub, checked."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from distilbert_jax.base import files
from distilbert_jax.base.files import fingerprint_of, open_file
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.kinds.kind import check_columns
from distilbert_jax.finetuning.tasks import TASKS, Task

HUB = "nyu-mll/glue"


def load_split(task: Task, split: str, folder: str = "") -> Any:
    """A split as a `datasets.Dataset`: `<folder>/<task>/<split>.parquet`, or from the hub when no folder is given.

    A test split (one of `task.submission`) comes without its labels, whatever the file has in their place. Rows of dev and test
    that have an `idx` come in its order, whatever theirs is in the file.

    Raises:
        InputError: the file is missing, damaged or empty, a column is missing, a label is out of range, those of train cannot be
            learned, a test split has not the rows that the GLUE server counts, or an `idx` that does not number them.
    """
    if task.source:
        rows = task.source.load(split)
        check(rows, task, task.title)
        _check_learned(rows, task, split, task.title)
        return rows
    import datasets  # imports pandas and pyarrow: seconds that commands without GLUE need not spend

    datasets.disable_progress_bars()
    if folder:
        where = _file(task, split, folder)
        import pyarrow
        from pyarrow import parquet

        try:
            with open_file(where) as file:  # of a name, pyarrow would take parts ("a=b/") for columns
                table = parquet.read_table(file)
            table.validate(full=True)  # a text that is not UTF-8 would be found out row by row
            rows = datasets.Dataset(table)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{where}: damaged or not parquet ({error})", path=where) from None
    else:
        where = hub_name(task, split)
        if task.name.startswith("demo-"):
            raise InputError(
                f"task {task.name!r} is generated: name its folder with --data (distilbert-jax demo --only data)"
            )
        if file := TASKS.file(task.name):
            raise InputError(
                f"task {task.name!r} is of {file}: name the folder that holds {task.name}/{split}.parquet with --data",
                field="data",
                hint="--data",
            )
        client = logging.getLogger("huggingface_hub")
        level = client.level
        client.setLevel(logging.CRITICAL)  # what it says between its attempts is summed up below
        try:
            rows = datasets.load_dataset(HUB, task.name, split=split)
        except Exception as error:  # of many kinds, all of them mean that the data is not to be had
            raise InputError(
                f"{where}: not to be had from the hub ({error}); name a local folder with --data", path=where
            ) from None
        finally:
            client.setLevel(level)
    if split in task.submission:
        rows = rows.remove_columns([name for name in task.target if name in rows.column_names])
    _check_rows(len(rows), task, split, str(where))
    check(rows, task, str(where), labelled=split not in task.submission)
    _check_learned(rows, task, split, str(where))
    if split == "train" or "idx" not in rows.column_names:
        return rows
    order = _order(rows["idx"], str(where), numbered=split in task.submission)
    return rows if order is None else rows.select(order)


def _check_learned(rows: Any, task: Task, split: str, where: str) -> None:
    if split == "train":
        kind_of(task).check_learned(rows, task, where)


def _order(given: Iterable[Any], where: str, *, numbered: bool) -> np.ndarray | None:
    """The rows by their `idx`, int64 [n]; None where they stand in that order.

    Args:
        numbered: each of 0 … n−1 has to be there once, which the GLUE server knows them by. Else what does not tell rows apart
            tells nothing of their order.
    """
    idx = list(given)
    whole = all(type(value) is int for value in idx)
    if numbered and (not whole or set(idx) != set(range(len(idx)))):
        seen: set[Any] = set()
        for row, value in enumerate(idx):
            if type(value) is not int or not 0 <= value < len(idx) or value in seen:
                raise InputError(
                    f"{where}: row {row}: idx is {value!r}, expected each of 0 to {len(idx) - 1} once: an answer goes by it",
                    path=where,
                    field="idx",
                    row=row,
                )
            seen.add(value)
    if not whole or len(set(idx)) < len(idx):
        return None
    order = np.argsort(np.array(idx, np.int64), kind="stable")
    return None if bool(np.all(order == np.arange(len(order)))) else order


def _check_rows(rows: int, task: Task, split: str, where: str) -> None:
    if not rows:
        raise InputError(f"{where}: has no rows", path=where)
    if split in task.submission and rows != task.rows[split]:
        raise InputError(
            f"{where}: has {rows} rows, the GLUE server takes {task.rows[split]} of {task.title}", path=where
        )


def has_split(task: Task, split: str, folder: str) -> bool:
    """Whether a local folder has the file of a split. The hub, asked for when no folder is given, has them all."""
    if task.source:
        return split in ("train", *task.dev)
    return not folder or (Path(folder) / task.name / f"{split}.parquet").is_file()


def fingerprint(task: Task, split: str, folder: str) -> str:
    """SHA-256 of a local split's file or, of a split on the hub, of what is read of it.

    Raises:
        InputError: there is no such file, or it is not to be had from the hub.
    """
    if task.source:
        return task.source.fingerprint(split)
    return fingerprint_of(_file(task, split, folder)) if folder else _fingerprint_on_hub(task.name, split)


def hub_name(task: Task, split: str) -> str:
    """What a split on the hub is called."""
    return f"{HUB} {task.name} {split}"


@functools.cache  # a process reads one version
def _fingerprint_on_hub(name: str, split: str) -> str:
    task, sum_ = TASKS[name], hashlib.sha256()
    rows = load_split(task, split)
    for column in (*task.columns, *(column for column in (*task.target, "idx") if column in rows.column_names)):
        sum_.update(json.dumps([column, *rows[column]]).encode())
    return sum_.hexdigest()


def fingerprint_of_test(task: Task, split: str, folder: str) -> str:
    """`fingerprint` of a test split, which says also whether its rows were put in the order of their `idx`."""
    of_file = fingerprint(task, split, folder)
    in_order = not folder or _idx_order(_file(task, split, folder), numbered=True) is None
    return of_file if in_order else f"{of_file} by idx"


def _idx_order(where: Path, *, numbered: bool) -> np.ndarray | None:
    """`_order` of a local file; None where it has no `idx`."""
    from pyarrow import parquet

    if "idx" not in parquet.read_schema(where).names:
        return None
    return _order(parquet.read_table(where, columns=["idx"])["idx"].to_pylist(), str(where), numbered=numbered)


def test_splits(task: Task, folder: str) -> list[tuple[Task, str, str]]:
    """(task, split, file of a submission) of the test splits that a model of `task` predicts, as far as they are there."""
    by_it = [of for of in TASKS.values() if of is task or of.trained_by == task.name]
    there = [(of, split, file) for of in by_it for split, file in of.submission.items()]
    for of, split, _ in there:
        if not has_split(of, split, folder):
            warn_once(f"{folder}: has no {of.name}/{split}.parquet: not predicted")
    return [(of, split, file) for of, split, file in there if has_split(of, split, folder)]


def number_of_rows(task: Task, split: str, folder: str) -> int | None:
    """As the end of a local file says; None of what lies elsewhere."""
    if not folder or task.source:
        return None
    from pyarrow import parquet

    return parquet.read_metadata(_file(task, split, folder)).num_rows


def check_file(task: Task, split: str, folder: str) -> None:
    """Raise InputError, before anything is trained, unless a local split can be read and has rows, columns, and those rows that the
    GLUE server counts, by their `idx`; `load_split` looks at every row. The hub is not asked."""
    if not folder or task.source:
        return
    from pyarrow import ArrowException, parquet

    where = _file(task, split, folder)
    try:
        metadata, schema = parquet.read_metadata(where), parquet.read_schema(where)
        if split in task.submission:
            _idx_order(where, numbered=True)
    except InputError:
        raise
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"{where}: damaged or not parquet ({error})", path=where) from None
    wanted = kind_of(task).columns(task, labelled=split not in task.submission)
    check_columns(schema.names, wanted, task, str(where))
    _check_rows(metadata.num_rows, task, split, str(where))


def _file(task: Task, split: str, folder: str) -> Path:
    expected = f"a folder with {task.name}/{split}.parquet"
    try:
        files.check_directory(folder, expected)
    except InputError as error:
        raise InputError(f"--data {error}", path=folder, field="--data") from None
    where = Path(folder) / task.name / f"{split}.parquet"
    if not where.exists():
        raise InputError(f"{where}: no such file; --data names {expected}", path=where)
    return files.check_file(where)


def in_selection_split(rows: Any, task: Task) -> np.ndarray:
    """bool [n]: which rows of a training split settings are chosen on, a tenth by the hash of a text.

    Rows that a kind groups, such as those of one premise (three of MNLI), are on the same side.
    """
    digests = (hashlib.sha256(text.encode()).digest() for text in kind_of(task).groups(rows, task))
    return np.array([int.from_bytes(digest[:8]) % 10 == 0 for digest in digests])


def check(rows: Any, task: Task, where: str, *, labelled: bool = True) -> None:
    """Raise InputError unless a split has its task's columns, and in each row what its kind reads and learns."""
    kind = kind_of(task)
    check_columns(rows.column_names, kind.columns(task, labelled=labelled), task, where)
    kind.check(rows, task, where, labelled=labelled)
