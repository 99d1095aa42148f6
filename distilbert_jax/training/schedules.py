"""Schedules of a run: the value of a number that changes over the steps, computed inside the step."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from distilbert_jax.config import Schedule


def value_at(schedule: Schedule, step: Int[jax.Array, ""], steps: int) -> Float[jax.Array, ""]:
    """Of a run of `steps` steps at `step`, from 0: `start` at the first and `end` at the last, exactly. After it, `end`."""
    share = jnp.clip(step.astype(jnp.float32) / max(steps - 1, 1), 0.0, 1.0)
    if schedule.kind == "cosine":
        share = (1.0 - jnp.cos(jnp.pi * share)) / 2.0
    return (1.0 - share) * schedule.start + share * schedule.end
