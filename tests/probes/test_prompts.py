import json

import pytest

from distilbert_jax.probes.prompts import CARD_PAIR, Pair, read_pairs
from tests.runs import refused

YAML = """\
- name: first pair
  sides:
    one: "[MASK] goes"
    other side: it is [MASK] today
  words: [nurse, "no"]
- {name: second, sides: {a: "a [MASK]", b: "b [MASK]"}}
"""
PAIRS = [
    Pair("first pair", {"one": "[MASK] goes", "other side": "it is [MASK] today"}, ["nurse", "no"]),
    Pair("second", {"a": "a [MASK]", "b": "b [MASK]"}),
]
ENTRY = {"name": "n", "sides": {"a": "x [MASK]", "b": "y [MASK]"}}


@pytest.fixture
def write(tmp_path):
    def write(content, name):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_the_cards_pair():
    assert list(CARD_PAIR.sides.values()) == [
        "The White man worked as a [MASK].",
        "The Black woman worked as a [MASK].",
    ]


def test_yaml_and_json_give_the_same_pairs(write):
    entries = [
        {"name": pair.name, "sides": pair.sides} | ({"words": pair.words} if pair.words else {}) for pair in PAIRS
    ]
    for name in ("a.yaml", "a.yml"):
        assert read_pairs(write(YAML, name)) == PAIRS
        assert read_pairs(write(b"\xef\xbb\xbf" + YAML.encode(), name)) == PAIRS
    assert read_pairs(write(json.dumps(entries), "a.json")) == PAIRS
    assert read_pairs(write(b"\xef\xbb\xbf" + json.dumps(entries).encode(), "a.json")) == PAIRS
    assert read_pairs(write(json.dumps(entries, indent="\t"), "a.json")) == PAIRS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sides": {"a": "x", "b": "y [MASK]"}}, ["side 'a'", "'x' has no [MASK], expected one"]),
        ({"sides": {"a": "x [MASK]", "b": "[MASK] [MASK]"}}, ["side 'b'", "has 2 [MASK], expected one"]),
        ({"sides": {"a": "x [MASK]"}}, ["expected two sides", "given: 'a'"]),
        ({"sides": dict.fromkeys("abc", "[MASK]")}, ["expected two sides", "given: 'a', 'b', 'c'"]),
        ({"sides": ["x [MASK]", "y [MASK]"]}, ["expected two sides", "given: ['x [MASK]', 'y [MASK]']"]),
        ({"sides": {}}, ["expected two sides", "given: none"]),
        ({"sides": {"a": "x [MASK]", "b": None}}, ["side 'b': the prompt is empty"]),
        ({"sides": {"a": "x [MASK]", "b": ["MASK"]}}, ["side 'b': the prompt is ['MASK'], not text", "in quotes"]),
        ({"sides": {"a": "x [MASK]", " ": "[MASK]"}}, ["the name of a side is empty"]),
        ({"name": 7}, ["the name of a pair is 7, not text"]),
        ({"name": "other"}, ["another pair is named 'other'"]),
        ({"words": "nurse"}, ["words is 'nurse', expected a list"]),
        ({"words": ["nurse", ""]}, ["a word of interest is empty"]),
        ({"words": ["nurse", False]}, ["a word of interest is False", "in quotes"]),
        ({"word": ["nurse"]}, ["unknown field 'word'; did you mean 'words'?"]),
        ({"prompt": "x"}, ["unknown field 'prompt'; known: name, sides, words"]),
    ],
)
def test_a_malformed_pair_is_one_line_with_file_and_number(write, changes, words):
    path = write(json.dumps([{**ENTRY, "name": "other"}, {**ENTRY, **changes}]), "prompts.json")
    message = refused(lambda: read_pairs(path), *words)
    assert message.startswith(f"{path}, pair 2: ")


@pytest.mark.parametrize("field", ["name", "sides"])
def test_a_pair_without_a_field_is_refused(write, field):
    entry = {name: value for name, value in ENTRY.items() if name != field}
    refused(
        lambda: read_pairs(write(json.dumps([entry]), "a.json")),
        f"has no {field}",
        by="probes.prompts.read_pairs",
        path="a.json, pair 1",
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "", ["empty"]),
        ("a.json", " \n", ["empty"]),
        ("a.yaml", "# nothing\n", ["expected a list of pairs"]),
        ("a.json", "[]", ["expected a list of pairs"]),
        ("a.yaml", "name: x\nsides: {a: b}\n", ["expected a list of pairs"]),
        ("a.yaml", "- just text\n", ["pair 1: is 'just text'"]),
        ("a.yaml", "- name: x\n  sides:\n    a: [MASK] goes\n", ["a.yaml, line 3", "not valid YAML", "put prompts in quotes"]),
        ("a.yaml", "- name: x\n  sides: {1: '[MASK]', b: '[MASK]'}\n", ["pair 1", "the name of a side is 1, not text"]),
        ("a.yaml", "- name: \x00\n", ["cannot be read", "special characters are not allowed"]),
        ("a.yaml", "- name: 2020-13-45\n", ["cannot be read", "month"]),
        ("a.yaml", "- !!python/object/apply:os.getcwd []\n", ["line 1", "could not determine a constructor"]),
        ("a.json", "[\n{'name': 1}]", ["a.json: damaged", "line 2"]),
        ("a.json", '[{"name": "\\ud83d"}]', ["a.json: damaged", "not valid Unicode"]),
        ("a.json", '[{"name": "a", "name": "b"}]', ["a.json: damaged", "'name' is there twice"]),
        ("a.json", "[" * 100_000, ["a.json: damaged", "deep"]),
        ("a.yaml", b"- name: ok\n  sides: \xff\n", ["line 2", "not UTF-8 (byte 0xff)"]),
        ("a.txt", YAML, ["expected .yaml, .yml or .json"]),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_line(write, name, content, words):
    path = write(content, name)
    message = refused(lambda: read_pairs(path), *words)
    assert message.startswith(str(path))


def test_a_missing_file_is_one_line(tmp_path):
    refused(lambda: read_pairs(tmp_path / "a.yaml"), by="base.files.check_file", path=f"{tmp_path}/a.yaml")
