"""Batches of fine-tuning: examples at random, packed side by side into rows of one shape."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from distilbert_jax.errors import InputError
from distilbert_jax.training.batches import PerEpoch, best_fit, epoch_generator

_MULTIPLE = 8  # of which the length of a row is one; accelerators like round shapes
_LONGEST = 4  # times the longest example: no row is longer, for a token is compared with all of its row
# To compare shapes: with so many tokens in its row a token costs twice what it costs without attention.
_ATTENTION = 1024
_TRIED_EPOCHS, _TRIED_BATCHES = 4, 64
_WAITING = 1 / 8  # of a batch: examples that do not fit and wait for the next one, on average


class PackedShape(NamedTuple):
    """Shape of every batch of a task: `rows` R, `length` T in tokens, and at most `segments` S examples in a row."""

    rows: int
    length: int
    segments: int

    def for_mesh(self, multiple: int) -> "PackedShape":
        """With empty rows up to a multiple of the devices and micro-batches that share them; the others hold what they do here."""
        return self._replace(rows=-(-self.rows // multiple) * multiple)


class Packing(NamedTuple):
    """Where the examples of a batch lie: which they are, and the row, first column and segment (from 1) of each, int64 [n].

    A packed batch holds values of two kinds, one a token [R, T] or one an example [R, S]. A head reads hidden states [R, T, D] as
    its task does: a classifier gathers the first token of each segment, a tagger takes all of them.
    """

    indices: np.ndarray
    row: np.ndarray
    column: np.ndarray
    segment: np.ndarray

    def tokens(
        self, values: Sequence[np.ndarray], shape: PackedShape, fill: int = 0, dtype: DTypeLike = np.int32
    ) -> np.ndarray:
        """One value a token, or several, [length of an example, …] each → [R, T, …], `fill` where there is no token."""
        packed = np.full((shape.rows, shape.length, *values[0].shape[1:]), fill, dtype)
        for row, column, value in zip(self.row, self.column, values, strict=True):
            packed[row, column : column + len(value)] = value
        return packed

    def examples(self, values: np.ndarray, shape: PackedShape) -> np.ndarray:
        """One value an example, or several, [n, …] → [R, S, …], 0 where there is no example."""
        packed = np.zeros((shape.rows, shape.segments, *values.shape[1:]), values.dtype)
        packed[self.row, self.segment - 1] = values
        return packed

    def of_tokens(self, packed: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """What a head gave for every token of the examples, [R, T, …] → [length of an example, …] each.

        lengths: of all examples.
        """
        places = zip(self.row, self.column, lengths[self.indices], strict=True)
        return [packed[row, column : column + length] for row, column, length in places]

    def of_examples(self, packed: np.ndarray) -> np.ndarray:
        """What a head gave for every example, [R, S, …] → [n, …]."""
        return packed[self.row, self.segment - 1]


def packings(lengths: np.ndarray, shape: PackedShape) -> Iterator[Packing]:
    """All examples in batches of as few rows as they fit into, those of one row in one batch."""
    row, column, segment = best_fit(lengths, shape.length)
    batch, row = np.divmod(row, shape.rows)
    order = np.argsort(batch, kind="stable")
    for indices in np.split(order, np.flatnonzero(np.diff(batch[order])) + 1):
        yield Packing(indices, row[indices], column[indices], segment[indices])


def wide_enough(shape: PackedShape, lengths: np.ndarray) -> PackedShape:
    """A shape of as many rows that holds examples of all these lengths, if `shape` does or not."""
    length = max(shape.length, _rounded(lengths.max()))
    return PackedShape(shape.rows, length, length // int(lengths.min()))


def _rounded(length: float) -> int:
    return -(-int(np.ceil(length)) // _MULTIPLE) * _MULTIPLE


def packed_shape(lengths: np.ndarray, batch_size: int) -> PackedShape:
    """The cheapest shape that takes batches of these examples, the same for every seed and every mesh.

    It is one in which an eighth of a batch or less waits for the next batch, tried on orders of its own.

    Args:
        lengths: tokens of each example, int [n].
        batch_size: examples that a batch is to have.

    Raises:
        InputError: there are no examples.
    """
    if not len(lengths) or batch_size < 1:
        raise InputError(
            f"{len(lengths)} examples, batch_size = {batch_size}: expected examples and a size of at least 1"
        )
    lengths = np.asarray(lengths)
    longest, tokens = _rounded(lengths.max()), lengths.mean() * min(batch_size, len(lengths))
    alone = PackedShape(batch_size, longest, longest // int(lengths.min()))  # one example a row always goes
    shapes = [
        PackedShape(rows, length, length // int(lengths.min()))
        for rows in range(1, alone.rows + 1)
        for length in range(longest, _LONGEST * longest + 1, _MULTIPLE)
        if tokens <= rows * length and _cost(rows, length) < _cost(alone.rows, longest)
    ]
    tried = _few(lengths, batch_size)
    cheapest_first = sorted(shapes, key=lambda shape: (_cost(shape.rows, shape.length), shape.length))
    return next((shape for shape in cheapest_first if _is_enough(shape, tried, batch_size)), alone)


def _cost(rows: int, length: int) -> int:
    return rows * length * (_ATTENTION + length)


def _few(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """Of many examples some, of which the last batch of an epoch has as many as of all."""
    count = (_TRIED_BATCHES - 1) * batch_size + (len(lengths) - 1) % batch_size + 1
    return lengths if len(lengths) <= count else epoch_generator(0, 0).choice(lengths, count, replace=False)


def _is_enough(shape: PackedShape, lengths: np.ndarray, batch_size: int) -> bool:
    for epoch in range(_TRIED_EPOCHS):
        plan = _cut(lengths, epoch_generator(0, epoch).permutation(len(lengths)), batch_size, shape)
        if plan is None:
            return False
        taken = np.cumsum([len(packing.indices) for packing in plan])
        waiting = np.minimum(batch_size * np.arange(1, len(plan) + 1), len(lengths)) - taken
        if waiting.mean() > _WAITING * batch_size:
            return False
    return True


def _cut(lengths: np.ndarray, order: np.ndarray, batch_size: int, shape: PackedShape) -> list[Packing] | None:
    """The batches of an epoch: of the examples in this order each takes `batch_size` and those that the one before had no room
    for, as many of them as fit. None: the last has no room for all that are left."""
    sizes = lengths[order]
    ends, count, start, plan = np.cumsum(sizes), -(-len(order) // batch_size), 0, []
    for number in range(1, count + 1):
        before = ends[start - 1] if start else 0
        room = int(np.searchsorted(ends, before + shape.rows * shape.length, side="right"))
        stop = min(number * batch_size, len(order), room)
        row, column, segment = best_fit(sizes[start:stop], shape.length)
        while row.max() >= shape.rows:
            stop -= 1
            row, column, segment = best_fit(sizes[start:stop], shape.length)
        plan.append(Packing(order[start:stop], row, column, segment))
        start = stop
    return plan if start == len(order) else None


class RandomBatches:
    """Batches of examples at random, for fine-tuning: every example once an epoch, in a new order each epoch.

    Whatever its length, an example is as likely in one batch as in another: an epoch is one random order, cut into batches. A
    batch has `batch_size` examples; where these do not fit, the last of them go into the next batch, which so has more. An epoch
    has as many batches as it would have without packing, the last of them takes what is left, and an order that leaves too much
    to it is drawn again.

    Args:
        lengths: tokens of each example, int [n].
        batch_size: examples of a batch.
        seed: of the order.
        shape: what `packed_shape` says of these lengths and this size.

    Attributes:
        batches_per_epoch: ⌈n / batch_size⌉, for every seed and epoch.

    Raises:
        InputError: an example is longer than a row.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, shape: PackedShape):
        self._lengths = np.asarray(lengths)
        if self._lengths.max() > shape.length:
            where = int(self._lengths.argmax())
            raise InputError(
                f"example {where} has {self._lengths[where]} tokens, a row holds {shape.length}: cut it", row=where
            )
        self.batch_size, self.seed, self.shape = batch_size, seed, shape
        self.batches_per_epoch = -(-len(lengths) // batch_size)
        self._plan = PerEpoch(self._draw_plan)

    def batch(self, k: int) -> Packing:
        """The examples of batch k and their places: a function of the seed and k alone."""
        epoch, place = divmod(k, self.batches_per_epoch)
        return self._plan(epoch)[place]

    def _draw_plan(self, epoch: int) -> list[Packing]:
        generator = epoch_generator(self.seed, epoch)
        orders = (generator.permutation(len(self._lengths)) for _ in itertools.count())
        plans = (_cut(self._lengths, order, self.batch_size, self.shape) for order in orders)
        return next(plan for plan in plans if plan is not None)
