"""Registries of what a config can name: the package's own rows, and those that a user's file brings.

A file outside the repository that registers a term, an objective, a task or a callback need not be a fork: its rows stand beside
the package's own, and whatever goes wrong in their functions is told with that file.
"""

import ast
import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from distilbert_jax.errors import InputError, nearest, said, shortened


class Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


class Registry(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order in which they came.

    Args:
        kind: what a row is, as errors call it ("term").
        rows: the package's own.
    """

    def __init__(self, kind: str, rows: Iterable[Row] = ()):
        self.kind = kind
        self._rows = {row.name: row for row in rows}
        self._files: dict[str, str] = {}

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def register(self, row: Row, file: str) -> None:
        """Add a row that `file` brings. The same file may bring it anew: configs are read more than once.

        Raises:
            InputError: the name is no Python name with hyphens, or another file or the package has it.
        """
        if not row.name.replace("-", "_").isidentifier():
            raise InputError(
                f"{file}: {self.kind} {row.name!r}: expected a name of letters, digits, _ and -",
                path=file,
                field=row.name,
            )
        plain = lambda name: name.replace("-", "_")  # on the command line the two are one
        same = next((name for name in self._rows if plain(name) == plain(row.name)), row.name)
        if same in self._rows and (same != row.name or self._files.get(same) != file):
            owner = self._files.get(same, "distilbert_jax")
            raise InputError(
                f"{file}: {self.kind} {row.name!r}: {owner} has one of this name; choose another",
                path=file,
                field=row.name,
            )
        self._rows[row.name], self._files[row.name] = row, file

    def find(self, name: str, field: str, otherwise: str = "") -> Row:
        """The row that `field` of a config names.

        Args:
            otherwise: what else would do, for the error.

        Raises:
            InputError: there is none; the nearest name is its hint.
        """
        if name in self._rows:
            return self._rows[name]
        hint = nearest(name, self)
        where = field if field.endswith(f".{name}") else f"{field} = {name!r}"
        raise InputError(
            f"{where}: no such {self.kind}; {hint}" + (f"; {otherwise}" if otherwise else ""), field=field, hint=hint
        )

    def file(self, name: str) -> str:
        """The file that brought a row; "" of the package's own."""
        return self._files.get(name, "")


def file_of(function: Callable[..., Any]) -> str:
    """The file in which a function stands."""
    function = inspect.unwrap(getattr(function, "func", function))
    code = getattr(function, "__code__", None) or type(function).__call__.__code__
    return code.co_filename


def calling_file() -> str:
    """The file that calls the function which asks: the one that registers something."""
    return sys._getframe(2).f_code.co_filename


def load(place: str) -> Callable[..., Any]:
    """The function at `module:name`, imported now."""
    module, _, name = place.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)


_OF_JAX = {
    "TracerBoolConversionError": "a Python if, while, and or or on an array, whose values are not known yet; use jnp.where",
    "TracerArrayConversionError": "an array whose values are not known yet was given to NumPy; use jax.numpy",
    "ConcretizationTypeError": "a Python number is asked of an array whose values are not known yet",
    "TracerIntegerConversionError": "a Python number is asked of an array whose values are not known yet",
}


def told(what: str, error: BaseException, file: str) -> InputError:
    """What a user's function has raised, as one line that names its file, the line in it and `what` ("term 'norm'")."""
    if isinstance(error, InputError) and error.path == file:
        return error
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    row = lines[-1] if lines else None
    words = _OF_JAX.get(type(error).__name__) or shortened(said(error), 200)
    if isinstance(error, SystemExit):
        words = "must not end Python"
    return InputError(f"{file}: {f'line {row}: ' if row else ''}{what}: {words}", path=file, field=what, row=row)


def source_digest(function: Callable[..., Any]) -> str:
    """SHA-256 of what a function says: its own source, and everything of its file that it names, or that those name in turn.

    Comments, docstrings, spaces and what the function does not use (`get_config`, another function) make no difference; what it
    takes from other files is not looked into. A function that stands inside another goes by its whole file.
    """
    function = inspect.unwrap(getattr(function, "func", function))
    tree = ast.parse(Path(file_of(function)).read_text(encoding="utf-8"))
    named = {name: node for node in tree.body for name in _binds(node)}
    wanted, used = [getattr(function, "__name__", type(function).__name__)], []
    if wanted[0] not in named:
        used = tree.body
    while wanted:
        node = named.get(wanted.pop())
        if node is not None and node not in used:
            used.append(node)
            wanted += [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    said = "\n".join(ast.unparse(_without_docstrings(node)) for node in tree.body if node in used)
    return hashlib.sha256(said.encode()).hexdigest()


def _binds(statement: ast.stmt) -> list[str]:
    """The names that a statement of a module gives a meaning to."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(one.asname or one.name).partition(".")[0] for one in statement.names]
    return [part.id for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _without_docstrings(statement: ast.stmt) -> ast.stmt:
    for node in ast.walk(statement):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return statement
