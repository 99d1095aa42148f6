"""The records of families, and that nothing else knows what tells families apart."""

import dataclasses
import re

import pytest

from distilbert_jax import families
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from tests.runs import ROOT

both = pytest.mark.parametrize("family", [families.BERT, families.DISTILBERT], ids=lambda family: family.name)
OWN = {"families.py", "models/bert.py", "models/distilbert.py"}
COMPARED = re.compile(
    r"""(model_type|family\.name)\s*(==|!=|\bin\b|\bnot\s+in\b)\s*[\(\[{]?\s*["']|["'](bert|distilbert)["']\s*(==|!=)"""
)


def test_no_model_type_is_compared_with_a_name_outside_of_the_families_own_modules():
    package = ROOT / "distilbert_jax"
    compared = [
        f"{path.relative_to(package)}:{number}"
        for path in sorted(package.rglob("*.py"))
        if str(path.relative_to(package)) not in OWN
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if COMPARED.search(line)
    ]
    assert not compared


@pytest.mark.parametrize(
    "line",
    ['if config.model_type == "bert":', "a = model_type not in ('bert',)", "'bert' == x", 'model_type in ["bert"]'],
)
def test_a_comparison_would_be_seen(line):
    assert COMPARED.search(line)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("distilbrt", "did you mean 'distilbert'?"), ("Bert", "did you mean 'bert'?"), ("roberta", "import the module")],
)
def test_an_unknown_family_is_answered_with_the_nearest_or_the_way_to_bring_it(name, hint):
    for ask in (families.find, ModelConfig, ModelConfig.of_family):
        with pytest.raises(InputError) as caught:
            ask(name)
        assert caught.value.field == "model_type"
        assert caught.value.hint.startswith(hint)


@both
def test_a_records_fields_are_those_of_the_config(family):
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert {*family.config_fields, *family.defaults, *family.config_fallbacks, family.token_dropout} <= fields


@both
def test_what_config_json_cannot_say_is_fixed(family):
    fixed = {field.name for field in dataclasses.fields(ModelConfig)} - {
        *family.config_fields,
        "model_type",
        "labels",
        "problem_type",
    }
    assert fixed == {"bert": {"qa_dropout"}, "distilbert": {"type_vocab_size", "layer_norm_eps"}}[family.name]
    for name in fixed:
        with pytest.raises(InputError) as caught:
            ModelConfig.of_family(family.name, **{name: 1 if name == "type_vocab_size" else 0.25})
        assert caught.value.field == name


def test_what_names_begin_with_follows_from_the_table():
    assert (families.BERT.prefix, families.BERT.bare) == ("bert.", ("embeddings.", "encoder.", "pooler."))
    assert families.BERT.heads == ("cls.", "bert.pooler.", "classifier.", "qa_outputs.")
    assert families.DISTILBERT.bare == ("embeddings.", "transformer.")
    assert (families.BERT.has_pooler, families.DISTILBERT.has_pooler) == (True, False)
    assert (families.BERT.has_next_sentence, families.DISTILBERT.has_next_sentence) == (True, False)
