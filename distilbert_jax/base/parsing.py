"""Command-line arguments through tyro, and their mistakes told in one line."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console

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
