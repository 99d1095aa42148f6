"""Fine-tuning of an encoder on one GLUE task with one seed. The last step is what is scored: no best epoch, no early stop."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.data import glue
from distilbert_jax.data.batches import LengthBucketedBatches
from distilbert_jax.data.files import read_json, write_json
from distilbert_jax.data.tokenizer import load_tokenizer, special_ids
from distilbert_jax.errors import InputError
from distilbert_jax.models import SequenceClassification
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.training import objectives, rundir, sharding
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.loop import fit
from distilbert_jax.training.optimizer import adamw, schedule
from distilbert_jax.training.step import init_state, make_train_step

# (graphdef, parameters, examples, buckets, batch size, pad id, mesh) → logits float32 [n, labels]
Predict = Callable[[nnx.GraphDef, Params, glue.Examples, tuple[int, ...], int, int, Mesh], np.ndarray]
Score = Callable[[glue.Task, np.ndarray, np.ndarray], dict[str, float]]


def run_directory(config: FinetuneConfig) -> Path:
    """`run.directory`, or runs/glue/<model>/<task>-<seed> when that is empty."""
    if config.run.directory:
        return Path(config.run.directory)
    name = "-".join(part for part in Path(config.model).parts[-2:] if part not in ("/", "model", ".."))
    return Path("runs/glue") / name / f"{config.task}-{config.run.seed}"


def finetune(config: FinetuneConfig, predict: Predict, score: Score) -> dict[str, Any]:
    """Fine-tune and score on every dev split; returns (and keeps as results.json in the run's directory)

    `{"task", "seed", "score" (mean of the metrics on the first dev split), "scores" {split: {metric: value}}, "steps",
    "train_rows", "dev_rows" {split: n}, "cut_share", "train_seconds"}`.

    A run that has ended is found, not repeated; one that was interrupted begins anew and gives the same bits.

    Args:
        predict, score: `evaluation.glue.predict` and `evaluation.glue.score`.
    """
    task = glue.find_task(config.task)
    directory = rundir.enter(config, run_directory(config))
    results = directory / "results.json"
    with rundir.alone(directory):
        if results.is_file() and (rundir.finished(directory) or not config.save_model):
            print(f"{directory}: finished before")
            return read_json(results)
        found = _train(config, task, directory, predict, score)
        write_json(results, found)
    return found


def _train(config: FinetuneConfig, task: glue.Task, directory: Path, predict: Predict, score: Score) -> dict[str, Any]:
    # Model and data, checked before the first step.
    if not config.model:
        raise InputError("model is not set: name an HF directory with --model")
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, config.optimizer.accumulate, mesh)
    tokenizer = load_tokenizer(config.model)
    pad = special_ids(tokenizer).pad
    labels = task.labels or ("score",)
    model = SequenceClassification.from_pretrained(
        config.model, dtype=jnp.dtype(config.run.dtype), seed=config.run.seed, labels=labels
    )
    _check_sizes(config, model, tokenizer.get_vocab_size())
    train = glue.load_split(task, "train", config.data)
    if config.max_train_rows:
        train = train.select(range(min(config.max_train_rows, len(train))))
    train = glue.encode(train, task, tokenizer, config.length)
    dev = {
        name: glue.encode(glue.load_split(task, name, config.data), task, tokenizer, config.length) for name in task.dev
    }
    buckets = tuple(sorted({min(length, config.length) for length in config.buckets} | {config.length}))

    # The step.
    batches = LengthBucketedBatches(train.lengths, config.batch_size, config.run.seed, buckets)
    steps = config.epochs * batches.batches_per_epoch
    graphdef, params = split(model)
    params = sharding.pad_vocabulary(params)
    optimizer = adamw(config.optimizer, steps)
    state = init_state(params, optimizer, config.run.seed, mesh)
    objective = objectives.classification(graphdef, len(labels))
    train_step = make_train_step(objective, optimizer, state, {}, mesh, config.optimizer.accumulate)
    local = sharding.local_rows(config.batch_size, mesh)

    def placed(start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        for k in range(start, stop):
            indices, length = batches.batch(k)
            whole = train.batch(indices, config.batch_size, length, pad)
            yield sharding.place({name: rows[local] for name, rows in whole.items()}, config.batch_size, mesh)

    cut = train.cut / len(train)
    print(
        f"{directory}: {task.name}, seed {config.run.seed}: {len(train)} rows, {steps} steps of {config.batch_size}; "
        f"{cut:.1%} of the rows cut at {config.length} tokens"
    )
    begun = time.perf_counter()
    log = RunLog(directory, 0, config.run.log_every)
    try:
        state = fit(
            state,
            train_step,
            {},
            placed,
            config.run,
            steps,
            schedule(config.optimizer, steps),
            title=f"{task.name}-{config.run.seed}",
            unit="examples",
            log=log,
        )
        seconds = time.perf_counter() - begun
        scores = {}
        for name, examples in dev.items():
            logits = predict(graphdef, state.params, examples, buckets, config.batch_size, pad, mesh)
            scores[name] = score(task, logits, examples.labels)
            log.write("eval", steps, {f"{name}/{metric}": value for metric, value in scores[name].items()})
    finally:
        log.close()
    if config.save_model:
        trained = sharding.cut_vocabulary(state.params, model.config.vocab_size)
        merge(graphdef, trained).save_pretrained(directory / "model", tokenizer)
    return {
        "task": task.name,
        "seed": config.run.seed,
        "score": scores[task.dev[0]]["score"],
        "scores": scores,
        "steps": steps,
        "train_rows": len(train),
        "dev_rows": {name: len(examples) for name, examples in dev.items()},
        "cut_share": cut,
        "train_seconds": round(seconds, 2),
    }


def _check_sizes(config: FinetuneConfig, model: SequenceClassification, vocabulary: int) -> None:
    if config.length > model.config.max_position_embeddings:
        raise InputError(
            f"length = {config.length} is beyond the {model.config.max_position_embeddings} positions of {config.model}"
        )
    if vocabulary > model.config.vocab_size:
        raise InputError(
            f"{config.model}: its tokenizer has {vocabulary} pieces, the embedding only {model.config.vocab_size} rows"
        )
