"""Trained projections of distillation: linear maps of the student's hidden states to the teacher's width (TinyBERT, eq. 8 and 9).

They are parameters of the train state, under names of their own: checkpoints, the optimiser and sharding have them, the
saved model does not.
"""

import zlib
from collections.abc import Iterable

import jax
from jax.typing import DTypeLike

from distilbert_jax.config import ModelConfig
from distilbert_jax.models.layers import Array, einsum
from distilbert_jax.models.params import Params
from distilbert_jax.training.terms import Weighted, projected

_PREFIX = "projection."


def of_model(params: Params) -> Params:
    """`params` without projections."""
    return {name: value for name, value in params.items() if not name.startswith(_PREFIX)}


def draw_projections(asked: Iterable[Weighted], student: ModelConfig, teacher: ModelConfig, seed: int) -> Params:
    """Kernels [D_s, D_t] ~ N(0, 1/D_s), for each hidden state of the student that one of these terms compares with a wider or
    narrower one of the teacher; drawn from the run's seed and their names."""
    shape, key = (student.hidden_size, teacher.hidden_size), jax.random.key(seed)
    draw = lambda name: jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), shape)
    names = [name_of(one, place) for one in asked for place in projected(one, student, teacher)]
    return {name: draw(name) * shape[0] ** -0.5 for name in names}


def name_of(one: Weighted, place: int | str) -> str:
    """The projection of the hidden states at a place, for a term."""
    return f"{_PREFIX}{one.term.name}.{place}.kernel"


def project(params: Params, one: Weighted, place: int | str, hidden: Array, dtype: DTypeLike) -> Array:
    """Hidden states [B, T, D_s] of the student, in the teacher's width where `params` have the term's projection for them."""
    kernel = params.get(name_of(one, place))
    return hidden if kernel is None else einsum("btd,de->bte", hidden, kernel, dtype)
