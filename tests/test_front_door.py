"""What `import distilbert_jax` gives, and what it waits for."""

import ast
import subprocess
import sys
import tomllib

import pytest

import distilbert_jax
from tests.runs import ROOT


def loaded_by(code: str) -> set[str]:
    """The top-level modules of a fresh process after `code`."""
    script = (
        f"import sys; before = set(sys.modules)\n{code}\nprint(*{{m.split('.')[0] for m in {{*sys.modules}} - before}})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone_waits_for_no_library():
    loaded = loaded_by(
        "import distilbert_jax; dir(distilbert_jax); distilbert_jax.__version__; hasattr(distilbert_jax, 'FilMask')"
    )
    assert "distilbert_jax" in loaded
    assert loaded - {"distilbert_jax"} <= sys.stdlib_module_names


def test_configs_and_errors_wait_for_neither_jax_nor_numpy():
    loaded = loaded_by("from distilbert_jax import InputError, PretrainConfig; PretrainConfig()")
    assert not loaded & {"jax", "flax", "numpy", "tokenizers"}


def test_every_name_is_there_and_is_what_its_module_has():
    assert len(set(distilbert_jax.__all__)) == len(distilbert_jax.__all__)
    for name in distilbert_jax.__all__:
        value = getattr(distilbert_jax, name)
        assert value is getattr(distilbert_jax, name)
        assert getattr(value, "__name__", name) == name
        assert name in dir(distilbert_jax)
    from distilbert_jax import models, pipelines

    assert {*models.__all__, *pipelines.__all__} <= {*distilbert_jax.__all__}
    for name in pipelines.__all__:  # two of which are also those of models
        assert getattr(distilbert_jax, name) is getattr(pipelines, name)


def test_type_checkers_see_the_same_names():
    (block,) = (
        node
        for node in ast.parse((ROOT / "distilbert_jax" / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for one in node.names:
            assert one.asname == one.name, "an import without `as` is private to type checkers"
            seen[one.name] = (node.module or "").removeprefix("distilbert_jax.")
    assert seen == distilbert_jax._MODULE_OF


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match="'FilMask'; did you mean 'FillMask'"):
        _ = distilbert_jax.FilMask
    with pytest.raises(AttributeError, match="'xyzzy'; dir"):
        _ = distilbert_jax.xyzzy
    assert not hasattr(distilbert_jax, "__wrapped__")


def test_a_misspelt_name_in_an_import_is_answered_too():
    with pytest.raises(ImportError, match="'MaskdLM'; did you mean 'MaskedLM'"):
        from distilbert_jax import MaskdLM  # noqa: F401
    assert not hasattr(distilbert_jax, "MaskdLM")


def test_a_room_needs_no_import_of_its_own():
    assert "yaml" not in loaded_by("import distilbert_jax; distilbert_jax.config.ModelConfig; distilbert_jax.errors")


def test_the_version_has_one_place():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "distilbert_jax.__version__"}
    assert (ROOT / "distilbert_jax" / "py.typed").is_file()
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["distilbert_jax"]
