"""Distillation loss, the functions of its terms: what each takes of student and teacher; the formulas are in `training.losses`."""

import jax

from distilbert_jax.pretraining.terms import Tokens, View
from distilbert_jax.training import losses


def kl(student: View, teacher: View, at: Tokens, *, temperature: float) -> jax.Array:
    return losses.distillation(student.logits, teacher.logits, at.weights, temperature)


def mse(student: View, teacher: View, at: Tokens) -> jax.Array:
    return losses.logit_mse(student.logits, teacher.logits, at.weights)


def mlm(student: View, teacher: View, at: Tokens) -> jax.Array:
    return losses.cross_entropy(student.logits, at.labels, at.weights)


def cos(student: View, teacher: View, at: Tokens) -> jax.Array:
    return losses.cosine_distance(student.last_hidden_state, teacher.last_hidden_state, at.weights)
