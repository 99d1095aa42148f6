"""The house of docs/decisions.md: imports go down, never up and never in a circle, and a mistake never waits for JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT

# Rooms of one floor do not know of each other.
FLOORS = (
    {"errors"},
    {"families"},
    {"config", "configs"},
    {"base"},
    {"text"},
    {"models"},
    {"pipelines", "training"},
    {"pretraining", "finetuning"},
    {"glue", "probes", "demo"},
    {"experiments", "export", "planning", "serving"},
    {"cli"},
)
LEVEL = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = ROOT / "distilbert_jax"


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(name: str, path: Path, known: dict[str, Path], *, lazy: bool) -> set[str]:
    """The modules of this package that a module imports; `lazy`: also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if lazy else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distilbert_jax"):
            found |= {
                f"{node.module}.{one.name}" if f"{node.module}.{one.name}" in known else node.module
                for one in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names if one.name.startswith("distilbert_jax")}
    return found - {name}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_go_down_only():
    known = modules()
    wrong = []
    for name, path in known.items():
        own = room_of(name)
        if not own or own.startswith("__"):  # the front door knows every room
            continue
        assert own in LEVEL, f"{name} stands in a room without a floor"
        for other in imports(name, path, known, lazy=True):
            theirs = room_of(other)
            if theirs and theirs != own and LEVEL[theirs] >= LEVEL[own]:
                wrong.append(f"{name} → {other}")
    assert not wrong


def test_no_import_goes_in_a_circle():
    known = modules()
    graph = {name: imports(name, path, known, lazy=False) for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above[above.index(name) :], name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "module",
    [
        "distilbert_jax",
        "distilbert_jax.families",
        "distilbert_jax.config",
        "distilbert_jax.finetuning.tasks",
        "distilbert_jax.pretraining.objective_table",
        "distilbert_jax.training.terms",
        "distilbert_jax.training.callbacks",
        "distilbert_jax.glue.references",
        *(
            f"distilbert_jax.base.{path.stem}"
            for path in sorted((PACKAGE / "base").glob("*.py"))
            if path.stem != "__init__"
        ),
    ],
)
def test_what_help_and_mistakes_need_comes_without_jax(module):
    script = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'orbax')))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
