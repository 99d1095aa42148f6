"""Fine-tuning objective: classification or regression, alone or beside a teacher."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from distilbert_jax.config import DistillConfig
from distilbert_jax.models.layers import fold_rows
from distilbert_jax.models.params import Params, merge
from distilbert_jax.training import losses
from distilbert_jax.training.objective import DROPOUT, Batch, Metrics, Objective


def classification(
    graphdef: nnx.GraphDef, num_labels: int, teacher: nnx.GraphDef | None = None, config: DistillConfig | None = None
) -> Objective:
    """Cross-entropy of a `SequenceClassification`, or mean squared error when it has one label; with a teacher also the distance
    from it, as `DistillConfig` says. The teacher's parameters are the frozen ones.

    Batches hold input_ids, attention_mask, token_type_ids, labels (int32, or float32 for a regression) and weights float32 [B],
    0 for rows that only fill up the last batch.
    """

    def prepare(rngs: jax.Array, batch: Batch) -> tuple[Batch, Metrics]:
        return {**batch, "rngs": fold_rows(rngs, DROPOUT)}, {"examples": jnp.maximum(batch["weights"].sum(), 1.0)}

    def loss(params: Params, frozen: Params, batch: Batch, totals: Metrics) -> tuple[jax.Array, Metrics]:
        logits, weights = classify(merge(graphdef, params), batch, batch["rngs"]), batch["weights"]
        if num_labels == 1:
            value = jnp.sum(weights * jnp.square(logits[:, 0] - batch["labels"])) / totals["examples"]
        else:
            value = losses.cross_entropy(logits, batch["labels"], weights) / totals["examples"]
        if teacher is None or config is None:
            return value, {}
        taught = classify(merge(teacher, frozen), batch, None)
        if num_labels == 1:
            distance = {"loss_mse": losses.logit_mse(logits, taught, weights) / totals["examples"]}
        else:
            distance = {
                "loss_ce": losses.distillation(logits, taught, weights, config.temperature) / totals["examples"]
            }
        total = (1.0 - config.alpha) * value + config.alpha * sum(distance.values())
        return total, {"loss_labels": value, **distance}

    return Objective(prepare, loss, dict.fromkeys(("loss_labels", "loss_ce", "loss_mse"), "examples"))


def classify(model: Any, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    """Logits [B, labels] of a classifier; token types go to models that have them."""
    types = {"token_type_ids": batch["token_type_ids"]} if model.config.type_vocab_size else {}
    return model(batch["input_ids"], batch["attention_mask"], rngs=rngs, **types).logits
