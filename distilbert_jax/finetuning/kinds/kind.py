"""Kinds of labelled tasks: what each of them has to say of its rows, its examples, its head, its loss and its score."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import Packing
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models.heads import ModelWithHead
from distilbert_jax.training.objective import Batch, Metrics

E = TypeVar("E", bound=Examples)
AT_ONCE = 1000  # rows that are encoded at once: the tokenizer's own objects take some 150 bytes a token


class Kind(ABC):
    """One kind of task. A subclass in a module of its own is all that a new one takes, beside its name in `tasks.METRICS`.

    Attributes:
        head: the class of the model.
        own: how the paths of the head's parameters begin that belong to one task's labels.
        problem_type: as config.json names it.
        reads: what `outputs` reads of a packed batch beside tokens, token types, positions and segments.
        of_tokens: whether `outputs` are of each token, [R, T, …]; else of each example.
        over: the count that losses are divided by, one of `counts`.
        distance_name: of `distance` among the parts of the loss.
    """

    head: ClassVar[type[ModelWithHead]]
    own: ClassVar[str] = "classifier."
    problem_type: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ()
    of_tokens: ClassVar[bool] = False
    over: ClassVar[str] = "examples"
    distance_name: ClassVar[str] = "loss_ce"

    # Rows

    def columns(self, task: Task, *, labelled: bool = True) -> tuple[str, ...]:
        """The columns that a split has to have."""
        return (*task.columns, *(task.target if labelled else ()))

    @abstractmethod
    def check(self, rows: Any, task: Task, where: str, *, labelled: bool = True) -> None:
        """Raise InputError (path, field, row) unless a split, a `datasets.Dataset` that has the columns, holds in each row what
        this kind reads, and where it is labelled, what it learns."""

    def check_learned(self, rows: Any, task: Task, where: str) -> None:
        """Raise InputError (path, field) where a split that `check` has passed can be scored, but not learned from."""
        return None

    @abstractmethod
    def groups(self, rows: Any, task: Task) -> Iterable[str]:
        """A text for each row; rows of the same one are held out from training together."""

    # Examples

    def labels(self, task: Task) -> tuple[str, ...] | None:
        """Names of the head's outputs for config.json; None: this head has none of the task's."""
        return task.outputs

    @abstractmethod
    def encode(self, rows: Any, task: Task, tokenizer: Tokenizer, length: int) -> Examples:
        """Tokenise a checked split, of at most `length` tokens each; what a test split lacks is 0."""

    @abstractmethod
    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> Examples:
        """One example of one token, for the shapes and dtypes of its batches."""

    # On the device

    @abstractmethod
    def outputs(self, model: Any, hidden: jax.Array, batch: Batch, rngs: jax.Array | None) -> jax.Array:
        """What a head gives for packed rows, float32, from its last hidden states [R, T, D]. Where there is no example, or no token
        that is asked for, it means nothing.

        rngs: keys [R] for dropout, one a row; None: no dropout.
        """

    def counts(self, batch: Batch) -> Metrics:
        """What losses may be divided by, of a global batch: float32 scalars, never 0; `examples` among them."""
        return {"examples": jnp.maximum(batch["weights"].sum(), 1.0)}

    @abstractmethod
    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Sum of the loss over what is labelled; divided by the count `over`, it is the mean that is minimised."""

    @abstractmethod
    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        """Sum of the distance from a teacher's outputs, over labelled and others; divided by the same count."""

    # On the host

    @abstractmethod
    def of_examples(self, packing: Packing, outputs: np.ndarray, examples: Any) -> Sequence[np.ndarray]:
        """What each example of a packed batch got. examples: those that `packing` numbers."""

    def remark(self, examples: Any) -> str:
        """What has to be said of a split that is scored, in a line; "": nothing."""
        return ""

    def decoded(self, outputs: Sequence[np.ndarray], examples: Any) -> Any:
        """What is scored and kept of the outputs of a split, in its order: these themselves, unless a kind says otherwise."""
        return outputs

    @abstractmethod
    def score(self, task: Task, predicted: Any, targets: Any) -> dict[str, float]:
        """Every metric of the task, and `score`, their mean, all × 100.

        Args:
            predicted: `decoded` of a split. targets: the `targets` of its examples.
        """

    @abstractmethod
    def files(self, predicted: Any | None, targets: Any | None) -> Mapping[str, np.ndarray | Mapping[str, Any]]:
        """What stands in predictions/ of a split, arrays and JSON objects, by what a file's name has after the split's.

        Args:
            predicted: None of a run that diverged. targets: None of a test split.
        """


def in_chunks(rows: Any, encode: Callable[[Any, int], E]) -> E:
    """The examples of a split, encoded some rows at a time, so that arrays of them are all that is held.

    Args:
        rows: a `datasets.Dataset`.
        encode: of some of the rows, and the number of the first, from 0.
    """
    starts = range(0, max(len(rows), 1), AT_ONCE)
    parts = [encode(rows.select(range(start, min(start + AT_ONCE, len(rows)))), start) for start in starts]
    return parts[0].joined(parts)


def check_columns(names: Sequence[str], columns: Sequence[str], task: Task, where: str) -> None:
    """Raise InputError unless a file has these columns of a task."""
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"{where}: no column {', '.join(missing)}; {task.name} has {', '.join(columns)}",
            path=where,
            field=missing[0],
        )


def check_texts(rows: Any, columns: Sequence[str], where: str) -> None:
    """Raise InputError unless these columns hold texts."""
    for name in columns:
        bad = next((i for i, text in enumerate(rows[name]) if not isinstance(text, str)), None)
        if bad is not None:
            raise InputError(
                f"{where}: row {bad}: {name} is {rows[name][bad]!r}, expected a text", path=where, field=name, row=bad
            )


def learned(batch: Batch, weights: str = "weights") -> jax.Array:
    """Weights of what labels are learned of: of all, or of the examples that are labelled, times their importance."""
    learns = batch[weights] * batch["labelled"] if "labelled" in batch else batch[weights]
    return learns * batch["importance"] if "importance" in batch else learns
