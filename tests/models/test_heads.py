"""Heads whose parameters have the same names in a file are told apart by what config.json says the file holds."""

import json

import pytest

from distilbert_jax.models import MultipleChoice, SequenceClassification, TokenClassification
from tests.models.common import CLASSES, build
from tests.runs import BERT, STUDENT, change, refused

ALIKE = {SequenceClassification: "ForSequenceClassification", MultipleChoice: "ForMultipleChoice"}


def saved(path, name):
    config = STUDENT if name.startswith("Distil") else BERT
    build(CLASSES[name], change(config, labels=("a",))).save_pretrained(path)
    return path


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
@pytest.mark.parametrize("head", ALIKE, ids=lambda head: head.__name__)
def test_a_head_is_not_taken_for_another(family, head, tmp_path):
    path = saved(tmp_path / "model", family + ALIKE[head])
    others = {SequenceClassification, TokenClassification, MultipleChoice} - {head}
    assert head.is_named(path)
    head.from_pretrained(path, new_head=False)
    for other in others:
        assert not other.is_named(path)
        refused(lambda other=other: other.from_pretrained(path, new_head=False), family, field="architectures")


def test_a_file_that_names_no_head_is_what_it_is_asked_for(tmp_path):
    path = saved(tmp_path / "model", "BertForSequenceClassification")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    assert not SequenceClassification.is_named(path)
    for head in (SequenceClassification, TokenClassification, MultipleChoice):
        head.from_pretrained(path, new_head=False)
