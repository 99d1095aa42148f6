"""Masked-LM corruption on the device, inside the jitted step, drawn for each packed row from a key of its own.

Which tokens are drawn depends on the row's key alone (with `per="batch"` on the keys of the global batch): not on the mesh, the
number of processes or the micro-batches.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num

from distilbert_jax.config import MaskingConfig, Schedule, Scheduled, ends

_PARTS = 10_000  # the finest that a share is told apart


class Masked(NamedTuple):
    """A corrupted batch: M is the most tokens that a row of T tokens can have masked.

    input_ids int32 [B, T]; positions int32 [B, M] of the masked tokens; labels int32 [B, M], their true ids;
    weights float32 [B, M], 1 where a token is masked, 0 where the row had fewer.
    """

    input_ids: Int[jax.Array, "B T"]
    positions: Int[jax.Array, "B M"]
    labels: Int[jax.Array, "B M"]
    weights: Float[jax.Array, "B M"]


def log_weights(
    token_counts: Num[np.ndarray, " V"], special_ids: tuple[int, ...], config: MaskingConfig
) -> Float[np.ndarray, " V"]:
    """Log of the weight with which each token is drawn, float32 [V]; -inf for special tokens.

    With `weighting="frequency"`, p ∝ max(count, 1)^-smoothing of the corpus counts (`token_smoothing` of the original
    train.py, after XLM and word2vec); with `"uniform"` all are equal.
    """
    counts = np.maximum(np.asarray(token_counts, np.float64), 1.0)
    logs = -config.smoothing * np.log(counts) if config.weighting == "frequency" else np.zeros_like(counts)
    logs[list(special_ids)] = -np.inf
    return logs.astype(np.float32)


def masked_count(tokens: Any, probability: float | jax.Array) -> Any:
    """ceil(probability · tokens) of an int or an array of them, exact for a share of up to four decimals, to which that of an array
    is rounded.

    Float32 on the device would round 15.0 up to 16.
    """
    if isinstance(probability, jax.Array):
        above, below = jnp.rint(probability * _PARTS).astype(jnp.int32), _PARTS
    else:
        share = Fraction(probability).limit_denominator(_PARTS)
        above, below = share.numerator, share.denominator
    # In two parts, since int32 on the device would not hold the product.
    whole, rest = tokens // below, tokens % below
    return whole * above - (-rest * above) // below


def most_masked(tokens: int, probability: Scheduled) -> int:
    """The most of so many tokens that are masked in any step."""
    if isinstance(probability, Schedule):
        return masked_count(tokens, round(max(ends(probability)), 4))  # as its values on the device are rounded
    return masked_count(tokens, probability)


def corrupt(
    rngs: Key[jax.Array, " B"],
    input_ids: Int[jax.Array, "B T"],
    is_token: Bool[jax.Array, "B T"],
    weights: Float[jax.Array, " V"],
    mask_id: int,
    config: MaskingConfig,
    probability: Float[jax.Array, ""] | float | None = None,
) -> Masked:
    """Draw ceil(probability · tokens) tokens of each row, or of all rows together, without replacement and corrupt them 80/10/10.

    Args:
        rngs: key array [B], one a row.
        input_ids: int32 [B, T].
        is_token: bool [B, T], False at padding.
        weights: float32 [V] from `log_weights`.
        probability: of this step, where that of the config is a schedule.
    """
    share: Any = config.probability if probability is None else probability
    largest = config.probability if isinstance(share, jax.Array) else share
    (B, T), V = input_ids.shape, weights.shape[0]
    which, how, other = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(rngs), 1, 0)
    # The largest of log p + Gumbel noise are a weighted draw without replacement (Efraimidis and Spirakis).
    scores = jnp.where(is_token, weights[input_ids], -jnp.inf) + jax.vmap(lambda key: jax.random.gumbel(key, (T,)))(
        which
    )
    tokens = is_token.sum(-1, dtype=jnp.int32)
    if config.per == "row":
        M = most_masked(T, largest)
        positions = jnp.argsort(-scores)[:, :M]
        chosen = jnp.arange(M) < masked_count(tokens, share)[:, None]
    else:
        # Any row may have all its tokens masked.
        M = T
        positions = jnp.argsort(-scores)
        rank = jnp.argsort(jnp.argsort(-scores.reshape(-1))).reshape(B, T)
        chosen = jnp.take_along_axis(rank, positions, 1) < masked_count(tokens.sum(), share)
    chosen &= jnp.take_along_axis(scores, positions, 1) > -jnp.inf
    labels = jnp.take_along_axis(input_ids, positions, 1)

    def replaced(
        how: Key[jax.Array, ""], other: Key[jax.Array, ""], labels: Int[jax.Array, " M"]
    ) -> Int[jax.Array, " M"]:
        replacement = jax.random.randint(other, (M,), 0, V - config.random_differs)
        if config.random_differs:
            replacement += replacement >= labels
        drawn = jax.random.uniform(how, (M,))
        corrupted = jnp.where(drawn < config.mask, mask_id, labels)
        return jnp.where((drawn >= config.mask) & (drawn < config.mask + config.random), replacement, corrupted)

    put = jax.vmap(lambda ids, positions, values: ids.at[positions].set(values, unique_indices=True))
    new_ids = put(input_ids, positions, jnp.where(chosen, jax.vmap(replaced)(how, other, labels), labels))
    return Masked(new_ids, positions, jnp.where(chosen, labels, 0), chosen.astype(jnp.float32))
