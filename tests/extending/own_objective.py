"""An objective of one's own: masked LM with smoothed labels."""

import jax
import jax.numpy as jnp

from distilbert_jax import ModelConfig, Objective, Part, PretrainConfig, register_objective
from distilbert_jax.models.layers import at_positions
from distilbert_jax.models.params import merge
from distilbert_jax.pretraining.objectives import Given, encode
from distilbert_jax.training.losses import cross_entropy

SMOOTHING = 0.1


@register_objective("smoothed_masked_lm")
def smoothed_masked_lm(given: Given) -> Objective:
    def sums(params, frozen, batch, counts):
        model = merge(given.student, params)
        logits = model.logits(at_positions(encode(model, batch, batch["rngs"]), batch["positions"]))
        entries = model.config.vocab_size  # the table is filled up behind them
        uniform = -jax.nn.log_softmax(logits)[..., :entries].mean(-1)
        return {
            "loss_mlm": cross_entropy(logits, batch["labels"], batch["masked_weights"]),
            "loss_uniform": jnp.sum(batch["masked_weights"] * uniform),
        }

    parts = {"loss_mlm": Part("masked", 1.0 - SMOOTHING), "loss_uniform": Part("masked", SMOOTHING)}
    return Objective(given.prepare, sums, parts)


def get_config() -> PretrainConfig:
    return PretrainConfig(model=ModelConfig.distilbert_base(), objective="smoothed_masked_lm")
