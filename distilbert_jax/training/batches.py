"""Batches by number, prefetched, and sequences side by side in rows: what pre-training and fine-tuning share."""

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

_THREADS, _BUFFER = 2, 4


class Batches(Protocol):
    """What `prefetch` reads from."""

    @property
    def batch(self) -> Callable[..., Any]: ...  # of k, and of the rows where they are given


def prefetch(batches: Batches, start: int, stop: int, rows: np.ndarray | slice | None = None) -> Iterator[Any]:
    """Batches `start` to `stop` − 1 in order, read ahead by grain in a few threads.

    Its state is the number of the next batch: to resume, call it with another `start`. Closing it ends the threads.

    Args:
        rows: which rows of each global batch to read, see `PackedBatches.batch`; None for all.
    """
    import grain  # here, because it imports JAX

    wanted = () if rows is None else (rows,)
    dataset = grain.MapDataset.range(start, stop).map(lambda k: batches.batch(int(k), *wanted))
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BUFFER)
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, epoch]))


class PerEpoch:
    """A function of the epoch that keeps its last two values: reading ahead crosses from one epoch into the next."""

    def __init__(self, function: Callable[[int], Any]):
        self._function = functools.lru_cache(maxsize=2)(function)
        self._lock = threading.Lock()

    def __call__(self, epoch: int) -> Any:
        # Without the lock, the threads that wait for the same epoch would each draw it.
        with self._lock:
            return self._function(epoch)


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best fit decreasing: the longest first, each into the fullest row that has room for it.

    Args:
        lengths: int [n], 1 ≤ length ≤ capacity.

    Returns:
        Row, first column in it and segment number (from 1) of each, int64 [n] each. Time is O(n log n).
    """
    placed = np.empty((3, len(lengths)), np.int64)
    with_room = [[] for _ in range(capacity + 1)]
    # Bit r of this number is set when a row has room r: its lowest bit from `size` up is the fullest row that fits.
    rooms = 0
    used = []
    order = np.argsort(-lengths, kind="stable")
    for item, size in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if fitting := rooms >> size:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(used)
            used.append(0)
        used[row] += 1
        placed[:, item] = row, capacity - room, used[row]
        if left := room - size:
            with_room[left].append(row)
            rooms |= 1 << left
    row, column, segment = placed
    return row, column, segment
