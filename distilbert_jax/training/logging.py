"""What a run reports: metrics.jsonl (every step exactly once), TensorBoard event files, and progress on the terminal.

metrics.jsonl is the record. A run that goes on from step s cuts it back to s and writes the event files anew from it, so
that a step that was taken twice is shown once.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at import
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import RecordWriter

from distilbert_jax.base.files import open_file, parse_json
from distilbert_jax.errors import InputError
from distilbert_jax.training.callbacks import Callback, Moment
from distilbert_jax.training.distributed import is_main_process

if TYPE_CHECKING:
    from distilbert_jax.training.step import TrainState

Kind = Literal["train", "eval"]

# What a step took: the only values that differ between two runs of the same config.
MEASURED = ("seconds", "tokens_per_second", "examples_per_second", "mfu", "memory_bytes", "together")


def short_names(metrics: Iterable[str]) -> dict[str, str]:
    """The loss and its parts among the metrics, as the terminal calls them: `loss`, then `loss_ce` as `ce`, …"""
    parts = (name for name in metrics if name.startswith("loss_"))
    return {"loss": "loss", **{name: name.removeprefix("loss_") for name in parts}}


@dataclass(frozen=True)
class Entry:
    """One line of metrics.jsonl: {"kind": "train" or "eval", "step": n, name: value, …}.

    values: loss, its parts, counts, learning rate, seconds, …; after an evaluation what it found.
    """

    kind: Kind
    step: int
    values: Mapping[str, float]

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """Raises ValueError for what is no entry."""
        match line:
            case {"kind": ("train" | "eval") as kind, "step": int() as step, **values}:
                if all(isinstance(value, int | float) for value in values.values()):
                    return cls(kind, step, values)
        raise ValueError

    def line(self) -> str:
        return json.dumps({"kind": self.kind, "step": self.step, **self.values}) + "\n"


def read_metrics(path: Path) -> list[Entry]:
    """The whole lines of a metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        InputError: a line is damaged.
    """
    if not path.is_file():
        return []
    with open_file(path) as file:
        lines = file.readlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            try:
                entries.append(Entry.of(parse_json(line, dict, str(path), row=number, finite=False)))
            except ValueError:  # an InputError is one
                raise InputError(
                    f"{path}: line {number} is damaged; remove the line, or the run's directory", path=path, row=number
                ) from None
    return entries


class RunLog:
    """The logs of one run from `step` on.

    Args:
        every: steps from one that TensorBoard shows to the next.
        callbacks: told of each entry that is due for them, after it is written; closed with the log.
        known: the `digest` that the log had after `step`, as the checkpoint of that step says; "": nobody knows.

    Raises:
        InputError: what is there is not the log of these steps of this run.
    """

    def __init__(self, directory: Path, step: int, every: int, callbacks: Sequence[Callback] = (), *, known: str = ""):
        self.path, self._directory = directory / "metrics.jsonl", directory
        kept = [entry for entry in read_metrics(self.path) if entry.step <= step]
        taken = Counter(entry.step for entry in kept if entry.kind == "train")
        wrong = ""
        if missing := step - sum(number > 0 for number in taken):
            wrong = f"{missing} of the first {step} steps are missing, which the checkpoint has seen"
        elif extra := [number for number, times in taken.items() if times > 1 or number < 1]:
            wrong = f"step {extra[0]} " + ("is there more than once" if extra[0] > 0 else "is none of a run")
        elif bare := [entry.step for entry in kept if entry.kind == "train" and "loss" not in entry.values]:
            wrong = f"step {bare[0]} is without its loss"
        lines = "".join(entry.line() for entry in kept)
        self._sha256 = hashlib.sha256(lines.encode())
        if not wrong and known and known != self.digest:
            wrong = f"not the log that the checkpoint of step {step} knows: of another run, or changed since"
        if wrong:
            raise InputError(
                f"{self.path}: {wrong}; put the file back, or remove the run's directory to begin anew", path=self.path
            )
        partial = self.path.with_suffix(".partial")
        partial.write_text(lines, encoding="utf-8")
        partial.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._callbacks = [tensorboard(directory / "tensorboard", every), *callbacks]
        for entry in kept:
            self._tell([one for one in self._callbacks if one.replay], entry)

    @property
    def digest(self) -> str:
        """SHA-256 of all lines so far, in hex."""
        return self._sha256.hexdigest()

    def wants_state(self, step: int, *, last: bool) -> bool:
        """Whether a callback asks for the state after this step."""
        return any(one.state and one.due("train", step, last=last) for one in self._callbacks)

    def write(
        self,
        kind: Kind,
        step: int,
        values: dict[str, float],
        *,
        last: bool = False,
        state: "Callable[[], TrainState] | None" = None,
    ) -> None:
        """Record one entry, which has reached the operating system when this returns, and tell the callbacks.

        Args:
            last: the run's last step.
            state: gives the state after the step, to callbacks that ask for it.
        """
        entry = Entry(kind, step, values)
        line = entry.line()
        self._file.write(line)
        self._sha256.update(line.encode())
        self._tell(self._callbacks, entry, last=last, state=state)

    def _tell(
        self,
        callbacks: Sequence[Callback],
        entry: Entry,
        *,
        last: bool = False,
        state: "Callable[[], TrainState] | None" = None,
    ) -> None:
        for one in callbacks:
            if one.due(entry.kind, entry.step, last=last) and (state or not one.state):
                given = state() if one.state and state else None
                one.function(Moment(entry.kind, entry.step, entry.values, last, self._directory, given))

    def close(self) -> None:
        """Close the files and the callbacks. An error here follows one of `write`, or concerns events that are written anew."""
        for one in (self._file, *self._callbacks):
            with contextlib.suppress(OSError):
                one.close()


def tensorboard(directory: Path, every: int) -> Callback:
    """Event files for TensorBoard, begun anew: every so many steps, and every evaluation."""
    shutil.rmtree(directory, ignore_errors=True)
    events = _Events(directory)

    def show(moment: Moment) -> None:
        if moment.kind == "eval" or moment.step % every == 0:
            events.write(moment.step, {f"{moment.kind}/{name}": value for name, value in moment.values.items()})

    return Callback("tensorboard", every, show, replay=True, close=events.close)


class _Events:
    """A TensorBoard event file, written in the thread that asks: `SummaryWriter` has a thread of its own, whose errors (a full
    disk) are tracebacks that nobody can catch."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True)
        self._file = RecordWriter(str(directory / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"))
        self._file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def write(self, step: int, values: dict[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._file.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())

    def close(self) -> None:
        self._file.close()


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """The reader of stderr has left: training goes on without a word. rich would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class StepProgress:
    """A bar on a terminal, elsewhere a line every `every` steps: loss parts, tokens (or examples) a second, time left."""

    def __init__(self, title: str, steps: int, start: int, every: int, unit: str = "tokens"):
        self._console = _Terminal(
            stderr=True, quiet=not is_main_process(), markup=False
        )  # a run's name may have brackets
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal or self._console.quiet,
        )
        self._task = self._bar.add_task(title, total=steps, completed=start, text="")
        self._title, self._steps, self._every, self._unit = title, steps, every, unit
        self._done, self._seconds, self._begun, self._start = 0.0, 0.0, None, start

    def __enter__(self) -> "StepProgress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def advance(self, step: int, metrics: dict[str, float], done: float, seconds: float) -> None:
        """Step number `step` (from 1) ended, with `done` tokens or examples in it; `seconds` is what it alone took."""
        now = time.perf_counter()
        if self._begun is None:  # the first step holds the compilation
            self._begun, self._start = now, step
        else:
            self._done, self._seconds = self._done + done, self._seconds + seconds
        if step % self._every == 0 or step == self._steps:
            parts = "  ".join(f"{short} {metrics[name]:.3f}" for name, short in short_names(metrics).items())
            # The first step alone, which compiles, says nothing of the speed.
            text = parts + (f"  {self._done / self._seconds:,.0f} {self._unit}/s" if self._seconds else "")
            self._done = self._seconds = 0.0
            self._bar.update(self._task, completed=step, text=text)
            if self._bar.disable:
                left = (now - self._begun) / max(step - self._start, 1) * (self._steps - step)
                self._console.print(f"{self._title} {step}/{self._steps}  {text}  {left:.0f} s left", soft_wrap=True)
        else:
            self._bar.update(self._task, completed=step)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, soft_wrap=True, highlight=False)
