import numpy as np
import pytest

from distilbert_jax.models import EncoderModel
from distilbert_jax.pipelines import FillMask
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import call, masked_lm
from tests.runs import BERT, change, refused


def probabilities(fill, model, text):
    """Softmax in float64 of the logits of the text alone, without padding: [masks, V]."""
    ids = np.array([fill.tokenizer.tokenizer.encode(text).ids], np.int32)
    logits = np.asarray(call(model, ids).logits[0][ids[0] == fill.tokenizer.ids.mask], np.float64)
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


def test_a_text_that_fills_every_position_is_read_and_a_longer_one_is_cut_and_told_of(fill, model, capfd):
    text = "[MASK] " + "goes " * 37
    (expected,) = probabilities(fill, model, text)
    found = fill(text, top_k=1)
    assert found[0]["token"] == expected.argmax()
    assert capfd.readouterr().err == ""
    sequences = [answers[0]["sequence"] for answers in fill([text + "goes", text, text + "to"], top_k=1)]
    assert sequences == [found[0]["sequence"]] * 3
    assert capfd.readouterr().err == "2 of 3 texts are longer than 40 tokens; what is beyond them was cut off\n"


def test_a_mask_that_a_cut_would_lose_is_refused(fill):
    refused(lambda: fill("goes " * 38 + "[MASK]"), "[MASK]", "40", by="pipelines.fill_mask.FillMask._masks")
    refused(lambda: fill("[MASK] " + "goes " * 38 + "[MASK]"), "40", by="pipelines.fill_mask.FillMask._masks")


@pytest.mark.parametrize("top_k", [0, -1, 51, 2.0, True])
def test_a_number_of_answers_outside_the_vocabulary_is_refused(fill, top_k):
    refused(
        lambda: fill("reda [MASK]", top_k=top_k),
        f"top_k = {top_k}",
        "50",
        by="pipelines.fill_mask.FillMask.__call__",
        field="top_k",
    )


def test_a_text_without_a_mask_is_refused(fill):
    refused(lambda: fill("reda redb"), "'reda redb'", "[MASK]", by="pipelines.fill_mask.FillMask._masks")
    refused(lambda: fill(["reda [MASK]", "reda [mask"]), "'reda [mask'", by="pipelines.fill_mask.FillMask._masks")
    refused(lambda: fill(""), by="text.tokenizer.BertTokenizer.encodings", row=1)


def test_targets_are_scored_over_the_vocabulary_and_among_themselves(fill, model):
    text, targets = "reda [MASK] redc", ["goes", "redb", "##s", "redb"]
    (expected,) = probabilities(fill, model, text)
    ids = sorted({fill.tokenizer.token_to_id(target) for target in targets}, key=lambda i: -expected[i])
    found = fill(text, targets=targets)
    assert [answer["token"] for answer in found] == ids
    assert [answer["score"] for answer in found] == pytest.approx(expected[ids], rel=1e-4)
    assert [answer["share"] for answer in found] == pytest.approx(expected[ids] / expected[ids].sum(), rel=1e-4)
    assert fill(text, 2, targets) == found[:2], "shares are among all targets, however many are shown"
    assert fill(text, targets="goes")[0]["share"] == pytest.approx(1.0)
    assert "share" not in fill(text)[0]


def test_targets_hold_for_every_mask(fill):
    first, second = fill("[MASK] to [MASK]", targets=["reda", "redb"])
    assert {answer["token_str"] for answer in first} == {answer["token_str"] for answer in second} == {"reda", "redb"}
    assert first != second


def test_a_target_that_is_no_token_is_replaced_by_its_first_piece_and_told_of(fill, capfd):
    text = "reda [MASK] redc"
    expected = fill(text, targets=["goes", "to", "[UNK]"])
    assert capfd.readouterr().err == ""
    assert fill(text, targets=["GOESS", "goes", "to", "☃"]) == expected
    assert capfd.readouterr().err == (
        "targets that are no token are replaced by their first piece: 'GOESS' by 'goes', '☃' by '[UNK]'\n"
    )


def test_a_target_without_a_word_is_refused(fill):
    refused(lambda: fill("reda [MASK]", targets=[]), by="pipelines.fill_mask.FillMask._asked")
    refused(lambda: fill("reda [MASK]", targets=["goes", " "]), "' '", by="pipelines.fill_mask.FillMask._pieces")


def test_a_tokenizer_beyond_the_embedding_is_refused(world, tmp_path):
    masked_lm(change(BERT, vocab_size=40)).save_pretrained(tmp_path / "model", load_tokenizer(world.tokenizer))
    refused(lambda: FillMask(tmp_path / "model"), "48", "40", by="text.tokenizer.check_fit")


def test_a_directory_without_a_masked_lm_head_is_refused(directory, tmp_path):
    EncoderModel.from_pretrained(directory, add_pooling_layer=False).save_pretrained(
        tmp_path, load_tokenizer(directory)
    )
    refused(lambda: FillMask(tmp_path), by="models.hf_format.to_params", path=str(tmp_path))


def test_a_model_at_hand_fills_as_one_that_is_loaded(fill, model, directory):
    of_model = FillMask.of_model(model, fill.tokenizer, name="mine")
    assert of_model("reda [MASK]") == fill("reda [MASK]")
    assert "mine" in repr(of_model)
    refused(lambda: FillMask.of_model(masked_lm(change(BERT, vocab_size=30)), fill.tokenizer), "30")


def test_a_quiet_pipeline_says_nothing_of_what_it_cuts(directory, capfd):
    fill = FillMask(directory)
    text = "[MASK] " + "goes " * 60
    for quiet in (False, True):
        fill.quiet = quiet
        fill(text, targets=["reda redb"])
        assert (capfd.readouterr().err == "") == quiet
