"""The command line: config files, typed arguments through tyro, and their mistakes told in one line."""

import contextlib
import difflib
import functools
import importlib.util
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from distilbert_jax.config_json import from_json, to_json
from distilbert_jax.errors import InputError

C = TypeVar("C")


def parse(kind: Callable[..., C], args: Sequence[str], *, prog: str, default: Any = None, description: str = "") -> C:
    """`tyro.cli` whose complaints come as one `InputError` instead of a box. `--help` prints and exits as usual."""
    options = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(args), prog=prog, description=description or None, **options)
    except SystemExit as exit:
        if not exit.code:
            raise
        wrong = _one_line(complaint.getvalue())
    except InputError as error:  # of a config that is a part of the command
        wrong = str(error)
    raise InputError(f"{prog}: {wrong}; --help lists what there is")


def call(command: Callable[..., None], module: str) -> None:
    """Call a command with what the command line of `python -m <module>` gives for its arguments."""

    # Parsed first and called after: while tyro reads, stderr is caught, and a command shows its progress there.
    @functools.wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    parse(later, sys.argv[1:], prog=f"python -m {module}")()


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for `one_line_errors`; rich would end the process with a status of its own


def show(view: Any) -> None:
    """Print a table, or what else rich renders."""
    _Output().print(view)


def is_config(argument: str) -> bool:
    """Whether an argument of the command line names a config file, as "file.py" or "file.py:word"."""
    return argument.endswith(".py") or ".py:" in argument


def _one_line(box: str) -> str:
    """The words of a box that tyro prints, without frame, title and general advice."""
    said = []
    for line in box.splitlines():
        words = line.strip("│╭╮╰╯─ ")
        if line.startswith(("╭", "╰")) or not words:
            continue
        if words.startswith(("For full helptext", "Argument helptext")):
            break
        said.append(words)
    return " ".join(said).replace(" Perhaps you meant:", "; perhaps you meant")


def load_config(path: str, *kinds: type) -> Any:
    """What `get_config()` of a Python file returns; of "file.py:word" what `get_config("word")` returns.

    Raises:
        InputError: no such file (the nearest of its folder is named), no `get_config` in it, an error that it raises, or
            it returns none of `kinds`, or one with a value that JSON does not know.
    """
    whole, colon, word = path.rpartition(".py:")
    path = f"{whole}.py" if colon else path
    file = Path(path)
    if not file.is_file():
        nearest = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.py")], n=1)
        raise InputError(
            f"{path}: no such config file" + (f"; did you mean {file.parent / nearest[0]}?" if nearest else "")
        )
    name = f"config_{file.stem}"  # never the name of another module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"{path}: has no get_config() that returns a config")
        config = module.get_config(*([word] if colon else []))
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # whatever a user's file raises, above all an unknown field
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        what = "a config must not end Python" if isinstance(error, SystemExit) else error
        raise InputError(f"{path}: line {lines[-1] if lines else '?'}: {what}") from error
    if not isinstance(config, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{path}: get_config() returned a {type(config).__name__}, expected {expected}")
    try:
        text = to_json(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return from_json(type(config), text, path)  # names a field whose value has another type
