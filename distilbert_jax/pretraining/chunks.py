"""Chunked logits: sums over tokens, a piece of the length at a time: what is as wide as the vocabulary never stands whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from distilbert_jax.models.params import Params

Array = jax.Array
Term = Callable[[Params, Array, Any, Any], tuple[Array | float, Any]]


def in_chunks(term: Term, tokens: int, params: Params, hidden: Array, beside: Any, whole: Any) -> tuple[Array, Any]:
    """Σ term(params, piece of hidden, piece of beside, whole) over pieces of `tokens` tokens of every row.

    The gradient is computed in the forward pass, right after each piece's value, so that no logits are kept and none are computed
    twice; what is kept is the size of `params` and `hidden`. The last piece is filled up with zeros.

    Args:
        tokens: of each row in a piece; above T, one piece is all.
        term: → (value, parts of it for the log), scalars that are sums over tokens and 0 for the zeros.
        params, hidden: hidden states [B, T, D], float32 or bfloat16; both get the gradient of the value. None flows from the parts.
        beside: arrays [B, T, ...], cut as `hidden` is; `whole`: more arrays. Neither gets a gradient.

    Returns:
        The sums of `term`'s value and parts, scalars of its dtypes.
    """
    return _in_chunks(term, tokens, params, hidden, beside, whole)


def _value(
    term: Term, tokens: int, params: Params, hidden: Array, beside: Any, whole: Any
) -> tuple[Array | float, Any]:
    return _over_pieces(lambda *piece: (term(params, piece[0], piece[1], whole), None), tokens, (hidden, beside))[0]


def _forward(
    term: Term, tokens: int, params: Params, hidden: Array, beside: Any, whole: Any
) -> tuple[tuple[Array, Any], tuple[Params, Array]]:
    grad = jax.value_and_grad(term, argnums=(0, 1), has_aux=True)

    def piece(hidden: Array, beside: Any) -> tuple[Any, Array]:
        result, (to_params, to_hidden) = grad(params, hidden, beside, whole)
        return (result, to_params), to_hidden

    (result, to_params), to_hidden = _over_pieces(piece, tokens, (hidden, beside))
    to_hidden = to_hidden.swapaxes(0, 1)  # [B, pieces, tokens, D]
    return result, (to_params, to_hidden.reshape(len(hidden), -1, hidden.shape[-1])[:, : hidden.shape[1]])


def _backward(term: Term, tokens: int, saved: tuple[Params, Array], given: tuple[Array, Any]) -> tuple[Any, ...]:
    return *jax.tree.map(lambda gradient: (given[0] * gradient).astype(gradient.dtype), saved), None, None


_in_chunks = jax.custom_vjp(_value, nondiff_argnums=(0, 1))
_in_chunks.defvjp(_forward, _backward)


def _over_pieces(call: Callable[..., tuple[Any, Any]], most: int, arrays: tuple[Any, ...]) -> tuple[Any, Any]:
    """`call` of each piece of `most` tokens → (the sum of its first results, its second ones stacked)."""

    def cut(x: Array) -> Array:
        tokens = min(most, x.shape[1])
        filled = jnp.pad(x, [(0, 0), (0, -x.shape[1] % tokens)] + [(0, 0)] * (x.ndim - 2))
        return filled.reshape(len(x), -1, tokens, *x.shape[2:]).swapaxes(0, 1)  # rows stay on their devices

    pieces = jax.tree.map(cut, arrays)
    like = jax.eval_shape(call, *jax.tree.map(lambda x: x[0], pieces))[0]

    def add(total: Any, piece: tuple[Any, ...]) -> tuple[Any, Any]:
        summed, kept = call(*piece)
        return jax.tree.map(jnp.add, total, summed), kept

    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like), pieces)
