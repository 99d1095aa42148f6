"""Checkpoints of fine-tuning: runs, alone or side by side, at the step that they go on from, with their logs and best epochs.

They are for runs that take long: none is written after the last step, and none is left of a run that has its results.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distilbert_jax.base.files import parse_json
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.finetuning import identity
from distilbert_jax.training import distributed, run_directory
from distilbert_jax.training.callbacks import callbacks_of
from distilbert_jax.training.checkpoint import Checkpoints, common_step
from distilbert_jax.training.logging import RunLog, read_metrics
from distilbert_jax.training.projections import of_model
from distilbert_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Best:
    """The epoch that is best so far on the selection split: its score, and the parameters at its end, on the host."""

    score: float
    params: Mapping[str, np.ndarray]


class Run:
    """A run of fine-tuning that goes on from the step `begun`; in `fit`, what its state is saved with.

    Args:
        steps: all that the run takes.
        place: among those that train beside it.
        diverged: of these {place: why}, to which `fit` adds.
        last: later checkpoints are given up; None: none is.

    Attributes:
        begun: 0 of a run that begins.
        seconds: that the steps before have taken.
        log: None in processes beside the main one.
        best: None where no epoch has ended, or none is selected.

    Raises:
        InputError: its checkpoints or its log are damaged, or of another run.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        directory: Path,
        steps: int,
        place: int,
        diverged: dict[int, str],
        last: int | None = None,
    ):
        self.config, self.directory = config, directory
        self.log: RunLog | None = None
        self.best: Best | None = None
        self.seconds = 0.0
        self._steps, self._place, self._diverged = steps, place, diverged
        # Of two checkpoints each, one is of the same step in all that train beside each other, whenever they are killed.
        self._keep = max(config.run.keep, 1 if last is None else 2)
        self._best_score: float | None = None
        self._checkpoints = self._opened() if _folder(directory).is_dir() else None
        self.begun = (self._checkpoints.newest(last) if self._checkpoints else None) or 0
        if self._checkpoints and (note := self._checkpoints.note(self.begun)):
            values = parse_json(note, dict, f"{_folder(directory) / str(self.begun)}", finite=False)
            self._best_score = values["best"]
            if values["diverged"]:
                diverged[place] = values["diverged"]
        distributed.on_main_process(self._open_log)

    def _opened(self) -> Checkpoints:
        return Checkpoints(_folder(self.directory), self._keep, run=run_directory.identity(self.directory))

    def _open_log(self) -> None:
        run, entries = self.config.run, read_metrics(self.directory / run_directory.METRICS)
        taken = [one for one in entries if one.kind == "train" and one.step <= self.begun]
        self.seconds = sum(one.values.get("seconds", 0.0) for one in taken)
        # Steps after which a run has diverged are not logged.
        logged = max((one.step for one in taken), default=0) if self._place in self._diverged else self.begun
        known = self._checkpoints.log_digest(self.begun) if self._checkpoints else ""
        callbacks = callbacks_of(run, self.directory, self.begun)
        self.log = RunLog(self.directory, logged, run.log_every, callbacks, known=known)

    def restored(self, abstract: TrainState) -> TrainState:
        """The state after the step `begun`, which is not 0, placed as `abstract` says."""
        assert self._checkpoints is not None
        if self._best_score is None:
            return self._checkpoints.read(self.begun, abstract)
        like = {name: np.empty(value.shape, value.dtype) for name, value in of_model(abstract.params).items()}
        values = self._checkpoints.read(self.begun, {"state": abstract, "best": like})
        self.best = Best(self._best_score, values["best"])
        return values["state"]

    def keep(self, score: float, params: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Take an epoch that ends for the best one, unless one before it has its score."""
        if self.best is None or score > self.best.score:
            self.best = Best(score, params())

    def save(self, step: int, state: Any, log: str = "") -> None:
        """`Checkpoints.save` of the state and the best epoch; after the last step nothing."""
        if step == self._steps:
            return
        if self._checkpoints is None:
            self._checkpoints = self._opened()
        note = {"diverged": self._diverged.get(self._place, ""), "best": self.best and self.best.score}
        whole = {"state": state, "best": dict(self.best.params)} if self.best else state
        self._checkpoints.save(step, whole, log, json.dumps(note))

    def wait(self) -> None:
        if self._checkpoints:
            self._checkpoints.wait()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log what was scored after a step."""
        if self.log:
            self.log.write("eval", step, values)

    def close(self) -> None:
        for one in (self._checkpoints, self.log):
            if one:
                one.close()


@contextlib.contextmanager
def goes_on(
    configs: Sequence[FinetuneConfig], directories: Sequence[Path], steps: int, diverged: dict[int, str]
) -> Iterator[list[Run]]:
    """Runs that train beside each other, at the last step of which all of them have a whole checkpoint.

    Args:
        steps, diverged: as of `Run`; takes what is known of those that have diverged before.
    """
    with contextlib.ExitStack() as stack:
        distributed.on_main_process(lambda: _begin(directories, [one.run.seed for one in configs]))
        last = _last_of_all(directories) if len(directories) > 1 else None
        runs: list[Run] = []
        for place, given in enumerate(zip(configs, directories, strict=True)):
            runs.append(Run(*given, steps, place, diverged, last))
            stack.callback(runs[-1].close)
        yield runs


def _last_of_all(directories: Sequence[Path]) -> int:
    """The step that runs beside each other go on from; those that have to go back for that are told of."""
    last = common_step([_folder(one) for one in directories])
    for directory in directories:
        if any(path.name.isdecimal() and int(path.name) > last for path in _folder(directory).glob("*")):
            print(
                f"{directory}: goes back to step {last}, of which all of these have a whole checkpoint", file=sys.stderr
            )
    return last


def _begin(directories: Sequence[Path], seeds: Sequence[int]) -> None:
    """Note which seeds train side by side. Results of a training before go: interrupted, a run that is trained once more is as any
    other."""
    for directory in directories:
        (directory / "results.json").unlink(missing_ok=True)
        (directory / run_directory.OUTPUTS).unlink(missing_ok=True)
        identity.record_beside(directory, seeds)


def remove(directory: Path) -> None:
    """Remove the checkpoints of a run that has its results."""
    shutil.rmtree(_folder(directory), ignore_errors=True)


def _folder(directory: Path) -> Path:
    return directory / "checkpoints"
