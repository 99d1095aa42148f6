import dataclasses

import pytest

from distilbert_jax.text.words import word_rows
from tests.runs import refused
from tests.text.test_windows import odd_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return odd_tokenizer()


def test_each_token_knows_its_word(tokenizer):
    (one, other) = word_rows(tokenizer, [["Blues", "GOES", "redste", "."], ["to"]])
    assert one.row.ids.tolist() == tokenizer.encode("Blues GOES redste.")
    assert one.row.type_ids.tolist() == [0] * 9
    assert one.words.tolist() == [-1, 0, 0, 1, 2, 2, 2, 3, -1]
    assert one.first.tolist() == [False, True, False, True, True, False, False, True, False]
    assert (one.cut, other.cut) == (0, 0)
    assert other.words.tolist() == [-1, 0, -1]


def test_a_word_without_a_piece_does_not_shift_the_others(tokenizer):
    (row,) = word_rows(tokenizer, [["red", "\x01", "", "😀", "x" * 120, "blue red", "\u200b", "e\u0301at"]])
    assert row.words.tolist() == [-1, 0, 3, 4, 5, 5, 7, -1]
    assert row.words[row.first].tolist() == [0, 3, 4, 5, 7]
    assert row.cut == 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_sentence_whose_words_have_no_piece_is_a_row_of_special_tokens(tokenizer, monkeypatch, side):
    monkeypatch.setattr(tokenizer, "settings", dataclasses.replace(tokenizer.settings, truncation_side=side))
    (row, other) = word_rows(tokenizer, [["\x01", "\u200b"], ["red"]])
    assert row.row.ids.tolist() == [tokenizer.ids.cls, tokenizer.ids.sep]
    assert row.words.tolist() == [-1, -1]
    assert row.first.tolist() == [False, False]
    assert row.cut == 0
    assert other.words.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(("length", "words", "cut"), [(6, [0, 1, 2, 2], 1), (5, [0, 1, 2], 1), (4, [0, 1], 2)])
def test_words_beyond_the_length_are_counted(tokenizer, length, words, cut):
    (row,) = word_rows(tokenizer, [["red", "to", "blues", "goes"]], max_length=length)
    assert row.words.tolist() == [-1, *words, -1]
    assert row.cut == cut
    assert row.row.ids[-1] == tokenizer.ids.sep


def test_words_cut_on_the_left_keep_their_first_pieces_only(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "settings", dataclasses.replace(tokenizer.settings, truncation_side="left"))
    (row,) = word_rows(tokenizer, [["blues", "red", "to"]], max_length=5)
    assert row.words.tolist() == [-1, 0, 1, 2, -1]
    assert row.first.tolist() == [False, False, True, True, False]


def test_what_is_no_sentence_of_words_is_refused(tokenizer):
    refused(lambda: word_rows(tokenizer, [["red"], []]), by="text.words.word_rows", row=2)
    refused(lambda: word_rows(tokenizer, ["red goes"]), by="text.words.word_rows", row=1)
    refused(lambda: word_rows(tokenizer, [["red", None]]), by="text.tokenizer.check_text")
    for length in (2, 65):
        refused(lambda length=length: word_rows(tokenizer, [["red"]], max_length=length), field="max_length")
