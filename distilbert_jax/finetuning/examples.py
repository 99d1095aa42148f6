"""Examples of a labelled task: tokenised rows, and how those of a batch lie side by side."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.ragged import Ragged, Rows
from distilbert_jax.text.tokenizer import Row


@dataclasses.dataclass(frozen=True)
class Examples:
    """Tokenised rows of one split. A kind of task adds what is learned of them, its fields with a value an example.

    rows: of their own lengths; cut: how many were longer than the length limit; labelled: bool [n], False of a copy whose label is
    a teacher's to say, None: all are; taught: what a teacher's head gave for each, float32 [n, …], or for its tokens, [length, …]
    each, None: it was not asked.
    """

    rows: Sequence[Row]
    cut: int = dataclasses.field(kw_only=True)
    labelled: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
    importance: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
    taught: np.ndarray | Ragged | None = dataclasses.field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each, int64 [n]."""
        if isinstance(self.rows, Rows):
            return self.rows.lengths
        return np.array([len(row.ids) for row in self.rows], np.int64)

    @property
    def count(self) -> int:
        """Rows of the split that they are."""
        return len(self)

    @property
    def targets(self) -> Any:
        """What a kind's `score` compares outputs with."""
        raise NotImplementedError

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The examples of all parts, one or more, one after the other; `cut` is their sum."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: _joined([getattr(part, name) for part in parts]) for name in names})

    def copied(self, indices: Sequence[int], rows: Sequence[Row]) -> Self:
        """These rows in place of those of `indices`, of the same lengths: what is learned goes along. Of a kind that has copies."""
        raise NotImplementedError

    def packed(self, packing: Packing, shape: PackedShape, pad_id: int) -> dict[str, np.ndarray]:
        """The examples of a batch side by side in rows.

        Returns:
            input_ids, token_type_ids, position_ids (from 0 in every example) and segment_ids (0: padding) int32 [R, T]; weights
            float32, 0 where there is no example, [R, S]; labelled float32 [R, S] where not all are; importance float32 [R, S] where
            it is not 1; taught float32 [R, S, …] or [R, T, …] where a teacher was asked; and what a kind adds.
        """
        rows = [self.rows[index] for index in packing.indices]
        batch = {
            "input_ids": packing.tokens([row.ids for row in rows], shape, pad_id),
            "token_type_ids": packing.tokens([row.type_ids for row in rows], shape),
            "position_ids": packing.tokens([np.arange(len(row.ids)) for row in rows], shape),
            "segment_ids": packing.tokens(
                [np.full(len(row.ids), segment) for row, segment in zip(rows, packing.segment, strict=True)], shape
            ),
            "weights": packing.examples(np.ones(len(rows), np.float32), shape),
        }
        if self.labelled is not None:
            batch["labelled"] = packing.examples(self.labelled[packing.indices].astype(np.float32), shape)
        if self.importance is not None:
            batch["importance"] = packing.examples(self.importance[packing.indices].astype(np.float32), shape)
        if isinstance(self.taught, Ragged):
            theirs = [self.taught[index] for index in packing.indices]
            batch["taught"] = packing.tokens(theirs, shape, dtype=np.float32)
        elif self.taught is not None:
            batch["taught"] = packing.examples(self.taught[packing.indices], shape)
        return batch


def _joined(values: Sequence[Any]) -> Any:
    """The values of a field, None where it has none: arrays, `Rows`, `Ragged` or counts."""
    first = values[0]
    if first is None:
        return None
    if isinstance(first, int):
        return sum(values)
    return np.concatenate(values) if isinstance(first, np.ndarray) else type(first).joined(values)
