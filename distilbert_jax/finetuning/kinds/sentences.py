"""Classification and regression of a sentence or a pair: one row of outputs an example, from its first token."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.inferred import LARGEST
from distilbert_jax.finetuning.kinds.kind import Kind, check_texts, in_chunks, learned
from distilbert_jax.finetuning.labels import label_order
from distilbert_jax.finetuning.metrics import scored
from distilbert_jax.finetuning.ragged import Rows
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models import SequenceClassification
from distilbert_jax.models.layers import at_positions
from distilbert_jax.text.tokenizer import Row
from distilbert_jax.text.tokenizer_files import cutting, settings_of, told_in_a_line, whole
from distilbert_jax.training import losses
from distilbert_jax.training.objective import Batch

_SMALLEST = float(np.sqrt(np.finfo(np.float32).tiny))  # a spread: the square of a smaller one is 0 in float32
_LOST = 1e-3  # of the spread of what is learned, the most that rounding may take


@dataclasses.dataclass(frozen=True)
class SentenceExamples(Examples):
    """Sentences or pairs, and their labels: int32 [n], or [n, outputs] of several; of a regression float64 [n] or [n, outputs], as
    they are scored: float32 is what is learned of them."""

    labels: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return self.labels

    def copied(self, indices: Sequence[int], rows: Sequence[Row]) -> "SentenceExamples":
        return dataclasses.replace(self, rows=rows, labels=self.labels[np.asarray(indices)])

    def packed(self, packing: Packing, shape: PackedShape, pad_id: int) -> dict[str, np.ndarray]:
        """Adds first, the column of an example's first token, int32 [R, S], and labels, int32 or float32 [R, S], or
        [R, S, outputs]."""
        labels = self.labels[packing.indices]
        return super().packed(packing, shape, pad_id) | {
            "first": packing.examples(packing.column.astype(np.int32), shape),
            "labels": packing.examples(labels.astype(np.float32) if labels.dtype == np.float64 else labels, shape),
        }


def text_encoder(
    tokenizer: Tokenizer, length: int
) -> Callable[[Sequence[str | tuple[str, str]]], tuple[list[Row], np.ndarray]]:
    """A function from texts or pairs of texts to rows of at most `length` tokens, the longer part of a pair cut first, and which
    were too long, bool [n]."""
    shorter = functools.cache(lambda: cutting(tokenizer, length))  # a copy of the vocabulary: made once, if at all

    def encoded(given: Sequence[str | tuple[str, str]]) -> tuple[list[Row], np.ndarray]:
        with told_in_a_line(settings_of(tokenizer).path), whole(tokenizer):
            encodings = tokenizer.encode_batch(given)
            too_long = np.array([len(encoding) > length for encoding in encodings], bool)
            if places := np.flatnonzero(too_long).tolist():
                cut = shorter().encode_batch([given[place] for place in places])
                for place, encoding in zip(places, cut, strict=True):
                    encodings[place] = encoding
        return [Row.of(encoding) for encoding in encodings], too_long

    return encoded


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
        encode = text_encoder(tokenizer, length)

        def some(rows: Any, _: int) -> SentenceExamples:
            texts = [rows[name][:] for name in task.columns]
            encoded, too_long = encode(list(zip(*texts, strict=True)) if len(texts) == 2 else texts[0])
            return SentenceExamples(Rows.of(encoded), self.labels_of(rows, task), cut=int(too_long.sum()))

        return in_chunks(rows, some)

    def labels_of(self, rows: Any, task: Task) -> np.ndarray:
        """What is learned of each row [n, …], 0 where the split has no labels."""
        (target,) = task.target
        return np.asarray(rows[target][:] if target in rows.column_names else np.zeros(len(rows)), self.dtype)

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> SentenceExamples:
        row = Row(np.zeros(1, np.int32), np.zeros(1, np.int32))
        return SentenceExamples([row], np.zeros(1, self.dtype), cut=0, labelled=labelled)

    def outputs(self, model: Any, hidden: jax.Array, batch: Batch, rngs: jax.Array | None) -> jax.Array:
        """Logits [R, S, labels]."""
        return model.logits(at_positions(hidden, batch["first"]), rngs)

    def of_examples(self, packing: Packing, outputs: np.ndarray, examples: Any) -> np.ndarray:
        """Logits [n, labels]."""
        return packing.of_examples(outputs)

    def files(self, predicted: Sequence[np.ndarray] | None, targets: Any | None) -> Mapping[str, np.ndarray]:
        """Logits float32 [n, labels], and the labels [n]."""
        return {
            **({} if targets is None else {"-labels": targets}),
            **({} if predicted is None else {"": np.stack(predicted)}),
        }


class Classification(_Sentences):
    """One of several labels: cross-entropy."""

    def check_labels(self, rows: Any, task: Task, where: str) -> None:
        """… in range, and in the task's order where the file names them."""
        (target,) = task.target
        check_names(rows, target, task, where)
        _check_numbers(rows, target, task, where, (0, len(task.labels) - 1), int)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return losses.cross_entropy(outputs, batch["labels"], learned(batch))

    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        return losses.distillation(outputs, theirs, batch["weights"], temperature)

    def score(self, task: Task, predicted: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, float]:
        return scored(task, np.stack(predicted).argmax(-1), targets)


class MultiLabel(_Sentences):
    """Any of several labels, each on its own: binary cross-entropy, the mean over labels. A logit above 0 says that one holds."""

    problem_type = "multi_label_classification"
    dtype = np.float32

    def check_labels(self, rows: Any, task: Task, where: str) -> None:
        """… a list of names or ids (of floats: 0 or 1 for every label), or a column of 0 and 1 for every label."""
        for target in task.target:
            check_names(rows, target, task, where)
            for i, value in enumerate(rows[target]):
                holds = value in (0, 1) if len(task.target) > 1 else _holding(value, task.labels) is not None
                if not holds:
                    what = "0 or 1" if len(task.target) > 1 else f"a list of {', '.join(task.labels)}, or of their ids"
                    raise InputError(
                        f"{where}: row {i}: {target} {value!r:.60}: expected {what}", path=where, field=target, row=i
                    )

    def labels_of(self, rows: Any, task: Task) -> np.ndarray:
        """Whether each label holds, float32 [n, labels]."""
        if not set(task.target) <= set(rows.column_names):
            return np.zeros((len(rows), len(task.labels)), np.float32)
        columns = [rows[name][:] for name in task.target]
        if len(columns) > 1:
            return np.array(columns, np.float32).T
        return np.array([_holding(value, task.labels) for value in columns[0]], np.float32)

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> SentenceExamples:
        return dataclasses.replace(
            super().blank(config, labelled=labelled), labels=np.zeros((1, len(config.labels)), np.float32)
        )

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return losses.binary_cross_entropy(outputs, batch["labels"], learned(batch)) / outputs.shape[-1]

    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        """T² · KL(teacher ‖ student) of each label, the mean over labels."""
        s, t = outputs / temperature, jax.lax.stop_gradient(theirs) / temperature
        p, weights = jax.nn.sigmoid(t), batch["weights"]
        cross, own = losses.binary_cross_entropy(s, p, weights), losses.binary_cross_entropy(t, p, weights)
        return temperature**2 * (cross - own) / outputs.shape[-1]

    def score(self, task: Task, predicted: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, float]:
        """Accuracy is that of whole sets."""
        return scored(task, (np.stack(predicted) > 0).astype(np.int32), targets.astype(np.int32))


class Regression(_Sentences):
    """A number, in the task's range where it has one, or several: squared error, the mean over them."""

    problem_type = "regression"
    distance_name = "loss_mse"
    dtype = np.float64

    def check_labels(self, rows: Any, task: Task, where: str) -> None:
        """… numbers: one, a column each, or a list."""
        limits, several = task.label_range or (-LARGEST, LARGEST), len(task.outputs) > len(task.target)
        for target in task.target:
            if not several:
                _check_numbers(rows, target, task, where, limits, int | float)
                continue
            for i, value in enumerate(rows[target]):
                whole = isinstance(value, list) and len(value) == len(task.outputs)
                if not whole or not all(_is_number(one, limits, int | float) for one in value):
                    expected = f"{len(task.outputs)} numbers: {', '.join(task.outputs)}"
                    raise InputError(
                        f"{where}: row {i}: {target} {value!r:.60}: expected {expected}",
                        path=where,
                        field=target,
                        row=i,
                    )

    def check_learned(self, rows: Any, task: Task, where: str) -> None:
        """… numbers that float32 tells apart."""
        values = self.labels_of(rows, task)
        names = task.outputs if values.ndim > len(task.target) else task.target
        for name, column in zip(names, values.reshape(len(values), -1).T, strict=True):
            _check_told_apart(column, name, where)

    def labels_of(self, rows: Any, task: Task) -> np.ndarray:
        """float64 [n], or [n, outputs]."""
        if len(task.outputs) == 1:
            return super().labels_of(rows, task)
        if not set(task.target) <= set(rows.column_names):
            return np.zeros((len(rows), len(task.outputs)), self.dtype)
        columns = [rows[name][:] for name in task.target]
        return np.array(columns, self.dtype).T if len(columns) > 1 else np.array(columns[0], self.dtype)

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> SentenceExamples:
        one, outputs = super().blank(config, labelled=labelled), len(config.labels)
        return one if outputs == 1 else dataclasses.replace(one, labels=np.zeros((1, outputs), self.dtype))

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        labels = batch["labels"]
        if outputs.shape[-1] == 1:
            return jnp.sum(learned(batch) * jnp.square(outputs[..., 0] - labels))
        return jnp.sum(learned(batch) * jnp.mean(jnp.square(outputs - labels), -1))

    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        return losses.logit_mse(outputs, theirs, batch["weights"]) / outputs.shape[-1]

    def score(self, task: Task, predicted: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, float]:
        """Of several numbers the means of their metrics."""
        logits = np.stack(predicted)
        return scored(task, logits[:, 0] if targets.ndim == 1 else logits, targets)


def majority(task: Task, labels: np.ndarray) -> dict[str, float]:
    """`Kind.score` of always answering the most frequent label; of a regression, where a constant correlates with nothing, 0."""
    answer = 0.0 if task.kind == "regression" else np.bincount(labels).argmax()
    return scored(task, np.full(len(labels), answer), labels)


def _check_told_apart(values: np.ndarray, column: str, where: str) -> None:
    """Raise InputError where numbers, float64 [n], differ by what is lost when a model learns them."""
    spread, largest = float(values.std()), float(np.abs(values).max())
    lost = float(np.abs(values - values.astype(np.float32)).max())
    of_float64 = not spread and largest >= 2**53  # whole numbers beyond that are rounded before
    hint = ""
    if of_float64 or lost > _LOST * spread:
        hint = f"subtract an offset, such as {values.min():.15g}, from every one of them, in all files"
    if 0 < spread < _SMALLEST:
        hint = f"multiply every one of them, in all files, by such as {1 / spread:.0e}"
    if hint:
        raise InputError(
            f"{where}: {column} is from {values.min():.15g} to {values.max():.15g}: a model learns float32, which does not "
            f"tell such numbers apart; {hint}",
            path=where,
            field=column,
            hint=hint,
        )


def _is_number(value: Any, limits: tuple[float, float], kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and limits[0] <= value <= limits[1]


def _check_numbers(rows: Any, target: str, task: Task, where: str, limits: tuple[float, float], kinds: Any) -> None:
    for i, label in enumerate(rows[target]):
        if not _is_number(label, limits, kinds):
            kind = "whole numbers" if kinds is int else "numbers"
            span = f" from {limits[0]} to {limits[1]}" if limits[1] < LARGEST else ""
            raise InputError(
                f"{where}: row {i}: {target} {label!r}: expected {kind}{span} of {task.name}",
                path=where,
                field=target,
                row=i,
            )


def _holding(value: Any, labels: Sequence[str]) -> list[float] | None:
    """0 or 1 for every label, of a list of those that hold, or of such numbers themselves; None: it is no such list."""
    if not isinstance(value, list):
        return None
    if value and all(isinstance(one, float) for one in value):
        return value if len(value) == len(labels) and set(value) <= {0.0, 1.0} else None
    if any(type(one) not in (int, str) for one in value):
        return None
    ids = {labels.index(one) if one in labels else -1 if isinstance(one, str) else one for one in value}
    return [float(i in ids) for i in range(len(labels))] if ids <= set(range(len(labels))) else None


def check_names(rows: Any, target: str, task: Task, where: str) -> None:
    """Raise InputError where a file names the ids of a column, or of its lists, otherwise than the task does."""
    feature = rows.features[target]
    named = tuple(getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None) or ())
    if named and not are_labels(named, task):
        raise InputError(
            f"{where}: its labels are {', '.join(named)} in this order, those of {task.name} {', '.join(task.labels)}",
            path=where,
            field=target,
        )


def are_labels(named: tuple[str, ...], task: Task) -> bool:
    """Whether the names of a file's label ids are those of the task, in its order, or say nothing (0, 1, …)."""
    if named == tuple(map(str, range(len(named)))):
        return True
    try:
        return label_order(named, task.labels, task.name) == tuple(range(len(task.labels)))
    except InputError:
        return False
