"""Losses as weighted *sums*: the terms of distillation, the triple loss (paper, section 3; distiller.py), and those of heads.

Sums, because the caller divides by counts over the whole global batch: the value then depends on neither the mesh nor the
micro-batches. `question_answering`, which no training loop here uses, is a mean. All arithmetic is float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

Array = jax.Array
Scalar = Float[Array, ""]


def cross_entropy(logits: Float[Array, "*at V"], labels: Int[Array, "*at"], weights: Float[Array, "*at"]) -> Scalar:
    """Σ weights · −log softmax(logits)[label]. logits [..., V], labels int32 [...], weights [...] → scalar."""
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
    student: Float[Array, "*at V"], teacher: Float[Array, "*at V"], weights: Float[Array, "*at"], temperature: float
) -> Scalar:
    """Σ weights · T² · KL(softmax(teacher/T) ‖ softmax(student/T)) (Hinton et al. 2015). Logits [..., V], weights [...] → scalar.

    No gradient flows into the teacher.
    """
    s = student / temperature
    t = jax.lax.stop_gradient(teacher) / temperature
    t_log_norm = jax.nn.logsumexp(t, axis=-1, keepdims=True)
    kl = jnp.sum(jnp.exp(t - t_log_norm) * (t - s), axis=-1) - t_log_norm[..., 0] + jax.nn.logsumexp(s, axis=-1)
    return temperature**2 * jnp.sum(weights * kl)


def logit_mse(student: Float[Array, "*at V"], teacher: Float[Array, "*at V"], weights: Float[Array, "*at"]) -> Scalar:
    """Σ weights · Σ_V (student − teacher)². The term divides it by the tokens, as the original does."""
    return jnp.sum(weights * jnp.sum(jnp.square(student - jax.lax.stop_gradient(teacher)), axis=-1))


def cosine_distance(
    student: Float[Array, "*at D"], teacher: Float[Array, "*at D"], weights: Float[Array, "*at"]
) -> Scalar:
    """Σ weights · (1 − cos(student, teacher)) of hidden states [..., D]."""
    teacher = jax.lax.stop_gradient(teacher)
    dot = jnp.sum(student * teacher, axis=-1)
    squares = (jnp.sum(jnp.square(student), axis=-1) + 1e-12) * (jnp.sum(jnp.square(teacher), axis=-1) + 1e-12)
    return jnp.sum(weights * (1.0 - dot * jax.lax.rsqrt(squares)))
