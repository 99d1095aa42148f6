import pytest

from distilbert_jax.base.file_fields import FileField, Form, Treatment, refuse_values
from distilbert_jax.errors import InputError


def _is_bool(value):
    return isinstance(value, bool)


ROWS = (
    FileField("config.json", "is_decoder", Treatment.REFUSED, "no decoder is here", accepted=(False, None)),
    FileField(
        "config.json", "use_cache", Treatment.WITHOUT_EFFECT, "read by a decoder alone", form=Form("a bool", _is_bool)
    ),
    FileField("config.json", "hidden_act", Treatment.OBEYED, "the activation of the feed-forward layer"),
)


@pytest.mark.parametrize(
    "content", [{}, {"is_decoder": False}, {"is_decoder": None}, {"hidden_act": "any"}, {"use_cache": False}]
)
def test_a_refused_field_may_be_left_out_or_have_an_accepted_value(content):
    refuse_values(content, ROWS, "m/config.json")


@pytest.mark.parametrize("value", [True, 0, "false", [], {}])
def test_any_other_value_is_refused_with_file_and_field(value):
    with pytest.raises(InputError) as refusal:
        refuse_values({"is_decoder": value}, ROWS, "m/config.json")
    assert (refusal.value.path, refusal.value.field) == ("m/config.json", "is_decoder")


def test_a_field_without_effect_is_refused_where_no_reader_could_take_its_value():
    with pytest.raises(InputError) as refusal:
        refuse_values({"use_cache": None}, ROWS, "m/config.json")
    assert (refusal.value.path, refusal.value.field) == ("m/config.json", "use_cache")
