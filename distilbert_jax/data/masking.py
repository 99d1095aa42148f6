"""Masked-LM corruption on the device, inside the jitted step, drawn for each packed row from a key of its own.

Which tokens are drawn depends on the row's key alone: not on the mesh, the number of processes or the micro-batches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.config import MaskingConfig


class Masked(NamedTuple):
    """A corrupted batch: M is the most tokens that a row of T tokens can have drawn.

    input_ids int32 [B, T]; positions int32 [B, M] of the drawn tokens; labels int32 [B, M], their true ids;
    weights float32 [B, M], 1 where a token was drawn, 0 where the row had fewer.
    """

    input_ids: jax.Array
    positions: jax.Array
    labels: jax.Array
    weights: jax.Array


def log_weights(token_counts: np.ndarray, special_ids: tuple[int, ...], config: MaskingConfig) -> np.ndarray:
    """Log of the weight with which each token is drawn, float32 [V]; -inf for special tokens.

    With `weighting="frequency"`, p ∝ max(count, 1)^-smoothing of the corpus counts (`token_smoothing` of the original
    train.py, after XLM and word2vec); with `"uniform"` all are equal.
    """
    counts = np.maximum(np.asarray(token_counts, np.float64), 1.0)
    logs = -config.smoothing * np.log(counts) if config.weighting == "frequency" else np.zeros_like(counts)
    logs[list(special_ids)] = -np.inf
    return logs.astype(np.float32)


def draws(length: int, probability: float) -> np.ndarray:
    """ceil(probability · n) for n = 0 … length, int32 [length + 1]. A table, since float32 on the device rounds 15.0 up to 16."""
    return np.ceil(np.arange(length + 1) * probability - 1e-9).astype(np.int32)


def corrupt(
    rngs: jax.Array, input_ids: jax.Array, is_token: jax.Array, weights: jax.Array, mask_id: int, config: MaskingConfig
) -> Masked:
    """Draw ceil(probability · tokens) tokens of each row without replacement and corrupt them 80/10/10.

    Args:
        rngs: key array [B], one a row.
        input_ids: int32 [B, T].
        is_token: bool [B, T], False at padding.
        weights: float32 [V] from `log_weights`.
    """
    T, V = input_ids.shape[1], weights.shape[0]
    counts = draws(T, config.probability)
    M = int(counts[T])

    def row(key: jax.Array, ids: jax.Array, real: jax.Array) -> Masked:
        which, how, other = jax.random.split(key, 3)
        # The M largest of log p + Gumbel noise are a weighted draw without replacement (Efraimidis and Spirakis).
        scores = jnp.where(real, weights[ids], -jnp.inf) + jax.random.gumbel(which, (T,))
        positions = jnp.argsort(-scores)[:M]
        drawn = (jnp.arange(M) < jnp.asarray(counts)[real.sum()]) & (scores[positions] > -jnp.inf)
        labels = ids[positions]
        replacement = jax.random.randint(other, (M,), 0, V - config.random_differs)
        if config.random_differs:
            replacement += replacement >= labels
        share = jax.random.uniform(how, (M,))
        corrupted = jnp.where(share < config.mask, mask_id, labels)
        corrupted = jnp.where((share >= config.mask) & (share < config.mask + config.random), replacement, corrupted)
        new_ids = ids.at[positions].set(jnp.where(drawn, corrupted, labels), unique_indices=True)
        return Masked(new_ids, positions, jnp.where(drawn, labels, 0), drawn.astype(jnp.float32))

    return jax.vmap(row)(rngs, input_ids, is_token)
