"""Progress of work that takes more than two seconds: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LOG_SECONDS = 10.0


@contextlib.contextmanager
def progress(description: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """Show on stderr how far the work of the `with` block is; the value is a function that takes what is done of `total`.

    Where the total is not known (None) there is no bar: what comes one by one is also printed one by one, and a bar would take
    stdout for itself.
    """
    console = Console(stderr=True)
    if console.is_terminal and total is not None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda done: bar.update(task, completed=done)
        return

    start = last = time.monotonic()

    def log(done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LOG_SECONDS:
            last = now
            share = f"{done:,.0f}" if total is None else f"{done / total:.0%}"
            print(f"{description}: {share} after {now - start:.0f} s", file=sys.stderr, flush=True)

    yield log
