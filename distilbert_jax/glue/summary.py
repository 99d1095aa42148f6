"""What the runs of a GLUE sweep come to: medians, spreads, failed seeds, and what has to be known of them."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distilbert_jax.base.config_io import read_config
from distilbert_jax.base.files import read_json
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.metrics import majority, score
from distilbert_jax.finetuning.predictions import Predictions, read_predictions
from distilbert_jax.finetuning.results import read_result
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE, REMARKS

_EPSILON = 1e-9
_ROUNDING = 0.01  # of a score × 100: another version of a metric may sum in another order


def medians(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """{task: median of the score over its runs}, of results of fine-tuning."""
    by_task: dict[str, list[float]] = {}
    for result in results:
        by_task.setdefault(result["task"], []).append(result["score"])
    return {name: statistics.median(scores) for name, scores in by_task.items()}


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per task, of the runs of `sweep.run_sweep`: `median`, `min` and `max` of the score over `seeds` runs, how many `failed`
    (diverged, answered the same to every row, or no better than the `majority` class; WNLI, where no model is, aside), every
    metric's median on every dev split in `metrics`, rows, {seed: why} of those that `diverged`, and the `choice` of settings."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_task.setdefault(result["task"], []).append(result)
    found = {}
    for name in sorted(by_task, key=lambda name: GLUE.index(name) if name in GLUE else len(GLUE)):
        runs, task = by_task[name], find_task(name)
        predictions = [read(run) for run in runs]
        floor = majority(task, predictions[0].labels)
        scores = [run["score"] for run in runs]
        failed = [
            bool(run["diverged"]) or (name != "wnli" and _is_failed(run["score"], one, floor["score"]))
            for run, one in zip(runs, predictions, strict=True)
        ]
        found[name] = {
            "median": statistics.median(scores),
            "min": min(scores),
            "max": max(scores),
            "scores": {str(run["seed"]): run["score"] for run in runs},
            "seeds": len(runs),
            "failed": sum(failed),
            "diverged": {str(run["seed"]): run["diverged"] for run in runs if run["diverged"]},
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
            "settings": _settings(runs[0]),
        }
    return found


def read(run: dict[str, Any]) -> Predictions:
    """What a run of `sweep.run_sweep` predicted of its first dev split.

    Raises:
        InputError: that is missing, damaged, or scores otherwise than results.json says.
    """
    directory, task = Path(run["directory"]), find_task(run["task"])
    if any(metrics.keys() != {*task.metrics, "score"} for metrics in run["scores"].values()):
        raise InputError(
            f"{directory / 'results.json'}: damaged, its scores are not those of {task.name}; remove the run and train it again",
            path=directory / "results.json",
        )
    predictions = read_predictions(directory, task, bool(run["diverged"]))
    if predictions.logits is not None:
        again = score(task, predictions.logits, predictions.labels)["score"]
        if abs(again - run["score"]) > _ROUNDING:
            raise InputError(
                f"{directory}: its predictions score {again:.2f}, results.json says {run['score']:.2f}: "
                "remove the run and train it again",
                path=directory,
            )
    return predictions


def _is_failed(value: float, predictions: Predictions, floor: float) -> bool:
    logits = predictions.logits
    if logits is None or value <= floor + _EPSILON:
        return True
    answers = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(-1)
    return bool(np.all(answers == answers[0]))


def mean_score(scores: Mapping[str, float]) -> float | None:
    """Of the tasks but WNLI; None of none."""
    counted = [score for name, score in scores.items() if name != "wnli"]
    return statistics.fmean(counted) if counted else None


def read_runs(directory: str) -> list[dict[str, Any]]:
    """The results that a sweep left in its directory, each with its `directory` and the `choice` of its settings.

    Raises:
        InputError: there are none, or one is no result of a fine-tuning run.
    """
    files = sorted(Path(directory).glob("*/results.json"))
    if not files:
        raise InputError(
            f"{directory}: holds no runs of distilbert-jax glue (<task>-<seed>/results.json)", path=directory
        )
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for file in files:
        result = read_result(file)
        run = result["task"], result["seed"]
        if run in found:
            raise InputError(
                f"{directory}: {Path(found[run]['directory']).name} and {file.parent.name} both say that they are {run[0]} with "
                f"seed {run[1]}; remove the one that is not",
                path=directory,
            )
        choice = file.parent.parent / "choice" / result["task"] / "choice.json"
        found[run] = {**result, "directory": str(file.parent), "choice": _read_choice(choice)}
    return list(found.values())


def _read_choice(file: Path) -> dict[str, Any] | None:
    """What `sweep.choose` wrote; None where nothing was chosen."""
    if not file.is_file():
        return None
    choice = read_json(file)
    fits = isinstance(choice, dict) and isinstance(choice.get("runs"), int) and isinstance(choice.get("chosen"), dict)
    if not fits or not all(isinstance(value, int | float) for value in choice["chosen"].values()):
        raise InputError(f"{file}: damaged; the command that chose makes it again", path=file)
    return choice


def _settings(run: dict[str, Any]) -> str:
    """How a run was fine-tuned, as its config says; empty where there is none."""
    file = Path(run["directory"]) / "config.json"
    if not file.is_file():
        return ""
    config = read_config(FinetuneConfig, file)
    said = (
        f"learning rate {config.optimizer.learning_rate:g}, {config.epochs} epochs, batch {config.batch_size}, length "
        f"{config.length}, {config.run.dtype}"
    )
    if Path(config.model).parent.name.startswith("mnli-"):
        said += ", from the MNLI model of the same seed"
    if config.distill.teacher:
        said += (
            f", distilled from {config.distill.teacher} (α {config.distill.alpha:g}, T {config.distill.temperature:g})"
        )
    return said


def settings(tasks: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each way in which tasks were fine-tuned."""
    found: dict[str, list[str]] = {}
    for name, row in tasks.items():
        if row["settings"]:
            found.setdefault(row["settings"], []).append(find_task(name).title)
    return [f"{', '.join(names)}: {said}." for said, names in found.items()]


def remarks(tasks: Mapping[str, dict[str, Any]]) -> list[str]:
    """What a reader has to know of the figures: how they were made, what is a subset, what has failed, how few seeds."""
    glue = [name for name in tasks if name in GLUE]
    said = []
    seeds = sorted({row["seeds"] for row in tasks.values()})
    measures = (
        "; MRPC and QQP: mean of accuracy and F1, STS-B: of Pearson and Spearman, CoLA: Matthews, the others: accuracy"
    )
    said.append(
        f"Dev scores × 100, medians of {' or '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}"
        + (f"{measures} (MNLI: matched / mismatched)." if glue else ".")
    )
    said += settings(tasks)
    if failed := [
        f"{find_task(name).title} {row['failed']} of {row['seeds']}" for name, row in tasks.items() if row["failed"]
    ]:
        said.append(
            f"Failed: {', '.join(failed)}; they diverged, gave one answer to every row, or scored no more than the majority class "
            "(WNLI, where no model does: diverged alone)."
        )
    for name, row in tasks.items():
        for seed, why in row["diverged"].items():
            said.append(f"{find_task(name).title}: seed {seed} diverged and counts as 0: {why}.")
    for name in glue:
        task, row = find_task(name), tasks[name]
        for split, rows in {"train": row["train_rows"], **row["dev_rows"]}.items():
            if rows != task.rows.get(split):
                said.append(f"{task.title}: {split} is a subset, {rows:,} of {task.rows.get(split, 0):,} rows.")
    if glue:
        said += [line for name, line in REMARKS.items() if name in glue]
    return said


def mean_remark(tasks: Mapping[str, dict[str, Any]]) -> list[str]:
    """Which of the nine tasks a table's means lack."""
    glue = [name for name in tasks if name in GLUE]
    if not 0 < len(glue) < len(GLUE):
        return []
    missing = ", ".join(find_task(name).title for name in GLUE if name not in glue)
    return [f"Means are over {len(glue)} of the nine tasks, in every row; not here: {missing}."]


PAPER_REMARK = "The paper's rows are dev scores, medians of five runs; its settings of fine-tuning are not known."


def choices(tasks: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each task whose settings were chosen."""
    lines = []
    for name, row in tasks.items():
        if row["choice"]:
            chosen = ", ".join(
                f"{field.replace('_', ' ')} {value:g}" for field, value in row["choice"]["chosen"].items()
            )
            lines.append(
                f"{find_task(name).title}: {chosen}, chosen from {row['choice']['runs']} "
                f"run{'s' if row['choice']['runs'] != 1 else ''} on a tenth of train."
            )
    return lines
