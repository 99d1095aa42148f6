"""Predictions of fine-tuned models, predictions/ of a run: written and read again."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilbert_jax.base.files import read_array, write_array, write_json
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.kinds.sentences import majority
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.training.run_directory import check_output

_AGAIN = "remove the run's directory and train it again"


class Predictions(NamedTuple):
    """Of one run of a task of sentences on a split: logits float32 [n, labels] (None: it diverged, and scores 0), and the split's
    labels [n]."""

    logits: np.ndarray | None
    labels: np.ndarray


def _file(directory: Path, name: str) -> Path:
    return directory / "predictions" / f"{name}.npy"


def write_predictions(directory: Path, name: str, files: Mapping[str, np.ndarray | Mapping[str, Any]]) -> None:
    """Keep what a run predicts, in predictions/ of its directory.

    Args:
        name: a split; of a test split the file of a submission.
        files: `Kind.files`, by what a file's name has after `name`.
    """
    (directory / "predictions").mkdir(exist_ok=True)
    for ending, values in files.items():
        file = _file(directory, f"{name}{ending}")
        if isinstance(values, np.ndarray):
            write_array(file, values)
        else:
            write_json(file.with_suffix(".json"), dict(values))


def has_predictions(directory: Path, names: Iterable[str]) -> bool:
    """Whether a run has left logits under all of these names."""
    return all(_file(directory, name).is_file() for name in names)


def read_predictions(directory: Path, split: str, task: Task, *, diverged: bool = False) -> Predictions:
    """What a run left of a split that has labels. diverged: there are no logits.

    Raises:
        InputError: it is missing or damaged.
    """
    file = _file(directory, f"{split}-labels")
    labels, highest = _load(directory, file), max(len(task.labels) - 1, 0)
    if labels.ndim != 1 or not len(labels) or not np.isfinite(labels).all():
        raise _damaged(file, f"labels of the shape {labels.shape}, or not finite")
    if task.kind != "regression" and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > highest):
        raise _damaged(file, f"labels of {task.name} are whole numbers from 0 to {highest}")
    logits = None if diverged else read_logits(directory, split, task)
    if logits is not None and len(logits) != len(labels):
        raise _damaged(_file(directory, split), f"{len(logits)} rows, of labels {len(labels)}")
    return Predictions(logits, labels)


def majority_score(task: Task, directory: Path, split: str) -> float | None:
    """The score of always giving the most frequent answer, of a run that has ended; None where there is none: of several
    numbers, of tags and answers.

    Raises:
        InputError: as `read_predictions`.
    """
    if task.kind not in ("classification", "regression") or (task.kind == "regression" and len(task.outputs) > 1):
        return None
    return majority(task, read_predictions(directory, split, task, diverged=True).labels)["score"]


def read_logits(directory: Path, name: str, task: Task) -> np.ndarray:
    """Logits float32 [n, labels] that a run left of a split, or for a file of a submission.

    Raises:
        InputError: they are missing or damaged.
    """
    logits = _load(directory, _file(directory, name))
    if logits.ndim != 2 or logits.shape[1] != len(task.outputs) or not np.isfinite(logits).all():
        raise _damaged(_file(directory, name), f"logits of the shape {logits.shape}, or not finite")
    return logits


def _load(directory: Path, file: Path) -> np.ndarray:
    try:
        check_output(directory, file.relative_to(directory).as_posix())
        values = read_array(file)
    except InputError as error:
        raise InputError(f"{error}; {_AGAIN}", path=file, hint=_AGAIN) from None
    except OSError as error:
        raise _damaged(file, str(error)) from None
    if values.dtype.kind not in "fiu":
        raise _damaged(file, f"values of the type {values.dtype}")
    return values


def _damaged(file: Path, why: str) -> InputError:
    return InputError(f"{file}: predictions that cannot be ({why}); {_AGAIN}", path=file, hint=_AGAIN)
