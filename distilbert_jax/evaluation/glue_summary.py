"""What the runs of a GLUE grid come to: medians, spreads, failed seeds, and what has to be known of them."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distilbert_jax.data.files import read_json
from distilbert_jax.data.tasks import GLUE, REMARKS, find_task
from distilbert_jax.errors import InputError
from distilbert_jax.evaluation import bootstrap
from distilbert_jax.evaluation.glue import majority

_EPSILON = 1e-9


def medians(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """{task: median of the score over its runs}, of results of fine-tuning."""
    by_task: dict[str, list[float]] = {}
    for result in results:
        by_task.setdefault(result["task"], []).append(result["score"])
    return {name: statistics.median(scores) for name, scores in by_task.items()}


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per task, of the runs of `grid.run_grid`: `median`, `min` and `max` of the score over `seeds` runs, how many `failed`
    (diverged, answered the same to every row, or no better than the `majority` class; WNLI, where no model is, aside), every
    metric's median on every dev split in `metrics`, rows, and the `choice` of settings."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_task.setdefault(result["task"], []).append(result)
    found = {}
    for name in sorted(by_task, key=lambda name: GLUE.index(name) if name in GLUE else len(GLUE)):
        runs, task = by_task[name], find_task(name)
        predictions = [read(run) for run in runs]
        floor = majority(task, predictions[0].labels)
        scores = [run["score"] for run in runs]
        failed = [_is_failed(run["score"], one, floor["score"]) for run, one in zip(runs, predictions, strict=True)]
        found[name] = {
            "median": statistics.median(scores),
            "min": min(scores),
            "max": max(scores),
            "scores": {str(run["seed"]): run["score"] for run in runs},
            "seeds": len(runs),
            "failed": 0 if name == "wnli" else sum(failed),
            "majority": floor["score"],
            "metrics": {
                split: {metric: statistics.median(run["scores"][split][metric] for run in runs) for metric in values}
                for split, values in runs[0]["scores"].items()
            },
            "train_rows": runs[0]["train_rows"],
            "dev_rows": runs[0]["dev_rows"],
            "cut_share": runs[0]["cut_share"],
            "train_seconds": statistics.median(run["train_seconds"] / run["together"] for run in runs),
            "choice": runs[0].get("choice"),
        }
    return found


def read(run: dict[str, Any]) -> bootstrap.Predictions:
    """What a run of `grid.run_grid` predicted of its first dev split."""
    return bootstrap.read_predictions(Path(run["directory"]), find_task(run["task"]), bool(run["diverged"]))


def _is_failed(score: float, predictions: bootstrap.Predictions, floor: float) -> bool:
    logits = predictions.logits
    if logits is None or score <= floor + _EPSILON:
        return True
    answers = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(-1)
    return bool(np.all(answers == answers[0]))


def mean_score(scores: Mapping[str, float]) -> float | None:
    """Of the tasks but WNLI; None of none."""
    counted = [score for name, score in scores.items() if name != "wnli"]
    return statistics.fmean(counted) if counted else None


_NUMBERS = ("score", "train_seconds", "together", "train_rows", "cut_share")
_REST = ("task", "seed", "scores", "model", "diverged", "dev_rows")


def read_result(file: Path) -> dict[str, Any]:
    """The results.json of one run of fine-tuning.

    Raises:
        InputError: it is damaged, or none of such a run.
    """
    result = read_json(file)
    if (
        not isinstance(result, dict)
        or not {*_NUMBERS, *_REST} <= result.keys()
        or not all(isinstance(result[name], int | float) for name in _NUMBERS)
    ):
        raise InputError(f"{file}: no result of evaluate.py glue; remove it, or name another directory")
    return result


def read_runs(directory: str) -> list[dict[str, Any]]:
    """The results that a grid left in its directory, each with its `directory` and the `choice` of its settings.

    Raises:
        InputError: there are none, or one is no result of a fine-tuning run.
    """
    files = sorted(Path(directory).glob("*/results.json"))
    if not files:
        raise InputError(f"{directory}: holds no runs of evaluate.py glue (<task>-<seed>/results.json)")
    found = []
    for file in files:
        result = read_result(file)
        choice = file.parent.parent / "choice" / result["task"] / "choice.json"
        result |= {"directory": str(file.parent), "choice": read_json(choice) if choice.is_file() else None}
        found.append(result)
    return found


def remarks(tasks: Mapping[str, dict[str, Any]]) -> list[str]:
    """What a reader has to know of the figures: what is a subset, how few seeds, what the references' quirks are."""
    glue = [name for name in tasks if name in GLUE]
    said = []
    seeds = sorted({row["seeds"] for row in tasks.values()})
    said.append(
        f"Dev scores × 100, medians of {' or '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}; MRPC and QQP: mean of "
        "accuracy and F1, STS-B: of Pearson and Spearman, CoLA: Matthews, the others: accuracy (MNLI: matched / mismatched)."
    )
    if 0 < len(glue) < len(GLUE):
        missing = ", ".join(find_task(name).title for name in GLUE if name not in glue)
        said.append(f"Means are over {len(glue)} of the nine tasks, in every row; not here: {missing}.")
    for name in glue:
        task, row = find_task(name), tasks[name]
        for split, rows in {"train": row["train_rows"], **row["dev_rows"]}.items():
            if rows != task.rows.get(split):
                said.append(f"{task.title}: {split} is a subset, {rows:,} of {task.rows.get(split, 0):,} rows.")
    if glue:
        said += [line for name, line in REMARKS.items() if name in glue]
        said.append("The paper's rows are dev scores, medians of five runs; its settings of fine-tuning are not known.")
    return said


def choices(tasks: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each task whose settings were chosen."""
    lines = []
    for name, row in tasks.items():
        if row["choice"]:
            chosen = ", ".join(
                f"{field.replace('_', ' ')} {value:g}" for field, value in row["choice"]["chosen"].items()
            )
            lines.append(
                f"{find_task(name).title}: {chosen}, chosen from {row['choice']['runs']} runs on a tenth of train."
            )
    return lines
