"""Joint fillings and words of several pieces, against the chain rule written out."""

import functools
import itertools
import math

import numpy as np
import pytest

from distilbert_jax.pipelines import FillMask
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import call, masked_lm
from tests.pipelines.test_fill_mask import probabilities
from tests.runs import BERT, change, refused, write_tokenizer

WORDS = ["red", "blue", "goes", "to", "##s", "##es", "##t"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A vocabulary of twelve."""
    path = tmp_path_factory.mktemp("small")
    model = masked_lm(change(BERT, vocab_size=12), seed=6)
    model.save_pretrained(path / "model", load_tokenizer(write_tokenizer(path / "tokenizer", WORDS)))
    return FillMask(path / "model")


@functools.cache
def log_p(fill, ids, position):
    """log P in float64 of every token at a position of one row, without padding: [V]."""
    logits = np.asarray(call(fill.model, np.array([ids], np.int32)).logits[0, position], np.float64)
    return logits - np.logaddexp.reduce(logits)


def chain(fill, ids, positions, tokens):
    """Σ log P of the tokens from left to right, each filled in for the next."""
    ids, total = list(ids), 0.0
    for position, token in zip(positions, tokens, strict=True):
        total += log_p(fill, tuple(ids), position)[token]
        ids[position] = token
    return total


def test_joint_answers_are_the_best_of_all_pairs(small):
    text = "red [MASK] goes [MASK]"
    ids = small.tokenizer.tokenizer.encode(text).ids
    positions = [i for i, token in enumerate(ids) if token == small.tokenizer.ids.mask]
    expected = {pair: chain(small, ids, positions, pair) for pair in itertools.product(range(12), repeat=2)}
    assert np.logaddexp.reduce(list(expected.values())) == pytest.approx(0.0, abs=1e-6), "a distribution over pairs"
    best = sorted(expected, key=lambda pair: -expected[pair])[:10]
    found = small(text, 10, joint=True)
    assert [tuple(answer["tokens"]) for answer in found] == best
    assert [answer["log_score"] for answer in found] == pytest.approx([expected[pair] for pair in best], abs=1e-5)
    assert [answer["score"] for answer in found] == pytest.approx(np.exp([expected[pair] for pair in best]), rel=1e-5)
    for answer in found:
        words = [small.tokenizer.id_to_token(token) for token in answer["tokens"]]
        assert answer["token_strs"] == words
        if all(word.isalpha() for word in words):
            assert answer["sequence"] == f"red {words[0]} goes {words[1]}"
    singles = small(text, 1)
    assert [one[0]["token"] for one in singles] != list(best[0]), "what is best on its own is not best together"


def test_a_joint_search_holds_to_its_targets_and_takes_any_number_of_masks(small):
    texts = ["[MASK] [MASK] [MASK]", "red [MASK]", "[MASK] to [MASK]"]
    allowed = ["red", "blue", "to"]
    found = small(texts, targets=allowed, joint=True)
    assert [len(answers[0]["tokens"]) for answers in found] == [3, 1, 2]
    assert [len(answers) for answers in found] == [5, 3, 5]
    for answers in found:
        assert {word for answer in answers for word in answer["token_strs"]} <= set(allowed)
    ids = small.tokenizer.tokenizer.encode(texts[0]).ids
    triples = itertools.product([small.tokenizer.token_to_id(word) for word in allowed], repeat=3)
    best = max(triples, key=lambda tokens: chain(small, ids, [1, 2, 3], tokens))
    assert tuple(found[0][0]["tokens"]) == best
    plain = small(texts[1], targets=allowed)
    assert [answer["score"] for answer in found[1]] == pytest.approx([answer["score"] for answer in plain], rel=1e-5)


@pytest.mark.parametrize("word", ["red", "reds", "goests", "goestst"])
def test_the_pieces_of_a_word_are_scored_from_left_to_right(small, word):
    pieces = small.tokenizer.tokenizer.encode(word, add_special_tokens=False).ids
    text = "blue [MASK] to"
    (answer,) = small(text, targets=word, whole_words=True)
    gap = small.tokenizer.tokenizer.encode(text.replace("[MASK]", " ".join(["[MASK]"] * len(pieces)))).ids
    expected = chain(small, gap, [2 + n for n in range(len(pieces))], pieces)
    assert answer["log_score"] == pytest.approx(expected, rel=1e-6)
    assert answer["score"] == math.exp(answer["log_score"])
    assert (answer["tokens"], answer["token_str"], answer["sequence"]) == (pieces, word, f"blue {word} to")


def test_a_word_of_one_piece_has_its_plain_score(small):
    words = ["red", "blue", "##s", "red"]
    text = "goes [MASK] to"
    plain, whole = small(text, targets=words), small(text, targets=words, whole_words=True)
    assert [answer["tokens"] for answer in whole] == [[answer["token"]] for answer in plain]
    for key in ("score", "share"):
        assert [answer[key] for answer in whole] == pytest.approx([answer[key] for answer in plain], rel=1e-5)


def test_words_together_have_the_scores_that_they_have_alone(small):
    words = ["reds", "goests", "goess", "redt", "blue", "goes"]
    texts = ["blue [MASK] to", "[MASK] to [MASK]", "to " * 20 + "[MASK]"]
    for text, found in zip(texts, small(texts, targets=words, whole_words=True), strict=True):
        for n, answers in enumerate(found if isinstance(found[0], list) else [found]):
            assert sum(answer["share"] for answer in answers) == pytest.approx(1.0)
            assert sorted(answer["token_str"] for answer in answers) == sorted(words)
            scores = [answer["log_score"] for answer in answers]
            assert scores == sorted(scores, reverse=True)
            for answer in answers:
                alone = small(text, targets=answer["token_str"], whole_words=True)
                alone = alone[n] if isinstance(alone[0], list) else alone
                assert answer["log_score"] == pytest.approx(alone[0]["log_score"], abs=1e-5)
                assert answer["sequence"] == alone[0]["sequence"]


def test_whole_words_keep_the_token_types_of_their_place(small, monkeypatch):
    seen, original = [], small._forward

    def recorded(rows, positions):
        seen.extend(rows)
        return original(rows, positions)

    monkeypatch.setattr(small, "_forward", recorded)
    small("blue [MASK] to", targets="reds", whole_words=True)
    assert [len(row.ids) for row in seen] == [len(row.type_ids) for row in seen] == [6, 6]


def test_options_that_contradict_each_other_are_refused(small):
    text = "blue [MASK]"
    refused(lambda: small(text, whole_words=True), by="pipelines.fill_mask.FillMask._asked")
    refused(
        lambda: small(text, targets=["red"], whole_words=True, joint=True), by="pipelines.fill_mask.FillMask._asked"
    )
    refused(
        lambda: small(text, targets=["red", "☃"], whole_words=True), "'☃'", by="pipelines.fill_mask.FillMask._words"
    )
    refused(lambda: small(text, targets=["red", ""], whole_words=True), by="pipelines.fill_mask.FillMask._pieces")
    refused(lambda: small(text, targets=["red", 3]), by="text.tokenizer.check_text")
    refused(
        lambda: small("to " * 28 + "[MASK]", targets=["red", "goests"], whole_words=True),
        "33",
        by="pipelines.fill_mask.FillMask._whole",
    )


def test_single_masks_are_what_they_were(small):
    (expected,) = probabilities(small, small.model, "blue [MASK]")
    assert [answer["score"] for answer in small("blue [MASK]", 12)] == pytest.approx(np.sort(expected)[::-1], rel=1e-5)
