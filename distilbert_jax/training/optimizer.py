"""AdamW with linear warm-up, linear decay and gradient clipping (defaults: the original train.py)."""

import math
from collections.abc import Collection

import optax

from distilbert_jax.config import OptimizerConfig
from distilbert_jax.models.params import Params


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of step 0, 1, …: from 0 up over ceil(warmup · steps) steps, then straight down to 0 at `steps`."""
    warmup = math.ceil(config.warmup * steps - 1e-9)  # 0.07 · 100 is 7.000000000000001
    up = optax.linear_schedule(0.0, config.learning_rate, max(warmup, 1))
    down = optax.linear_schedule(config.learning_rate, 0.0, max(steps - warmup, 1))
    return optax.join_schedules([up, down], [warmup])


def decayed(params: Params) -> dict[str, bool]:
    """Which parameters weight decay applies to: all but biases and LayerNorms."""
    return {name: not name.endswith((".bias", ".scale")) for name in params}


def adamw(config: OptimizerConfig, steps: int, frozen: Collection[str] = ()) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW (ε outside the root, decoupled decay: as torch.optim.AdamW).

    Args:
        frozen: parameters that stay as they are, to the bit; their gradients do not count in the norm.
    """
    held = lambda params: {name: name in frozen for name in params}
    return optax.chain(
        *([optax.masked(optax.set_to_zero(), held)] if frozen else []),
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: {name: decays and name not in frozen for name, decays in decayed(params).items()},
        ),
    )
