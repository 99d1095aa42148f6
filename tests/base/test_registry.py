import dataclasses
import functools
import importlib.util
import textwrap

import pytest

from distilbert_jax.base.registry import Registry, file_of, source_digest, told
from distilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    value: int = 0


@pytest.fixture
def registry():
    return Registry("colour", [Row("red"), Row("blue")])


@pytest.mark.parametrize(("name", "hint"), [("bleu", "did you mean 'blue'?"), ("zzz", "known: red, blue")])
def test_an_unknown_name_is_answered_with_the_nearest(registry, name, hint):
    with pytest.raises(InputError) as caught:
        registry.find(name, "paint.colour")
    assert (caught.value.field, caught.value.hint) == ("paint.colour", hint)


def test_the_same_file_may_bring_its_row_anew_and_no_other_may(registry):
    registry.register(Row("green", 1), "a.py")
    registry.register(Row("green", 2), "a.py")
    assert (registry.find("green", "")).value == 2
    assert (registry.file("green"), registry.file("red")) == ("a.py", "")
    for row, file in ((Row("green"), "b.py"), (Row("red"), "a.py"), (Row("a b"), "a.py"), (Row(""), "a.py")):
        with pytest.raises(InputError) as caught:
            registry.register(row, file)
        assert (caught.value.path, caught.value.field) == (file, row.name)
    assert list(registry) == ["red", "blue", "green"]


def test_names_that_one_flag_would_have_are_one_name(registry):
    registry.register(Row("light_green"), "a.py")
    with pytest.raises(InputError) as caught:
        registry.register(Row("light-green"), "a.py")
    assert caught.value.field == "light-green"


SOURCE = '''
"""A module."""
import math

FACTOR = 2.0
OTHER = 3.0

def helper(x):
    return FACTOR * x

def term(x):
    """What it is."""
    return helper(math.sqrt(x))  # a comment

def get_config():
    return OTHER
'''


def function(tmp_path, source, name="term"):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location("mine", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("What it is.", "Something else.", True),
        ("  # a comment", "", True),
        ("OTHER = 3.0", "OTHER = 4.0", True),
        ("return OTHER", "return -OTHER", True),
        ("x))", "x) )", True),
        ("sqrt", "exp", False),
        ("FACTOR * x", "FACTOR + x", False),
        ("FACTOR = 2.0", "FACTOR = 2.5", False),
        ("import math", "import cmath as math", False),
    ],
)
def test_the_digest_of_a_function_changes_with_what_it_computes_alone(tmp_path, old, new, same):
    assert old in SOURCE
    before = source_digest(function(tmp_path, SOURCE))
    assert (source_digest(function(tmp_path, SOURCE.replace(old, new))) == before) == same


def test_a_function_within_another_goes_by_its_whole_file(tmp_path):
    nested = """
        def make():
            def term(x):
                return FACTOR * x
            return term

        FACTOR = 2.0
        OTHER = 1.0
        inner = make()
    """
    digest = lambda source: source_digest(function(tmp_path, source, "inner"))
    assert digest(nested) != digest(nested.replace("OTHER = 1.0", "OTHER = 2.0"))


def test_the_file_of_a_function_is_found_through_partials_and_callable_objects():
    class Called:
        def __call__(self):
            pass

    for one in (
        test_a_function_within_another_goes_by_its_whole_file,
        functools.partial(SOURCE.replace, "a"),
        Called(),
    ):
        assert file_of(one if not isinstance(one, functools.partial) else functools.partial(registry)) == __file__


def test_what_a_function_raises_is_told_with_its_file_and_line(tmp_path):
    term = function(tmp_path, SOURCE)
    try:
        term(-1.0)
    except ValueError as error:
        result = told("term 'x'", error, file_of(term))
    assert (result.path, result.field, result.row) == (str(tmp_path / "mine.py"), "term 'x'", 13)
    assert "\n" not in str(result)
