"""Pairs of spans for next-sentence prediction: `[CLS] A [SEP] B [SEP]`, one a row (model card; Devlin et al. 2019, section 3.1).

With probability ½ B follows A in its document, otherwise B comes from another document of the shard.
"""

import hashlib

import numpy as np

from distilbert_jax.data.shards import Shard
from distilbert_jax.data.tokenizer import SpecialIds

CHANNELS = ("input_ids", "segment_ids", "token_type_ids", "next_sentence_label")
FOLLOWS, RANDOM = 0, 1  # labels, as in the reference

Unit = tuple[int, int]  # start and end in a shard's tokens


def pair_shard(
    shard: Shard, specials: SpecialIds, length: int, min_tokens: int, max_unk: float
) -> tuple[np.ndarray, dict[str, int]]:
    """Rows [R, 4, T] of `CHANNELS` and how many pairs and tokens are in them or were dropped; equal for an equal shard.

    A document is taken in units: its lines, or pieces of those longer than a quarter of a row. As many as fit make a row, some for
    A and the others for B. Where B comes from elsewhere, the units that would have been B begin the next row. The label stands in
    every column.
    """
    choose = np.random.default_rng(list(hashlib.sha256(shard.tokens.tobytes()).digest()))
    room = length - 3
    documents = [document for document in _documents(shard, max(room // 4, 1)) if document]
    rows, counts = [], {"sequences": 0, "tokens": 0, "short": 0, "unknown": 0}
    for number, units in enumerate(documents):
        begin = 0
        while begin < len(units):
            label = RANDOM if len(documents) > 1 and choose.random() < 0.5 else FOLLOWS
            end = _fitting(units, begin, room)
            middle = int(choose.integers(begin + 1, end)) if end - begin > 1 else end
            a, follows = units[begin:middle], units[middle:end]
            if label == RANDOM:
                begin = middle
                follows = _elsewhere(documents, number, room - _size(a), choose)
            else:
                begin = end
                if not follows:  # one unit is left of the document
                    a, follows = _halves(a[0])
            first, second = (np.concatenate([shard.tokens[i:j] for i, j in span]) for span in (a, follows))
            tokens = len(first) + len(second) + 3
            if tokens < min_tokens:
                counts["short"] += 1
            elif np.sum(first == specials.unk) + np.sum(second == specials.unk) >= max_unk * tokens:
                counts["unknown"] += 1
            else:
                rows.append((first, second, label))
                counts["sequences"] += 1
                counts["tokens"] += tokens
    return _write(rows, specials, length, shard.tokens.dtype), counts


def _documents(shard: Shard, longest: int) -> list[list[Unit]]:
    """The units of each document."""
    ends = shard.line_ends.tolist()
    starts = [0, *ends[:-1]]
    documents, first = [], 0
    for last in shard.document_ends.tolist():
        lines = zip(starts[first:last], ends[first:last], strict=True)
        documents.append([(i, min(i + longest, end)) for start, end in lines for i in range(start, end, longest)])
        first = last
    return documents


def _size(span: list[Unit]) -> int:
    return sum(end - start for start, end in span)


def _fitting(units: list[Unit], begin: int, room: int) -> int:
    """The end of the units from `begin` on that fit into `room` tokens."""
    end = begin
    while end < len(units) and (room := room - _size(units[end : end + 1])) >= 0:
        end += 1
    return end


def _halves(unit: Unit) -> tuple[list[Unit], list[Unit]]:
    start, stop = unit
    middle = (start + stop) // 2
    return [(start, middle)], [(middle, stop)]


def _elsewhere(documents: list[list[Unit]], number: int, room: int, choose: np.random.Generator) -> list[Unit]:
    """Units of another document, from a random one on, as many as fit; a first one that does not fit is cut."""
    other = int(choose.integers(len(documents) - 1))
    units = documents[other + (other >= number)]
    place = int(choose.integers(len(units)))
    start = units[place][0]
    return units[place : _fitting(units, place, room)] or [(start, start + room)]


def _write(
    pairs: list[tuple[np.ndarray, np.ndarray, int]], specials: SpecialIds, length: int, dtype: np.dtype
) -> np.ndarray:
    rows = np.zeros((len(pairs), len(CHANNELS), length), dtype)
    rows[:, 0] = specials.pad
    for row, (first, second, label) in zip(rows, pairs, strict=True):
        middle, end = len(first) + 2, len(first) + len(second) + 3
        row[0, :end] = np.concatenate([[specials.cls], first, [specials.sep], second, [specials.sep]])
        row[1, :end] = 1
        row[2, middle:end] = 1
        row[3] = label
    return rows
