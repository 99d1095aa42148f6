"""Ragged arrays and rows: what lists of arrays give, in the memory of their values."""

import numpy as np
import pytest

from distilbert_jax.finetuning.ragged import Ragged, Rows
from distilbert_jax.text.tokenizer import Row

LENGTHS = (3, 0, 5, 1, 1, 0, 7)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(30_000, size=length, dtype=np.int32) for length in LENGTHS]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [0, 3, 0, 0, 4, 0], [2, 5]])
def test_ragged_arrays_are_a_sequence_however_they_were_joined(sizes):
    given, ends = arrays(), np.cumsum([0, *sizes])
    made = Ragged.joined([Ragged.of(given[end - size : end]) for size, end in zip(sizes, ends[1:], strict=True)])
    same(made, given)
    same([made[place] for place in range(7)], given)
    same([made[place] for place in np.arange(-7, 0)], given)
    same(made[5:0:-2], given[5:0:-2])
    np.testing.assert_array_equal(made.lengths, LENGTHS, strict=False)
    assert made.lengths.dtype == np.int64
    for place in (7, -8):
        with pytest.raises(IndexError):
            made[place]


def test_nothing_is_a_ragged_array():
    for made in (Ragged.of([]), Ragged.joined([]), Ragged.joined([Ragged.of([])])):
        assert (len(made), list(made), made.lengths.tolist()) == (0, [], [])
    assert list(Rows.of([])) == list(Rows.joined([Rows.of([])])) == []


def test_rows_come_out_as_they_went_in_whatever_their_types():
    few = [Row(ids, ids % 2) for ids in arrays()]
    many = [Row(ids, ids % 1000) for ids in arrays(1)]
    made = Rows.joined([Rows.of(few), Rows.of(many)])
    assert made.lengths.tolist() == [*LENGTHS, *LENGTHS]
    for rows in (list(made), made[:], [made[place] for place in range(14)]):
        for place in (0, 1):
            same([row[place] for row in rows], [row[place] for row in few + many])


def test_a_token_takes_five_bytes():
    rows = Rows.of([Row(np.zeros(100, np.int32), np.zeros(100, np.int32))] * 10)
    held = [array for part in (*rows._ids._parts, *rows._type_ids._parts) for array in part[:2]]
    assert sum(array.nbytes for array in held) == 5 * 1000 + 2 * 8 * 11
