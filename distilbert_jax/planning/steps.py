"""Steps to compile without data or weights: those of `train` and `glue`, and the call of `features`, made from shapes alone."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from distilbert_jax.config import Activations, ModelConfig
from distilbert_jax.finetuning import optimizer as tuning_optimizer
from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.objective import layer_terms, outputs_of, supervised
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import EncoderModel, MaskedLM
from distilbert_jax.models.layers import activations_dtype
from distilbert_jax.models.params import Params, held_weights, merge, split
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.pipelines.base import compiled_call
from distilbert_jax.pipelines.features import FeatureExtraction
from distilbert_jax.planning.runs import Features, Finetuning, Pretraining, Run
from distilbert_jax.pretraining import objective_table
from distilbert_jax.pretraining.objectives import Given, objective_of
from distilbert_jax.pretraining.packing import batch_shapes
from distilbert_jax.pretraining.setup import head_of, held_of, new_projections, optimizer_of
from distilbert_jax.pretraining.together import company
from distilbert_jax.text.tokenizer import stack
from distilbert_jax.training import sharding, terms
from distilbert_jax.training.projections import draw_projections
from distilbert_jax.training.step import first_state, make_step_together, make_train_step

_MASK_ID = 103  # any will do


@dataclass(frozen=True)
class Step:
    """A jitted step and the shapes of its arguments."""

    step: Callable[..., Any]
    arguments: tuple[Any, ...]


def step_of(run: Run, mesh: Mesh) -> Step:
    """What a run compiles on a mesh: its training step, or the call of a pipeline.

    Raises:
        InputError: the mesh does not fit the batch or the heads, the loss not its models.
    """
    if isinstance(run, Pretraining):
        return _pretraining(run, mesh)
    return _finetuning(run, mesh) if isinstance(run, Finetuning) else _features(run, mesh)


def _pretraining(run: Pretraining, mesh: Mesh) -> Step:
    config, teacher = run.config, run.teacher
    objective_table.check_objective(config)
    sharding.check_batch(config.data.batch_size, config.optimizer.accumulate, mesh)
    sharding.check_heads(config.model.num_attention_heads, mesh)
    activations = _on_target(config.run.activations, config.run.dtype, mesh)
    graphdef, params = _abstract(head_of(config), config.model, config.run.dtype, activations)
    teacher_graphdef, frozen = None, {}
    if teacher:
        if config.objective == "distillation":
            terms.check_terms(terms.weighted_terms(config.loss), config.loss.chunk, config.model, teacher)
        bare = config.objective == "distillation" and terms.needs_head(terms.weighted_terms(config.loss)) is None
        head, options = (EncoderModel, {"add_pooling_layer": False}) if bare else (MaskedLM, {})
        teacher_graphdef, frozen = _abstract(head, teacher, config.run.dtype, activations, **options)
    params |= jax.eval_shape(lambda: new_projections(config, teacher))
    weights = np.zeros(config.model.vocab_size, np.float32)
    given = Given(graphdef, teacher_graphdef, weights, _MASK_ID, config, sharding.on_accelerator(mesh))
    optimizer, accumulate = optimizer_of(config), config.optimizer.accumulate
    state: Any = jax.eval_shape(lambda params: first_state(params, optimizer, config.run.seed), params)
    if run.seeds > 1:
        state = (state,) * run.seeds
        students, held = company([given] * run.seeds), [held_of(config)] * run.seeds
        step = make_step_together(students, [optimizer] * run.seeds, state, frozen, mesh, accumulate, held)
    else:
        step = make_train_step(objective_of(given), optimizer, state, frozen, mesh, accumulate, held=held_of(config))
    shapes = batch_shapes(config.data.sequences, config.data.batch_size, config.data.length)
    batch = {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in shapes.items()}
    return Step(step, (state, frozen, batch))


def _finetuning(run: Finetuning, mesh: Mesh) -> Step:
    config, dtype = run.config, run.config.run.dtype
    activations = _on_target(config.run.activations, dtype, mesh)
    sharding.check_batch(config.batch_size, config.optimizer.accumulate, mesh, "batch_size")
    sharding.check_heads(run.model.num_attention_heads, mesh)
    kind = kind_of(find_task(config.task))
    graphdef, params = _abstract(kind.head, run.model, dtype, activations)
    teacher_graphdef, frozen = None, {}
    if run.teacher:
        teacher = dataclasses.replace(run.teacher, labels=run.model.labels, problem_type=run.model.problem_type)
        teacher_graphdef, frozen = _abstract(kind.head, teacher, dtype, activations)
        asked = layer_terms(config.distill)
        terms.check_terms(asked, 0, run.model, teacher)
        if run.stage != "answers":
            params |= jax.eval_shape(lambda: draw_projections(asked, run.model, teacher, config.run.seed))
    objective = supervised(kind, graphdef, teacher_graphdef, config.distill, dtype=jnp.dtype(dtype), stage=run.stage)
    optimizer = tuning_optimizer.optimizer_of(config, params, run.model.num_hidden_layers, run.steps)
    held, several = tuning_optimizer.held_of(config, params), run.seeds > 1
    state = jax.eval_shape(lambda params: first_state(params, optimizer, config.run.seed), params)
    shape = PackedShape(run.rows, run.length, run.segments)
    example = kind.blank(run.model, labelled=np.ones(1, bool) if config.augment.copies else None)
    place = np.zeros(1, int)
    packed: dict[str, Any] = example.packed(Packing(place, place, place, place + 1), shape, 0)
    if run.asks_once:
        answers = lambda params, batch: outputs_of(kind, merge(graphdef, params), batch, None)
        packed["taught"], frozen = jax.eval_shape(answers, params, packed), {}
    seeds = lambda array: jax.ShapeDtypeStruct((run.seeds,) * several + array.shape, array.dtype)
    state, batch = jax.tree.map(seeds, state), {name: seeds(array) for name, array in packed.items()}
    accumulate = config.optimizer.accumulate
    step = make_train_step(objective, optimizer, state, frozen, mesh, accumulate, held=held, stacked=several)
    return Step(step, (state, frozen, batch))


def _features(run: Features, mesh: Mesh) -> Step:
    config, where = run.config, SingleDeviceSharding(mesh.devices.flat[0])
    make: Any = EncoderModel.of_family(run.model.model_type)
    precision = {"dtype": jnp.dtype(config.dtype), "activations": _on_target("auto", config.dtype, mesh)}
    new = lambda: make(run.model, **precision, rngs=nnx.Rngs(0), **FeatureExtraction.loading)
    model: Any = nnx.eval_shape(new)
    graphdef, shapes = split(model)
    shapes = jax.eval_shape(functools.partial(held_weights, model), shapes)
    on_device = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where)
    rows = stack([], 0, batch_size=run.rows, length=run.length)
    params, batch = jax.tree.map(on_device, shapes), {name: on_device(array) for name, array in rows.items()}
    options = (run.model.num_hidden_layers, config.pooling)
    return Step(compiled_call(graphdef, FeatureExtraction.compute), (params, batch, options))


def _on_target(activations: Activations, dtype: str, mesh: Mesh) -> jnp.dtype:
    """The dtype of activations; `auto` means what it does on the target, not on the CPU that compiles."""
    return activations_dtype(activations, dtype, mesh.devices.flat[0].platform)


def _abstract(
    head: type[PretrainedModel], config: ModelConfig, dtype: str, activations: jnp.dtype, **options: bool
) -> tuple[nnx.GraphDef, Params]:
    """A model's graph, and the shapes of its parameters, the vocabulary padded as in training."""
    make: Any = head.of_family(config.model_type)
    draw = lambda: make(config, dtype=jnp.dtype(dtype), activations=activations, rngs=nnx.Rngs(0), **options)
    graphdef, shapes = split(nnx.eval_shape(draw))
    return graphdef, jax.eval_shape(sharding.pad_vocabulary, shapes)
