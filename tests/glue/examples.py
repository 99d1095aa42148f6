"""Results of fine-tuning as `distilbert-jax glue` leaves them, made up."""

import numpy as np

from distilbert_jax.base.config_io import write_config
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.predictions import write_predictions
from distilbert_jax.finetuning.results import RunResult
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.results import SweepRun


def score(task, logits, labels):
    return kind_of(task).score(task, logits, labels)


def result(task="rte", seed=0, value=50.0, **more):
    """A result with this score on every dev split. more: other fields."""
    splits = find_task(task).dev
    given = {
        "task": task,
        "model": "bert",
        "seed": seed,
        "score": value,
        "scores": {split: dict.fromkeys((*find_task(task).metrics, "score"), value) for split in splits},
        "train_rows": 100,
        "dev_rows": dict.fromkeys(splits, 70),
        "cut_share": 0.01,
        "batches": "random",
        "train_seconds": 12.0,
        "together": 1,
        "diverged": "",
    }
    return RunResult(**{**given, **more})


def run(tmp_path, task, seed, right, *, model="bert", rows=None, diverged=""):
    """A run whose first `right` of each ten answers are right; of a regression, which is that near."""
    task, rows = find_task(task), rows or 70
    directory = tmp_path / f"{task.name}-{seed}"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(5)
    scores = {}
    for split in task.dev:
        if task.kind == "regression":
            labels = rng.uniform(0, 5, rows).astype(np.float32)
            logits = (labels + rng.normal(size=rows) * (10 - right))[:, None].astype(np.float32)
        else:
            labels = (np.arange(rows) // 10 % len(task.labels)).astype(np.int32)
            wrong = np.arange(rows) % 10 >= right
            logits = np.eye(len(task.labels), dtype=np.float32)[(labels + wrong) % len(task.labels)]
        write_predictions(directory, split, kind_of(task).files(None if diverged else logits, labels))
        values = score(task, logits, labels)
        scores[split] = dict.fromkeys(values, 0.0) if diverged else values
    of_run = result(
        task.name,
        seed,
        scores[task.dev[0]]["score"],
        model=model,
        scores=scores,
        train_rows=task.rows.get("train", 100),
        dev_rows={split: task.rows.get(split, rows) for split in task.dev},
        diverged=diverged,
    )
    write_config(of_run, directory / "results.json")
    return SweepRun(of_run, directory)
