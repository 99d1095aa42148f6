"""Steps to compile without data or weights: those of `train`, made from shapes alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from distilbert_jax.config import ModelConfig, PretrainConfig
from distilbert_jax.models import MaskedLM
from distilbert_jax.models.params import Params, split
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.pretraining import objective_table, terms
from distilbert_jax.pretraining.objectives import Given, objective_of
from distilbert_jax.pretraining.packing import batch_shapes
from distilbert_jax.pretraining.setup import head_of, optimizer_of
from distilbert_jax.training import sharding
from distilbert_jax.training.step import first_state, make_train_step

_MASK_ID = 103  # any will do


@dataclass(frozen=True)
class Step:
    """A jitted step and the shapes of its arguments."""

    step: Callable[..., Any]
    arguments: tuple[Any, ...]


def pretraining_step(config: PretrainConfig, teacher: ModelConfig | None, mesh: Mesh) -> Step:
    """The step of a pre-training run on a mesh.

    Raises:
        InputError: the mesh does not fit the batch or the heads, the loss not its models.
    """
    objective_table.check_objective(config)
    sharding.check_batch(config.data.batch_size, config.optimizer.accumulate, mesh)
    sharding.check_heads(config.model.num_attention_heads, mesh)
    graphdef, params = _abstract(head_of(config), config.model, config.run.dtype)
    teacher_graphdef, frozen = None, {}
    if teacher:
        if config.objective == "distillation":
            terms.check_terms(terms.weighted_terms(config.loss), config.loss.chunk, config.model, teacher)
        teacher_graphdef, frozen = _abstract(MaskedLM, teacher, config.run.dtype)
    weights = np.zeros(config.model.vocab_size, np.float32)
    objective = objective_of(
        Given(graphdef, teacher_graphdef, weights, _MASK_ID, config, sharding.on_accelerator(mesh))
    )
    optimizer = optimizer_of(config)
    state = jax.eval_shape(lambda params: first_state(params, optimizer, config.run.seed), params)
    step = make_train_step(objective, optimizer, state, frozen, mesh, config.optimizer.accumulate)
    shapes = batch_shapes(config.data.sequences, config.data.batch_size, config.data.length)
    batch = {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in shapes.items()}
    return Step(step, (state, frozen, batch))


def _abstract(head: type[PretrainedModel], config: ModelConfig, dtype: str) -> tuple[nnx.GraphDef, Params]:
    """A model's graph, and the shapes of its parameters, the vocabulary padded as in training."""
    make: Any = head.of_family(config.model_type)
    graphdef, shapes = split(nnx.eval_shape(lambda: make(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))))
    return graphdef, jax.eval_shape(sharding.pad_vocabulary, shapes)
