"""Batches of examples of similar length, and the lengths to pad them to."""

import numpy as np

from distilbert_jax.errors import InputError
from distilbert_jax.training.batches import PerEpoch, epoch_generator


def bucket_lengths(lengths: np.ndarray, count: int, longest: int, multiple: int = 8) -> tuple[int, ...]:
    """At most `count` lengths to pad to, ascending, that leave the fewest places empty.

    Args:
        lengths: tokens of each example, int [n], none above `longest`.
        multiple: of which all but `longest` itself are; accelerators like round shapes.
    """
    edges = sorted({min(-(-length // multiple) * multiple, longest) for length in lengths.tolist()})
    below = [0, *(int(np.sum(lengths <= edge)) for edge in edges)]
    # least[j]: the fewest places, padding included, for the examples up to edge j − 1, and the edges that take them.
    least: list[tuple[float, tuple[int, ...]]] = [(0, ())] + [(np.inf, ())] * len(edges)
    for _ in range(count):
        least = [
            min((least[i][0] + (below[j] - below[i]) * edges[j - 1], (*least[i][1], edges[j - 1])) for i in range(j))
            if j
            else least[0]
            for j in range(len(edges) + 1)
        ]
    return least[-1][1]


class LengthBucketedBatches:
    """Batches of examples of similar length, for fine-tuning: every example once an epoch, shuffled anew each epoch.

    Every batch is full but one of an epoch, among the shortest: where a bucket's last batch has places left, the longest
    examples of the next shorter one fill them. How many batches an epoch has of each length, and their order, are the same for
    every seed, so that several seeds can train in one program.

    Args:
        lengths: tokens of each example, int [n].
        batch_size: examples of a batch.
        seed: of which examples are in which batch.
        buckets: lengths to pad to, ascending; an example goes to the first that holds it, or fills up a batch of a longer one.

    Attributes:
        batches_per_epoch: the same in every epoch.
        rows_at: {length that they are padded to: examples of an epoch}.
        padding: share of the places of all batches that hold no token.

    Raises:
        InputError: there are no examples, or one is longer than the last bucket.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, buckets: tuple[int, ...]):
        lengths = np.asarray(lengths)
        if not len(lengths) or batch_size < 1 or list(buckets) != sorted(set(buckets)):
            raise InputError(
                f"{len(lengths)} examples, batch_size = {batch_size}, buckets = {buckets}: expected examples, a size of "
                "at least 1, and ascending buckets"
            )
        if lengths.max() > buckets[-1]:
            raise InputError(
                f"example {lengths.argmax()} has {lengths.max()} tokens, the largest bucket holds {buckets[-1]}: cut it"
            )
        self.batch_size, self.seed, self.buckets = batch_size, seed, tuple(buckets)
        self._lengths = lengths
        # Examples in descending length: [starts[i], starts[i + 1]) are padded to the i-th longest bucket.
        longer = [int(np.sum(lengths > bucket)) for bucket in (*reversed(buckets[:-1]), 0)]
        ends = np.minimum([-(-count // batch_size) * batch_size for count in longer], len(lengths))
        self._starts = np.array([0, *ends])
        self.batches_per_epoch = -(-len(lengths) // batch_size)
        self.rows_at = dict(zip(buckets[::-1], map(int, np.diff(self._starts)), strict=True))
        places = sum(length * rows for length, rows in self.rows_at.items())
        self.padding = 1.0 - int(lengths.sum()) / places
        self._plan = PerEpoch(self._draw_plan)

    def batch(self, k: int) -> tuple[np.ndarray, int]:
        """Indices of the examples of batch k, int64 [≤ batch_size], and the length to pad them to."""
        epoch, place = divmod(k, self.batches_per_epoch)
        return self._plan(epoch)[place]

    def _draw_plan(self, epoch: int) -> list[tuple[np.ndarray, int]]:
        generator = epoch_generator(self.seed, epoch)
        order = generator.permutation(len(self._lengths))
        order = order[np.argsort(-self._lengths[order], kind="stable")]
        plan = []
        for start, end, length in zip(self._starts, self._starts[1:], reversed(self.buckets), strict=False):
            members = generator.permutation(order[start:end])
            plan += [
                (members[first : first + self.batch_size], length) for first in range(0, len(members), self.batch_size)
            ]
        return [plan[place] for place in epoch_generator(0, epoch).permutation(len(plan))]
