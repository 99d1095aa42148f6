import numpy as np
import pytest

from distilbert_jax.data.tokenizer import load_tokenizer
from distilbert_jax.pipelines import FillMask
from tests.models.common import call, masked_lm
from tests.runs import BERT, change, refused


@pytest.fixture(scope="module")
def model():
    return masked_lm(change(BERT, max_position_embeddings=40, vocab_size=50))


@pytest.fixture(scope="module")
def directory(world, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path, load_tokenizer(world.tokenizer))
    return path


@pytest.fixture(scope="module")
def fill(directory):
    return FillMask(directory)


def probabilities(fill, model, text):
    """Softmax in float64 of the logits of the text alone, without padding: [masks, V]."""
    ids = np.array([fill.tokenizer.encode(text).ids], np.int32)
    logits = np.asarray(call(model, ids).logits[0][ids[0] == fill.ids.mask], np.float64)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


@pytest.mark.parametrize("text", ["reda [MASK] redc", "goes to " * 15 + "[MASK]", "[MASK]"])
def test_answers_are_the_largest_probabilities_whatever_the_padding(fill, model, text):
    (expected,) = probabilities(fill, model, text)
    found = fill(text, top_k=7)
    best = np.argsort(-expected)[:7]
    assert [answer["token"] for answer in found] == list(best)
    assert [answer["score"] for answer in found] == pytest.approx(expected[best], rel=1e-4)
    for answer in found:
        piece = fill.tokenizer.id_to_token(answer["token"]) or ""
        assert answer["token_str"] == piece
        if piece.isalpha():
            assert answer["sequence"] == text.replace("[MASK]", piece).strip()


def test_all_answers_together_are_certain(fill):
    assert sum(answer["score"] for answer in fill("reda [MASK]", top_k=50)) == pytest.approx(1.0, abs=1e-5)


def test_five_answers_are_given_if_nothing_is_said(fill):
    assert len(fill("reda [MASK]")) == 5


def test_a_piece_of_a_word_stays_a_piece(fill):
    (piece,) = (answer for answer in fill("goes [MASK]", top_k=50) if answer["token_str"] == "##s")
    assert piece["sequence"] == "goess"


def test_each_of_several_masks_is_filled_on_its_own_and_special_tokens_are_kept(fill, model):
    text = "reda [MASK] redc [MASK]"
    expected = probabilities(fill, model, text)
    first, second = fill(text, top_k=3)
    for found, row in ((first, expected[0]), (second, expected[1])):
        assert [answer["token"] for answer in found] == list(np.argsort(-row)[:3])
        assert [answer["score"] for answer in found] == pytest.approx(np.sort(row)[:-4:-1], rel=1e-4)
    assert first[0]["sequence"] == f"[CLS] reda {first[0]['token_str']} redc [MASK] [SEP]"
    assert second[0]["sequence"] == f"[CLS] reda [MASK] redc {second[0]['token_str']} [SEP]"


def test_several_texts_give_a_list_of_answers(fill):
    texts = ["reda [MASK]", "[MASK] goes [MASK]"]
    assert fill(texts) == [fill(texts[0]), fill(texts[1])]
    assert fill(tuple(texts)) == fill(texts)
    assert fill([]) == []


def test_a_text_that_fills_every_position_is_read(fill, model):
    text = "[MASK] " + "goes " * 37
    (expected,) = probabilities(fill, model, text)
    assert fill(text, top_k=1)[0]["token"] == expected.argmax()
    refused(lambda: fill(text + "goes"), "41 tokens", "40 positions", "'[MASK] goes", "…")


@pytest.mark.parametrize("top_k", [0, -1, 51])
def test_a_number_of_answers_outside_the_vocabulary_is_refused(fill, top_k):
    refused(lambda: fill("reda [MASK]", top_k=top_k), f"top_k = {top_k}", "1 to 50")


def test_a_text_without_a_mask_is_refused(fill):
    refused(lambda: fill("reda redb"), "'reda redb'", "has no [MASK]")
    refused(lambda: fill(["reda [MASK]", "reda [mask"]), "'reda [mask'")
    refused(lambda: fill(""), "has no [MASK]")


def test_a_tokenizer_beyond_the_embedding_is_refused(world, tmp_path):
    masked_lm(change(BERT, vocab_size=40)).save_pretrained(tmp_path / "model", load_tokenizer(world.tokenizer))
    refused(lambda: FillMask(tmp_path / "model"), "48 pieces", "40 rows")
