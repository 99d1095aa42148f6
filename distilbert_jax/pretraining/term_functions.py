"""Distillation loss, the functions of its terms: what each takes of student and teacher; the formulas are in `training.losses`."""

from distilbert_jax.pretraining.terms import Tokens, View, there
from distilbert_jax.training import losses


def kl(student: View, teacher: View, at: Tokens, *, temperature: float) -> losses.Scalar:
    return losses.distillation(there(student.logits), there(teacher.logits), at.weights, temperature)


def mse(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    return losses.logit_mse(there(student.logits), there(teacher.logits), at.weights)


def mlm(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    return losses.cross_entropy(there(student.logits), there(at.labels), at.weights)


def cos(student: View, teacher: View, at: Tokens) -> losses.Scalar:
    ours, theirs = there(student.last_hidden_state), there(teacher.last_hidden_state)
    return losses.cosine_distance(ours, theirs, at.weights)
