"""Errors that a user can mend: one line that names what is wrong, its fields for programs, and the exit status."""

import contextlib
import difflib
import errno
import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Self


class InputError(ValueError):
    """A mistake in what the user gave. Its message is one line: what, where, what to do.

    The command line prints the message and exits with status 2; a notebook sees an ordinary `ValueError`. What the sentence says is
    also in fields, for programs that call this one, and for tests that do not depend on the wording.

    Args:
        message: the whole sentence.

    Attributes:
        path: the file or directory that is at fault, as text.
        field: the field of a config (`loss.chunk`), the option (`--length`), the argument or the column.
        row: the row, line or text, as the message counts them.
        hint: what to do, where it is more than a reading of the message: the nearest name, a command.
    """

    def __init__(
        self,
        message: str,
        *,
        path: object = None,
        field: str | None = None,
        row: int | None = None,
        hint: str | None = None,
    ):
        super().__init__(message)
        self.path = None if path is None else str(path)
        self.field, self.row, self.hint = field, row, hint

    def within(self, path: object) -> Self:
        """The same error, told of something inside a file: its message and `path` begin with that file."""
        return type(self)(f"{path}: {self}", path=path, field=self.field, row=self.row, hint=self.hint)


_LESS = "give it less at once (a smaller batch, shorter rows, fewer texts), or a larger machine"


class DivergedError(InputError):
    """A loss or a gradient is not finite."""


class NotFiniteError(InputError):
    """What a model computed is infinite or not a number."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop by Ctrl-C and left what the same command goes on from.

    Attributes:
        status: of the process that ends with it.
        step: of a training run, the last that was taken.
        kept: whether a checkpoint of that step was written.
    """

    status = 130

    def __init__(self, message: str = "", *, step: int | None = None, kept: bool = False):
        super().__init__(message)
        self.step, self.kept = step, kept


class Preempted(Interrupted):
    """A run was asked to stop by SIGTERM, as schedulers do before they take a machine away.

    Its status is that of a temporary failure (sysexits.h, EX_TEMPFAIL): give the same command again.
    """

    status = 75


def said(error: BaseException) -> str:
    """What an exception says, in one line; its name where that alone would be a riddle ("KeyError: 'a'")."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if not words or isinstance(error, LookupError) else words


def shortened(text: str, longest: int = 80) -> str:
    """A text that a file gives, cut to what a line has room for."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def with_article(noun: str) -> str:
    """`an int`, `a str`."""
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"


def counted(number: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """What is said of a name that is unknown: `did you mean 'x'?`, or all that are known. `cutoff`: how alike, 0 … 1."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


def few(items: Sequence[str], separator: str = "; ", shown: int = 6) -> str:
    """A list for a line of text: the first `shown` of the items, and how many more there are."""
    left = len(items) - shown
    return separator.join(items[:shown]) + (f" … and {left:,} more" if left > 0 else "")


@functools.cache
def warn_once(line: str) -> None:
    """Print a line on stderr, unless this process has told it before."""
    print(line, file=sys.stderr)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the errors that a user can cause or mend into one line on stderr and an exit status.

    `InputError` exits with 2, Ctrl-C with 130, SIGTERM to a training run with 75, an error of the file system (a full disk, a
    missing permission, a standard output that was closed before something was said there), a memory that is full and a library that
    gave up with 1, a reader that closed the pipe with 141. Anything else is a defect of this package and keeps its traceback.
    """
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):  # where a terminal or a pipe takes ASCII or Latin-1 only
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        if sys.stdout is not None:  # closed by `>&-`
            sys.stdout.flush()  # here, where a closed pipe is expected
        if isinstance(sys.stdout, _Nowhere) and sys.stdout.written:
            _leave("standard output is closed, and what was said there is lost", 1)
    except InputError as error:
        _leave(str(error), 2)
    except KeyboardInterrupt as error:
        if isinstance(error, Preempted):  # SIGTERM that comes again must not change the status of what is finished
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # A second Ctrl-C ends what libraries do at exit, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _leave(
            f"interrupted: {error}" if str(error) else "interrupted; the same command goes on from what is finished",
            getattr(error, "status", Interrupted.status),
        )
    except BrokenPipeError:
        _drop_output()
        sys.exit(141)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if not where and _output_fails_with(error):
            where = " (standard output)"
            _drop_output()
        if not where and _is_nowhere():
            where = " (the current directory, which has been removed; cd to one that is there)"
        mend = {errno.ENOSPC: "free some space", errno.EFBIG: "let files be larger (ulimit -f)"}.get(error.errno or 0)
        advice = f": {mend} and run the same command again; finished work is kept" if mend else ""
        _leave(f"{error.strerror or error}{where}{advice}", 1)
    except MemoryError as error:
        _leave(f"out of memory{f' ({error})' if str(error) else ''}: {_LESS}", 1)
    except BaseException as error:
        if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
            _leave(f"{shortened(said(error), 200)}: {_LESS}", 1)
        if any(
            frame.name == "backends" and "xla_bridge" in frame.filename
            for frame in traceback.extract_tb(error.__traceback__)
        ):
            asked = os.environ.get("JAX_PLATFORMS", "")
            why = f" ({shortened(str(error), 200)})" if str(error) else ""
            _leave(f"JAX has no device here{f' that JAX_PLATFORMS={asked} asks for' if asked else ''}{why}", 1)
        if type(error).__name__ == "PanicException":  # of a library in Rust; its class can be named in no other way
            _leave(f"a library has given up: {shortened(said(error), 200)}", 1)
        raise


def _open_what_is_closed() -> None:
    """Let what is closed by `2>&-` or `>&-` lead to nowhere. Else `print` takes standard output in the place of a standard error
    that is None, and the next file that is opened takes the number of the closed one, for every library that writes there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        sys.stdout = _Nowhere(os.fdopen(1, "wb", closefd=False))


class _Nowhere(io.TextIOWrapper):
    """What stands for a closed standard output, and knows whether something was written."""

    written = False

    def write(self, text: str, /) -> int:
        self.written = self.written or bool(text)
        return super().write(text)


def _output_fails_with(error: OSError) -> bool:
    """Whether standard output still has something to write, and fails with the same error."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as again:
        return again.errno == error.errno
    return False


def _is_nowhere() -> bool:
    """Whether the process' current directory has been removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _drop_output() -> None:
    """Let what standard output still has to write go nowhere: the interpreter tries once more while it exits."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(message: str, status: int) -> None:
    print("error:", *message.split(), file=sys.stderr)
    sys.exit(status)
