import numpy as np
import pytest

from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import PackedShape, RandomBatches, packed_shape, packings, wide_enough
from distilbert_jax.training.batches import prefetch

# As in SST-2: many short texts, a few long ones.
LENGTHS = np.minimum(3 + np.random.default_rng(0).geometric(0.1, 1013), 61)


def epochs_of(lengths, batch_size, seed=0, epochs=3):
    batches = RandomBatches(lengths, batch_size, seed, packed_shape(lengths, batch_size))
    count = batches.batches_per_epoch
    return [[batches.batch(epoch * count + j) for j in range(count)] for epoch in range(epochs)]


def of(rows, length, segments):
    return PackedShape(rows, length, segments)


@pytest.mark.parametrize(
    ("lengths", "batch_size"),
    [
        (LENGTHS, 32),
        (LENGTHS[:1000], 8),
        (LENGTHS[:64], 32),
        (LENGTHS[:20], 32),
        (LENGTHS[:1], 32),
        (np.full(100, 16), 8),
        (np.array([5] * 99 + [500]), 8),
        (np.array([128] * 40), 16),
        (LENGTHS[:50], 1),
    ],
)
def test_every_example_is_seen_once_an_epoch_in_rows_that_hold_it(lengths, batch_size):
    shape = packed_shape(lengths, batch_size)
    epochs = epochs_of(lengths, batch_size)
    for plan in epochs:
        assert len(plan) == -(-len(lengths) // batch_size)
        assert sorted(np.concatenate([packing.indices for packing in plan])) == list(range(len(lengths)))
        for packing in plan:
            taken = np.zeros((shape.rows, shape.length), int)
            for index, row, column in zip(packing.indices, packing.row, packing.column, strict=True):
                taken[row, column : column + lengths[index]] += 1
            assert taken.max() == 1, "no two examples at one place"
            assert taken.sum() == lengths[packing.indices].sum(), "nor one beyond the row"
            places = set(zip(packing.row.tolist(), packing.segment.tolist(), strict=True))
            assert len(places) == len(packing.indices) > 0
            assert 1 <= packing.segment.min() <= packing.segment.max() <= shape.segments
    if len(lengths) > 10:
        assert len({tuple(plan[0].indices) for plan in epochs}) == 3, "in a new order each time"


def test_what_an_example_shares_its_batch_with_does_not_depend_on_its_length():
    """In batches of similar lengths the variance within a batch is a small share; and long examples come neither early nor late."""
    early = []
    for seed in range(20):
        (plan,) = epochs_of(LENGTHS, 32, seed, epochs=1)
        within = [LENGTHS[packing.indices].var(ddof=1) for packing in plan[:-1]]
        assert np.mean(within) > 0.85 * LENGTHS.var(ddof=1), seed
        order = np.concatenate([packing.indices for packing in plan])
        early.append(np.corrcoef(np.arange(len(order)), LENGTHS[order])[0, 1])
    assert abs(np.mean(early)) < 3 * 1013**-0.5 * 20**-0.5


def test_a_batch_has_its_size_and_what_did_not_fit_before():
    shape = packed_shape(LENGTHS, 32)
    for plan in epochs_of(LENGTHS, 32):
        taken = np.cumsum([len(packing.indices) for packing in plan])
        due = np.minimum(32 * np.arange(1, len(plan) + 1), len(LENGTHS))
        assert (taken <= due).all()
        assert np.mean(due - taken) < 6, "little waits"
        order = np.concatenate([packing.indices for packing in plan])
        for end in taken[taken < due]:  # and nothing that would have fitted
            start = taken[np.searchsorted(taken, end) - 1] if end > taken[0] else 0
            assert LENGTHS[order[start : end + 1]].sum() > 0.9 * shape.rows * shape.length


@pytest.mark.parametrize(("batch_size", "filled"), [(8, 0.65), (16, 0.75), (32, 0.85)])
def test_little_is_padding(batch_size, filled):
    shape = packed_shape(LENGTHS, batch_size)
    count = -(-len(LENGTHS) // batch_size)
    assert LENGTHS.sum() / (count * shape.rows * shape.length) > filled
    assert shape.length % 8 == 0
    assert shape.length >= LENGTHS.max()


def test_batches_are_a_function_of_seed_and_number():
    batches = lambda seed: RandomBatches(LENGTHS, 32, seed, packed_shape(LENGTHS, 32))
    one = batches(5)
    forward = [one.batch(k) for k in range(3 * one.batches_per_epoch)]
    for k in (80, 2, 31, 57):
        for again, before in zip(batches(5).batch(k), forward[k], strict=True):
            np.testing.assert_array_equal(again, before)
    assert [packing.indices.tolist() for packing in prefetch(one, 3, 9)] == [p.indices.tolist() for p in forward[3:9]]
    other = batches(6)
    assert other.batches_per_epoch == one.batches_per_epoch
    assert all(set(other.batch(k).indices) != set(forward[k].indices) for k in range(5))


def test_an_order_whose_last_batch_would_not_fit_is_drawn_again():
    """Of 64 examples in two batches of 32, the second is to hold what the first leaves."""
    lengths, shape = LENGTHS[:64], of(3, 96, 24)
    tight = -(-int(lengths.sum() / 2 * 1.08) // 3)
    shape = shape._replace(length=max(tight, 61))
    drawn = 0
    for seed in range(20):
        batches = RandomBatches(lengths, 32, seed, shape)
        first, second = batches.batch(0).indices, batches.batch(1).indices
        assert sorted([*first, *second]) == list(range(64))
        generator = np.random.Generator(np.random.PCG64([seed, 0]))
        drawn += generator.permutation(64)[: len(first)].tolist() != first.tolist()
    assert 0 < drawn < 20


def test_values_of_tokens_and_of_examples_come_back_from_where_they_were_put():
    packing = epochs_of(LENGTHS, 32)[0][0]
    shape = packed_shape(LENGTHS, 32).for_mesh(8)
    assert shape.rows % 8 == 0
    values = [np.full(LENGTHS[index], index + 1) for index in packing.indices]
    tokens = packing.tokens(values, shape, fill=-1)
    assert tokens.shape == (shape.rows, shape.length)
    assert np.sum(tokens >= 0) == LENGTHS[packing.indices].sum()
    packed = packing.examples(packing.indices.astype(np.float32) + 1, shape)
    assert packed.dtype == np.float32
    assert np.count_nonzero(packed) == len(packing.indices)
    np.testing.assert_array_equal(packing.of_examples(packed) - 1, packing.indices)
    np.testing.assert_array_equal(tokens[packing.row, packing.column], packing.indices + 1)


def test_rows_to_predict_are_as_few_as_hold_all_examples():
    shape = wide_enough(of(6, 80, 26), np.array([90, 10]))
    assert shape == of(6, 96, 9)
    plan = list(packings(LENGTHS, wide_enough(packed_shape(LENGTHS, 32), LENGTHS)))
    assert sorted(np.concatenate([packing.indices for packing in plan])) == list(range(len(LENGTHS)))
    places = len(plan) * shape.rows * packed_shape(LENGTHS, 32).length
    assert LENGTHS.sum() > 0.93 * places


def test_what_cannot_be_batched_is_named():
    with pytest.raises(InputError) as caught:
        RandomBatches(np.array([3, 40]), 8, 0, of(2, 32, 10))
    assert caught.value.row == 1
    with pytest.raises(InputError, match="0 examples"):
        packed_shape(np.array([], int), 8)
    with pytest.raises(InputError, match="batch_size = 0"):
        packed_shape(np.array([3]), 0)
