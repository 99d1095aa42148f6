"""Child processes that need not import JAX: each is forked from a server that has imported it, and has started nothing of it.

A process that trains for a second spends three on imports. What is tested of it (its signals, its status, what it leaves on disk,
its own backend and environment) is that of any other process; how a command is started, tests of the command line try as users do.
"""

import atexit
import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from distilbert_jax.cli import main
from tests import compiling

ROOT = Path(__file__).parents[1]
# What a run imports, but for huggingface_hub: it reads its settings once, and tests give children other ones.
IMPORTED = [
    "train",
    "tests.runs",
    "tests.training.test_step",
    "distilbert_jax.pretraining.run",
    "distilbert_jax.cli.main",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(IMPORTED)


class Child:
    """A process that calls a function of a module, with the names that `subprocess.Popen` has for the same things.

    Args:
        function: is given the arguments; both are pickled. What it raises ends the process as any exception does.
        environment: all variables; None: those of this process. JAX has read its `JAX_…` options before, when it was imported.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None):
        self._said = tempfile.TemporaryDirectory()
        files = [f"{self._said.name}/{name}" for name in ("out", "err")]
        for file in files:
            Path(file).touch()
        given = dict(os.environ if environment is None else environment)
        self._process = _CONTEXT.Process(target=_call, args=(function, arguments, given, *files))
        with contextlib.chdir(ROOT):  # whence the server imports, where it is not there yet
            self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its status, less than 0 of a signal; None while it runs."""
        return self._process.exitcode

    poll = lambda self: self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """Its stdout and stderr, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """Its stdout and stderr so far."""
        out, err = (Path(self._said.name, name).read_text() for name in ("out", "err"))
        return out, err

    def end(self) -> None:
        """Kill it, if it runs, and forget what it has said."""
        self._process.kill()
        self._process.join()
        self._said.cleanup()


@contextlib.contextmanager
def together(processes: Iterable[Child]) -> Iterator[list[Child]]:
    """Start these, and end those that run at the end of the `with` block."""
    started: list[Child] = []
    try:
        started.extend(processes)
        yield started
    finally:
        for child in started:
            child.end()


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes that call functions of modules, from the same server."""
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()
    return ProcessPoolExecutor(workers, mp_context=_CONTEXT)


def run(
    function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """`subprocess.run` of a `Child`."""
    with together([Child(function, *arguments, environment=environment)]) as (child,):
        out, err = child.communicate()
        return subprocess.CompletedProcess([function.__qualname__, *arguments], child.returncode or 0, out, err)


def command(*arguments: str) -> subprocess.CompletedProcess:
    """`distilbert-jax` with these arguments."""
    return run(_entry, arguments)


def _entry(arguments: tuple[str, ...]) -> None:
    sys.argv = ["distilbert-jax", *arguments]
    main.entry()


def _call(function: Callable[..., Any], arguments: tuple, environment: dict[str, str], out: str, err: str) -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as in conftest
    compiling.quick_cache()
    compiling.few_devices()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    try:
        function(*arguments)
    finally:  # as at the end of Python, which multiprocessing leaves by os._exit
        threading._shutdown()
        sys.stdout.flush()
        atexit._run_exitfuncs()
