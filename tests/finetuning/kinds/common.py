"""What tests of the kinds of task share: toy tasks trained once, and packed batches beside the plain formula."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import DistillConfig, FinetuneConfig, OptimizerConfig, RunConfig
from distilbert_jax.finetuning import objective
from distilbert_jax.finetuning.runs import finetune, finetune_seeds
from distilbert_jax.finetuning.tasks import TASKS
from distilbert_jax.models.params import merge, split
from distilbert_jax.training.objective import alone
from distilbert_jax.training.step import local_gradients
from tests import runs
from tests.finetuning.test_objective import asked, packed
from tests.runs import change

ALPHA, TEMPERATURE = 0.3, 1.5


def known(task):
    """A patch under which `find_task` knows a task; to be undone."""
    patch = pytest.MonkeyPatch()
    patch.setattr(TASKS, "_rows", {**TASKS._rows, task.name: task})
    return patch


def settings(folder, task, **changes):
    base = FinetuneConfig(
        model=str(folder / "student"),
        task=task.name,
        data=str(folder),
        length=32,
        batch_size=16,
        epochs=3,
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup=0.1, accumulate=2),
        run=RunConfig(log_every=10),
    )
    return change(base, **changes)


def trained(folder, task, splits, seeds=(0, 1), **changes):
    """Seeds side by side in two micro-batches; then one epoch of another run that has the first of them for a teacher, on nine
    tenths of train. The first run's directory, its result, and the result of the other run."""
    for name, columns in splits.items():
        runs.write_split(folder, task.name, name, columns)
    configs = [
        settings(folder, task, run__directory=str(folder / task.name / f"run-{seed}"), run__seed=seed, **changes)
        for seed in seeds
    ]
    first, *_ = finetune_seeds(configs, together=True)
    distilled = change(
        configs[0],
        run__directory=str(folder / task.name / "distilled"),
        epochs=1,
        selection_split=True,
        save_model=False,
        distill=DistillConfig(teacher=str(folder / task.name / "run-0/model"), alpha=1.0),
    )
    return folder / task.name / "run-0", first, finetune(distilled)


def assert_packed_is_padded(kind, examples, model, teacher, formula, *, over):
    """Loss and gradients of a packed batch in two micro-batches, with a teacher that is asked in the step or was asked before,
    beside those of the plain formula.

    formula: (model, teacher, indices) → the mean of the loss and of the distance from the teacher. over: what the batch counts.
    """
    packing, batch = packed(examples)
    assert batch["segment_ids"].max() > 1
    (graphdef, params), (of_teacher, frozen) = split(model), split(teacher)
    given = objective.supervised(
        kind, graphdef, of_teacher, DistillConfig(teacher="x", alpha=ALPHA, temperature=TEMPERATURE)
    )
    keys = jax.random.split(jax.random.key(0), len(batch["input_ids"]))
    assert {name: int(value) for name, value in given.prepare(keys, batch)[1].items()} == over(packing.indices)

    def packed_step(params, frozen, batch):
        ready, counts = given.prepare(keys, batch)
        ((grads, metrics),) = local_gradients(alone(given), (params,), frozen, {**ready, "rngs": None}, (counts,), 2)
        return metrics["loss"], grads

    def padded_loss(params):
        own, distance = formula(merge(graphdef, params), teacher, packing.indices)
        return (1 - ALPHA) * own + ALPHA * distance

    expected, wanted = jax.jit(jax.value_and_grad(padded_loss))(params)
    norm = np.sqrt(sum(float(jnp.sum(value**2)) for value in wanted.values()))
    for arguments in ((frozen, batch), ({}, packed(asked(kind, examples, teacher))[1])):
        loss, grads = jax.jit(packed_step)(params, *arguments)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        for name, value in wanted.items():
            own, away = float(jnp.linalg.norm(value)), float(jnp.linalg.norm(grads[name] - value))
            is_noise = own < 1e-5 * norm  # key biases have no gradient, nor has a bias that all choices share
            assert away <= 1e-5 * (norm if is_noise else max(own, 0.01 * norm)), (name, own, away, norm)


def divergence(ours, theirs):
    """T² · KL(softmax(theirs / T) ‖ softmax(ours / T)) over the last axis."""
    p, q = (jax.nn.log_softmax(logits / TEMPERATURE) for logits in (theirs, ours))
    return TEMPERATURE**2 * jnp.sum(jnp.exp(p) * (p - q), -1)


def predictions(directory: Path, name: str = "validation") -> np.ndarray:
    return np.load(directory / "predictions" / f"{name}.npy")
