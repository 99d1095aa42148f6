"""Fine-tuning objective: the loss of a kind of task, alone or beside a teacher and what lies within it."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax.config import DistillConfig, Reads, Schedule
from distilbert_jax.finetuning.kinds import Kind
from distilbert_jax.models.encoder import LayerOutputs
from distilbert_jax.models.layers import fold_rows
from distilbert_jax.models.params import Params, merge
from distilbert_jax.training.objective import DROPOUT, Batch, Metrics, Objective, Part
from distilbert_jax.training.projections import of_model
from distilbert_jax.training.schedules import value_at
from distilbert_jax.training.terms import Tokens, Weighted, all_reads, weighted_terms
from distilbert_jax.training.views import compared, part_of, read, value_of

TOKENS = ("input_ids", "token_type_ids", "position_ids", "segment_ids")  # of a packed batch, that encoders read

Stage = Literal["together", "layers", "answers"]


def layer_terms(config: DistillConfig) -> tuple[Weighted, ...]:
    """The terms of layers that a config gives a weight to."""
    return weighted_terms(config, "distill")


def asks_once(config: DistillConfig, stage: Stage) -> bool:
    """Whether the steps of a stage need nothing of a teacher but its answers. These do not change while the student learns, and are
    asked once, before the first step, for all epochs and seeds.
    """
    return bool(config.teacher) and (stage == "answers" or (stage == "together" and not layer_terms(config)))


def supervised(
    kind: Kind,
    graphdef: nnx.GraphDef,
    teacher: nnx.GraphDef | None = None,
    config: DistillConfig | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    stage: Stage = "together",
    start: int = 0,
    steps: int = 1,
) -> Objective:
    """The loss of a kind of task; with a teacher also the distance from it, as `DistillConfig` says. The teacher's parameters are
    the frozen ones; projections of its terms are among the others.

    Batches are those of `Examples.packed`. What is not labelled is learned from the teacher alone. Losses of answers are divided by
    the kind's count, of labelled or not, terms of layers by the tokens. A batch with `taught` holds the teacher's answers: it is
    not asked, and needs no parameters (`asks_once`).

    Args:
        dtype: of the matmuls of projections.
        stage: what is learned: terms of layers, answers, or both together.
        start, steps: the first step, and the number of them, over which what is scheduled changes: α, the temperature, weights of
            layers.
    """
    asked = layer_terms(config) if teacher is not None and config is not None and stage != "answers" else ()
    answers = teacher is not None and config is not None and stage != "layers"
    changing = {"alpha": config.alpha, "temperature": config.temperature} if config and answers else {}
    scheduled = {f"distill_{name}": value for name, value in changing.items() if isinstance(value, Schedule)}
    scheduled |= {name: value for one in asked for name, value in one.schedules.items()}

    def values(step: jax.Array) -> Metrics:
        found = {name: value_at(one, step - start, steps) for name, one in scheduled.items()}
        return {**found, "labels_weight": 1.0 - found["distill_alpha"]} if "distill_alpha" in found else found

    def prepare(rngs: jax.Array, batch: Batch, values: Metrics | None = None) -> tuple[Batch, Metrics]:
        counts = kind.counts(batch)
        if asked:
            counts["tokens"] = jnp.maximum((batch["segment_ids"] > 0).sum().astype(jnp.float32), 1.0)
        return {**batch, "rngs": fold_rows(rngs, DROPOUT)}, counts

    parts, to_labels, to_teacher = {"loss": Part(kind.over, 1.0)}, "loss", kind.distance_name
    if teacher is not None and config is not None:
        to_labels = "loss_labels"
        shares = "labels_weight", "distill_alpha"
        if not isinstance(config.alpha, Schedule):
            shares = 1.0 - config.alpha, config.alpha
        parts = {name: Part(kind.over, share) for name, share in zip((to_labels, to_teacher), shares, strict=True)}
        parts = {**(parts if stage != "layers" else {}), **{one.term.metric: part_of(one) for one in asked}}

    def distance(
        config: DistillConfig, outputs: jax.Array, theirs: jax.Array, batch: Batch, counts: Metrics
    ) -> jax.Array:
        heat = counts["distill_temperature"] if isinstance(config.temperature, Schedule) else config.temperature
        return kind.distance(outputs, theirs, batch, heat)

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Metrics:
        model, terms = merge(graphdef, of_model(params)), {}
        if teacher is None or config is None:
            return {to_labels: kind.loss(outputs_of(kind, model, batch, batch["rngs"]), batch)}
        if "taught" in batch:
            outputs = outputs_of(kind, model, batch, batch["rngs"])
            return {
                to_labels: kind.loss(outputs, batch),
                to_teacher: distance(config, outputs, batch["taught"], batch, counts),
            }
        taught_by = merge(teacher, frozen)
        of_student, of_teacher = all_reads(asked, model.config, taught_by.config)
        encode = read if stage == "layers" else _encode
        ours = encode(model, batch, batch["rngs"], of_student)
        if stage != "layers":
            outputs = _outputs(kind, model, ours, batch, batch["rngs"])
            terms[to_labels] = kind.loss(outputs, batch)
        with jax.named_scope("teacher"):
            theirs = encode(taught_by, batch, None, of_teacher)
        if stage != "layers":
            with jax.named_scope("teacher"):
                their_outputs = _outputs(kind, taught_by, theirs, batch, None)
            terms[to_teacher] = distance(config, outputs, their_outputs, batch, counts)
        student, other = compared(model, taught_by, asked, params, dtype)
        segment_ids = batch["segment_ids"]
        at = Tokens((segment_ids > 0).astype(jnp.float32), None, segment_ids)
        for one in asked:
            terms[one.term.metric] = value_of(one, student.view(one, ours), other.view(one, theirs), at, counts)
        return terms

    return Objective(prepare, sums, parts, values)


def outputs_of(kind: Kind, model: Any, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    """`Kind.outputs` of packed rows; token types go to models that have them.

    rngs: keys [R] for dropout, one a row; None: no dropout.
    """
    return _outputs(kind, model, _encode(model, batch, rngs, Reads()), batch, rngs)


def _encode(model: Any, batch: Batch, rngs: jax.Array | None, reads: Reads) -> LayerOutputs:
    """The last hidden states, and what else is read."""
    return read(model, batch, rngs, reads | Reads(hidden_states=(model.config.num_hidden_layers - 1,)))


def _outputs(kind: Kind, model: Any, encoded: LayerOutputs, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    last = encoded.hidden_states[model.config.num_hidden_layers - 1]
    with jax.named_scope("head"):
        return kind.outputs(model, last, batch, rngs)
