"""Classification and regression of a sentence or a pair: one row of outputs an example, from its first token."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.kinds.kind import Kind, check_texts, learned
from distilbert_jax.finetuning.labels import label_order
from distilbert_jax.finetuning.metrics import scored
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models import SequenceClassification
from distilbert_jax.models.layers import at_positions
from distilbert_jax.text.tokenizer import Row
from distilbert_jax.text.tokenizer_files import cutting, settings_of, told_in_a_line, whole
from distilbert_jax.training import losses
from distilbert_jax.training.objective import Batch


@dataclasses.dataclass(frozen=True)
class SentenceExamples(Examples):
    """Sentences or pairs, and their labels: int32 [n], float32 [n] of a regression."""

    labels: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return self.labels

    def copied(self, indices: Sequence[int], rows: Sequence[Row]) -> "SentenceExamples":
        return dataclasses.replace(self, rows=rows, labels=self.labels[np.asarray(indices)])

    def packed(self, packing: Packing, shape: PackedShape, pad_id: int) -> dict[str, np.ndarray]:
        """Adds first, the column of an example's first token, int32 [R, S], and labels [R, S]."""
        return super().packed(packing, shape, pad_id) | {
            "first": packing.examples(packing.column.astype(np.int32), shape),
            "labels": packing.examples(self.labels[packing.indices], shape),
        }


class _Sentences(Kind):
    """What kinds have in common that read one sentence or two and give one row of outputs."""

    head = SequenceClassification
    reads = ("first",)
    dtype: type[np.generic] = np.int32  # of labels

    def check(self, rows: Any, task: Task, where: str, *, labelled: bool = True) -> None:
        check_texts(rows, task.columns, where)
        if labelled:
            self.check_labels(rows, task, where)

    def check_labels(self, rows: Any, task: Task, where: str) -> None:
        """Raise InputError unless the rows have labels of the task."""
        raise NotImplementedError

    def groups(self, rows: Any, task: Task) -> Iterable[str]:
        """The first text: the premises of MNLI stand in three rows each."""
        return rows[task.columns[0]]

    def encode(self, rows: Any, task: Task, tokenizer: Tokenizer, length: int) -> SentenceExamples:
        """`[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, the longer part cut first."""
        texts = [list(rows[name]) for name in task.columns]
        given = list(zip(*texts, strict=True)) if len(texts) == 2 else texts[0]
        with told_in_a_line(settings_of(tokenizer).path), whole(tokenizer):
            encodings = tokenizer.encode_batch(given)
            cut = sum(len(encoding) > length for encoding in encodings)
            if cut:
                encodings = cutting(tokenizer, length).encode_batch(given)
        return SentenceExamples(
            [
                Row(np.asarray(encoding.ids, np.int32), np.asarray(encoding.type_ids, np.int32))
                for encoding in encodings
            ],
            self.labels_of(rows, task),
            cut=cut,
        )

    def labels_of(self, rows: Any, task: Task) -> np.ndarray:
        """What is learned of each row [n, …], 0 where the split has no labels."""
        (target,) = task.target
        return np.asarray(rows[target] if target in rows.column_names else np.zeros(len(rows)), self.dtype)

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> SentenceExamples:
        row = Row(np.zeros(1, np.int32), np.zeros(1, np.int32))
        return SentenceExamples([row], np.zeros(1, self.dtype), cut=0, labelled=labelled)

    def outputs(self, model: Any, hidden: jax.Array, batch: Batch, rngs: jax.Array | None) -> jax.Array:
        """Logits [R, S, labels]."""
        return model.logits(at_positions(hidden, batch["first"]), rngs)

    def of_examples(self, packing: Packing, outputs: np.ndarray, examples: Any) -> np.ndarray:
        """Logits [n, labels]."""
        return packing.of_examples(outputs)

    def files(self, outputs: Sequence[np.ndarray] | None, targets: Any | None) -> Mapping[str, np.ndarray]:
        """Logits float32 [n, labels], and the labels [n]."""
        return {
            **({} if targets is None else {"-labels": targets}),
            **({} if outputs is None else {"": np.stack(outputs)}),
        }


class Classification(_Sentences):
    """One of several labels: cross-entropy."""

    def check_labels(self, rows: Any, task: Task, where: str) -> None:
        """… in range, and in the task's order where the file names them."""
        (target,) = task.target
        named = tuple(getattr(rows.features[target], "names", None) or ())
        if named and not are_labels(named, task):
            raise InputError(
                f"{where}: its labels are {', '.join(named)} in this order, those of {task.name} {', '.join(task.labels)}",
                path=where,
                field=target,
            )
        _check_numbers(rows, task, where, (0, len(task.labels) - 1), int)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return losses.cross_entropy(outputs, batch["labels"], learned(batch))

    def distance(self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: float) -> jax.Array:
        return losses.distillation(outputs, theirs, batch["weights"], temperature)

    def score(self, task: Task, outputs: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, float]:
        return scored(task, np.stack(outputs).argmax(-1), targets)


class Regression(_Sentences):
    """A number in the task's range: squared error."""

    problem_type = "regression"
    distance_name = "loss_mse"
    dtype = np.float32

    def check_labels(self, rows: Any, task: Task, where: str) -> None:
        _check_numbers(rows, task, where, task.label_range or (-np.inf, np.inf), int | float)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return jnp.sum(learned(batch) * jnp.square(outputs[..., 0] - batch["labels"]))

    def distance(self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: float) -> jax.Array:
        return losses.logit_mse(outputs, theirs, batch["weights"])

    def score(self, task: Task, outputs: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, float]:
        return scored(task, np.stack(outputs)[:, 0], targets)


def majority(task: Task, labels: np.ndarray) -> dict[str, float]:
    """`Kind.score` of always answering the most frequent label; of a regression, where a constant correlates with nothing, 0."""
    answer = 0.0 if task.kind == "regression" else np.bincount(labels).argmax()
    return scored(task, np.full(len(labels), answer), labels)


def _check_numbers(rows: Any, task: Task, where: str, limits: tuple[float, float], kinds: Any) -> None:
    (target,), (low, high) = task.target, limits
    for i, label in enumerate(rows[target]):
        if not isinstance(label, kinds) or isinstance(label, bool) or not low <= label <= high:
            kind = "whole numbers" if kinds is int else "numbers"
            raise InputError(
                f"{where}: row {i}: {target} {label!r}: expected {kind} from {low} to {high} of {task.name}",
                path=where,
                field=target,
                row=i,
            )


def are_labels(named: tuple[str, ...], task: Task) -> bool:
    """Whether the names of a file's label ids are those of the task, in its order, or say nothing (0, 1, …)."""
    if named == tuple(map(str, range(len(named)))):
        return True
    try:
        return label_order(named, task.labels, task.name) == tuple(range(len(task.labels)))
    except InputError:
        return False
