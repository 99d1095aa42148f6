"""results.json of a fine-tuning run, checked when it is read: whatever stands in it goes into tables."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distilbert_jax.base.files import read_json
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.tasks import TASKS


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # a whole number may be beyond it
        and low <= value <= high
    )


def _is_count(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and _is_number(value, low)


def _are_scores(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(
            isinstance(metrics, dict)
            and "score" in metrics
            and all(_is_number(one, -101, 101) for one in metrics.values())
            for metrics in value.values()
        )
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "task": lambda value: isinstance(value, str) and value in TASKS,
    "model": lambda value: isinstance(value, str),
    "seed": _is_count,
    "score": _is_number,
    "scores": _are_scores,
    "train_rows": lambda value: _is_count(value, 1),
    "dev_rows": lambda value: isinstance(value, dict) and all(_is_count(rows, 1) for rows in value.values()),
    "cut_share": lambda value: _is_number(value, 0.0, 1.0),
    "train_seconds": lambda value: _is_number(value, 0.0),
    "together": lambda value: _is_count(value, 1),
    "diverged": lambda value: isinstance(value, str),
}


def read_result(file: Path) -> dict[str, Any]:
    """The results.json of one run of fine-tuning.

    Raises:
        InputError: it is damaged, or none of such a run.
    """
    result = read_json(file)
    if not isinstance(result, dict) or not _FIELDS.keys() <= result.keys():
        raise InputError(
            f"{file}: no result of distilbert-jax glue, or one of an earlier version; remove it, or name another directory",
            path=file,
        )
    wrong = next((name for name, fits in _FIELDS.items() if not fits(result[name])), "")
    if not wrong and (result["scores"].keys() != result["dev_rows"].keys()):
        wrong = "dev_rows"
    if not wrong and result["score"] != next(iter(result["scores"].values()))["score"]:
        wrong = "score"
    if not wrong and result["diverged"] and result["score"]:
        wrong = "diverged"
    if not wrong and not _is_number(result.get("flops", 0.0), 0.0):
        wrong = "flops"
    if wrong:
        raise InputError(
            f"{file}: damaged, its {wrong} cannot be; remove the run's directory and train it again", path=file
        )
    return result
