"""Ragged arrays: values of several lengths end to end, so that a split takes the memory of its values and little beside them."""

import bisect
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self, overload

import numpy as np

from distilbert_jax.text.tokenizer import Row


class _Part(NamedTuple):
    """Arrays end to end: values [sum of n, …], and where each begins and the last one ends, int64 [n + 1]."""

    values: np.ndarray
    places: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.values[start:end] for start, end in itertools.pairwise(self.places.tolist()))

    @property
    def count(self) -> int:
        return len(self.places) - 1


class Ragged(Sequence[np.ndarray]):
    """Arrays [n, …] of several n and one dtype, 8 bytes each beside their values; an array of its own has more than 100. What is
    taken out is a view. They lie in parts, as they were joined, since an array of all would be a copy of them while it is made."""

    def __init__(self, parts: Iterable[_Part]):
        self._parts = [part for part in parts if part.count]
        self._ends = list(itertools.accumulate(part.count for part in self._parts))

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Self:
        """These arrays, copied."""
        if not arrays:
            return cls(())
        return cls([_Part(np.concatenate(arrays), np.cumsum([0, *map(len, arrays)], dtype=np.int64))])

    @classmethod
    def cut(cls, values: np.ndarray, lengths: np.ndarray) -> Self:
        """What lies end to end in `values`, not copied."""
        return cls([_Part(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))])

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """All of them, one after the other."""
        return cls(part for one in several for part in one._parts)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [arrays]."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(part.places) for part in self._parts)])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return itertools.chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        index = range(len(self))[operator.index(index)]
        part = self._parts[at := bisect.bisect_right(self._ends, index)]
        place = index - self._ends[at] + part.count
        return part.values[part.places[place] : part.places[place + 1]]


class Rows(Sequence[Row]):
    """Tokenised rows: 5 bytes a token, an id of 4 and a type of 1, and 16 a row. Of what is taken out the ids are a view."""

    def __init__(self, ids: Ragged, type_ids: Ragged):
        self._ids, self._type_ids = ids, type_ids

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        """These rows, copied."""
        largest = max((int(row.type_ids.max(initial=0)) for row in rows), default=0)
        small = np.min_scalar_type(largest)  # BERT's types are 0 and 1; other files may say more than a byte holds
        return cls(Ragged.of([row.ids for row in rows]), Ragged.of([row.type_ids.astype(small) for row in rows]))

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """All of them, one after the other."""
        return cls(Ragged.joined([one._ids for one in several]), Ragged.joined([one._type_ids for one in several]))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, int64 [rows]."""
        return self._ids.lengths

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Row]:
        return map(_row, self._ids, self._type_ids)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(map(_row, self._ids[index], self._type_ids[index]))
        return _row(self._ids[index], self._type_ids[index])


def _row(ids: np.ndarray, type_ids: np.ndarray) -> Row:
    return Row(ids, type_ids.astype(np.int32))
