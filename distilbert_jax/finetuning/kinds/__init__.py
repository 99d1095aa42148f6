"""Kinds of labelled tasks by their names: sentences and pairs classified, or a number of each; tags of words; answers; choices."""

from collections.abc import Mapping

from distilbert_jax.finetuning.kinds.answers import Answers
from distilbert_jax.finetuning.kinds.choices import Choices
from distilbert_jax.finetuning.kinds.kind import Kind as Kind
from distilbert_jax.finetuning.kinds.sentences import Classification, MultiLabel, Regression
from distilbert_jax.finetuning.kinds.tokens import Tokens
from distilbert_jax.finetuning.tasks import Task, TaskKind

KINDS: Mapping[TaskKind, Kind] = {
    "classification": Classification(),
    "multi_label": MultiLabel(),
    "regression": Regression(),
    "tokens": Tokens(),
    "answers": Answers(),
    "choices": Choices(),
}


def kind_of(task: Task) -> Kind:
    """What the kind of a task has to say."""
    return KINDS[task.kind]
