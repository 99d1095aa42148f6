"""Kinds of labelled tasks by their names: sentences and pairs classified, or a number of each; tags of words."""

from collections.abc import Mapping

from distilbert_jax.finetuning.kinds.kind import Kind as Kind
from distilbert_jax.finetuning.kinds.sentences import Classification, Regression
from distilbert_jax.finetuning.kinds.tokens import Tokens
from distilbert_jax.finetuning.tasks import Task, TaskKind

KINDS: Mapping[TaskKind, Kind] = {
    "classification": Classification(),
    "regression": Regression(),
    "tokens": Tokens(),
}


def kind_of(task: Task) -> Kind:
    """What the kind of a task has to say."""
    return KINDS[task.kind]
