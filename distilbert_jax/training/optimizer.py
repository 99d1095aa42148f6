"""Optimizer and learning-rate schedule: AdamW, linear warm-up and decay, clipping (defaults: the original train.py)."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from distilbert_jax.config import OptimizerConfig

Scalar = jax.Array | float


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of step 0, 1, …: from 0 up over ceil(warmup · steps) steps, then straight down to 0 at `steps`."""
    slopes = _slopes(config, steps)

    def rate(step: Any) -> Scalar:
        return _rate(step, *slopes)

    return rate


def _slopes(config: OptimizerConfig, steps: int) -> tuple[float, int, int]:
    """The highest rate, over how many steps it rises, and over how many it falls (1 or more)."""
    warmup = math.ceil(config.warmup * steps - 1e-9)  # 0.07 · 100 is 7.000000000000001
    return config.learning_rate, warmup, max(steps - warmup, 1)


def _rate(step: Scalar, peak: Scalar, up: Scalar, down: Scalar) -> Scalar:
    rising, falling = step / jnp.maximum(up, 1), (up + down - step) / down
    return peak * jnp.where(step < up, rising, jnp.clip(falling, 0, 1))


class _ScheduleState(NamedTuple):
    """Where a schedule is and what it is, scalars."""

    count: jax.Array  # int32
    peak: jax.Array  # float32
    up: jax.Array  # int32
    down: jax.Array  # int32


def _scale_by_schedule(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Minus the learning rate times the update. The schedule is data of the state, not part of the program, so that one
    compiled step serves every rate and number of steps."""

    def init(params: optax.Params) -> _ScheduleState:
        peak, up, down = _slopes(config, steps)
        return _ScheduleState(
            jnp.zeros((), jnp.int32), jnp.float32(peak), jnp.asarray(up, jnp.int32), jnp.asarray(down, jnp.int32)
        )

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _ScheduleState]:
        rate = _rate(*state)
        return jax.tree.map(lambda update: -rate * update, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def decayed(params: Collection[str]) -> dict[str, bool]:
    """Which parameters, by name, weight decay applies to: all but biases and LayerNorms."""
    return {name: not name.endswith((".bias", ".scale")) for name in params}


def layer_shares(params: Iterable[str], layers: int, decay: float) -> dict[str, float]:
    """What share of the learning rate each parameter of a model has where every layer below the head has `decay` times that of the
    one above it: the last layer `decay`, the embeddings `decay` ** (layers + 1) (Clark et al. 2020, arXiv 2003.10555)."""

    def share(name: str) -> float:
        room, _, rest = name.partition(".")
        if room != "encoder":
            return 1.0
        kind, _, place = rest.partition(".")
        depth = layers - int(place.partition(".")[0]) if kind == "layers" else layers + 1
        return decay**depth

    return {name: share(name) for name in params}


def _scale_each(shares: Mapping[str, float]) -> optax.GradientTransformation:
    def scaled(updates: Any, params: Any) -> Any:
        return {name: shares.get(name, 1.0) * value for name, value in updates.items()}

    return optax.stateless(scaled)


def adamw(
    config: OptimizerConfig, steps: int, frozen: Collection[str] = (), shares: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW (ε outside the root, decoupled decay: as torch.optim.AdamW).

    Args:
        frozen: parameters that stay as they are, to the bit; their gradients do not count in the norm.
        shares: of the learning rate, by parameter; those that are not named have all of it.
    """
    held = lambda params: {name: name in frozen for name in params}

    def shrinking(params: Any) -> dict[str, bool]:
        return {name: decays and name not in frozen for name, decays in decayed(params).items()}

    return optax.chain(
        *([optax.masked(optax.set_to_zero(), held)] if frozen else []),
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, shrinking),
        *([_scale_each(shares)] if shares else []),
        _scale_by_schedule(config, steps),
    )
