"""Fine-tuning objective: classification or regression, alone or beside a teacher and what lies within it."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax.config import DistillConfig, Reads
from distilbert_jax.models.encoder import LayerOutputs
from distilbert_jax.models.layers import at_positions, fold_rows
from distilbert_jax.models.params import Params, merge
from distilbert_jax.training import losses
from distilbert_jax.training.objective import DROPOUT, Batch, Metrics, Objective, Part
from distilbert_jax.training.projections import of_model
from distilbert_jax.training.schedules import value_at
from distilbert_jax.training.terms import Tokens, Weighted, all_reads, weighted_terms
from distilbert_jax.training.views import compared, part_of, read, value_of

READ = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "first")  # of a batch, by `classify`

Stage = Literal["together", "layers", "answers"]


def layer_terms(config: DistillConfig) -> tuple[Weighted, ...]:
    """The terms of layers that a config gives a weight to."""
    return weighted_terms(config, "distill")


def classification(
    graphdef: nnx.GraphDef,
    num_labels: int,
    teacher: nnx.GraphDef | None = None,
    config: DistillConfig | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    stage: Stage = "together",
    steps: int = 1,
) -> Objective:
    """Cross-entropy of a `SequenceClassification`, or mean squared error when it has one label; with a teacher also the distance
    from it, as `DistillConfig` says. The teacher's parameters are the frozen ones; projections of its terms are among the others.

    Batches are packed: what `classify` reads, and of each example labels (int32, or float32 for a regression) and weights float32
    [R, S], 0 where there is no example; also labelled float32 [R, S] where not all of them are: the label of one with 0 is not
    learned. Losses of answers are divided by the examples, labelled or not, terms of layers by the tokens.

    Args:
        dtype: of the matmuls of projections.
        stage: what is learned: terms of layers, answers, or both together.
        steps: over which the weights of layers change that are scheduled.
    """
    asked = layer_terms(config) if teacher is not None and config is not None and stage != "answers" else ()
    scheduled = {name: value for one in asked for name, value in one.schedules.items()}

    def prepare(rngs: jax.Array, batch: Batch, values: Metrics | None = None) -> tuple[Batch, Metrics]:
        counts = {"examples": jnp.maximum(batch["weights"].sum(), 1.0)}
        if asked:
            counts["tokens"] = jnp.maximum((batch["segment_ids"] > 0).sum().astype(jnp.float32), 1.0)
        return {**batch, "rngs": fold_rows(rngs, DROPOUT)}, counts

    regression = num_labels == 1
    parts, to_labels, to_teacher = {"loss": Part("examples", 1.0)}, "loss", ""
    if teacher is not None and config is not None:
        to_labels, to_teacher = "loss_labels", "loss_mse" if regression else "loss_ce"
        parts = {to_labels: Part("examples", 1.0 - config.alpha), to_teacher: Part("examples", config.alpha)}
        parts = {**(parts if stage != "layers" else {}), **{one.term.metric: part_of(one) for one in asked}}

    def from_labels(logits: jax.Array, batch: Batch) -> jax.Array:
        weights = batch["weights"] * batch["labelled"] if "labelled" in batch else batch["weights"]
        if regression:
            return jnp.sum(weights * jnp.square(logits[..., 0] - batch["labels"]))
        return losses.cross_entropy(logits, batch["labels"], weights)

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Metrics:
        model, terms = merge(graphdef, of_model(params)), {}
        if teacher is None or config is None:
            return {to_labels: from_labels(classify(model, batch, batch["rngs"]), batch)}
        taught_by = merge(teacher, frozen)
        of_student, of_teacher = all_reads(asked, model.config, taught_by.config)
        encode = read if stage == "layers" else _encode
        ours = encode(model, batch, batch["rngs"], of_student)
        if stage != "layers":
            logits = _answers(model, ours, batch, batch["rngs"])
            terms[to_labels] = from_labels(logits, batch)
        with jax.named_scope("teacher"):
            theirs = encode(taught_by, batch, None, of_teacher)
        if stage != "layers":
            with jax.named_scope("teacher"):
                their_logits = _answers(taught_by, theirs, batch, None)
            distance = functools.partial(losses.distillation, temperature=config.temperature)
            terms[to_teacher] = (losses.logit_mse if regression else distance)(logits, their_logits, batch["weights"])
        student, other = compared(model, taught_by, asked, params, dtype)
        segment_ids = batch["segment_ids"]
        at = Tokens((segment_ids > 0).astype(jnp.float32), None, segment_ids)
        for one in asked:
            terms[one.term.metric] = value_of(one, student.view(one, ours), other.view(one, theirs), at, counts)
        return terms

    return Objective(
        prepare, sums, parts, lambda step: {name: value_at(one, step, steps) for name, one in scheduled.items()}
    )


def classify(model: Any, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    """Logits [R, S, labels] of a classifier for the examples of packed rows, see `Examples.packed`; token types go to models that
    have them, and the logits of a place without an example mean nothing.

    rngs: keys [R] for dropout, one a row; None: no dropout.
    """
    return _answers(model, _encode(model, batch, rngs, Reads()), batch, rngs)


def _encode(model: Any, batch: Batch, rngs: jax.Array | None, reads: Reads) -> LayerOutputs:
    """The last hidden states, and what else is read."""
    return read(model, batch, rngs, reads | Reads(hidden_states=(model.config.num_hidden_layers - 1,)))


def _answers(model: Any, encoded: LayerOutputs, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    last = encoded.hidden_states[model.config.num_hidden_layers - 1]
    with jax.named_scope("head"):
        return model.logits(at_positions(last, batch["first"]), rngs)
