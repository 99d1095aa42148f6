"""Fine-tuning objective: classification or regression, alone or beside a teacher."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distilbert_jax.config import DistillConfig
from distilbert_jax.models.layers import at_positions, fold_rows
from distilbert_jax.models.params import Params, merge
from distilbert_jax.training import losses
from distilbert_jax.training.objective import DROPOUT, Batch, Metrics, Objective, Part

READ = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "first")  # of a batch, by `classify`


def classification(
    graphdef: nnx.GraphDef, num_labels: int, teacher: nnx.GraphDef | None = None, config: DistillConfig | None = None
) -> Objective:
    """Cross-entropy of a `SequenceClassification`, or mean squared error when it has one label; with a teacher also the distance
    from it, as `DistillConfig` says. The teacher's parameters are the frozen ones.

    Batches are packed: what `classify` reads, and of each example labels (int32, or float32 for a regression) and weights float32
    [R, S], 0 where there is no example.
    """

    def prepare(rngs: jax.Array, batch: Batch) -> tuple[Batch, Metrics]:
        return {**batch, "rngs": fold_rows(rngs, DROPOUT)}, {"examples": jnp.maximum(batch["weights"].sum(), 1.0)}

    regression = num_labels == 1
    parts, to_labels, to_teacher = {"loss": Part("examples", 1.0)}, "loss", ""
    if teacher is not None and config is not None:
        to_labels, to_teacher = "loss_labels", "loss_mse" if regression else "loss_ce"
        parts = {to_labels: Part("examples", 1.0 - config.alpha), to_teacher: Part("examples", config.alpha)}

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Metrics:
        logits, weights = classify(merge(graphdef, params), batch, batch["rngs"]), batch["weights"]
        if regression:
            terms = {to_labels: jnp.sum(weights * jnp.square(logits[..., 0] - batch["labels"]))}
        else:
            terms = {to_labels: losses.cross_entropy(logits, batch["labels"], weights)}
        if teacher is not None and config is not None:
            with jax.named_scope("teacher"):
                theirs = classify(merge(teacher, frozen), batch, None)
            distance = functools.partial(losses.distillation, temperature=config.temperature)
            terms[to_teacher] = (losses.logit_mse if regression else distance)(logits, theirs, weights)
        return terms

    return Objective(prepare, sums, parts)


def classify(model: Any, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    """Logits [R, S, labels] of a classifier for the examples of packed rows, see `Examples.packed`; token types go to models that
    have them, and the logits of a place without an example mean nothing.

    rngs: keys [R] for dropout, one a row; None: no dropout.
    """
    types = {"token_type_ids": batch["token_type_ids"]} if model.config.type_vocab_size else {}
    with jax.named_scope("encoder"):
        encoded = model.encoder(
            batch["input_ids"], position_ids=batch["position_ids"], segment_ids=batch["segment_ids"], rngs=rngs, **types
        )
    with jax.named_scope("head"):
        return model.logits(at_positions(encoded.last_hidden_state, batch["first"]), rngs)
