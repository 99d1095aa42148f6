"""Losses as weighted *sums*: the terms of distillation, the triple loss (paper, section 3; distiller.py), and those of heads.

Sums, because the caller divides by counts over the whole global batch: the value then depends on neither the mesh nor the
micro-batches. `question_answering`, which no training loop here uses, is a mean. Logits and hidden states may be
float32 or bfloat16; all arithmetic is float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

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
