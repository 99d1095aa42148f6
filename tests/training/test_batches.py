import numpy as np

from distilbert_jax.training.batches import best_fit


def test_best_fit_is_that_of_a_search_through_all_rows():
    random_lengths = np.random.default_rng(0).integers(3, 41, 400)
    row, offset, segment = best_fit(random_lengths, 40)
    filled = []
    for length in sorted(random_lengths, reverse=True):
        fitting = [used for used in filled if used + length <= 40]
        if fitting:
            filled[filled.index(max(fitting))] += length
        else:
            filled.append(length)
    used = np.bincount(row, weights=random_lengths)
    assert sorted(used) == sorted(filled)
    for number in range(len(used)):
        inside = np.flatnonzero(row == number)
        inside = inside[np.argsort(offset[inside])]
        lengths = random_lengths[inside]
        np.testing.assert_array_equal(offset[inside], np.cumsum(lengths) - lengths)
        np.testing.assert_array_equal(segment[inside], np.arange(len(inside)) + 1)
