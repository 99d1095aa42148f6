"""Config files by their names: found, run, and their mistakes told."""

import os
import sys

import pytest

from distilbert_jax.base.config_io import find_config, from_json, load_config, load_variants, to_json
from distilbert_jax.config import DistillConfig, FinetuneConfig, PretrainConfig
from distilbert_jax.configs import shipped
from distilbert_jax.errors import InputError
from tests.runs import refused


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


CONFIG = "from distilbert_jax.config import *\n\n\ndef get_config():\n    return PretrainConfig(steps=7)\n"


def test_a_config_file_gives_its_config(write):
    assert load_config(write(CONFIG), PretrainConfig, FinetuneConfig) == PretrainConfig(steps=7)


def test_a_config_file_does_not_take_the_name_of_another_module(write):
    import json as before

    load_config(write(CONFIG, "json.py"), PretrainConfig)
    assert sys.modules["json"] is before


def test_a_word_behind_a_colon_goes_to_the_config(write):
    words = CONFIG.replace("get_config()", "get_config(size='7')").replace("steps=7", "steps=int(size)")
    file = write(words)
    assert load_config(file, PretrainConfig).steps == 7
    assert load_config(f"{file}:12", PretrainConfig).steps == 12
    refused(
        lambda: load_config(f"{file}:many", PretrainConfig),
        "'many'",
        by="base.config_io._mistakes_of",
        path=f"{file}",
        row=5,
    )
    refused(lambda: load_config(f"{write(CONFIG)}:12", PretrainConfig), by="base.config_io._config_of")
    refused(lambda: load_config(f"{file}x.py:12", PretrainConfig), by="base.config_io.find_config", path=f"{file}x.py")


@pytest.mark.parametrize(
    ("text", "shown", "told"),
    [
        ("def get_config(:\n", "", {"by": "base.config_io._mistakes_of", "row": 1}),
        ("x = 1\n", "get_config()", {"by": "base.config_io.config_module"}),
        ("x = 1\0\n", "null bytes", {"by": "base.config_io._mistakes_of"}),
        ("def get_config():\n    return 3\n", "PretrainConfig", {"by": "base.config_io._config_of"}),
        (CONFIG.replace("steps", "step"), "'step'", {"by": "base.config_io._mistakes_of", "row": 5}),
        (CONFIG.replace("steps=7", "steps=-7"), "-7", {"by": "config.require", "field": "steps"}),
        ("import nowhere\n", "nowhere", {"by": "base.config_io._mistakes_of", "row": 1}),
        ("import sys\nsys.exit(0)\n", "", {"by": "base.config_io._mistakes_of", "row": 2}),
        (
            CONFIG.replace("steps=7", "init=InitConfig(__import__('pathlib').Path('a'))"),
            "PosixPath('a')",
            {"by": "base.config_io._config_of", "path": "config.py"},
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(write, text, shown, told):
    refused(lambda: load_config(write(text), PretrainConfig), shown, **told)


def test_a_mistake_in_a_config_file_of_a_relative_path_has_its_line(write, tmp_path, monkeypatch):
    write(CONFIG.replace("steps", "step"), "mine.py")
    monkeypatch.chdir(tmp_path)
    refused(lambda: load_config("mine.py", PretrainConfig), by="base.config_io._mistakes_of", path="mine.py", row=5)


def test_a_value_of_another_type_in_a_config_file_is_one_line(write):
    refused(
        lambda: load_config(write(CONFIG.replace("7", "7.5")), PretrainConfig),
        "7.5",
        by="base.config_io._build",
        field="steps",
    )


def test_a_missing_config_file_is_answered_with_the_nearest(write, tmp_path):
    write(CONFIG, "student.py")
    refused(
        lambda: load_config(str(tmp_path / "studnet.py")), str(tmp_path / "student.py"), by="base.config_io.find_config"
    )
    message = refused(lambda: load_config(str(tmp_path / "xyz/a.py")), by="base.config_io.find_config")
    assert "did you mean" not in message
    refused(lambda: load_config(str(tmp_path)), by="base.config_io.find_config")
    (tmp_path / "config.txt").write_text("")
    refused(lambda: load_config(str(tmp_path / "config.txt")), by="base.config_io.run_file")


VARIANTS = """
from distilbert_jax.config import *

VARIANTS = ("full", "less", "small/full", "small/less")

def get_config(variant{default}):
    return PretrainConfig(steps=7 + VARIANTS.index(variant))
"""


def error_of(name, *kinds):
    with pytest.raises(InputError) as caught:
        load_config(name, *kinds or (PretrainConfig,))
    return caught.value


def test_a_file_that_is_there_comes_before_a_shipped_name(write, tmp_path, monkeypatch):
    assert find_config("glue").path == shipped()["glue"]
    assert load_config("glue", FinetuneConfig) == FinetuneConfig()
    monkeypatch.chdir(tmp_path)
    write(CONFIG, "glue.py")
    assert load_config("glue.py", PretrainConfig).steps == 7
    assert load_config("glue", FinetuneConfig) == FinetuneConfig()


def test_an_unknown_name_is_answered_with_the_nearest_of_the_folder_or_of_the_shipped(write, tmp_path):
    assert error_of("distilbert_bse").hint == "distilbert_base"
    assert error_of("no/such/distilbert_bse.py").hint == "distilbert_base"
    assert error_of(f"{tmp_path}/zzzzzz.py").hint is None
    mine = write(CONFIG, "my_distilbert_base.py")
    error = error_of(mine.replace("_base", "_bse"))
    assert (error.path, error.hint) == (mine.replace("_base", "_bse"), mine)


def test_an_unknown_variant_is_answered_with_the_nearest(write):
    file = write(VARIANTS.format(default='="full"'))
    assert [load_config(f"{file}{word}", PretrainConfig).steps for word in ("", ":less", ":small/less")] == [7, 8, 10]
    error = error_of(f"{file}:les")
    assert error.path == file
    assert "'less'" in error.hint
    assert "'student'" in error_of("demo:studnet").hint


def test_a_config_that_is_several_asks_for_one_of_them(write):
    file = write(VARIANTS.format(default=""))
    assert load_config(f"{file}:full", PretrainConfig).steps == 7
    assert error_of(file).hint == f"{file}:full"


def test_the_variants_of_a_group_have_its_name_before_a_slash(write):
    file = write(VARIANTS.format(default='="full"'))
    assert {name: config.steps for name, config in load_variants(file, PretrainConfig).items()} == {
        "full": 7,
        "less": 8,
    }
    small = load_variants(f"{file}:small", PretrainConfig)
    assert {name: config.steps for name, config in small.items()} == {"full": 9, "less": 10}
    with pytest.raises(InputError) as caught:
        load_variants(f"{file}:smal", PretrainConfig)
    assert "'small'" in caught.value.hint
    with pytest.raises(InputError):
        load_variants(write(CONFIG, "one.py") + ":small", PretrainConfig)


def test_a_run_of_an_earlier_version_is_read():
    before = '{"task": "rte", "guide": {"teacher": "t", "alpha": 0.25}, "held_out": true}'
    expected = FinetuneConfig(task="rte", distill=DistillConfig("t", 0.25), selection_split=True)
    assert from_json(FinetuneConfig, before) == expected


def test_a_word_for_a_config_without_variants_is_answered_so(write):
    file = write(CONFIG)
    assert error_of(f"{file}:full").hint == file


def test_a_config_may_be_of_any_kind(write):
    assert load_config(write(CONFIG)) == PretrainConfig(steps=7)


def test_a_path_that_is_not_utf8_is_refused_and_named():
    refused(lambda: to_json({"corpus": os.fsdecode(b"of/\xff")}), "of/\\udcff", by="base.config_io.to_json")
