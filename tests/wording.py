"""The sentences that users are told, in one table: `tests/wording.txt`, made from the source by `python -m tests.wording`.

A line for each place where an error is raised: where, and its sentence with the names of what is put into it. Tests elsewhere go by
the fields of errors and by where they were raised; this table is where a change of wording is seen, read and agreed to.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("wording.txt")
ERRORS = {"InputError", "DivergedError", "Interrupted", "Preempted", "wrong"}


def _text(node: ast.expr) -> str:
    """A sentence as it stands in the source: `{…}` for what is put in, `a | b` for a choice."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return f"({_text(node.body)} | {_text(node.orelse)})"
    if isinstance(node, ast.FormattedValue):
        inner = node.value
        return _text(inner) if isinstance(inner, ast.IfExp) else "{" + ast.unparse(inner) + "}"
    return "{" + ast.unparse(node) + "}"


def _sentences(tree: ast.AST, inside: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        place = inside
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            place = f"{inside}.{node.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
            yield place, " ".join(_text(node.args[0]).split())
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("require"):
            what = [argument for argument in node.args if isinstance(argument, ast.Constant | ast.JoinedStr)]
            if node.func.id == "require" and len(what) > 1:
                yield place, f"{{{_text(what[0])}}}: {_text(what[-1])}"
        yield from _sentences(node, place)


def sentences() -> list[str]:
    """`place: sentence`, in the order of the source."""
    lines = []
    for path in [*sorted((ROOT / "distilbert_jax").rglob("*.py")), ROOT / "train.py", ROOT / "evaluate.py"]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("distilbert_jax.")
        lines += [f"{place}: {sentence}" for place, sentence in _sentences(ast.parse(path.read_text("utf-8")), module)]
    return lines


if __name__ == "__main__":
    TABLE.write_text("\n".join(sentences()) + "\n", encoding="utf-8")
