"""Batches by number, prefetched: what pre-training and fine-tuning share."""

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
