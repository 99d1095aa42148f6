"""The random words of dropout: of good quality where weak hashes are found out, and the same bits everywhere."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.models import layers
from distilbert_jax.models.layers import dropout, random_words
from tests.runs import ROOT

KEYS = jax.random.split(jax.random.key(7), 4)
PINNED = {
    "first": [3983929261, 3587406790, 1612620776, 2398802355],
    "row": [1750779384, 1414958385, 3925389345, 4103183183, 3292579549],
}


@pytest.fixture(scope="module")
def quality():
    """benchmarks/dropout.py."""
    spec = importlib.util.spec_from_file_location("dropout_quality", ROOT / "benchmarks/dropout.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dropout_quality"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["dropout_quality"]


def worst(quality, draw):
    """What is the furthest off of 10⁶ decisions, and its deviation in standard errors."""
    jitted = jax.jit(draw)
    found = quality.deviations(lambda keys: np.asarray(jitted(keys)), 1_000_000, 0.1)
    return max(found, key=lambda one: abs(one[1]))


def test_a_million_decisions_are_as_independent_as_they_should_be(quality):
    name, deviation = worst(quality, lambda keys: random_words(keys, (quality.PLACES,)))
    assert abs(deviation) < quality.LIMIT, name


def one_round(keys, place):
    first, last = (word[:, None] for word in layers._row_words(keys))
    x = place ^ first
    x = (x ^ (x >> 16) ^ last) * jnp.uint32(0x7FEB352D)
    return x ^ (x >> 16)


def without_a_key(keys, place):
    same = random_words(jax.random.split(jax.random.key(0), 1), place.shape)
    return jnp.broadcast_to(same, (len(keys), *place.shape))


def of_one_key_word(keys, place):
    data = jax.random.key_data(keys).at[:, 1].set(0)
    return random_words(jax.random.wrap_key_data(data), place.shape)


def of_key_words_as_they_are(keys, place):
    """What a hash gives that takes the key without mixing it."""
    data = jax.random.key_data(keys)
    x = place ^ data[:, :1]
    x = (x ^ (x >> 17)) * jnp.uint32(0xED5AD4BB)
    x = (x ^ (x >> 15)) + data[:, 1:]
    x = (x ^ (x >> 16)) * jnp.uint32(0x31848BAB)
    return x ^ (x >> 14)


@pytest.mark.parametrize(
    ("weak", "found_by"),
    [
        (one_round, "neighbours"),
        (without_a_key, "sites"),
        (of_one_key_word, "keys one bit apart"),
        (of_key_words_as_they_are, "keys and places one bit apart"),
    ],
)
def test_a_weak_hash_is_found_out(quality, weak, found_by):
    place = jnp.arange(quality.PLACES, dtype=jnp.uint32)
    jitted = jax.jit(lambda keys: weak(keys, place))
    deviations = quality.deviations(lambda keys: np.asarray(jitted(keys)), 1_000_000, 0.1)
    assert max(abs(value) for name, value in deviations if name.startswith(found_by)) > 10 * quality.LIMIT


def test_the_words_are_these():
    """Other words are another version of `DROPOUT_BITS`: an unfinished run would go on with them."""
    assert layers.DROPOUT_BITS == "hash 1"
    words = np.asarray(jax.jit(random_words, static_argnums=1)(KEYS, (3, 5)))
    assert words.dtype == np.uint32
    assert words[:, 0, 0].tolist() == PINNED["first"]
    assert words[1, 2].tolist() == PINNED["row"]


def test_the_words_of_vmapped_seeds_are_those_of_each_alone():
    both = jnp.stack([KEYS, jax.random.split(jax.random.key(8), 4)])
    together = jax.jit(jax.vmap(lambda keys: random_words(keys, (7,))))(both)
    np.testing.assert_array_equal(together, jnp.stack([random_words(keys, (7,)) for keys in both]))


def test_keys_of_another_kind_count_with_all_their_words():
    keys = jax.random.key_data(jax.random.split(jax.random.key(0, impl="rbg"), 1))
    assert keys.shape == (1, 4)
    others = jnp.concatenate([keys] + [keys.at[0, word].add(1) for word in range(4)])
    words = random_words(jax.random.wrap_key_data(others, impl="rbg"), (8,))
    assert len({tuple(row) for row in np.asarray(words).tolist()}) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_is_scaled_in_float32_and_has_the_dtype_given(dtype):
    x = jnp.broadcast_to(jnp.linspace(1.0, 2.0, 1000, dtype=dtype), (4, 1000))
    result = dropout(x, 0.1, KEYS)
    assert result.dtype == x.dtype
    result, kept = np.asarray(result, np.float64), np.asarray(result) != 0
    assert (result[kept] / np.asarray(x, np.float64)[kept]).mean() == pytest.approx(1 / 0.9, rel=3e-4)
