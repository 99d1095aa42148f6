"""Optimizer of fine-tuning: AdamW for what is trained, each layer at its rate."""

from collections.abc import Collection

import optax

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.training.optimizer import adamw, layer_shares


def optimizer_of(
    config: FinetuneConfig, params: Collection[str], layers: int, steps: int
) -> optax.GradientTransformation:
    """AdamW for parameters of these names of a model with so many layers, over `steps` steps."""
    shares = layer_shares(params, layers, config.layer_decay) if config.layer_decay < 1.0 else None
    return adamw(config.optimizer, steps, held_of(config, params), shares)


def held_of(config: FinetuneConfig, params: Collection[str]) -> list[str]:
    """Those of the parameters of these names that stay as they are."""
    return [name for name in params if name.startswith("encoder.") and config.freeze == "encoder"]
