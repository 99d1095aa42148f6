import itertools

import numpy as np
import pytest
from tokenizers import normalizers

from distilbert_jax.text.tokenizer import BertTokenizer
from distilbert_jax.text.tokenizer_files import bert_tokenizer, cutting
from distilbert_jax.text.windows import context_windows, window_shape
from tests.runs import SPECIALS, refused

WORDS = ["red", "blue", "goes", "to", "eat", "##s", "##te", ",", ".", "?"]
ODD = "Blues 😀 É to e\u0301at reds, " + "x" * 120 + " GOES\x01 to [SEP] redste. " + "\u4e2d\u6587 to"


def odd_tokenizer():
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *WORDS])}
    return BertTokenizer(bert_tokenizer(vocabulary, normalizers.BertNormalizer(lowercase=True)), max_length=64)


@pytest.fixture(scope="module")
def tokenizer():
    return odd_tokenizer()


def by_the_library(tokenizer, question, context, length, stride):
    """The windows that the library cuts a pair into by itself."""
    copied = cutting(tokenizer.tokenizer, length)
    copied.enable_truncation(length, stride=stride, strategy="only_second")
    encoding = copied.encode(question, context)
    return [encoding, *encoding.overflowing]


@pytest.mark.parametrize(("length", "stride"), [(12, 3), (16, 0), (10, 3), (64, 20)])
def test_windows_are_those_that_the_library_cuts(tokenizer, length, stride):
    windows, cut = context_windows(tokenizer, ["Red goes?"], [ODD], length=length, stride=stride)
    expected = by_the_library(tokenizer, "Red goes?", ODD, length, stride)
    assert cut == 0
    assert len(windows) == len(expected)
    for window, encoding in zip(windows, expected, strict=True):
        assert window.row.ids.tolist() == encoding.ids
        assert window.row.type_ids.tolist() == encoding.type_ids
        assert window.context.tolist() == [part == 1 for part in encoding.sequence_ids]


def test_offsets_count_the_characters_of_the_given_text(tokenizer):
    (window,), _ = context_windows(tokenizer, ["Red?"], [ODD], length=64)
    assert {tuple(pair) for pair in window.offsets[~window.context].tolist()} == {(-1, -1)}
    assert (window.words[~window.context] == -1).all()
    spans = [ODD[start:end] for start, end in window.offsets[window.context].tolist()]
    assert spans[:8] == ["Blue", "s", "😀", "É", "to", "e\u0301at", "red", "s"]
    assert spans[8:] == [",", "x" * 120, "GOES", "to", "[SEP]", "red", "s", "te", ".", "中", "文", "to"]
    words = window.words[window.context]
    assert words[0] == words[1]
    assert words[6] == words[7]
    assert len({*words[2:7].tolist()}) == 5


def test_every_token_of_a_long_context_is_in_a_window_and_neighbours_overlap(tokenizer):
    context = "red goes to blue, " * 20
    windows, _ = context_windows(tokenizer, ["goes?", "red?"], ["eats", context], length=16, stride=5)
    assert [window.example for window in windows] == [0] + [1] * (len(windows) - 1)
    starts = [window.offsets[window.context][:, 0] for window in windows[1:]]
    for one, next_one in itertools.pairwise(starts):
        np.testing.assert_array_equal(one[-5:], next_one[:5])
    whole = np.array(tokenizer.encode_batch([context], add_special_tokens=False)[0].offsets)
    assert {*np.concatenate(starts).tolist()} == {*whole[:, 0].tolist()}
    assert max(len(window.row.ids) for window in windows) == 16


def test_a_long_question_leaves_room_for_the_context(tokenizer):
    windows, cut = context_windows(tokenizer, ["red " * 40, "red"], ["blue", "goes to"], max_question=7)
    assert cut == 1
    assert len(windows[0].row.ids) == 3 + 7 + 1
    (window, *_), cut = context_windows(tokenizer, ["red " * 40], ["goes " * 40], length=16, stride=8)
    assert (len(window.row.ids), window.context.sum(), cut) == (16, 9, 1)


def test_the_shape_of_a_window_follows_the_model(tokenizer):
    assert window_shape(tokenizer, None, None) == (64, 32)
    assert window_shape(BertTokenizer(tokenizer.tokenizer, max_length=512), None, None) == (384, 128)
    assert window_shape(tokenizer, 5, None) == (5, 0)


def test_what_cannot_be_a_window_is_refused(tokenizer):
    ask = lambda question="red?", context="blue", **shape: context_windows(tokenizer, [question], [context], **shape)
    for length in (4, 65):
        refused(lambda length=length: ask(length=length), by="text.windows.window_shape", field="length")
    for stride in (-1, 8):
        refused(lambda stride=stride: ask(length=12, stride=stride), by="text.windows.window_shape", field="stride")
    refused(lambda: ask(max_question=0), by="text.windows.context_windows", field="max_question")
    for empty in ("", " \n", "\x01"):
        refused(lambda empty=empty: ask(context=empty), by="text.windows.context_windows", field="context", row=1)
        refused(lambda empty=empty: ask(question=empty), by="text.windows.context_windows", field="question", row=1)
    refused(lambda: context_windows(tokenizer, ["red"], []), by="text.windows.context_windows", field="contexts")
    refused(lambda: ask(context=None), "context 1", by="text.tokenizer.check_text")
