"""Results as JSON: what is written, what is read again, and what is refused with the file and the field."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from distilbert_jax.base.config_io import LEFT_OUT, from_json, read_config, to_json, to_values, write_config
from distilbert_jax.config import require
from distilbert_jax.errors import InputError
from tests.runs import refused


@dataclass(frozen=True)
class Part:
    share: float
    seen: int | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self):
        require(0.0 <= self.share <= 1.0, self, "share", "expected 0 to 1")


@dataclass(frozen=True)
class Whole:
    name: str
    best: Part | None
    parts: Mapping[str, tuple[Part, ...]]


WHOLE = Whole("née", None, {"a": (Part(0.5), Part(1.0, 3)), "b": ()})


def test_what_is_written_is_read_again(tmp_path):
    write_config(WHOLE, tmp_path / "whole.json")
    assert read_config(Whole, tmp_path / "whole.json") == WHOLE
    write_config({"x": WHOLE}, tmp_path / "several.json")
    assert read_config(dict[str, Whole], tmp_path / "several.json") == {"x": WHOLE}


def test_of_fields_that_are_none_those_are_left_out_that_say_so():
    parts = {"a": [{"share": 0.5}, {"share": 1.0, "seen": 3}], "b": []}
    assert to_values(WHOLE) == {"name": "née", "best": None, "parts": parts}


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ('{"name": "x", "best": {"share": 2}, "parts": {}}', "best.share"),
        ('{"name": "x", "best": {"share": NaN}, "parts": {}}', "best.share"),
        ('{"name": "x", "best": {"share": 1%s}, "parts": {}}' % ("0" * 400), "best.share"),
        ('{"name": "x", "best": {"share": "1"}, "parts": {}}', "best.share"),
        ('{"name": "x", "best": {}, "parts": {}}', "best.share"),
        ('{"name": "x", "parts": {}}', "best"),
        ('{"name": "x", "best": null, "parts": {"a": [{"share": 1}, {"share": 1, "seen": true}]}}', "parts.a[1].seen"),
        ('{"name": "x", "best": null, "parts": {"a": {"share": 1}}}', "parts.a"),
        ("[]", None),
        ('{"name": 1%s}' % ("0" * 5000), None),
        ("[" * 100_000, None),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_file_and_field(text, at, tmp_path):
    (tmp_path / "whole.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(Whole, tmp_path / "whole.json", "remove it")
    error = caught.value
    assert (error.path, error.field, error.hint) == (str(tmp_path / "whole.json"), at, "remove it")
    assert str(error).startswith(error.path)
    assert str(error).endswith("remove it")


def test_a_value_that_json_does_not_know_is_refused():
    with pytest.raises(InputError):
        to_json(Whole("x", None, {"a": (Part(0.5, {1}),)}))


def test_a_place_in_a_file_is_told_before_what_the_class_says_of_it():
    refused(lambda: from_json(Part, '{"share": 7}', "results.json"), path="results.json", field="share")
