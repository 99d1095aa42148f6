"""Sentence pairs for BERT's two pre-training objectives: rows `[CLS] A [SEP] B [SEP]`, one pair a row.

A and B are consecutive spans of one document or, with probability one half, B comes from another one (Devlin et al. 2019,
section 3.1; the model card). A span is a stretch of text, usually longer than a sentence.
"""

import itertools
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distilbert_jax.errors import InputError
from distilbert_jax.pretraining.corpus import Corpus, Shard
from distilbert_jax.pretraining.manifests import PackedCounts
from distilbert_jax.text.tokenizer import SpecialIds

CHANNELS = ("input_ids", "segment_ids", "token_type_ids", "next_sentence_label")
FOLLOWS, STRANGER = 0, 1  # next_sentence_label, as in transformers
_SPECIAL_TOKENS = 3
_TRIES = 10


class Text(NamedTuple):
    """Tokens, and where in them lines begin and documents end (the first bound is 0), ascending; none is empty. `numbers` are the
    documents' in the corpus: of a document that was cut, two pieces may be here, side by side or at the two ends."""

    tokens: np.ndarray
    lines: list[int]
    bounds: list[int]
    numbers: list[int]


class Pair(NamedTuple):
    """Where the two spans of a pair begin in the tokens, how many tokens they have, and FOLLOWS or STRANGER."""

    a: int
    a_size: int
    b: int
    b_size: int
    label: int


def shard_of_strangers(corpus: Corpus, index: int) -> int:
    """The shard that strangers may come from beside the pairs' own, which may hold a single document: the next, in a circle, that
    is no other piece of this document."""
    numbers, following = corpus.manifest.document_numbers, (index + 1) % len(corpus)
    circle = itertools.chain(range(following, len(corpus)), range(following))
    return next((other for other in circle if numbers[other] != numbers[index]), following)


def share_a_document(corpus: Corpus, index: int, other: int) -> bool:
    """Whether two shards have pieces of the same document."""
    one, two = corpus.manifest.document_numbers[index], corpus.manifest.document_numbers[other]
    return index != other and max(one.start, two.start) < min(one.stop, two.stop)


def pair_rows(
    corpus: Corpus, index: int, length: int, min_tokens: int, max_unk: float
) -> tuple[np.ndarray, PackedCounts]:
    """The pairs of one shard. Each of its tokens is in one row, but for what is dropped: ends of documents too short for a pair,
    and rows of unknown words. What a stranger was put in the place of begins the next pair. The shard's checksum is the seed.

    Args:
        length: T, tokens per row.
        min_tokens: what would give a row of fewer tokens, special ones included, is dropped.
        max_unk: rows of which this share or more is [UNK] are dropped.

    Returns:
        Rows [R, 4, T] in the type of the tokens, their channels named by `CHANNELS` (the label at every place), and how many
        pairs and tokens are in them, how many pairs have a stranger, and how much was dropped.

    Raises:
        InputError: there is text of one document only.
    """
    shard, specials = corpus.shard(index), corpus.specials
    other = shard_of_strangers(corpus, index)
    numbers = corpus.manifest.document_numbers
    text = _joined({index: shard, other: shard if other == index else corpus.shard(other)}, numbers)
    if len(set(text.numbers)) == 1:
        raise InputError(
            f"{corpus.path}: has a single document, and the second text of every other pair comes from another one: put blank "
            "lines between documents, or let sequences be 'line'",
            path=corpus.path,
        )
    choose = random.Random(corpus.manifest.shards[index].sha256)
    pairs, short = [], 0
    for document, start in enumerate(text.bounds[:-1]):
        if start < len(shard.tokens):
            shortest = max(min_tokens - _SPECIAL_TOKENS, 2)
            made, left = _pairs_of(document, text, length - _SPECIAL_TOKENS, shortest, choose)
            pairs += made
            short += left > 0
    rows = _rows_of(np.array(pairs, np.int64).reshape(-1, 5), text.tokens, specials, length)
    known = (rows[:, 0] == specials.unk).sum(-1) < max_unk * rows[:, 1].sum(-1)
    rows = rows[known]
    return rows, PackedCounts(
        rows=len(rows),
        sequences=len(rows),
        tokens=int(rows[:, 1].sum()),
        strangers=int(rows[:, 3, 0].sum()),
        short=short,
        unknown=int(np.sum(~known)),
    )


def _joined(shards: dict[int, Shard], numbers: Sequence[range]) -> Text:
    """The text of some shards by their places in the corpus, and the `numbers` of the documents of each place."""
    lines, bounds, before = [], [np.zeros(1, int)], 0
    for shard in shards.values():
        lines.append(before + np.append(0, shard.line_ends))
        bounds.append(before + shard.line_ends[shard.document_ends - 1])
        before += len(shard.tokens)
    starts = np.unique(np.concatenate(lines))
    tokens = np.concatenate([shard.tokens for shard in shards.values()])
    # Of the documents that end at one place only the first is not empty.
    ends, first = np.unique(np.concatenate(bounds), return_index=True)
    of_ends = np.concatenate([[-1], *(numbers[index] for index in shards)])[first]
    return Text(tokens, starts[starts < before].tolist(), ends.tolist(), of_ends[1:].tolist())


def _own_places(document: int, text: Text) -> tuple[int, int, int]:
    """Where pieces of a document are, and so none of its strangers: from the first to before the second, and from the third on."""
    bounds, numbers = text.bounds, text.numbers
    first, last, end = bounds[document], bounds[document + 1], bounds[-1]
    if numbers[document + 1 : document + 2] == [numbers[document]]:
        last = bounds[document + 2]
    elif document == 0 and numbers[-1] == numbers[0]:
        end = bounds[-2]
    return first, last, end


def _pairs_of(document: int, text: Text, room: int, shortest: int, choose: random.Random) -> tuple[list[Pair], int]:
    """The pairs of one document of the text, and how many tokens are left at its end, too few for a pair."""
    lines, bounds = text.lines, text.bounds
    start, stop = bounds[document], bounds[document + 1]
    own = _own_places(document, text)
    own_lines = bisect_left(lines, own[0]), bisect_left(lines, own[1]), bisect_left(lines, own[2])
    pairs = []
    while stop - start >= shortest:
        end = min(start + room, stop)
        first, last = bisect_right(lines, start), bisect_left(lines, end)
        at_line = first < last  # else it is one line, or a piece of one
        cut = lines[choose.randrange(first, last)] if at_line else choose.randrange(start + 1, end)
        a, size = (start, cut - start), end - cut
        if choose.random() < 0.5:
            pairs.append(Pair(*a, cut, size, FOLLOWS))
            start = end
            continue
        # A stranger looks like the text it replaces: as long, and begun at a line or inside one. Else its looks would tell it.
        b = b_size = 0
        for _ in range(_TRIES):
            if at_line:
                place = lines[_outside(*own_lines, choose)]
            else:
                place = _outside(*own, choose)
            if (size_there := min(bounds[bisect_right(bounds, place)] - place, size)) > b_size:
                b, b_size = place, size_there
            if b_size == size:
                break
        pairs.append(Pair(*a, b, b_size, STRANGER))
        start = cut
    return pairs, stop - start


def _outside(first: int, last: int, count: int, choose: random.Random) -> int:
    """One of the numbers below `count` that are not first … last − 1."""
    number = choose.randrange(count - (last - first))
    return number if number < first else number + last - first


def _rows_of(pairs: np.ndarray, tokens: np.ndarray, specials: SpecialIds, length: int) -> np.ndarray:
    """Pairs int64 [R, 5] as rows [R, 4, T]."""
    a, a_size, b, b_size, label = pairs.T[..., None]  # [R, 1] each
    column = np.arange(length)
    filled, second = column < a_size + b_size + _SPECIAL_TOKENS, column > a_size + 1
    place = np.where(second, b + column - a_size - 2, a + column - 1)
    ids = tokens[np.clip(place, 0, len(tokens) - 1)]
    ids[:, 0] = specials.cls
    ids[(column == a_size + 1) | (column == a_size + b_size + 2)] = specials.sep
    ids[~filled] = specials.pad
    return np.stack([ids, filled, second & filled, np.broadcast_to(label, ids.shape)], axis=1).astype(tokens.dtype)
