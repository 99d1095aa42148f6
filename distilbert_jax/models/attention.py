"""Multi-head self-attention, shared by BERT and DistilBERT."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from distilbert_jax.config import ModelConfig
from distilbert_jax.models.layers import Array, Linear, RowKeys, dropout, einsum


def attention_bias(
    attention_mask: Shaped[Array, "B T"] | None, segment_ids: Int[Array, "B T"] | None
) -> Float[Array, "B 1 #T T"] | None:
    """What to add to the scores, float32 [B, 1, 1 or T, T]: 0 where a query may look at a key, else the lowest float32.

    With `segment_ids` [B, T] (0 = padding, packed rows) a token looks at its own segment only; with `attention_mask` [B, T]
    (1 = a token) every query looks at every key that is a token, as in the reference models.
    """
    if segment_ids is not None:
        visible = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    elif attention_mask is not None:
        visible = (attention_mask > 0)[:, None, None, :]
    else:
        return None
    return jnp.where(visible, 0.0, jnp.finfo(jnp.float32).min)


def softmax(scores: Float[Array, "B N T T"], bias: Float[Array, "#B 1 #T T"] | None) -> Float[Array, "B N T T"]:
    """softmax(scores + bias) over the last axis, computed in float32, in the dtype of the scores."""
    if scores.dtype == jnp.float32:
        return jax.nn.softmax(scores if bias is None else scores + bias, axis=-1)
    return _narrow_softmax(scores, bias)


def _softmax_of_narrow(scores: Array, bias: Array | None) -> Array:
    wide = scores.astype(jnp.float32)
    return jax.nn.softmax(wide if bias is None else wide + bias, axis=-1).astype(scores.dtype)


def _softmax_forward(scores: Array, bias: Array | None) -> tuple[Array, Array]:
    probabilities = _softmax_of_narrow(scores, bias)
    return probabilities, probabilities


def _softmax_backward(probabilities: Array, g: Array) -> tuple[Array, None]:
    wide, g = probabilities.astype(jnp.float32), g.astype(jnp.float32)
    return (wide * (g - jnp.sum(wide * g, axis=-1, keepdims=True))).astype(probabilities.dtype), None


# Its gradient takes the probabilities as they are kept, in the dtype of activations.
_narrow_softmax = jax.custom_vjp(_softmax_of_narrow)
_narrow_softmax.defvjp(_softmax_forward, _softmax_backward)


class QueriesKeysValues(NamedTuple):
    """What the attention computes with, [B, T, D] each: after their biases, all heads side by side, before the scaling."""

    queries: Array
    keys: Array
    values: Array


class AttentionParts(NamedTuple):
    """What lies within an attention, in the dtype of activations: scores [B, N, T, T], Q·Kᵀ/√H of all keys, visible or not;
    probabilities [B, N, T, T] before dropout."""

    queries_keys_values: QueriesKeysValues
    scores: Array
    probabilities: Array


class SelfAttention(nnx.Module):
    """softmax(Q·Kᵀ/√H + bias)·V with output projection; dropout on the probabilities."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        D = config.hidden_size
        linear = lambda: Linear(D, D, std=config.initializer_range, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "B T D"], bias: Float[Array, "#B 1 #T T"] | None, rngs: RowKeys | None
    ) -> tuple[Float[Array, "B T D"], AttentionParts]:
        """x [B, T, D], bias as `attention_bias` gives it, rngs [B] → output [B, T, D], and what lies within."""
        B, T, D = x.shape
        split = lambda y: y.reshape(B, T, self.num_heads, D // self.num_heads)  # [B, T, N, H]
        scale = (D // self.num_heads) ** -0.5  # in float32: in bfloat16 it may be 0.2 % off
        queries = self.query(x)
        query = (split(queries).astype(jnp.float32) * scale).astype(x.dtype)
        keys, values = self.key(x), self.value(x)
        key, value = split(keys), split(values)
        with jax.named_scope("attention"):
            scores = einsum("bqnh,bknh->bnqk", query, key, self.dtype)
            probabilities = softmax(scores, bias)
            kept = dropout(probabilities, self.dropout, rngs)
            mixed = einsum("bnqk,bknh->bqnh", kept, value, self.dtype)
        parts = AttentionParts(QueriesKeysValues(queries, keys, values), scores, probabilities)
        return self.out(mixed.reshape(B, T, D)), parts
