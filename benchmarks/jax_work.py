"""The work that is timed, with this project's own pieces: the jitted distillation step and the jitted encoder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distilbert_jax.config import (
    LossConfig,
    MaskingConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    student_config,
)
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM, MaskedLM
from distilbert_jax.models.params import merge, split
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.pretraining import objectives
from distilbert_jax.pretraining.masking import corrupt, log_weights
from distilbert_jax.training import objective, sharding, step
from distilbert_jax.training.optimizer import adamw

MASK_ID = 103
Batch = dict[str, np.ndarray]


def save_models(config: ModelConfig, teacher: Path, student: Path) -> None:
    """HF directories of a teacher with random weights and of the student with half its layers that begins with them."""
    model = BertForMaskedLM(config, rngs=nnx.Rngs(0))
    model.save_pretrained(teacher)
    student_from_teacher(model, student_config(config, config.num_hidden_layers // 2)).save_pretrained(student)


def make_batch(rows: int, length: int, vocab_size: int, first: int = 1000) -> Batch:
    """Full rows of random tokens, uncorrupted and corrupted: what a distillation step of either side is given.

    first: token id that is drawn; those before are special ones.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(first, vocab_size, (rows, length)).astype(np.int32)
    weights = log_weights(np.ones(vocab_size), (0,), MaskingConfig())
    keys = jax.random.split(jax.random.key(0), rows)
    masked = corrupt(keys, jnp.asarray(ids), jnp.ones(ids.shape, bool), jnp.asarray(weights), MASK_ID, MaskingConfig())
    return {
        "input_ids": np.asarray(masked.input_ids),
        "attention_mask": np.ones_like(ids),
        "segment_ids": np.ones_like(ids),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "positions": np.asarray(masked.positions),
        "labels": np.asarray(masked.labels),
        "masked_weights": np.asarray(masked.weights),
    }


class Distillation:
    """One distillation step of `student` from `teacher` (HF directories) on a fixed batch: calling it returns the loss.

    The project's own step, except that `prepare` hands over the given corruption in place of drawing one.
    """

    def __init__(
        self, teacher: Path, student: Path, batch: Batch, dtype: str, loss: LossConfig, optimizer: OptimizerConfig
    ):
        teacher_graphdef, self.frozen = split(BertForMaskedLM.from_pretrained(teacher, dtype=dtype))
        graphdef, params = split(DistilBertForMaskedLM.from_pretrained(student, dtype=dtype))
        run = PretrainConfig(objective="distillation", loss=loss)
        given = objectives.Given(graphdef, teacher_graphdef, np.zeros(1, np.float32), MASK_ID, run)
        self.objective = dataclasses.replace(objectives.distillation(given), prepare=self._prepare)
        mesh, update = sharding.make_mesh(MeshConfig()), adamw(optimizer, 1000)
        rows = len(batch["input_ids"])
        self.batch = sharding.place({name: batch[name] for name in batch if name != "attention_mask"}, rows, mesh)
        self.state = step.init_state(params, update, 0, mesh)
        self.step = step.make_train_step(self.objective, update, self.state, self.frozen, mesh)

    @staticmethod
    def _prepare(rngs: jax.Array, batch: objective.Batch) -> tuple[objective.Batch, objective.Metrics]:
        totals = {"tokens": jnp.float32(batch["input_ids"].size), "masked": batch["masked_weights"].sum()}
        return {**batch, "rngs": rngs}, totals

    def loss_without_dropout(self) -> float:
        """The loss, for comparison with the other side's."""

        def value(params: dict, frozen: dict, batch: objective.Batch) -> jax.Array:
            prepared, totals = self._prepare(None, batch)
            return self.objective.loss(params, frozen, prepared, totals)[0]

        return float(jax.jit(value)(self.state.params, self.frozen, self.batch))

    def __call__(self) -> float:
        self.state, metrics = self.step(self.state, self.frozen, self.batch)
        return float(metrics["loss"])


def encoder(student: Path, batch: Batch, dtype: str) -> Callable[[], jax.Array]:
    """Encoder inference: a call that returns the last hidden state [B, T, D], computed.

    In bfloat16 the matrices are cast once, before the calls: each matmul casts its operands anyway, so no result changes.
    """
    graphdef, params = split(MaskedLM.from_pretrained(student, dtype=dtype))
    params = {name: value.astype(dtype) if name.endswith(".kernel") else value for name, value in params.items()}
    run = jax.jit(lambda params, ids, mask: merge(graphdef, params).encoder(ids, mask).last_hidden_state)
    ids, mask = (jax.device_put(batch[name]) for name in ("input_ids", "attention_mask"))
    return lambda: run(params, ids, mask).block_until_ready()


def matmul(size: int, dtype: str) -> Callable[[], jax.Array]:
    """A product of two square matrices with a float32 result, for the processor's ceiling."""
    left, right = (jax.random.normal(jax.random.key(seed), (size, size), jnp.dtype(dtype)) for seed in range(2))
    run = jax.jit(lambda left, right: jnp.matmul(left, right, preferred_element_type=jnp.float32))
    return lambda: run(left, right).block_until_ready()
