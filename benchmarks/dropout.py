"""Quality of dropout's random words: rate, uniformity, and independence of neighbours, rows, sites, layers, steps, seeds and of
keys one bit apart, each as a deviation in standard errors, which for perfect words is a draw from N(0, 1).

python benchmarks/dropout.py [--decisions 100000000] [--rate 0.1]
"""

import argparse
import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.models.layers import fold_rows, random_words
from distilbert_jax.training.step import row_keys

Words = Callable[[jax.Array], np.ndarray]  # keys [R] → uint32 [R, PLACES]
PLACES = 1 << 16  # words of a row, as many as a head of 256 tokens takes
_ROWS = 16
_LAGS = (1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 128, 255, 256, 512, 768, 1024, 3072, 8192)
LIMIT = 5.0  # standard errors; of a few hundred deviations of perfect words one in some thousand runs is beyond


@functools.partial(jax.jit, static_argnums=1)
def _random_words(rngs: jax.Array, places: int) -> jax.Array:
    return random_words(rngs, (places,))


def words(rngs: jax.Array) -> np.ndarray:
    """The words that dropout takes, uint32 [R, PLACES]."""
    return np.asarray(_random_words(rngs, PLACES))


def deviations(draw: Words, decisions: int, rate: float) -> Iterator[tuple[str, float]]:
    """(what was looked at, its deviation in standard errors) of at least so many decisions each."""
    totals: dict[str, list[float]] = {}
    rounds = math.ceil(decisions / (_ROWS * PLACES))
    for step in range(rounds):
        for name, value in _of_step(draw, step, rate):
            totals.setdefault(name, []).append(value)
    # What is summed is N(0, 1) for each round.
    yield from ((name, sum(values) / math.sqrt(len(values))) for name, values in totals.items())


def _of_step(draw: Words, step: int, rate: float) -> Iterator[tuple[str, float]]:
    keys = row_keys(jax.random.key(0), jnp.int32(step), _ROWS)
    here = draw(keys)
    for share in (rate, 0.5, 0.01):
        yield f"rate {share}", _excess(here < _threshold(share), share)
    yield "uniformity of the upper bits", _uniformity(here >> 24)
    yield "uniformity of the lower bits", _uniformity(here & 255)
    for share in (rate, 0.5):
        dropped = here < _threshold(share)
        together = functools.partial(_correlation, share=share)
        for lag in _LAGS:
            yield f"neighbours {lag} apart, rate {share}", together(dropped[:, lag:], dropped[:, :-lag])
            yield f"neighbours by XOR {lag}, rate {share}", together(*_halves(dropped, lag))
        for size in (32, 512):
            yield f"dropped of {size} in turn, rate {share}", _spread(dropped.reshape(-1, size), share)
            yield f"dropped of every {size}th, rate {share}", _spread(_columns(dropped, size), share)
        yield f"rows, rate {share}", together(dropped[1:], dropped[:-1])
        yield f"rows and neighbours, rate {share}", together(dropped[1:, 1:], dropped[:-1, :-1])
        for name, others in _other_keys(keys, step):
            yield f"{name}, rate {share}", together(dropped, draw(others) < _threshold(share))
        yield from _one_bit_apart(draw, keys[step % _ROWS], share)


def _other_keys(keys: jax.Array, step: int) -> Iterator[tuple[str, jax.Array]]:
    yield "sites", fold_rows(keys, 1)
    yield "layers", fold_rows(fold_rows(keys, 1), 2)
    yield "steps", row_keys(jax.random.key(0), jnp.int32(step + 1), _ROWS)
    yield "seeds", row_keys(jax.random.key(1), jnp.int32(step), _ROWS)


def _one_bit_apart(draw: Words, key: jax.Array, share: float) -> Iterator[tuple[str, float]]:
    """Of one key and all those that differ from it in one bit, at the same place and at places that differ in that bit."""
    data = np.asarray(jax.random.key_data(key))
    flipped = np.zeros((32 * data.size, data.size), np.uint32) + data
    for bit, other in enumerate(flipped):
        other[bit // 32] ^= np.uint32(1 << bit % 32)
    dropped = draw(jax.random.wrap_key_data(jnp.asarray(flipped))) < _threshold(share)
    own = draw(key[None])[0] < _threshold(share)
    place = np.arange(PLACES)
    for bit, other in enumerate(dropped):
        yield f"keys one bit apart, rate {share}", _correlation(own, other, share)
        if 1 << bit % 32 < PLACES:
            yield (
                f"keys and places one bit apart, rate {share}",
                _correlation(own[place ^ (1 << bit % 32)], other, share),
            )


def _threshold(rate: float) -> np.uint32:
    return np.uint32(round(rate * 2**32))


def _excess(dropped: np.ndarray, rate: float) -> float:
    return (np.count_nonzero(dropped) - dropped.size * rate) / math.sqrt(dropped.size * rate * (1 - rate))


def _correlation(one: np.ndarray, other: np.ndarray, share: float) -> float:
    both = np.count_nonzero(one & other)
    covariance = both - share * (np.count_nonzero(one) + np.count_nonzero(other)) + share**2 * one.size
    return covariance / (share * (1 - share) * math.sqrt(one.size))


def _halves(dropped: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The decisions at places with a bit of `lag` unset, and at those that differ from them in `lag`'s bits."""
    place = np.arange(PLACES)
    lower = place[place < place ^ lag]
    return dropped[:, lower], dropped[:, lower ^ lag]


def _columns(dropped: np.ndarray, size: int) -> np.ndarray:
    return dropped.reshape(len(dropped), size, -1).swapaxes(1, 2).reshape(-1, size)


def _spread(groups: np.ndarray, share: float) -> float:
    """How far the spread of the groups' sums is from a binomial's."""
    number, size = groups.shape
    variance = size * share * (1 - share)
    squares = np.square(groups.sum(1) - size * share).sum() / variance
    # Of a binomial: kurtosis 3 + (1 - 6 p q) / (n p q).
    return (squares - number) / math.sqrt(number * (2 + (1 - 6 * share * (1 - share)) / variance))


def _uniformity(values: np.ndarray) -> float:
    counts = np.bincount(values.ravel(), minlength=256)
    expected = values.size / 256
    return (np.square(counts - expected).sum() / expected - 255) / math.sqrt(2 * 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000_000, help="for each of the deviations")
    parser.add_argument("--rate", type=float, default=0.1)
    args = parser.parse_args()
    result = sorted(deviations(words, args.decisions, args.rate), key=lambda one: -abs(one[1]))
    print(f"{len(result)} deviations of {args.decisions:,} decisions each or more, the largest first (limit {LIMIT}):")
    for name, value in result[:10]:
        print(f"{value:+6.2f}  {name}")


if __name__ == "__main__":
    main()
