"""Results of fine-tuning as `distilbert-jax glue` leaves them, made up."""

import numpy as np

from distilbert_jax.base.files import write_json
from distilbert_jax.finetuning.metrics import score
from distilbert_jax.finetuning.tasks import find_task


def run(tmp_path, task, seed, right, *, model="bert", rows=None, diverged=""):
    """A run whose first `right` of each ten answers are right; of a regression, which is that near."""
    task, rows = find_task(task), rows or 70
    directory = tmp_path / f"{task.name}-{seed}"
    (directory / "predictions").mkdir(parents=True)
    rng = np.random.default_rng(5)
    scores = {}
    for split in task.dev:
        if task.is_regression:
            labels = rng.uniform(0, 5, rows).astype(np.float32)
            logits = (labels + rng.normal(size=rows) * (10 - right))[:, None].astype(np.float32)
        else:
            labels = (np.arange(rows) // 10 % len(task.labels)).astype(np.int32)
            wrong = np.arange(rows) % 10 >= right
            logits = np.eye(len(task.labels), dtype=np.float32)[(labels + wrong) % len(task.labels)]
        np.save(directory / "predictions" / f"{split}-labels.npy", labels)
        if not diverged:
            np.save(directory / "predictions" / f"{split}.npy", logits)
        found = score(task, logits, labels)
        scores[split] = dict.fromkeys(found, 0.0) if diverged else found
    result = {
        "task": task.name,
        "model": model,
        "seed": seed,
        "score": scores[task.dev[0]]["score"],
        "scores": scores,
        "train_rows": task.rows.get("train", 100),
        "dev_rows": {split: task.rows.get(split, rows) for split in task.dev},
        "cut_share": 0.01,
        "train_seconds": 12.0,
        "together": 1,
        "tested": {},
        "diverged": diverged,
    }
    write_json(directory / "results.json", result)
    return {**result, "directory": str(directory), "choice": None}
