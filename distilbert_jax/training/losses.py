"""Losses as weighted *sums*: the terms of distillation (the triple loss, paper, section 3, and distiller.py; TinyBERT's of
layers, MiniLM's relations), and those of heads.

Sums, because the caller divides by counts over the whole global batch: the value then depends on neither the mesh nor the
micro-batches. `question_answering`, which no training loop here uses, is a mean. Logits and hidden states may be
float32 or bfloat16; all arithmetic is float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from distilbert_jax.models.layers import einsum

Array = jax.Array
Scalar = Float[Array, ""]


def cross_entropy(logits: Float[Array, "*at V"], labels: Int[Array, "*at"], weights: Float[Array, "*at"]) -> Scalar:
    """Σ weights · −log softmax(logits)[label]. logits [..., V], labels int32 [...], weights [...] → scalar."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=-1) - picked))


def labelled(logits: Float[Array, "*at V"], labels: Int[Array, "*at"]) -> tuple[Scalar, Int[Array, ""]]:
    """Cross-entropy summed over the labels that are classes, and their number: labels outside 0 … V−1, such as −100, are ignored.

    logits [..., V], labels int32 [...] → two scalars. The loss of token classification, multiple choice and next sentence
    is their ratio over the global batch.
    """
    known = (labels >= 0) & (labels < logits.shape[-1])
    return cross_entropy(logits, jnp.where(known, labels, 0), known.astype(jnp.float32)), jnp.sum(known)


def question_answering(
    start_logits: Float[Array, "B T"], end_logits: Float[Array, "B T"], starts: Int[Array, " B"], ends: Int[Array, " B"]
) -> Scalar:
    """Mean of the cross-entropies of start and end [B, T] at the positions int32 [B] → scalar.

    As in the reference, an answer that lies beyond the T tokens is left out, of start and end each on its own; a negative position
    counts as 0 ([CLS]: no answer).
    """
    terms = (labelled(logits, jnp.maximum(at, 0)) for logits, at in ((start_logits, starts), (end_logits, ends)))
    start, end = (total / jnp.maximum(count, 1) for total, count in terms)
    return (start + end) / 2


def binary_cross_entropy(
    logits: Float[Array, "*at C"], targets: Float[Array, "*at C"], weights: Float[Array, "*at"]
) -> Scalar:
    """Σ weights · Σ_C −(target · log σ(logit) + (1 − target) · log σ(−logit)). All [..., C], weights [...] → scalar."""
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    terms = targets * jax.nn.log_sigmoid(logits) + (1.0 - targets) * jax.nn.log_sigmoid(-logits)
    return -jnp.sum(weights * jnp.sum(terms, axis=-1))


def distillation(
    student: Float[Array, "*at V"],
    teacher: Float[Array, "*at V"],
    weights: Float[Array, "*at"],
    temperature: Float[Array, ""] | float,
) -> Scalar:
    """Σ weights · T² · KL(softmax(teacher/T) ‖ softmax(student/T)) (Hinton et al. 2015). Logits [..., V], weights [...] → scalar.

    `weights` and `temperature` may be traced. No gradient flows into the teacher or into the temperature.
    """
    return jnp.sum(weights * _divergence(student, teacher, jnp.asarray(temperature, jnp.float32)))


class _Norm(NamedTuple):
    """Of logits their largest, and the log of the sum of exp((logits − largest) / T), float32 [..., 1]."""

    largest: Array
    log_sum: Array


@jax.custom_vjp
def _divergence(student: Array, teacher: Array, temperature: Array) -> Array:
    """T² · KL of each token, float32 [...].

    Its gradient is written by hand: JAX's own would keep arrays as wide as the vocabulary in float32 between the two passes.
    This one keeps the logits as they are given, and writes their gradient once, in their dtype.
    """
    return _divergence_forward(student, teacher, temperature)[0]


def _divergence_forward(
    student: Array, teacher: Array, temperature: Array
) -> tuple[Array, tuple[Array, Array, Array, _Norm, _Norm]]:
    s_largest, t_largest = (x.max(-1, keepdims=True).astype(jnp.float32) for x in (student, teacher))
    s, t = _below(student, s_largest, temperature), _below(teacher, t_largest, temperature)
    t_exp = jnp.exp(t)
    s_sum, t_sum, cross = (x.sum(-1, keepdims=True) for x in (jnp.exp(s), t_exp, t_exp * (t - s)))
    s_log, t_log = jnp.log(s_sum), jnp.log(t_sum)
    value = jnp.square(temperature) * (cross / t_sum - t_log + s_log)[..., 0]
    return value, (student, teacher, temperature, _Norm(s_largest, s_log), _Norm(t_largest, t_log))


def _divergence_backward(saved: tuple[Array, Array, Array, _Norm, _Norm], to_value: Array) -> tuple[Array, None, None]:
    student, teacher, temperature, s_norm, t_norm = saved
    s = _below(student, s_norm.largest, temperature) - s_norm.log_sum
    t = _below(teacher, t_norm.largest, temperature) - t_norm.log_sum
    gradient = (temperature * to_value[..., None]) * (jnp.exp(s) - jnp.exp(t))
    return gradient.astype(student.dtype), None, None


_divergence.defvjp(_divergence_forward, _divergence_backward)


def _below(logits: Array, largest: Array, temperature: Array) -> Array:
    # In this order: logits may be far larger than what they differ by, and a compiler may fuse a product with a difference.
    return (logits.astype(jnp.float32) - largest) * (1.0 / temperature)


def logit_mse(student: Float[Array, "*at V"], teacher: Float[Array, "*at V"], weights: Float[Array, "*at"]) -> Scalar:
    """Σ weights · Σ_V (student − teacher)². The term divides it by the tokens, as the original does."""
    student, teacher = student.astype(jnp.float32), jax.lax.stop_gradient(teacher).astype(jnp.float32)
    return jnp.sum(weights * jnp.sum(jnp.square(student - teacher), axis=-1))


def cosine_distance(
    student: Float[Array, "*at D"], teacher: Float[Array, "*at D"], weights: Float[Array, "*at"]
) -> Scalar:
    """Σ weights · (1 − cos(student, teacher)) of hidden states [..., D]."""
    student, teacher = student.astype(jnp.float32), jax.lax.stop_gradient(teacher).astype(jnp.float32)
    dot = jnp.sum(student * teacher, axis=-1)
    squares = (jnp.sum(jnp.square(student), axis=-1) + 1e-12) * (jnp.sum(jnp.square(teacher), axis=-1) + 1e-12)
    return jnp.sum(weights * (1.0 - dot * jax.lax.rsqrt(squares)))


def hidden_mse(student: Float[Array, "B T D"], teacher: Float[Array, "B T D"], weights: Float[Array, "B T"]) -> Scalar:
    """Σ weights · mean_D (student − teacher)² of hidden states (TinyBERT, Jiao et al. 2020, eq. 8); no gradient into the
    teacher."""
    student, teacher = student.astype(jnp.float32), jax.lax.stop_gradient(teacher).astype(jnp.float32)
    return jnp.sum(weights * jnp.mean(jnp.square(student - teacher), axis=-1))


def _visible(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Which keys a query of a packed row sees: those of its own segment; padding sees padding."""
    return segment_ids[:, None, :, None] == segment_ids[:, None, None, :]


def score_mse(
    student: Float[Array, "B N T T"],
    teacher: Float[Array, "B N T T"],
    weights: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
) -> Scalar:
    """Σ weights · mean over heads and visible keys of (student − teacher)² of attention scores (TinyBERT, eq. 7).

    Scores are Q·Kᵀ/√H [B, N, query, key]; of keys in other segments they may hold anything. For a sequence alone this is the
    mean over N · T · T entries. No gradient flows into the teacher.
    """
    student, teacher = student.astype(jnp.float32), jax.lax.stop_gradient(teacher).astype(jnp.float32)
    visible = _visible(segment_ids)
    squares = jnp.where(visible, jnp.square(student - teacher), 0.0).mean(1).sum(-1)
    return jnp.sum(weights * squares / visible[:, 0].sum(-1))


def attention_divergence(
    student: Float[Array, "B N T T"],
    teacher: Float[Array, "B N T T"],
    weights: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
) -> Scalar:
    """Σ weights · mean over heads of KL(softmax(teacher) ‖ softmax(student)) of attention scores [B, N, query, key] over
    visible keys (MiniLM, Wang et al. 2020, eq. 3). No gradient flows into the teacher."""
    ours, theirs = student.astype(jnp.float32), jax.lax.stop_gradient(teacher).astype(jnp.float32)
    return jnp.sum(weights * _row_divergence(ours, theirs, _visible(segment_ids), student.dtype).mean(1))


def relation_divergence(
    student: Float[Array, "B T D"],
    teacher: Float[Array, "B T E"],
    heads: int,
    weights: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
) -> Scalar:
    """Σ weights · mean over relation heads of KL(teacher ‖ student) of relations, softmax(X·Xᵀ/√(D/R)) over visible tokens
    (MiniLMv2, Wang et al. 2021, eq. 5 to 8; with the values, and R the attention's heads, MiniLM's value relation).

    Args:
        student, teacher: X, queries, keys or values of all heads side by side, of widths that R divides.
        heads: R.
    """
    relations = _relations(student, heads), _relations(jax.lax.stop_gradient(teacher), heads)
    return jnp.sum(weights * _row_divergence(*relations, _visible(segment_ids), student.dtype).mean(1))


def _relations(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B R T T"]:
    """X·Xᵀ/√K of relation heads of width K, float32; operands of the matmul, and its gradients', in the dtype of `x`."""
    cut = x.reshape(*x.shape[:2], heads, -1)
    scaled = cut.astype(jnp.float32) * cut.shape[-1] ** -0.5
    return einsum("bqrk,bsrk->brqs", scaled, cut, x.dtype)


def _divergence_of_rows(student: Array, teacher: Array, visible: Array, dtype: DTypeLike) -> Array:
    """KL(softmax(teacher) ‖ softmax(student)) over the last axis of float32 scores [B, R, T, T] where `visible`, [B, R, T].

    Its gradient is written by hand: between the two passes it keeps one array as large as the scores, in `dtype`, where
    JAX's own keeps several in float32.
    """
    return _row_forward(student, teacher, visible, dtype)[0]


def _row_forward(student: Array, teacher: Array, visible: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    lowest = jnp.finfo(jnp.float32).min
    s, t = (jax.nn.log_softmax(jnp.where(visible, scores, lowest), axis=-1) for scores in (student, teacher))
    probabilities = jnp.exp(t)
    value = jnp.where(visible, probabilities * (t - s), 0.0).sum(-1)
    return value, (jnp.exp(s) - probabilities).astype(dtype)


def _row_backward(dtype: DTypeLike, difference: Array, to_value: Array) -> tuple[Array, None, None]:
    return to_value[..., None] * difference.astype(jnp.float32), None, None


_row_divergence = jax.custom_vjp(_divergence_of_rows, nondiff_argnums=(3,))
_row_divergence.defvjp(_row_forward, _row_backward)
