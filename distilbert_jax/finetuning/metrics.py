"""Metrics of labelled tasks."""

import statistics
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from distilbert_jax.finetuning.tasks import ERRORS, Task


def _quietly(kind: Any, first: np.ndarray, second: np.ndarray) -> float:
    """A coefficient of two series, 0 where it is not defined (one of them does not vary)."""
    if len(first) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy and scikit-learn warn of it
        # In float32 answers that hardly vary correlate otherwise.
        value = float(np.ravel(kind(first.astype(np.float64), second.astype(np.float64)))[0])
    return 0.0 if np.isnan(value) else value


def _f1(predictions: np.ndarray, labels: np.ndarray, average: Literal["micro", "macro"]) -> float:
    """F1 over classes; [n, labels] of several labels over these, of each that it holds."""
    # scikit-learn takes one column for two classes, has and has not.
    of = "binary" if labels.ndim > 1 and labels.shape[1] == 1 else average
    predictions, labels = (np.ravel(values) if of == "binary" else values for values in (predictions, labels))
    # Its default, "warn", hides that it takes numbers.
    return float(f1_score(labels, predictions, average=of, zero_division=0.0))  # pyright: ignore[reportArgumentType]


METRICS = {
    "accuracy": lambda predictions, labels: float(accuracy_score(labels, predictions)),
    "f1_micro": lambda predictions, labels: _f1(predictions, labels, "micro"),
    "f1_macro": lambda predictions, labels: _f1(predictions, labels, "macro"),
    "f1": lambda predictions, labels: float(f1_score(labels, predictions, zero_division=0.0)),  # pyright: ignore[reportArgumentType]
    "matthews": lambda predictions, labels: _quietly(matthews_corrcoef, labels, predictions),
    "pearson": lambda predictions, labels: _quietly(pearsonr, predictions, labels),
    "spearman": lambda predictions, labels: _quietly(spearmanr, predictions, labels),
    "rmse": lambda predictions, labels: float(np.sqrt(np.mean((predictions.astype(np.float64) - labels) ** 2))),
}


def scored(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric of a task of sentences, and `score`, their mean, all × 100 but errors, which are as they are.

    predictions, labels: [n], ids or numbers; [n, outputs], of several labels whether they hold, or of several numbers these: their
    metrics are the means over the outputs.
    """
    every = {name: METRICS[name] for name in (*task.metrics, *task.beside)}
    if task.kind == "regression" and labels.ndim > 1:
        over = range(labels.shape[1])
        values = {
            name: statistics.fmean(one(predictions[:, i], labels[:, i]) for i in over) for name, one in every.items()
        }
    else:
        values = {name: one(predictions, labels) for name, one in every.items()}
    return in_order(task, {name: value if name in ERRORS else 100.0 * value for name, value in values.items()})


def in_order(task: Task, values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a task and those beside them, and `score`, the mean of the former."""
    every = {name: values[name] for name in (*task.metrics, *task.beside)}
    return {**every, "score": statistics.fmean(values[name] for name in task.metrics)}
