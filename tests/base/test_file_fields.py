import pytest

from distilbert_jax.base.file_fields import FileField, Treatment, refuse_values
from distilbert_jax.errors import InputError

ROWS = (
    FileField("config.json", "is_decoder", Treatment.REFUSED, "no decoder is here", accepted=(False, None)),
    FileField("config.json", "hidden_act", Treatment.OBEYED, "the activation of the feed-forward layer"),
)


@pytest.mark.parametrize("content", [{}, {"is_decoder": False}, {"is_decoder": None}, {"hidden_act": "any"}])
def test_a_refused_field_may_be_left_out_or_have_an_accepted_value(content):
    refuse_values(content, ROWS, "m/config.json")


@pytest.mark.parametrize("value", [True, 0, "false", [], {}])
def test_any_other_value_is_refused_with_file_and_field(value):
    with pytest.raises(InputError) as refusal:
        refuse_values({"is_decoder": value}, ROWS, "m/config.json")
    assert (refusal.value.path, refusal.value.field) == ("m/config.json", "is_decoder")
