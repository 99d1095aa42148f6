"""Multiple choice: which of several texts goes on with a context, or answers a question about it (Zellers et al. 2018, SWAG)."""

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
from distilbert_jax.finetuning.kinds.kind import Kind, check_texts, in_chunks, learned
from distilbert_jax.finetuning.kinds.sentences import text_encoder
from distilbert_jax.finetuning.metrics import scored
from distilbert_jax.finetuning.ragged import Ragged, Rows
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models import MultipleChoice
from distilbert_jax.models.layers import at_positions
from distilbert_jax.text.tokenizer import Row
from distilbert_jax.training import losses
from distilbert_jax.training.objective import Batch

_LOWEST = -1e30  # of a choice that there is not; finite: where there is none at all nothing has a gradient


@dataclasses.dataclass(frozen=True)
class ChoiceExamples(Examples):
    """Choices side by side, all of an example in one row. sizes: tokens of each choice, int64 [choices] of an example; labels:
    which is right, int32 [n]."""

    sizes: Sequence[np.ndarray]
    labels: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return self.labels

    def packed(self, packing: Packing, shape: PackedShape, pad_id: int) -> dict[str, np.ndarray]:
        """Each choice is a segment of its own. Adds first, the column of its first token, int32 [R, S, choices], choices float32
        [R, S, choices], 1 where there is one, and labels int32 [R, S]."""
        most = max(map(len, self.sizes))
        sizes = [self.sizes[index] for index in packing.indices]
        first, there = np.zeros((2, len(sizes), most), np.int32)
        for place, (own, column) in enumerate(zip(sizes, packing.column, strict=True)):
            first[place, : len(own)] = column + np.cumsum(own) - own
            there[place, : len(own)] = 1
        segments = [
            np.repeat((segment - 1) * most + np.arange(1, len(own) + 1), own)
            for own, segment in zip(sizes, packing.segment, strict=True)
        ]
        return super().packed(packing, shape, pad_id) | {
            "position_ids": packing.tokens([np.concatenate(list(map(np.arange, own))) for own in sizes], shape),
            "segment_ids": packing.tokens(segments, shape),
            "first": packing.examples(first, shape),
            "choices": packing.examples(there.astype(np.float32), shape),
            "labels": packing.examples(self.labels[packing.indices], shape),
        }


class Choices(Kind):
    """One of the choices of an example, which may be more of one than of another: cross-entropy over their scores."""

    head = MultipleChoice
    reads = ("first", "choices")

    def check(self, rows: Any, task: Task, where: str, *, labelled: bool = True) -> None:
        """… texts, two choices or more, and the place of the right one among them, from 0."""
        before, choices = _columns(task)
        check_texts(rows, (*before, *(choices if task.labels else ())), where)
        numbers = [len(task.labels)] * len(rows)
        lists: Iterable[Any] = () if task.labels else rows[choices[0]]
        for row, value in enumerate(lists):
            if not isinstance(value, list) or len(value) < 2 or not all(isinstance(text, str) for text in value):
                raise InputError(
                    f"{where}: row {row}: {choices[0]} is {value!r:.60}: expected two texts or more",
                    path=where,
                    field=choices[0],
                    row=row,
                )
            numbers[row] = len(value)
        (target,) = task.target
        right = list(rows[target]) if labelled else []
        for row, (label, number) in enumerate(zip(right, numbers, strict=False)):
            if type(label) is not int or not 0 <= label < number:
                raise InputError(
                    f"{where}: row {row}: {target} {label!r}: expected the place of one of {number} choices, from 0",
                    path=where,
                    field=target,
                    row=row,
                )

    def groups(self, rows: Any, task: Task) -> Iterable[str]:
        """The context, or where there is none, the choices."""
        before, choices = _columns(task)
        if before:
            return rows[before[0]]
        return (repr(value) for value in zip(*(rows[name] for name in choices), strict=True))

    def labels(self, task: Task) -> None:
        """A score for each choice has no name."""

    def encode(self, rows: Any, task: Task, tokenizer: Tokenizer, length: int) -> ChoiceExamples:
        """`[CLS] context [SEP] choice [SEP]`, the question before the choice, each of at most `length` tokens, the longer part cut
        first; without a context `[CLS] choice [SEP]`."""
        (before, names), (target,), encode = _columns(task), task.target, text_encoder(tokenizer, length)

        def some(rows: Any, _: int) -> ChoiceExamples:
            columns = [rows[name][:] for name in names]
            choices = list(zip(*columns, strict=True)) if task.labels else columns[0]
            asked = rows[before[1]][:] if len(before) > 1 else [""] * len(rows)
            texts = [f"{ask} {one}".strip() for ask, own in zip(asked, choices, strict=True) for one in own]
            given: Sequence[Any] = texts
            if before:
                contexts = [context for context, own in zip(rows[before[0]][:], choices, strict=True) for _ in own]
                given = list(zip(contexts, texts, strict=True))
            encoded, too_long = encode(given)
            ends = np.cumsum([len(own) for own in choices])
            parts = [encoded[end - len(own) : end] for end, own in zip(ends, choices, strict=True)]
            cut = sum(bool(too_long[end - len(own) : end].any()) for end, own in zip(ends, choices, strict=True))
            joined = [Row(*(np.concatenate(values) for values in zip(*own, strict=True))) for own in parts]
            labels = rows[target][:] if target in rows.column_names else np.zeros(len(rows))
            sizes = Ragged.of([np.array([len(row.ids) for row in own], np.int64) for own in parts])
            return ChoiceExamples(Rows.of(joined), sizes, np.asarray(labels, np.int32), cut=cut)

        return in_chunks(rows, some)

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> ChoiceExamples:
        place = np.zeros(1, np.int32)
        return ChoiceExamples([Row(place, place)], [np.ones(1, np.int64)], place, cut=0, labelled=labelled)

    def outputs(self, model: Any, hidden: jax.Array, batch: Batch, rngs: jax.Array | None) -> jax.Array:
        """Scores [R, S, choices], lowest where there is none."""
        first = batch["first"]
        scores = model.logits(at_positions(hidden, first.reshape(len(first), -1)), rngs).reshape(first.shape)
        return jnp.where(batch["choices"] > 0, scores, _LOWEST)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return losses.cross_entropy(outputs, batch["labels"], learned(batch))

    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        return losses.distillation(outputs, theirs, batch["weights"], temperature)

    def of_examples(self, packing: Packing, outputs: np.ndarray, examples: ChoiceExamples) -> Sequence[np.ndarray]:
        """Scores [choices] of each."""
        values = packing.of_examples(outputs)
        return [one[: len(examples.sizes[index])] for one, index in zip(values, packing.indices, strict=True)]

    def score(self, task: Task, predicted: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, float]:
        return scored(task, np.array([one.argmax() for one in predicted]), targets)

    def files(self, predicted: Sequence[np.ndarray] | None, targets: Any | None) -> Mapping[str, np.ndarray]:
        """Scores float32 [n, choices], NaN where there is none, and the right ones [n]."""
        made = {} if targets is None else {"-labels": targets}
        if predicted is None:
            return made
        scores = np.full((len(predicted), max(map(len, predicted))), np.nan, np.float32)
        for place, one in enumerate(predicted):
            scores[place, : len(one)] = one
        return {**made, "": scores}


def _columns(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of context and question, and those of the choices: one for each, which are the labels, or one of lists."""
    number = len(task.labels) or 1
    return task.columns[:-number], task.columns[-number:]
