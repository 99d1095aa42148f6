"""GLUE submission, the zip for the server: one file a task, `index<TAB>prediction`. A task without predictions gets no file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distilbert_jax.base.files import atomic_file, check_writable
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.predictions import read_logits
from distilbert_jax.finetuning.tasks import TASKS, Task, find_task
from distilbert_jax.glue.results import SweepRun, by_task

HEADER = "index\tprediction"


def check_path(path: str, tasks: Sequence[str]) -> None:
    """Raise InputError, before anything is trained, if no submission could be written there."""
    where = Path(path)
    if where.suffix != ".zip":
        raise InputError(f"--submit {path}: expected the name of a .zip file", field="--submit")
    check_writable(where, "--submit")
    if not any(find_task(name).submission for name in tasks):
        raise InputError(f"--submit: the GLUE server takes none of {', '.join(tasks)}", field="--submit")


def spelled(task: Task, logits: np.ndarray) -> list[str]:
    """Predictions as the server spells them: label names, label ids, or a number from 0 to 5. logits [n, labels]."""
    if task.spelling == "number":
        return [f"{value:.3f}" for value in np.clip(logits[:, 0], *_range(task)) + 0.0]  # no -0.000
    answers = logits.argmax(-1)
    return [task.labels[answer] if task.spelling == "names" else str(answer) for answer in answers]


def write_submission(runs: Sequence[SweepRun], path: str) -> dict[str, int]:
    """Write the zip from runs of `sweep.run_sweep`; of each task the run with the best dev score is taken.

    Returns:
        {file: seed of its run}, of the files in it.

    Raises:
        InputError: no run has predictions of a test split, some cannot be read, or what was written does not pass `check`.
    """
    files, seeds = {}, {}
    sound = by_task([run for run in runs if run.result.tested and not run.result.diverged])
    best = {name: max(of_task, key=lambda run: run.result.score) for name, of_task in sound.items()}
    for task in TASKS.values():
        run = best.get(task.trained_by or task.name)
        for name in task.submission.values():
            if run and name in run.result.tested:
                files[name] = _lines(task, read_logits(run.directory, name, task))
                seeds[name] = run.result.seed
    if not files:
        raise InputError(
            f"--submit {path}: no run has predictions of a test split; nothing is written", field="--submit"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # no date: same predictions, same bytes
    check(packed, path)
    with atomic_file(Path(path)) as out:
        out.write(packed.getvalue())
    return seeds


def _lines(task: Task, logits: np.ndarray) -> str:
    return "".join(f"{line}\n" for line in (HEADER, *(f"{i}\t{word}" for i, word in enumerate(spelled(task, logits)))))


def check(archive: Any, where: str) -> None:
    """Raise InputError unless every file of a submission has the server's name, header, rows and spelling.

    Args:
        archive: path or open file of the zip.
        where: its name in messages.
    """
    known = {name: (task, split) for task in TASKS.values() for split, name in task.submission.items()}
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name not in known:
                hint = ", ".join(known)
                raise InputError(
                    f"{where}: {name} is no file of a submission; expected {hint}", path=where, field=name, hint=hint
                )
            task, split = known[name]
            head, *lines = opened.read(name).decode().splitlines()
            if head != HEADER:
                raise InputError(
                    f"{where}: {name} begins with {head!r}, expected {HEADER!r}", path=where, field=name, hint=HEADER
                )
            if len(lines) != task.rows[split]:
                raise InputError(
                    f"{where}: {name} has {len(lines)} rows, the GLUE server takes {task.rows[split]}",
                    path=where,
                    field=name,
                )
            for i, line in enumerate(lines):
                index, _, word = line.partition("\t")
                if index != str(i) or not _spells(task, word):
                    raise InputError(
                        f"{where}: {name}, row {i}: {line!r} is not what the GLUE server takes",
                        path=where,
                        field=name,
                        row=i,
                    )


def _range(task: Task) -> tuple[float, float]:
    assert task.label_range is not None  # every regression has one
    return task.label_range


def _spells(task: Task, word: str) -> bool:
    if task.spelling == "number":
        low, high = _range(task)
        return word.replace(".", "", 1).isdigit() and low <= float(word) <= high
    return word in (task.labels if task.spelling == "names" else map(str, range(len(task.labels))))
