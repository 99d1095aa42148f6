"""Metrics of labelled tasks."""

import statistics
import warnings
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from distilbert_jax.finetuning.tasks import Task


def _quietly(kind: Any, first: np.ndarray, second: np.ndarray) -> float:
    """A coefficient of two series, 0 where it is not defined (one of them does not vary)."""
    if len(first) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy and scikit-learn warn of it
        # In float32 answers that hardly vary correlate otherwise.
        value = float(np.ravel(kind(first.astype(np.float64), second.astype(np.float64)))[0])
    return 0.0 if np.isnan(value) else value


METRICS = {
    "accuracy": lambda predictions, labels: float(accuracy_score(labels, predictions)),
    # scikit-learn's default, "warn", hides that it takes numbers.
    "f1": lambda predictions, labels: float(f1_score(labels, predictions, zero_division=0.0)),  # pyright: ignore[reportArgumentType]
    "matthews": lambda predictions, labels: _quietly(matthews_corrcoef, labels, predictions),
    "pearson": lambda predictions, labels: _quietly(pearsonr, predictions, labels),
    "spearman": lambda predictions, labels: _quietly(spearmanr, predictions, labels),
}


def score(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric of the task, and `score`, their mean, all × 100. logits float32 [n, labels], labels [n]."""
    predictions = logits[:, 0] if task.is_regression else logits.argmax(-1)
    values = {name: 100.0 * METRICS[name](predictions, labels) for name in task.metrics}
    return {**values, "score": statistics.fmean(values.values())}


def majority(task: Task, labels: np.ndarray) -> dict[str, float]:
    """`score` of always answering the most frequent label; of a regression, where every constant correlates with nothing, 0."""
    constant = np.zeros((len(labels), max(len(task.labels), 1)), np.float32)
    if not task.is_regression:
        constant[:, np.bincount(labels).argmax()] = 1.0
    return score(task, constant, labels)
