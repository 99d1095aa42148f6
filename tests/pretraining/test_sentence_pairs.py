"""Rows of pairs, read back word by word: in the text no word occurs twice, so that every word tells its place."""

import random
from typing import NamedTuple

import numpy as np
import pytest

from distilbert_jax.pretraining import packing as packing_module
from distilbert_jax.pretraining.build_corpus import build_corpus
from distilbert_jax.pretraining.packing import pack
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.runs import refused

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP = range(4)
WORDS = 8000
EMPTY = "\x01"  # a line of which the tokenizer leaves nothing


def make_documents(sizes):
    """Documents of lines of so many words, no word twice."""
    words = iter(f"w{i}" for i in range(WORDS))
    return [[" ".join(next(words) for _ in range(size)) or EMPTY for size in document] for document in sizes]


def random_sizes(count=60, seed=0):
    """Lines of 1 to 60 words, now and then none at all, or far more than any row holds."""
    choose = random.Random(seed)
    sizes = [[choose.choice([choose.randint(1, 60), 3, 0]) for _ in range(choose.randint(1, 8))] for _ in range(count)]
    return [*sizes, [300], [0, 0], [150, 2, 150]]


DOCUMENTS = make_documents(random_sizes())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vocabulary")
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, *(f"w{i}" for i in range(WORDS))]))
    return load_tokenizer(directory)


def build(tokenizer, path, documents=DOCUMENTS, shard_bytes=8000):
    path.mkdir(exist_ok=True)
    (path / "text.txt").write_text("\n\n".join("\n".join(document) for document in documents))
    return build_corpus([path / "text.txt"], tokenizer, path / "corpus", shard_bytes=shard_bytes, processes=1)


@pytest.fixture
def corpus(tokenizer, tmp_path):
    return build(tokenizer, tmp_path)


class Place(NamedTuple):
    """Where a word stands: number of the document, of the word in it, and whether a line begins there."""

    document: int
    word: int
    begins: bool


def places(documents):
    """Place of each id, and how many words each document has."""
    found, sizes = {}, []
    for number, document in enumerate(documents):
        word = 0
        for line in document:
            for i, text in enumerate(line.split() if line != EMPTY else []):
                found[len(SPECIALS) + int(text[1:])] = Place(number, word, i == 0)
                word += 1
        sizes.append(word)
    return found, sizes


class Read(NamedTuple):
    """A row as it reads: the places of the words of A and B, and the label."""

    a: list[Place]
    b: list[Place]
    label: int


def read(rows, documents=DOCUMENTS):
    """Every row taken apart; each channel is checked against the ids."""
    at, _ = places(documents)
    found = []
    for ids, segments, types, labels in rows.read(np.arange(len(rows))).tolist():
        filled = ids.index(PAD) if PAD in ids else len(ids)
        first, second = (column for column, token in enumerate(ids) if token == SEP)
        assert ids[0] == CLS
        assert filled == second + 1
        assert set(ids[filled:]) <= {PAD}
        assert segments == [1] * filled + [0] * (len(ids) - filled)
        assert types == [0] * (first + 1) + [1] * (second - first) + [0] * (len(ids) - filled)
        assert len(set(labels)) == 1
        found.append(Read([at[i] for i in ids[1:first]], [at[i] for i in ids[first + 1 : second]], labels[0]))
    return found


def consecutive(span):
    first = span[0]
    return [(place.document, place.word) for place in span] == [
        (first.document, first.word + i) for i in range(len(span))
    ]


@pytest.mark.parametrize("length", [16, 40, 64])
def test_every_pair_is_what_its_label_says_and_no_word_is_lost(corpus, length):
    rows = pack(corpus.path, length, sequences="pair")
    _, sizes = places(DOCUMENTS)
    begins = {(place.document, place.word) for place in places(DOCUMENTS)[0].values() if place.begins}
    reached, shorter = dict.fromkeys(range(len(DOCUMENTS)), 0), 0
    for a, b, label in read(rows):
        assert a
        assert b
        assert consecutive(a)
        assert consecutive(b)
        document = a[0].document
        # A begins where the text of its document has been used up to, and a pair takes all that a row holds.
        start, cut = reached[document], a[-1].word + 1
        end = min(start + length - 3, sizes[document])
        assert a[0].word == start
        lines = {word for word in range(start + 1, end) if (document, word) in begins}
        assert cut in (lines or range(start + 1, end))
        if label == 0:
            assert [(place.document, place.word) for place in b] == [(document, word) for word in range(cut, end)]
            reached[document] = end
        else:
            assert b[0].document != document
            assert b[0].begins or not lines
            assert len(b) <= end - cut
            shorter += len(b) < end - cut
            reached[document] = cut
    assert shorter < 0.05 * len(rows)
    left = [size - reached[document] for document, size in enumerate(sizes)]
    assert max(left) < 12 - 3
    manifest = rows.manifest
    assert manifest.short == sum(words > 0 for words in left)
    assert manifest.sequences == manifest.rows == len(rows)
    assert manifest.tokens == (rows.read(np.arange(len(rows)))[:, 0] != PAD).sum()
    assert len(corpus) > 3


def test_one_half_are_strangers_and_neither_length_nor_beginning_tells_them(tokenizer, tmp_path):
    choose = random.Random(1)
    documents = make_documents([[choose.randint(5, 15) for _ in range(8)] for _ in range(90)])
    found = []
    for length in (24, 25, 26, 27, 28):
        rows = pack(build(tokenizer, tmp_path, documents).path, length, sequences="pair")
        pairs = read(rows, documents)
        assert rows.manifest.strangers == sum(pair.label for pair in pairs)
        found += pairs
    labels = np.array([pair.label for pair in found])
    sizes, begun = (
        np.array([value(pair) for pair in found]) for value in (lambda p: len(p.b), lambda p: p.b[0].begins)
    )
    assert len(labels) > 1500
    assert abs(labels.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(labels))
    for values in (sizes, begun):
        spread = 3 * values.std() * 2 / np.sqrt(len(labels))
        assert abs(values[labels == 0].mean() - values[labels == 1].mean()) < spread
    assert 0 < begun.mean() < 1
    strangers = {pair.b[0].document for pair in found if pair.label}
    assert len(strangers) > 80


def test_rows_of_unknown_words_and_short_ends_are_dropped_by_the_two_limits(tokenizer, tmp_path):
    choose = random.Random(2)
    documents = [
        [" ".join("snow" if choose.random() < share else word for word in line.split()) for line in document]
        for document, share in zip(DOCUMENTS[:40], [0, 0.3, 0.6, 0.9] * 10, strict=True)
    ]
    path = build(tokenizer, tmp_path, documents).path
    whole = pack(path, 24, sequences="pair", min_tokens=5, max_unk=1.1)
    every = whole.read(np.arange(len(whole)))
    share = (every[:, 0] == UNK).sum(-1) / every[:, 1].sum(-1)
    some = pack(path, 24, sequences="pair", min_tokens=5, max_unk=0.4)
    np.testing.assert_array_equal(some.read(np.arange(len(some))), every[share < 0.4])
    assert some.manifest.unknown == (share >= 0.4).sum() > 0
    assert min(every[:, 1].sum(-1)) < 12
    assert min(pack(path, 24, sequences="pair").read(np.arange(10))[:, 1].sum(-1)) >= 12


def test_batches_have_a_label_for_each_row(corpus):
    rows = pack(corpus.path, 32, sequences="pair")
    indices = np.array([5, 0, 17])
    stored, batch = rows.read(indices), rows.batch(indices)
    assert list(batch) == ["input_ids", "segment_ids", "token_type_ids", "next_sentence_label"]
    assert all(values.dtype == np.int32 and values.flags.c_contiguous for values in batch.values())
    for channel, name in enumerate(("input_ids", "segment_ids", "token_type_ids")):
        np.testing.assert_array_equal(batch[name], stored[:, channel])
    np.testing.assert_array_equal(batch["next_sentence_label"], stored[:, 3, 0])


def test_the_same_text_gives_the_same_rows_and_an_interrupted_call_keeps_its_files(
    tokenizer, corpus, tmp_path, monkeypatch
):
    whole = pack(corpus.path, 32, sequences="pair")
    again = pack(build(tokenizer, tmp_path / "again").path, 32, sequences="pair")
    content = {file.name: file.read_bytes() for file in whole.path.iterdir()}
    assert {file.name: file.read_bytes() for file in again.path.iterdir()} == content
    (whole.path / "manifest.json").unlink()
    (whole.path / "00002.npy").unlink()
    made, pair_rows = [], packing_module.pair_rows
    monkeypatch.setattr(packing_module, "pair_rows", lambda *a, **k: made.append(1) or pair_rows(*a, **k))
    assert pack(corpus.path, 32, sequences="pair").manifest == whole.manifest
    assert len(made) == 1
    assert {file.name: file.read_bytes() for file in whole.path.iterdir()} == content


def test_rows_are_made_again_when_the_shard_changes_that_strangers_came_from(tokenizer, tmp_path):
    first = [["w0 " * 300], ["w1 " * 300]]
    for last in ("w2", "w3"):
        rows = pack(build(tokenizer, tmp_path, [*first, [f"{last} " * 300]], 1000).path, 32, sequences="pair")
        ids = rows.read(np.arange(len(rows)))[:, 0]
        assert set(np.unique(ids)) == {PAD, CLS, SEP, 5, 6, 5 + int(last[1:])}
    assert len(rows.corpus) == 3


def test_a_shard_of_one_document_takes_strangers_from_the_next(tokenizer, tmp_path):
    documents = make_documents([[30] * 20, [30] * 20, [30] * 20])
    corpus = build(tokenizer, tmp_path, documents, 4000)
    assert [shard.documents for shard in corpus.manifest.shards] == [1, 1, 1]
    pairs = read(pack(corpus.path, 32, sequences="pair"), documents)
    strangers = {(pair.a[0].document, pair.b[0].document) for pair in pairs if pair.label}
    assert strangers == {(0, 1), (1, 2), (2, 0)}


SMALL, LARGE = [[20, 5, 20]] * 6, [30] * 40  # 280 and 7,000 bytes each
# Documents, bytes a shard, and documents or pieces of them in each shard.
CUT = {
    "among small ones": ([*SMALL, LARGE, *SMALL], 2000, [6, 1, 1, 1, 6, 1]),
    "first": ([LARGE, *SMALL], 2000, [1, 1, 1, 7]),
    "last": ([*SMALL, LARGE], 6000, [6, 1, 1]),
    "in two shards": ([LARGE, *SMALL], 5000, [1, 7]),
    "begun in a shard with another": ([[10], LARGE], 3600, [2, 1]),
    "begun so, in three shards": ([[10], LARGE], 3000, [2, 1, 1]),
    "two": ([LARGE, LARGE, [30]], 4000, [1, 1, 1, 2]),
}


@pytest.mark.parametrize("case", CUT)
def test_another_piece_of_a_document_is_no_stranger(case, tokenizer, tmp_path):
    sizes, shard_bytes, pieces = CUT[case]
    documents = make_documents(sizes)
    corpus = build(tokenizer, tmp_path, documents, shard_bytes)
    assert [len(shard.document_ends) for shard in corpus] == pieces
    assert sum(pieces) > len(documents)
    rows = pack(corpus.path, 32, sequences="pair")
    pairs = read(rows, documents)
    strangers = [(pair.a[0].document, pair.b[0].document) for pair in pairs if pair.label]
    assert len(strangers) > len(pairs) / 3
    assert all(one != other for one, other in strangers)
    assert all(pair.a[0].document == pair.b[0].document for pair in pairs if not pair.label)
    words = sum(len(pair.a) + (0 if pair.label else len(pair.b)) for pair in pairs)
    assert corpus.manifest.tokens - 12 * rows.manifest.short <= words <= corpus.manifest.tokens


def test_rows_are_made_again_when_a_document_ends_where_it_was_cut(tokenizer, tmp_path):
    whole = make_documents([LARGE, [30] * 5])
    lines = build(tokenizer, tmp_path, whole, 4000).manifest.shards[0].lines
    apart = [whole[0][:lines], whole[0][lines:], whole[1]]
    for documents, strangers in ((whole, {1}), (apart, {1, 2})) * 2:
        corpus = build(tokenizer, tmp_path, documents, 4000)
        pairs = read(pack(corpus.path, 32, sequences="pair"), documents)
        assert corpus.shards_made == 0
        assert {pair.b[0].document for pair in pairs if pair.label and pair.a[0].document == 0} == strangers


@pytest.mark.parametrize("shard_bytes", [8000, 700])
@pytest.mark.parametrize("documents", [[[30] * 20], [[30] * 20, [0, 0]]])
def test_a_single_document_is_refused(tokenizer, tmp_path, documents, shard_bytes):
    corpus = build(tokenizer, tmp_path, make_documents(documents), shard_bytes)
    refused(
        lambda: pack(corpus.path, 32, sequences="pair"),
        by="pretraining.sentence_pairs.pair_rows",
        path=str(corpus.path),
    )
    assert not (corpus.path / "packed-32-pair/manifest.json").exists()


def test_text_of_short_documents_only_is_named(tokenizer, tmp_path):
    corpus = build(tokenizer, tmp_path, make_documents([[3], [4, 2]]))
    refused(
        lambda: pack(corpus.path, 32, sequences="pair"), "2 have", by="pretraining.packing.pack", path=str(corpus.path)
    )
