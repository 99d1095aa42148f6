"""Pairs against a reader that looks every span up in its document, word by word."""

import random

import numpy as np
import pytest

from distilbert_jax.data.batches import PackedBatches
from distilbert_jax.data.corpus import build_corpus
from distilbert_jax.data.packing import PackedRows, pack
from distilbert_jax.data.tokenizer import load_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP = range(4)
WORDS = 12_000


def make_documents(count, seed=0):
    """Every word stands in one place only, so that a span says where it is from. Lines of 1 to 60 words."""
    choose, words = random.Random(seed), iter(range(len(SPECIALS), len(SPECIALS) + WORDS))
    return [
        [[next(words) for _ in range(choose.randint(1, 60))] for _ in range(choose.randint(1, 9))] for _ in range(count)
    ]


def build(documents, path):
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join([*SPECIALS, *(f"w{i}" for i in range(WORDS))]))
    spell = lambda line: " ".join("snow" if token == UNK else f"w{token - len(SPECIALS)}" for token in line)
    (path / "text.txt").write_text("\n\n".join("\n".join(map(spell, document)) for document in documents))
    return build_corpus([path / "text.txt"], load_tokenizer(path), path / "corpus", processes=1)


@pytest.fixture(scope="module")
def documents():
    return make_documents(40)


@pytest.fixture(scope="module", params=[24, 64, 128])
def rows(request, documents, tmp_path_factory):
    corpus = build(documents, tmp_path_factory.mktemp("pairs") / "text")
    return pack(corpus.path, request.param, sequences="pair", min_tokens=5)


def spans(rows):
    """(A, B, label) of every row, the row's form checked."""
    for ids, segments, types, labels in rows.read(np.arange(len(rows))).tolist():
        tokens = sum(segments)
        assert segments == [1] * tokens + [0] * (rows.length - tokens)
        assert set(ids[tokens:]) <= {PAD}
        assert len(set(labels)) == 1
        assert ids[0] == CLS
        assert [i for i, token in enumerate(ids) if token == SEP] == [ids.index(SEP), tokens - 1]
        middle = ids.index(SEP) + 1
        assert types == [0] * middle + [1] * (tokens - middle) + [0] * (rows.length - tokens)
        yield ids[1 : middle - 1], ids[middle : tokens - 1], labels[0]


def test_labels_say_whether_b_follows_a_in_its_document(rows, documents):
    place = {
        token: (number, i)
        for number, document in enumerate(documents)
        for i, token in enumerate(token for line in document for token in line)
    }
    seen, found = [], list(spans(rows))
    for a, b, label in found:
        assert a
        assert b
        for span in (a, b):  # in one piece, of one document
            (number, first), *_ = (place[token] for token in span)
            assert [place[token] for token in span] == [(number, first + i) for i in range(len(span))]
        (number, last), (other, first) = place[a[-1]], place[b[0]]
        assert (other == number and first == last + 1) if label == 0 else other != number
        seen += a if label else a + b
    share = np.mean([label for _, _, label in found])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(found))
    # What B would have been is not lost: all tokens come once, but for rows that were too short.
    assert len(set(seen)) == len(seen)
    assert len(place) - len(seen) <= 5 * rows.manifest["short"]
    assert rows.manifest["sequences"] == len(rows) == len(found)
    assert rows.manifest["tokens"] == sum(len(a) + len(b) + 3 for a, b, _ in found)


def test_rows_are_well_filled_where_documents_are_long(tmp_path):
    corpus = build([*make_documents(8, seed=1), [list(range(8005, 12_005))]], tmp_path / "text")
    assert pack(corpus.path, 128, sequences="pair").manifest["efficiency"] > 0.8


def test_the_same_text_makes_the_same_pairs(documents, tmp_path):
    made = [pack(build(documents, tmp_path / name).path, 64, sequences="pair") for name in "ab"]
    one, other = (rows.read(np.arange(len(rows))) for rows in made)
    np.testing.assert_array_equal(one, other)
    assert PackedRows.open(made[0].path).channels == (
        "input_ids",
        "segment_ids",
        "token_type_ids",
        "next_sentence_label",
    )


def test_one_document_alone_has_only_what_follows(tmp_path):
    rows = pack(build(make_documents(1), tmp_path / "text").path, 64, sequences="pair", min_tokens=5)
    assert {label for _, _, label in spans(rows)} == {0}


def test_pairs_that_are_short_or_unknown_are_left_out(tmp_path):
    known, unknown = list(range(100, 130)), [UNK] * 30
    rows = pack(build([[known], [unknown], [[7]]], tmp_path / "text").path, 64, sequences="pair")
    for a, b, _ in spans(rows):
        assert len(a) + len(b) + 3 >= 12
        assert (a + b).count(UNK) < 0.5 * (len(a) + len(b) + 3)
    assert rows.manifest["short"] + rows.manifest["unknown"] > 0


def test_batches_have_a_label_a_row(rows):
    batch = PackedBatches(rows, 4, seed=0).batch(0)
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == {
        "input_ids": ((4, rows.length), np.int32),
        "segment_ids": ((4, rows.length), np.int32),
        "token_type_ids": ((4, rows.length), np.int32),
        "next_sentence_label": ((4,), np.int32),
    }
