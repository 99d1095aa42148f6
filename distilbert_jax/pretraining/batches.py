"""Packed batches by number: batch k is a function of the seed and k alone, so that the position in the data is one integer."""

import numpy as np

from distilbert_jax.errors import InputError
from distilbert_jax.pretraining.packing import PackedRows
from distilbert_jax.training.batches import PerEpoch, epoch_generator


class PackedBatches:
    """Global batches of packed rows, every row once an epoch, in an order of its own each epoch.

    Example i = k · B + j of the run, the j-th of batch k, is row π(i mod n) of the n rows, where π is the permutation
    that (seed, i // n) draws. A batch may hold the end of one epoch and the start of the next, and none is short.

    Args:
        rows: what to take batches from.
        batch_size: B, rows of a global batch, over all processes.
        seed: of the order.
    """

    def __init__(self, rows: PackedRows, batch_size: int, seed: int):
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size}: a batch has at least one row", field="batch_size")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._permutation = PerEpoch(lambda epoch: epoch_generator(seed, epoch).permutation(len(rows)))

    def batch(self, k: int, rows: np.ndarray | slice | None = None) -> dict[str, np.ndarray]:
        """Batch k, or the rows of it that this process needs.

        Args:
            k: number of the batch, from 0, without end.
            rows: which of the B rows, as an index into them; None for all.

        Returns:
            See `PackedRows.batch`.
        """
        example = np.arange(k * self.batch_size, (k + 1) * self.batch_size)
        if rows is not None:
            example = example[rows]
        epoch, place = np.divmod(example, len(self.rows))
        index = np.empty_like(example)
        for one in np.unique(epoch):
            index[epoch == one] = self._permutation(int(one))[place[epoch == one]]
        return self.rows.batch(index)
