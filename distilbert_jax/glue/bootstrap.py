"""Bootstrap of GLUE scores and of the difference of two models, over dev rows and seeds (Efron 1979).

A resample draws the dev rows with replacement, the same ones for both models and all their seeds, and the seeds of each model with
replacement; its score of a task is the median over the drawn seeds. Where a model was pre-trained with several seeds, these are
drawn as well, the same ones for all tasks, and its score is the mean over them (Multi-Bootstrap, Sellam et al. 2022, arXiv
2106.16163).
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.predictions import Predictions
from distilbert_jax.finetuning.tasks import Task, find_task
from distilbert_jax.glue.results import Comparison, Interval, SweepRun, by_task
from distilbert_jax.glue.summary import check_same_dev, read

RESAMPLES = 1000
_CHUNK = 50  # resamples at once: 50 × 40,430 rows of QQP are 16 MB


def scores(task: Task, predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """`Kind.score`'s `score` of the resamples that take row i `weights[r, i]` times. weights [R, n] → [R], × 100."""
    weights = weights.astype(np.float64)
    if predictions.logits is None:
        return np.zeros(len(weights))
    if task.kind == "regression":
        x, y = predictions.logits[:, 0].astype(np.float64), predictions.labels.astype(np.float64)
        of = {
            "pearson": lambda: _correlation(x, y, weights),
            "spearman": lambda: _correlation(_ranks(x, weights), _ranks(y, weights), weights),
        }
    else:
        counts = _confusion(predictions.logits.argmax(-1), predictions.labels, len(task.labels), weights)
        of = {
            "accuracy": lambda: np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2)),
            "f1": lambda: _f1(counts),
            "f1_macro": lambda: _f1_macro(counts),
            "matthews": lambda: _matthews(counts),
        }
    return 100.0 * np.mean([of[name]() for name in task.metrics], axis=0)


def _confusion(predicted: np.ndarray, true: np.ndarray, labels: int, weights: np.ndarray) -> np.ndarray:
    """Labels int [n] each, weights [R, n] → [R, true, predicted]."""
    cell = true * labels + predicted
    return (weights @ np.eye(labels * labels)[cell]).reshape(-1, labels, labels)


def _f1(counts: np.ndarray) -> np.ndarray:
    hit = counts[:, 1, 1]
    wrong = counts[:, 0, 1] + counts[:, 1, 0]
    return np.divide(2 * hit, 2 * hit + wrong, out=np.zeros_like(hit), where=hit > 0)


def _f1_macro(counts: np.ndarray) -> np.ndarray:
    """Over the labels that a resample has or was predicted."""
    hit, there = counts.diagonal(axis1=1, axis2=2), counts.sum(1) + counts.sum(2)
    return np.divide(2 * hit, there, out=np.zeros_like(hit), where=there > 0).sum(1) / (there > 0).sum(1)


def _matthews(counts: np.ndarray) -> np.ndarray:
    total, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
    true, predicted = counts.sum(2), counts.sum(1)
    above = right * total - (true * predicted).sum(1)
    below = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (predicted**2).sum(1)))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's, 0 where one of the two does not vary. x and y [n] or [R, n]."""
    mean = lambda values: (weights * values).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    x, y = x - mean(x), y - mean(y)
    above = (weights * x * y).sum(1)
    below = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 1e-12)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks [R, n] of `values` [n] when row i is there `weights[r, i]` times."""
    level = np.unique(values, return_inverse=True)[1]  # equal values share a level, and so a rank
    size = np.stack([np.bincount(level, row) for row in weights])
    return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, level]


Runs = Mapping[str, Sequence[Predictions]]  # of one model: task → a run for each seed


def compare_runs(
    ours: Sequence[Sequence[SweepRun]],
    theirs: Sequence[Sequence[SweepRun]],
    tasks: Collection[str],
    *,
    paired: bool = False,
) -> Comparison:
    """`compare_pretrained` of what fine-tuning has left of these tasks, of each seed of pre-training on both sides.

    Raises:
        InputError: as `compare_pretrained` and `read`, or they were scored on other rows.
    """
    check_same_dev(*([run for runs in side for run in runs if run.result.task in tasks] for side in (ours, theirs)))
    read_of = lambda runs: {name: list(map(read, group)) for name, group in by_task(runs).items() if name in tasks}
    return compare_pretrained(list(map(read_of, ours)), list(map(read_of, theirs)), paired=paired)


def compare(model: Runs, other: Runs, *, seed: int = 0) -> Comparison:
    """Two models on the tasks that both have, WNLI aside. In the share those resamples count where the other scores above 0.

    Raises:
        InputError: no task in common, or dev splits that differ.
    """
    return compare_pretrained([model], [other], seed=seed)


def compare_pretrained(
    ours: Sequence[Runs], theirs: Sequence[Runs], *, paired: bool = False, seed: int = 0
) -> Comparison:
    """`compare` of two ways to pre-train, each with a model for each seed: over dev rows, seeds of fine-tuning and of pre-training.

    Args:
        ours, theirs: of each seed of pre-training.
        paired: the i-th of both sides have the same seed, and are drawn together; else each side's are drawn by themselves.

    Raises:
        InputError: no task in common, or dev splits that differ.
    """
    models = (*ours, *theirs)
    names = [name for name in ours[0] if name != "wnli" and all(name in model for model in models)]
    if not names:
        raise InputError(f"the models have no task in common (WNLI aside): {'; '.join(map(', '.join, models))}")
    for name in names:
        given = [run.labels for model in models for run in model[name]]
        if find_task(name).kind == "regression":  # runs of earlier versions have left float32
            given = [labels.astype(np.float32) for labels in given]
        if any(not np.array_equal(labels, given[0]) for labels in given):
            raise InputError(f"{name}: the dev splits of the two models differ; they cannot be compared")
    generator = np.random.default_rng(seed)
    of_models = np.stack(
        [_resampled(name, [model[name] for model in models], generator) for name in names], axis=1
    )  # [models, tasks, R+1]
    mine = _drawn(len(ours), generator)
    drawn = mine, mine if paired else _drawn(len(theirs), generator)
    sides = np.stack(
        [
            np.einsum("rm,mtr->tr", weights, side)
            for weights, side in zip(drawn, (of_models[: len(ours)], of_models[len(ours) :]), strict=True)
        ]
    )  # [2, tasks, R+1]
    means = sides.mean(1)
    return Comparison(
        share=_interval(_shares(*means)) if means[1][0] > 0 else None,
        difference=_interval(means[0] - means[1]),
        tasks={name: _interval(sides[0, i] - sides[1, i]) for i, name in enumerate(names)},
    )


def _drawn(seeds: int, generator: np.random.Generator) -> np.ndarray:
    """Weights [1 + R, seeds] that sum to 1: all seeds alike, then as each resample drew them."""
    if seeds == 1:
        return np.ones((1 + RESAMPLES, 1))
    return np.vstack(
        [np.full(seeds, 1 / seeds), generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds]
    )


def _shares(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.divide(100.0 * ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0)


def _resampled(name: str, models: Sequence[Sequence[Predictions]], generator: np.random.Generator) -> np.ndarray:
    """Median scores [models, 1 + R]: of the split as it is, then of the resamples."""
    task, rows = find_task(name), len(models[0][0].labels)
    medians = [[np.median([scores(task, run, np.ones((1, rows)))[0] for run in runs])] for runs in models]
    for _ in range(RESAMPLES // _CHUNK):
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), _CHUNK)
        for i, runs in enumerate(models):
            of_seeds = np.stack([scores(task, run, weights) for run in runs], axis=1)  # [chunk, seeds]
            drawn = generator.integers(len(runs), size=of_seeds.shape)
            medians[i].extend(np.median(np.take_along_axis(of_seeds, drawn, 1), axis=1))
    return np.array(medians)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))
