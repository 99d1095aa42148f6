import numpy as np
import pytest

from distilbert_jax.models import DistilBertForTokenClassification
from distilbert_jax.pipelines import TokenClassification
from distilbert_jax.pipelines.tokens import STRATEGIES
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import build
from tests.runs import STUDENT, change, refused

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXT = "Redas goess to REDB, 😀 Ré\u0301da " + "x" * 120 + " blueas redc"


@pytest.fixture(scope="module")
def entities(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "model"
    model = build(DistilBertForTokenClassification, change(STUDENT, labels=LABELS), seed=3)
    model.save_pretrained(path, load_tokenizer(world.tokenizer))
    return TokenClassification(path)


@pytest.fixture
def told(entities, monkeypatch):
    """Lets the labels and scores of the tokens be as they are told, [CLS] and [SEP] apart."""

    def tell(*labels, p=0.9):
        rest = (1 - p) / (len(LABELS) - 1)
        scores = np.log([[p if label == LABELS.index(one) else rest for label in range(len(LABELS))] for one in labels])
        logits = np.concatenate([np.zeros((1, len(LABELS))), scores, np.zeros((1, len(LABELS)))])
        monkeypatch.setattr(entities, "_forward", lambda rows: [(i, logits) for i in range(len(rows))])

    return tell


def test_every_token_has_its_label_and_its_place_in_the_text(entities):
    found = entities(TEXT, ignore_labels=[])
    assert list(found[0]) == ["entity", "score", "index", "word", "start", "end"]
    words = [(answer["word"], TEXT[answer["start"] : answer["end"]]) for answer in found]
    assert words[:7] == [("reda", "Reda"), ("##s", "s"), ("goes", "goes"), ("##s", "s"), ("to", "to"), ("redb", "REDB"),
                         (",", ",")]  # fmt: skip
    assert words[7:9] == [("😀", "😀"), ("reda", "Ré\u0301da")]
    assert words[9][0] == words[9][1] == "x" * 120
    assert [answer["index"] for answer in found] == list(range(1, len(found) + 1))
    assert {answer["entity"] for answer in found} <= {*LABELS}
    assert entities(TEXT) == [answer for answer in found if answer["entity"] != "O"]


def test_neighbours_of_a_label_are_one_group_until_one_begins(told, entities):
    told("B-PER", "I-PER", "I-PER", "B-PER", "O", "I-LOC", "B-LOC")
    found = entities("reda redb redc redd rede redf redg", "simple")
    assert [(one["entity_group"], one["word"], one["start"], one["end"]) for one in found] == [
        ("PER", "reda redb redc", 0, 14),
        ("PER", "redd", 15, 19),
        ("LOC", "redf", 25, 29),
        ("LOC", "redg", 30, 34),
    ]
    assert [one["score"] for one in found] == pytest.approx([0.9] * 4)


def test_pieces_of_a_word_have_one_label_but_for_simple(entities, monkeypatch):
    p = np.array([[0.2] * 5, [0.1, 0.6, 0.1, 0.1, 0.1], [0.02, 0.02, 0.02, 0.92, 0.02], [0.2] * 5])
    monkeypatch.setattr(entities, "_forward", lambda rows: [(0, np.log(p))])
    groups = {strategy: [(one["entity_group"], one["word"]) for one in entities("REDas", strategy)] for strategy in
              STRATEGIES[1:]}  # fmt: skip
    assert groups["simple"] == [("PER", "reda"), ("LOC", "##s")]
    assert groups["first"] == [("PER", "redas")]
    assert groups["average"] == groups["max"] == [("LOC", "redas")]
    (average,), (largest,) = entities("REDas", "average"), entities("REDas", "max")
    assert (average["score"], largest["score"]) == pytest.approx((0.51, 0.92))
    assert (average["start"], average["end"]) == (0, 5)


def test_several_texts_have_a_result_each_in_order(entities, capfd):
    texts = [TEXT, "redb", "goes to " * 5, "reda redb"] * 3
    for strategy in ("none", "average"):
        expected = [entities(text, strategy) for text in texts]
        for found in (entities(texts, strategy), list(entities(iter(texts), strategy))):
            for ours, alone in zip(found, expected, strict=True):
                assert [{**one, "score": 0} for one in ours] == [{**one, "score": 0} for one in alone]
                assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in alone], rel=1e-4)
                assert ours.title == alone.title
    assert capfd.readouterr().err == ""
    assert entities("reda " * 40, ignore_labels=())[-1]["end"] == 149
    assert capfd.readouterr().err.count("\n") == 1


def test_what_is_left_out_is_named(told, entities):
    told("B-PER", "O", "B-LOC")
    assert [one["entity"] for one in entities("reda redb redc", ignore_labels="B-PER")] == ["O", "B-LOC"]
    assert [one["entity_group"] for one in entities("reda redb redc", "first", ["LOC", "O"])] == ["PER"]
    assert entities("reda redb redc", "first", ["LOC", "PER", "O"]) == []


def test_an_unknown_strategy_and_an_empty_text_are_refused(entities):
    refused(
        lambda: entities("reda", "averag"),
        "'averag'",
        by="pipelines.tokens.TokenClassification.__call__",
        field="aggregation_strategy",
        hint="average",
    )
    refused(lambda: entities(["reda", " "]), row=2)
