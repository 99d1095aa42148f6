"""Masked-LM corruption: how many tokens are drawn, which, and what becomes of them."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import MaskingConfig
from distilbert_jax.pretraining.masking import Masked, corrupt, log_weights, masked_count

SPECIAL = (0, 1, 2, 3, 4)
CLS, SEP, MASK = 2, 3, 4
VOCAB = 60
SIGMAS = 5.0  # a fair draw is further off once in two million

# Unoptimised LLVM: compiles in half the time, masked_count the same bits.
_corrupt = jax.jit(corrupt, static_argnums=(4, 5), compiler_options={"xla_backend_optimization_level": 0})


def run(ids, real, config, seed=0, weights=None, keys=None, vocab=VOCAB) -> Masked:
    weights = log_weights(np.ones(vocab), SPECIAL, config) if weights is None else weights
    keys = jax.random.split(jax.random.key(seed), len(ids)) if keys is None else keys
    masked = _corrupt(keys, jnp.asarray(ids), jnp.asarray(real), weights, MASK, config)
    return Masked(*(np.asarray(value) for value in masked))


def rows_of(lengths, length, rng, vocab=VOCAB):
    """[CLS] tokens [SEP] padding, one row for each of `lengths`."""
    ids = rng.integers(len(SPECIAL), vocab, (len(lengths), length)).astype(np.int32)
    real = np.arange(length) < np.asarray(lengths)[:, None]
    ids[:, 0] = CLS
    ids[np.arange(len(lengths)), np.asarray(lengths) - 1] = SEP
    ids[~real] = 0
    return ids, real


def drawn(masked: Masked) -> np.ndarray:
    """bool [B, T]: where a token was drawn."""
    out = np.zeros(masked.input_ids.shape, bool)
    for row, positions, weights in zip(out, masked.positions, masked.weights, strict=True):
        row[positions[weights > 0]] = True
    return out


@pytest.mark.parametrize("percent", [15, 7, 30, 50])
def test_number_of_drawn_tokens_is_the_exact_ceiling(percent):
    exact = [-(-Fraction(percent, 100) * n // 1) for n in range(2049)]
    np.testing.assert_array_equal(masked_count(np.arange(2049), percent / 100), exact)


def test_every_row_length_has_its_own_number_drawn(rng):
    lengths = np.arange(3, 129)
    ids, real = rows_of(lengths, 128, rng)
    masked = run(ids, real, MaskingConfig())
    expected = [min(-(-15 * n // 100), n - 2) for n in map(int, lengths)]
    np.testing.assert_array_equal(masked.weights.sum(1), expected)
    assert masked.positions.shape == (len(lengths), 20)  # ceil(0.15 · 128), whatever the rows hold


@pytest.mark.parametrize("per", ["row", "batch"])
def test_special_tokens_and_padding_are_never_drawn(rng, per):
    lengths = rng.integers(3, 65, 200)
    ids, real = rows_of(lengths, 64, rng)
    ids[real & (rng.random(ids.shape) < 0.3)] = 1  # [UNK] is special too
    ids[~real] = 50  # what stands in padding is not looked at
    masked = run(ids, real, MaskingConfig(probability=0.5, per=per))
    where = drawn(masked)
    assert where.any()
    assert not where[~real].any()
    assert not where[np.isin(ids, SPECIAL)].any()
    np.testing.assert_array_equal(masked.input_ids[~where], ids[~where])


def test_drawn_without_replacement(rng):
    ids, real = rows_of([40] * 300, 40, rng)
    masked = run(ids, real, MaskingConfig(probability=0.9))
    assert all(len(set(row)) == len(row) for row in masked.positions)
    assert (masked.weights.sum(1) == 36).all()


@pytest.mark.parametrize("per", ["row", "batch"])
def test_positions_labels_and_weights_tell_how_to_undo_the_corruption(rng, per):
    ids, real = rows_of(rng.integers(4, 33, 200), 32, rng)
    masked = run(ids, real, MaskingConfig(per=per))
    restored = masked.input_ids.copy()
    for row, positions, labels, weights in zip(restored, *masked[1:], strict=True):
        assert set(weights) <= {0.0, 1.0}
        assert (labels[weights == 0] == 0).all()
        row[positions[weights > 0]] = labels[weights > 0]
    np.testing.assert_array_equal(restored, ids)
    assert masked.input_ids.dtype == masked.labels.dtype == masked.positions.dtype == np.int32
    assert masked.weights.dtype == np.float32


def test_over_the_batch_the_number_is_exact_and_rows_differ(rng):
    config = MaskingConfig(per="batch")
    numbers = []
    for seed in range(40):
        ids, real = rows_of(rng.integers(20, 65, 7), 64, rng)
        masked = run(ids, real, config, seed)
        assert masked.weights.sum() == -(-15 * real.sum() // 100)
        numbers += (masked.weights.sum(1) - 0.15 * real.sum(1)).tolist()
    assert max(numbers) > 4 > -3 > min(numbers)
    ids[:] = 1
    ids[3, 5:9] = 50  # four tokens that can be drawn where 15 % would be more
    masked = run(ids, np.ones_like(real), config)
    np.testing.assert_array_equal(np.argwhere(drawn(masked)), [[3, 5], [3, 6], [3, 7], [3, 8]])


def test_over_the_batch_all_tokens_of_a_row_can_be_drawn():
    counts = np.full(VOCAB, 10**9)
    counts[50] = 1
    config = MaskingConfig(per="batch", probability=0.5, smoothing=2.0)
    ids = np.full((2, 16), 9, np.int32)
    ids[1] = 50
    masked = run(ids, np.ones_like(ids, bool), config, weights=log_weights(counts, SPECIAL, config))
    np.testing.assert_array_equal(masked.weights.sum(1), [0, 16])


def test_rows_with_too_few_tokens_to_draw_give_what_they_have(rng):
    ids = np.full((4, 40), 1, np.int32)  # all [UNK]
    real = np.ones((4, 40), bool)
    ids[1, 7] = 50
    ids[2, [3, 9, 20]] = 51, 52, 53
    real[3] = False  # a row of padding
    masked = run(ids, real, MaskingConfig(mask=1.0, random=0.0))
    np.testing.assert_array_equal(masked.weights.sum(1), [0, 1, 3, 0])
    np.testing.assert_array_equal(np.argwhere(drawn(masked)), [[1, 7], [2, 3], [2, 9], [2, 20]])
    np.testing.assert_array_equal(masked.input_ids[drawn(masked)], MASK)
    np.testing.assert_array_equal(masked.input_ids[~drawn(masked)], ids[~drawn(masked)])


def test_eighty_ten_ten_and_uniform_replacement(rng):
    ids, real = rows_of([128] * 4000, 128, rng)
    masked = run(ids, real, MaskingConfig())
    where = drawn(masked)
    old, new = ids[where], masked.input_ids[where]
    N = len(old)
    assert N == 4000 * 20
    # A random token is the true one or [MASK] once in V: both are counted where they fall.
    shares = {"mask": (new == MASK, 0.8 + 0.1 / VOCAB), "kept": (new == old, 0.1 + 0.1 / VOCAB)}
    shares["random"] = ((new != MASK) & (new != old), 0.1 * (1 - 2 / VOCAB))
    for name, (hits, share) in shares.items():
        assert abs(hits.mean() - share) < SIGMAS * np.sqrt(share * (1 - share) / N), name
    replaced = np.bincount(new[(new != MASK) & (new != old)], minlength=VOCAB)
    assert replaced[MASK] == 0
    tokens = np.setdiff1d(np.arange(VOCAB), [MASK])
    # A token of the text is missing from its own replacements; the special ones, never drawn, are not.
    expected = np.where(tokens < len(SPECIAL), 1.0, 1 - np.bincount(old, minlength=VOCAB)[tokens] / N)
    expected *= 0.1 / VOCAB * N
    assert (abs(replaced[tokens] - expected) < SIGMAS * np.sqrt(expected)).all()


def test_random_differs_never_gives_the_true_token_and_any_other_as_often(rng):
    vocab = 9  # four ordinary tokens: an accidental hit would be common
    ids, real = rows_of([64] * 2000, 64, rng, vocab)
    config = MaskingConfig(mask=0.0, random=1.0, random_differs=True)
    masked = run(ids, real, config, vocab=vocab)
    where = drawn(masked)
    old, new = ids[where], masked.input_ids[where]
    for token in range(len(SPECIAL), vocab):
        others = np.bincount(new[old == token], minlength=vocab)
        assert others[token] == 0
        mean = others.sum() / (vocab - 1)
        assert (abs(np.delete(others, token) - mean) < SIGMAS * np.sqrt(mean)).all()
    assert (run(ids, real, MaskingConfig(mask=0.0, random=1.0), vocab=vocab).input_ids[where] == old).any()


def sequential_draws(weights, n):
    """The probability of each ordered draw of n of the items without replacement, one after the other."""
    found = {}
    for order in itertools.permutations(range(len(weights)), n):
        left, probability = sum(weights), 1.0
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        found[order] = probability
    return found


def test_over_the_batch_draws_follow_the_smoothed_frequencies():
    counts = np.ones(VOCAB)
    tokens, seen = [10, 11, 12, 13, 14, 15], [1, 3, 40, 1000, 200000, 2]
    counts[tokens] = seen
    config, N = MaskingConfig(probability=0.5, per="batch"), 20_000
    ids, real = jnp.int32(tokens).reshape(2, 3), jnp.ones((2, 3), bool)
    weights = log_weights(counts, SPECIAL, config)
    batch = jax.jit(jax.vmap(lambda keys: corrupt(keys, ids, real, weights, MASK, config)))
    masked = jax.device_get(batch(jax.random.split(jax.random.key(0), (N, 2))))
    assert (masked.weights.sum((1, 2)) == 3).all()
    expected = sequential_draws([count**-0.7 for count in seen], 3)
    for item, token in enumerate(tokens):
        share = sum(p for order, p in expected.items() if item in order)
        hits = (masked.labels == token).any((1, 2)).mean()
        assert abs(hits - share) < SIGMAS * np.sqrt(share * (1 - share) / N), token


@pytest.mark.parametrize("weighting", ["frequency", "uniform"])
def test_draws_follow_the_smoothed_frequencies(weighting):
    counts = np.ones(VOCAB)
    tokens, seen = [10, 11, 12, 13, 14, 10], [0, 3, 40, 1000, 200000, 0]  # a count of 0 weighs as 1; 10 stands twice
    counts[tokens] = seen
    config = MaskingConfig(probability=0.5, weighting=weighting)
    N = 60_000
    ids = np.tile(np.int32(tokens), (N, 1))
    masked = run(ids, np.ones_like(ids, bool), config, weights=log_weights(counts, SPECIAL, config))
    assert (masked.weights == 1).all()
    weights = [max(count, 1) ** -0.7 if weighting == "frequency" else 1.0 for count in seen]
    expected = sequential_draws(weights, 3)
    found = dict.fromkeys(expected, 0)
    for order in map(tuple, masked.positions.tolist()):
        found[order] += 1
    likely = [order for order in expected if N * expected[order] >= 10]
    assert sum(expected[order] for order in likely) > 0.97
    for order in likely:
        mean = N * expected[order]
        assert abs(found[order] - mean) < SIGMAS * np.sqrt(mean), order
    for item in range(len(tokens)):  # how often each is drawn at all, the rare orders with it
        share = sum(p for order, p in expected.items() if item in order)
        hits = (masked.positions == item).any(1).mean()
        assert abs(hits - share) < SIGMAS * np.sqrt(share * (1 - share) / N), item


def test_smoothing_changes_the_weights():
    counts = np.array([0, 1, 16, 100.0])
    logs = log_weights(counts, (0,), MaskingConfig(smoothing=0.5))
    assert logs.dtype == np.float32
    assert logs[0] == -np.inf
    np.testing.assert_allclose(np.exp(logs[1:]), [1, 1 / 4, 1 / 10], rtol=1e-6)


def test_corruption_of_a_row_depends_on_its_key_alone(rng):
    ids, real = rows_of(rng.integers(5, 65, 12), 64, rng)
    keys = jax.random.split(jax.random.key(3), 12)
    together = run(ids, real, MaskingConfig(), keys=keys)
    order = np.array([7, 0, 11, 4])
    apart = run(ids[order], real[order], MaskingConfig(), keys=keys[order])
    for whole, part in zip(together, apart, strict=True):
        np.testing.assert_array_equal(whole[order], part)
    # and on the key it does depend: one text under twelve keys is corrupted in twelve ways
    same = run(np.tile(ids[-1], (12, 1)), np.tile(real[-1], (12, 1)), MaskingConfig(), keys=keys)
    assert len({row.tobytes() for row in same.input_ids}) == 12
