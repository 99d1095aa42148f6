"""What an objective is: the loss of a step, as sums over a micro-batch that are divided by counts over the global batch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from distilbert_jax.models.params import Params

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
MASKING, DROPOUT = 0, 1  # what a row's key is folded with


class Objective(NamedTuple):
    """prepare(rngs [B], batch) → (batch, totals); loss(params, frozen params, micro-batch, totals) → (loss, its parts).

    `over` names for each part the total that it is divided by.
    """

    prepare: Callable[[jax.Array, Batch], tuple[Batch, Metrics]]
    loss: Callable[[Params, Params, Batch, Metrics], tuple[jax.Array, Metrics]]
    over: Mapping[str, str]


def fold_rows(rngs: jax.Array, site: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(rngs, site)
