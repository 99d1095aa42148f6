"""Documentation site: README, CONTRIBUTING, CHANGELOG, docs/ and the notebook as they stand, and the API reference. `make docs`."""

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1]))

import distilbert_jax

# The source is the whole repository, so that a link between README, CONTRIBUTING and docs/ is the same here and on GitHub.
project = "distilbert_jax"
author = copyright = "The distilbert_jax developers"
version = release = distilbert_jax.__version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = [
    ".*",
    "docs/_build",
    "runs",
    "build",
    "*.egg-info",
    "distilbert_jax",
    "tests",
    "configs",
    "benchmarks",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown", ".ipynb": "notebook"}
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"distilbert_jax {version}"
highlight_language = "sh"  # a block without a language has commands
maximum_signature_line_length = 100
myst_heading_anchors = 4
autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other projects, whose references are not at hand
linkcheck_ignore = [r"http://127\.0\.0\.1"]
linkcheck_timeout = 20


class NotebookParser(MystParser):
    """A notebook as it is stored: its text, its code and the outputs that it holds; nothing is run."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        cells = json.loads(inputstring)["cells"]
        super().parse("\n\n".join(part for cell in cells for part in parts_of(cell)), document)


def parts_of(cell: dict[str, Any]) -> list[str]:
    """A cell as Markdown."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [source]
    return [f"```python\n{source}\n```", *(shown(output) for output in cell["outputs"])]


def shown(output: dict[str, Any]) -> str:
    """An output as Markdown: a picture, a table, or text."""
    data = {kind: "".join(value) for kind, value in output.get("data", {}).items() if isinstance(value, str | list)}
    if picture := data.get("image/png"):
        return f'```{{raw}} html\n<img alt="" src="data:image/png;base64,{picture.strip()}">\n```'
    if table := data.get("text/html"):
        return f"```{{raw}} html\n{table}\n```"
    return f"```text\n{''.join(output.get('text', data.get('text/plain', '')))}\n```"


def fields_of(config: type) -> list[str]:
    """The fields of a config class, with the comments beside or above them, which are also what `--help` says."""
    lines = textwrap.dedent(inspect.getsource(config)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    described = []
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        own = lines[node.lineno - 1 : node.end_lineno]
        first = node.lineno - 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        comments = [
            match[1]
            for line in [*lines[first : node.lineno - 1], *own]
            if (match := re.search(r"(?:^|\s)# (.*)", line))
        ]
        default = [f"   :value: {ast.unparse(node.value)}"] if node.value is not None else []
        described += [
            f".. attribute:: {ast.unparse(node.target)}",
            f"   :type: {ast.unparse(node.annotation)}",
            *default,
            "   :no-index:",
            "",
            "   " + " ".join(comments).replace("*", r"\*"),
            "",
        ]
    return described


def as_written(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Docstrings here have Markdown's backticks; configs say what their fields are in comments."""
    lines[:] = [re.sub(r"(?<![`:])`([^`]+)`(?!`)", r"``\1``", line) for line in lines]
    if is_config(value):
        lines += ["", *fields_of(value)]


def signature_as_written(app: Sphinx, what: str, name: str, value: Any, *rest: object) -> tuple[str, str | None] | None:
    """Names of types as the source has them; of a config none: its fields follow."""
    if is_config(value):
        return "", None
    try:
        source = inspect.getsource(value.__init__ if isinstance(value, type) else value)
    except (OSError, TypeError):
        return None
    (node,) = ast.parse(textwrap.dedent(source)).body
    if not isinstance(node, ast.FunctionDef):
        return None
    node.args.args = [argument for argument in node.args.args if argument.arg not in ("self", "cls")]
    returns = ast.unparse(node.returns) if node.returns and not isinstance(value, type) else None
    return f"({ast.unparse(node.args)})", returns


def is_config(value: object) -> bool:
    return isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == "distilbert_jax.config"


def add_entry(app: Sphinx, problem: Exception | None) -> None:
    """The page that a folder opens with leads to the first one of docs/."""
    if problem is None and app.builder.name == "html":
        to = '<meta http-equiv="refresh" content="0; url=docs/index.html">'
        page = f'<!doctype html><title>distilbert_jax</title>{to}<a href="docs/index.html">distilbert_jax</a>\n'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.add_source_parser(NotebookParser)
    app.connect(
        "autodoc-process-docstring", as_written, priority=400
    )  # before napoleon, which looks for colons outside of code
    app.connect("autodoc-process-signature", signature_as_written)
    app.connect("build-finished", add_entry)
