import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from distilbert_jax.errors import InputError
from distilbert_jax.pretraining.batches import PackedBatches
from distilbert_jax.pretraining.packing import PACKED_CHANNELS
from distilbert_jax.training.batches import prefetch
from tests.runs import refused


class Rows:
    """Stands in for PackedRows: row r has ids r, segments 1 and positions 0 to T − 1."""

    length = 8

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, indices):
        return dict(
            zip(PACKED_CHANNELS, np.moveaxis(self.read(indices), 1, 0).astype(np.int32, order="C"), strict=True)
        )

    def read(self, indices):
        rows = np.ones((len(indices), 3, self.length), np.uint16)
        rows[:, 0] = np.asarray(indices)[:, None]
        rows[:, 2] = np.arange(self.length)
        return rows


def first_ids(batch):
    return batch["input_ids"][:, 0].tolist()


def test_every_row_is_seen_once_an_epoch_in_another_order_each_time():
    batches = PackedBatches(Rows(23), 5, seed=1)
    seen = np.concatenate([first_ids(batches.batch(k)) for k in range(23)])
    epochs = seen.reshape(5, 23)
    for epoch in epochs:
        assert sorted(epoch) == list(range(23))
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert list(epochs[0]) != list(range(23))


def test_a_batch_larger_than_all_rows_takes_several_epochs():
    seen = first_ids(PackedBatches(Rows(3), 10, seed=0).batch(0))
    assert [sorted(seen[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_a_batch_depends_on_seed_and_number_alone():
    forward = [PackedBatches(Rows(23), 5, seed=1).batch(k) for k in range(12)]
    batches = PackedBatches(Rows(23), 5, seed=1)
    for k in (11, 0, 7, 3, 11):
        for name, values in batches.batch(k).items():
            np.testing.assert_array_equal(values, forward[k][name])
    other = PackedBatches(Rows(23), 5, seed=2)
    assert [first_ids(other.batch(k)) for k in range(12)] != [first_ids(batch) for batch in forward]


def test_channels_are_told_apart():
    batch = PackedBatches(Rows(23), 5, seed=1).batch(2)
    assert list(batch) == ["input_ids", "segment_ids", "position_ids"]
    for values in batch.values():
        assert (values.dtype, values.shape) == (np.int32, (5, 8))
        assert values.flags.c_contiguous
    assert np.all(batch["segment_ids"] == 1)
    np.testing.assert_array_equal(batch["position_ids"][3], np.arange(8))


@pytest.mark.parametrize("wanted", [slice(2, 7), np.array([6, 0, 3]), slice(None, None, 2)])
def test_a_process_reads_its_rows_of_the_global_batch(wanted):
    batches = PackedBatches(Rows(17), 8, seed=3)
    for k in range(5):
        whole, part = batches.batch(k), batches.batch(k, wanted)
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][wanted])


def test_threads_get_the_same_batches_and_draw_an_epoch_once():
    batches = PackedBatches(Rows(1000), 10, seed=0)
    drawn, draw = [], batches._permutation._function.__wrapped__

    def counting(epoch):
        drawn.append(epoch)
        time.sleep(0.01)
        return draw(epoch)

    remembered = type(batches._permutation)(counting)
    batches._permutation = remembered
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda k: first_ids(batches.batch(k)), range(100)))
    assert drawn == [0]
    assert found == [first_ids(PackedBatches(Rows(1000), 10, seed=0).batch(k)) for k in range(100)]


@pytest.mark.parametrize("rows", [None, slice(1, 3)])
def test_prefetch_gives_the_batches_in_order_from_any_start(rows):
    batches = PackedBatches(Rows(23), 5, seed=1)
    for start, stop in ((0, 9), (4, 9), (9, 9)):
        found = [first_ids(batch) for batch in prefetch(batches, start, stop, rows)]
        assert found == [first_ids(batches.batch(k, rows)) for k in range(start, stop)]


def test_prefetch_closed_early_ends_its_threads_and_reads_little_ahead():
    class Counting(PackedBatches):
        read = 0

        def batch(self, k, rows=None):
            Counting.read += 1
            return super().batch(k, rows)

    iterator = prefetch(Counting(Rows(23), 5, seed=1), 0, 10_000)
    next(iterator)
    iterator.close()
    time.sleep(0.2)
    assert Counting.read < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("grain")]


def test_a_process_that_leaves_a_prefetch_open_still_ends():
    script = """
import sys
sys.path.insert(0, {path!r})
from test_batches import PackedBatches, Rows, prefetch
iterator = prefetch(PackedBatches(Rows(23), 5, seed=1), 0, 10_000)
print(len(next(iterator)))
raise KeyboardInterrupt
"""
    script = script.format(path=__file__.rpartition("/")[0])
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout == "3\n"
    assert run.stderr.strip().endswith("KeyboardInterrupt")


def test_an_error_while_reading_reaches_the_consumer():
    class Damaged(Rows):
        def read(self, indices):
            raise InputError("00000.npy: damaged", path="00000.npy")

    refused(lambda: next(prefetch(PackedBatches(Damaged(23), 5, seed=1), 0, 3)), path="00000.npy")


def test_what_cannot_be_batched_is_named():
    refused(lambda: PackedBatches(Rows(3), 0, seed=0), field="batch_size")


def test_importing_batches_does_not_import_jax():
    script = (
        "import sys, distilbert_jax.pretraining.batches; sys.exit(int(any(m in sys.modules for m in ('jax', 'grain'))))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
