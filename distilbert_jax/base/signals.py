"""Signals: how a process leaves at Ctrl-C and SIGTERM outside of the training loop."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from distilbert_jax.errors import Interrupted, Preempted


@contextlib.contextmanager
def leaving_at_ctrl_c() -> Iterator[None]:
    """In the `with` block Ctrl-C ends the process at once and without a word, with the status that a shell shows as 130.

    For imports: nothing has begun, and an extension module may swallow the exception that Python would raise, or crash on it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def leaving_when_asked(*, together: bool = False) -> Iterator[None]:
    """In the `with` block Ctrl-C and SIGTERM end the process with one line and the status of `Interrupted` or `Preempted`.

    For commands that go on from what is finished, around what takes no signals itself (a training loop does): reading, packing,
    compiling, writing a model. An exception would not do: raised inside a callback of an extension module it is lost. Where
    something else already listens (a notebook to Ctrl-C), it stays so.

    Args:
        together: there are several processes: SIGTERM is left to JAX's preemption service, whose handler Python does not know of.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        asked = Preempted if number == signal.SIGTERM else Interrupted
        sys.stdout.flush()
        os.write(2, b"error: interrupted; the same command goes on from what is finished\n")
        for path in _scratch:
            shutil.rmtree(path, ignore_errors=True)
        os._exit(asked.status)

    theirs = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if together:
        del theirs[signal.SIGTERM]
    taken = [number for number, handler in theirs.items() if signal.getsignal(number) is handler]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, theirs[number])


_scratch: set[str] = set()  # folders that go with the process
