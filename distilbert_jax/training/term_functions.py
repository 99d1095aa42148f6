"""Distillation loss, the functions of its terms: what each takes of student and teacher; the formulas are in `training.losses`."""

import jax.numpy as jnp

from distilbert_jax.training import losses
from distilbert_jax.training.terms import Tokens, View, there


def kl(student: View, teacher: View, at: Tokens, *, temperature: float) -> losses.Scalar:
    return losses.distillation(there(student.logits), there(teacher.logits), at.weights, temperature)


def mse(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    return losses.logit_mse(there(student.logits), there(teacher.logits), at.weights)


def mlm(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    return losses.cross_entropy(there(student.logits), there(at.labels), at.weights)


def cos(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    ours, theirs = there(student.last_hidden_state), there(teacher.last_hidden_state)
    return losses.cosine_distance(ours, theirs, at.weights)


def hidden(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    pairs = zip(there(student.hidden_states), there(teacher.hidden_states), strict=True)
    return sum((losses.hidden_mse(ours, theirs, at.weights) for ours, theirs in pairs), jnp.float32(0.0))


def embeddings(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    return losses.hidden_mse(there(student.embeddings), there(teacher.embeddings), at.weights)


def attention_scores(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    pairs = zip(there(student.attention_scores), there(teacher.attention_scores), strict=True)
    return sum((losses.score_mse(ours, theirs, at.weights, at.segment_ids) for ours, theirs in pairs), jnp.float32(0.0))


def attention_probabilities(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    pairs = zip(there(student.attention_scores), there(teacher.attention_scores), strict=True)
    divergence = losses.attention_divergence
    return sum((divergence(ours, theirs, at.weights, at.segment_ids) for ours, theirs in pairs), jnp.float32(0.0))


def minilm(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    (ours,), (theirs,) = there(student.attention_scores), there(teacher.attention_scores)
    attention = losses.attention_divergence(ours, theirs, at.weights, at.segment_ids)
    (s,), (t,) = there(student.queries_keys_values), there(teacher.queries_keys_values)
    heads = ours.shape[1]
    return attention + losses.relation_divergence(s.values, t.values, heads, at.weights, at.segment_ids)


def minilmv2(
    student: View, teacher: View, at: Tokens, *, relation_heads: int, queries: float, keys: float, values: float
) -> losses.Scalar:
    (s,), (t,), total = there(student.queries_keys_values), there(teacher.queries_keys_values), jnp.float32(0.0)
    for share, ours, theirs in zip((queries, keys, values), s, t, strict=True):
        if share:
            total += share * losses.relation_divergence(ours, theirs, relation_heads, at.weights, at.segment_ids)
    return total
