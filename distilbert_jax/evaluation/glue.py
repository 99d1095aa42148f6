"""GLUE dev scores, and the grid of tasks × seeds as a table."""

import dataclasses
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.table import Table
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.data.glue import Examples, Task, find_task
from distilbert_jax.errors import InputError
from distilbert_jax.models.params import Params, merge
from distilbert_jax.training import sharding
from distilbert_jax.training.finetune import finetune, run_directory
from distilbert_jax.training.objectives import classify


def _correlation(kind: Any, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A correlation, 0 where it is not defined (all predictions equal)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant input; what it returns then is NaN
        value = float(kind(predictions, labels)[0])
    return 0.0 if np.isnan(value) else value


METRICS = {
    "accuracy": lambda predictions, labels: float(accuracy_score(labels, predictions)),
    "f1": lambda predictions, labels: float(f1_score(labels, predictions, zero_division=0.0)),
    "matthews": lambda predictions, labels: float(matthews_corrcoef(labels, predictions)),
    "pearson": lambda predictions, labels: _correlation(pearsonr, predictions, labels),
    "spearman": lambda predictions, labels: _correlation(spearmanr, predictions, labels),
}


def score(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric of the task, and `score`, their mean, all × 100. logits float32 [n, labels], labels [n]."""
    predictions = logits[:, 0] if task.is_regression else logits.argmax(-1)
    found = {name: 100.0 * METRICS[name](predictions, labels) for name in task.metrics}
    return {**found, "score": statistics.fmean(found.values())}


def predict(
    graphdef: nnx.GraphDef,
    params: Params,
    examples: Examples,
    buckets: tuple[int, ...],
    batch_size: int,
    pad_id: int,
    mesh: Mesh,
) -> np.ndarray:
    """Logits float32 [n, labels] of a `SequenceClassification`, batches cut by length so that little is padding."""
    spread = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-batch_size // spread) * spread
    local = sharding.local_rows(batch_size, mesh)
    forward = jax.jit(
        lambda params, batch: classify(merge(graphdef, params), batch, None),
        out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    )
    order = np.argsort(examples.lengths, kind="stable")
    logits: list[np.ndarray] = []
    for start in range(0, len(examples), batch_size):
        indices = order[start : start + batch_size]
        length = next(bucket for bucket in buckets if bucket >= examples.lengths[indices].max())
        whole = examples.batch(indices, batch_size, length, pad_id)
        batch = {name: whole[name][local] for name in ("input_ids", "token_type_ids", "attention_mask")}
        logits.append(np.asarray(forward(params, sharding.place(batch, batch_size, mesh)))[: len(indices)])
    result = np.concatenate(logits)
    return result[np.argsort(order, kind="stable")]


def run_grid(config: FinetuneConfig, tasks: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Fine-tune every (task, seed) in turn; finished ones are found. Tasks that a local folder lacks are told of and left out.

    Raises:
        InputError: before the first run: a task is misspelt, or the folder has none of them.
    """
    for option, given in (("--tasks", tasks), ("--seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise InputError(f"{option} {' '.join(map(str, given))}: expected one or more, each once")
    base, names = config.run.directory, [find_task(name).name for name in tasks]
    absent = [name for name in names if config.data and not (Path(config.data) / name).is_dir()]
    if absent:
        if absent == names:
            raise InputError(
                f"{config.data}: has no folder {', '.join(absent)}; --data names one with <task>/train.parquet"
            )
        print(f"{config.data}: has no {', '.join(absent)}: left out", file=sys.stderr)
    found = []
    for task in [name for name in names if name not in absent]:
        for seed in seeds:
            run = dataclasses.replace(
                config.run, seed=seed, directory=str(Path(base) / f"{task}-{seed}") if base else ""
            )
            single = dataclasses.replace(config, task=task, run=run)
            found.append({**finetune(single, predict, score), "directory": str(run_directory(single))})
    return found


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per task: median, min and max of the score over its seeds, and every metric's median on every dev split."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_task.setdefault(result["task"], []).append(result)
    table = {}
    for task, runs in by_task.items():
        scores = [run["score"] for run in runs]
        metrics = {
            split: {name: statistics.median(run["scores"][split][name] for run in runs) for name in values}
            for split, values in runs[0]["scores"].items()
        }
        table[task] = {
            "median": statistics.median(scores),
            "min": min(scores),
            "max": max(scores),
            "seeds": len(runs),
            "metrics": metrics,
            "train_rows": runs[0]["train_rows"],
            "dev_rows": runs[0]["dev_rows"],
        }
    return table


def table(model: str, rows: dict[str, dict[str, Any]]) -> Table:
    """`summary` for the terminal."""
    view = Table(title=f"{model}: dev scores × 100", title_justify="left")
    for column in ("task", "median", "min", "max", "seeds", "metrics", "rows train / dev"):
        view.add_column(column, justify="left" if column in ("task", "metrics") else "right")
    for task, row in rows.items():
        metrics = "  ".join(
            f"{name} {value:.1f}"
            for values in row["metrics"].values()
            for name, value in values.items()
            if name != "score"
        )
        dev = " + ".join(str(n) for n in row["dev_rows"].values())
        view.add_row(
            task,
            *(f"{row[name]:.1f}" for name in ("median", "min", "max")),
            str(row["seeds"]),
            metrics,
            f"{row['train_rows']} / {dev}",
        )
    return view
