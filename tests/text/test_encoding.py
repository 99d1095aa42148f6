import copy
import json
import pickle

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from tokenizers import normalizers

from distilbert_jax.errors import InputError
from distilbert_jax.models import EncoderModel, MaskedLM
from distilbert_jax.text.tokenizer import BertTokenizer, Row, fingerprint, load_tokenizer, save_tokenizer, stack
from tests.models.common import masked_lm
from tests.runs import BERT, STUDENT, refused, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(world):
    return BertTokenizer.from_pretrained(world.tokenizer)


def test_texts_are_padded_to_the_longest(tokenizer):
    batch = tokenizer(["reda goes to redb", "redc"])
    ids = [[tokenizer.token_to_id(token) for token in row.split()] for row in (
        "[CLS] reda goes to redb [SEP]", "[CLS] redc [SEP] [PAD] [PAD] [PAD]"
    )]  # fmt: skip
    np.testing.assert_array_equal(batch["input_ids"], ids)
    np.testing.assert_array_equal(batch["attention_mask"], [[1] * 6, [1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(batch["token_type_ids"], np.zeros((2, 6)))
    assert {(array.dtype, array.shape) for array in batch.values()} == {(np.dtype(np.int32), (2, 6))}
    assert tokenizer([])["input_ids"].shape == (0, 0)


def test_one_text_is_a_batch_of_one(tokenizer):
    for name, array in tokenizer("reda goes").items():
        np.testing.assert_array_equal(array, tokenizer(["reda goes"])[name])


def test_the_second_text_of_a_pair_has_token_type_1(tokenizer):
    batch = tokenizer(["reda", "redb goes"], ["to redc", "to"])
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    assert tokenizer("reda", "to redc")["input_ids"].tolist() == batch["input_ids"][:1].tolist()
    refused(lambda: tokenizer(["reda", "redb"], "to"), by="text.tokenizer.BertTokenizer.__call__", field="pairs")


def test_a_row_of_a_table_is_no_pair(tokenizer):
    rows = pandas.DataFrame({"text": ["reda", "redb"], "label": ["goes", "to"]})
    refused(lambda: tokenizer(rows.itertuples(index=False)), "Pandas", "text, label", row=1)
    np.testing.assert_array_equal(
        tokenizer([("reda", "goes"), ("redb", "to")])["input_ids"], tokenizer(rows["text"], rows["label"])["input_ids"]
    )


@pytest.mark.parametrize("config", [BERT, STUDENT], ids=["bert", "distilbert"])
def test_models_are_called_with_what_a_tokenizer_gives(world, config, tmp_path):
    masked_lm(config).save_pretrained(tmp_path / "model", load_tokenizer(world.tokenizer))
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "model")
    assert MaskedLM.from_pretrained(tmp_path / "model")(**tokenizer("reda [MASK]")).logits.shape == (1, 4, 48)
    bare = EncoderModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    assert bare(**tokenizer(["reda", "goes to"])).last_hidden_state.shape == (2, 4, 32)


def test_truncation_and_padding_of_the_tokenizer_that_it_holds_do_not_count(world, capfd):
    plain, own = (BertTokenizer.from_pretrained(world.tokenizer) for _ in range(2))
    own.tokenizer.enable_truncation(4)
    own.tokenizer.enable_padding(length=9, pad_id=own.ids.mask)
    texts = ["reda goes to redb", ("reda " * 40, "redb"), "redc"]
    for max_length in (None, 6):
        (rows, cut), (expected, expected_cut) = (each.rows(texts, max_length=max_length) for each in (own, plain))
        assert cut == expected_cut
        for row, of_plain in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(row, of_plain)
    assert own("reda")["attention_mask"].tolist() == [[1, 1, 1]]
    assert own.encode(texts[0]) == plain.encode(texts[0])
    assert own.tokenize(texts[0]) == plain.tokenize(texts[0])
    assert BertTokenizer(own.tokenizer).max_length
    assert len(own.encode_batch(["reda goes to redb"])[0].ids) == 9, "its owner's calls are as he has set it"
    assert own.tokenizer.truncation["max_length"] == 4


def test_what_is_too_long_is_cut_and_told_of(tokenizer, capfd):
    long = "reda " * 40
    batch = tokenizer([long, "redb", long + long])
    assert batch["input_ids"].shape == (3, 32)
    assert batch["input_ids"][0, -1] == tokenizer.ids.sep
    assert capfd.readouterr().err == "2 of 3 texts are longer than 32 tokens; what is beyond them was cut off\n"
    assert tokenizer("reda goes to", max_length=4)["input_ids"].shape == (1, 4)
    assert capfd.readouterr().err == "the text is longer than 4 tokens; what is beyond them was cut off\n"
    pair = tokenizer("redb", long)
    assert pair["token_type_ids"].sum() == 32 - 3, "the longer text of a pair is cut"
    assert tokenizer("reda " * 30)["input_ids"].shape == (1, 32)
    assert capfd.readouterr().err.count("\n") == 1
    assert tokenizer.truncation is None, "cutting does not change the tokenizer that is saved"


@pytest.mark.parametrize("max_length", [0, 2, 33])
def test_a_length_beyond_the_model_or_below_a_word_is_refused(tokenizer, max_length):
    refused(
        lambda: tokenizer("reda", max_length=max_length),
        f"max_length = {max_length}",
        "32",
        by="text.tokenizer.BertTokenizer.encodings",
        field="max_length",
    )


def test_what_is_no_text_is_refused(tokenizer):
    for empty in ("", "  ", "\n", "\u200b"):
        refused(lambda empty=empty: tokenizer(["reda", empty]), by="text.tokenizer.BertTokenizer.encodings", row=2)
    refused(lambda: tokenizer("reda", ""), by="text.tokenizer.BertTokenizer.encodings", row=1)
    refused(lambda: tokenizer(["reda", 3]), by="text.tokenizer.check_text")
    refused(lambda: tokenizer("reda \ud800"), by="text.tokenizer.check_text")
    assert tokenizer("[MASK]")["input_ids"].tolist() == [[tokenizer.ids.cls, tokenizer.ids.mask, tokenizer.ids.sep]]


def test_the_shorter_limit_of_a_directory_holds(tmp_path):
    directory = write_tokenizer(tmp_path / "tokenizer")
    length = lambda: BertTokenizer.from_pretrained(directory).max_length
    assert length() == 32
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 20}))
    assert length() == 20
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert length() == 20
    (directory / "config.json").unlink()
    assert length() == 512
    assert BertTokenizer.from_pretrained(directory / "tokenizer.json").max_length == 512


def test_the_rest_is_the_tokenizers_own_and_it_is_saved_like_it(world, tokenizer, tmp_path):
    assert [encoding.tokens for encoding in tokenizer.encode_batch(["reda"])] == [["[CLS]", "reda", "[SEP]"]]
    assert tokenizer.get_vocab_size() == 48
    assert copy.deepcopy(tokenizer)("reda")["input_ids"].tolist() == tokenizer("reda")["input_ids"].tolist()
    masked_lm(STUDENT).save_pretrained(tmp_path / "model", tokenizer)
    assert fingerprint(load_tokenizer(tmp_path / "model")) == fingerprint(load_tokenizer(world.tokenizer))
    assert {"token_to_id", "decode", "max_length", "tokenizer", "rows"} <= set(dir(tokenizer))
    with pytest.raises(AttributeError, match="BertTokenizer has no attribute 'no_such_thing'"):
        _ = tokenizer.no_such_thing
    with pytest.raises(AttributeError, match="did you mean 'mask_token_id'"):
        _ = tokenizer.mask_tokenid
    assert pickle.loads(pickle.dumps(tokenizer)).encode("reda") == tokenizer.encode("reda")


def test_a_saved_tokenizer_is_the_same_and_what_is_none_is_not_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = BertTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert (fingerprint(loaded.tokenizer), loaded.max_length) == (fingerprint(tokenizer.tokenizer), 32)
    with pytest.raises(InputError) as refusal:
        save_tokenizer({"reda": 5}, tmp_path / "other")
    assert refusal.value.field == "tokenizer"
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_is_shown_in_a_line(world, tokenizer):
    assert repr(tokenizer) == "BertTokenizer(vocab_size=48, lowercase, max_length=32)"
    cased = load_tokenizer(world.tokenizer)
    cased.normalizer = normalizers.BertNormalizer(lowercase=False)
    assert repr(BertTokenizer(cased)) == "BertTokenizer(vocab_size=48, cased, max_length=512)"


def test_padding_and_truncation_are_asked_for_by_name(tokenizer, capfd):
    texts = ["reda", "reda goes to"]
    for longest in (True, "longest"):
        assert tokenizer(texts, padding=longest)["input_ids"].shape == (2, 5)
    padded = tokenizer(texts, padding="max_length", max_length=8, return_tensors="np")
    assert padded["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3]
    assert tokenizer("reda", padding="max_length")["input_ids"].shape == (1, 32)
    assert tokenizer(["reda", "redb"], padding=False)["input_ids"].shape == (2, 3)
    for cut in (True, "longest_first"):
        assert tokenizer("reda " * 9, truncation=cut, max_length=6)["input_ids"].shape == (1, 6)
    assert tokenizer("reda goes", truncation=False, max_length=4)["input_ids"].shape == (1, 4)
    capfd.readouterr()
    refused(
        lambda: tokenizer(["reda", "reda " * 9], truncation=False, max_length=6), "11", "6", field="truncation", row=2
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "field", "hint"),
    [
        ({"padding": False}, "padding", None),
        ({"padding": "longestt"}, "padding", "known: True, 'longest', 'max_length', False, 'do_not_pad'"),
        ({"truncation": "only_first"}, "truncation", "known: True, 'longest_first', False, 'do_not_truncate'"),
        ({"return_tensors": "pt"}, "return_tensors", "known: 'np'"),
        ({"max_lenght": 8}, "max_lenght", "did you mean 'max_length'?"),
        ({"text_pair": "reda"}, "text_pair", "did you mean 'pairs'?"),
    ],
)
def test_an_argument_that_is_not_known_is_named(tokenizer, arguments, field, hint):
    with pytest.raises(InputError) as refusal:
        tokenizer(["reda", "reda goes"], **arguments)
    assert (refusal.value.field, refusal.value.hint) == (field, hint)


def test_ids_become_text_whatever_holds_them(tokenizer):
    ids = tokenizer.encode("reda goes [MASK]")
    for given in (ids, np.array(ids), jnp.asarray(ids), tuple(ids)):
        assert tokenizer.decode(given) == "[CLS] reda goes [MASK] [SEP]"
        assert tokenizer.convert_ids_to_tokens(given) == ["[CLS]", "reda", "goes", "[MASK]", "[SEP]"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "reda goes"
    batch = tokenizer(["reda goes", "redb"])["input_ids"]
    assert tokenizer.batch_decode(batch, skip_special_tokens=True) == ["reda goes", "redb"]
    assert tokenizer.decode([]) == tokenizer.decode(10_000) == ""
    assert tokenizer.convert_ids_to_tokens(10_000) is None
    for wrong in (batch, [[5, 6], [7]], [-1], [0.5], "reda"):
        with pytest.raises(InputError):
            tokenizer.decode(wrong)


def test_rows_fill_a_batch_of_a_given_shape():
    batch = stack([Row(np.array([5, 6]), np.array([0, 1]))], 9, batch_size=2, length=3)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[5, 6, 9], [9, 9, 9]],
        "token_type_ids": [[0, 1, 0], [0, 0, 0]],
        "attention_mask": [[1, 1, 0], [0, 0, 0]],
    }
