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
    ("changes", "field", "shown"),
    [
        ({"sides": {"a": "x", "b": "y [MASK]"}}, "sides.a", "'x'"),
        ({"sides": {"a": "x [MASK]", "b": "[MASK] [MASK]"}}, "sides.b", "2 [MASK]"),
        ({"sides": {"a": "x [MASK]"}}, "sides", "'a'"),
        ({"sides": dict.fromkeys("abc", "[MASK]")}, "sides", "'a', 'b', 'c'"),
        ({"sides": ["x [MASK]", "y [MASK]"]}, "sides", "['x [MASK]', 'y [MASK]']"),
        ({"sides": {}}, "sides", "none"),
        ({"sides": {"a": "x [MASK]", "b": None}}, "sides.b", ""),
        ({"sides": {"a": "x [MASK]", "b": ["MASK"]}}, "sides.b", "['MASK']"),
        ({"sides": {"a": "x [MASK]", " ": "[MASK]"}}, "sides", ""),
        ({"name": 7}, "name", "7"),
        ({"name": "other"}, "name", "'other'"),
        ({"words": "nurse"}, "words", "'nurse'"),
        ({"words": ["nurse", ""]}, "words", ""),
        ({"words": ["nurse", False]}, "words", "False"),
        ({"word": ["nurse"]}, "word", "'words'"),
        ({"prompt": "x"}, "prompt", "name, sides, words"),
    ],
)
def test_a_malformed_pair_is_one_line_with_file_and_number(write, changes, field, shown):
    path = write(json.dumps([{**ENTRY, "name": "other"}, {**ENTRY, **changes}]), "prompts.json")
    message = refused(lambda: read_pairs(path), shown, path=f"{path}, pair 2", field=field)
    assert message.startswith(f"{path}, pair 2: ")


@pytest.mark.parametrize("field", ["name", "sides"])
def test_a_pair_without_a_field_is_refused(write, field):
    entry = {name: value for name, value in ENTRY.items() if name != field}
    refused(
        lambda: read_pairs(write(json.dumps([entry]), "a.json")),
        by="probes.prompts.read_pairs",
        path="a.json, pair 1",
        field=field,
    )


@pytest.mark.parametrize(
    ("name", "content", "by", "row"),
    [
        ("a.yaml", "", "probes.prompts._parse", None),
        ("a.json", " \n", "probes.prompts._parse", None),
        ("a.yaml", "# nothing\n", "probes.prompts.read_pairs", None),
        ("a.json", "[]", "probes.prompts.read_pairs", None),
        ("a.yaml", "name: x\nsides: {a: b}\n", "probes.prompts.read_pairs", None),
        ("a.yaml", "- just text\n", "probes.prompts.read_pairs", None),
        ("a.yaml", "- name: x\n  sides:\n    a: [MASK] goes\n", "probes.prompts._parse", 3),
        ("a.yaml", "- name: x\n  sides: {1: '[MASK]', b: '[MASK]'}\n", "probes.prompts.read_pairs", None),
        ("a.yaml", "- name: x\n  sides: {a: '[MASK]', b: '[MASK]'}\n  name: y\n", "probes.prompts._parse", 1),
        ("a.yaml", "- &a [x, y]\n- [*a, *a]\n", "probes.prompts._parse", 2),
        ("a.yaml", "- name: \x00\n", "probes.prompts._parse", None),
        ("a.yaml", "- name: 2020-13-45\n", "probes.prompts._parse", None),
        ("a.yaml", "- !!python/object/apply:os.getcwd []\n", "probes.prompts._parse", 1),
        ("a.json", "[\n{'name': 1}]", "base.files.parse_json", 2),
        ("a.json", '[{"name": "\\ud83d"}]', "base.files.parse_json", None),
        ("a.json", '[{"name": "a", "name": "b"}]', "base.files.parse_json.once", None),
        ("a.json", "[" * 100_000, "base.files.parse_json", None),
        ("a.yaml", b"- name: ok\n  sides: \xff\n", "probes.prompts._parse", 2),
        ("a.txt", YAML, "probes.prompts._parse", None),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_line(write, name, content, by, row):
    path = write(content, name)
    message = refused(lambda: read_pairs(path), by=by, path=str(path), row=row)
    assert message.startswith(str(path))


def test_a_missing_file_is_one_line(tmp_path):
    refused(lambda: read_pairs(tmp_path / "a.yaml"), by="base.files.check_file", path=f"{tmp_path}/a.yaml")
