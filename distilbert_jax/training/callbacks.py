"""Callbacks of a run: functions that the loop calls every so many steps; TensorBoard and Weights & Biases are two.

Imports without JAX. They see what is trained and change nothing of it: a run has the same weights with and without them.
"""

import dataclasses
import importlib.util
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distilbert_jax.base.files import read_json
from distilbert_jax.base.registry import Registry, calling_file, file_of, told
from distilbert_jax.config import RunConfig
from distilbert_jax.errors import InputError

if TYPE_CHECKING:
    from distilbert_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a callback is told.

    Attributes:
        kind: "train": a step has ended; "eval": held-out text, or the dev splits, were scored after it.
        step: from 1.
        values: the entry of metrics.jsonl: loss, its parts, learning rate, seconds, …
        last: the run's last step.
        directory: of the run.
        state: after the step, with `params` (vocabulary filled up to a multiple of 128); None unless the callback asks for it. Not
            to be kept: the next step consumes it.
    """

    kind: Literal["train", "eval"]
    step: int
    values: Mapping[str, float]
    last: bool
    directory: Path
    state: "TrainState | None" = None


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Callback:
    """function(Moment) after every `every` steps, after the last one, and after each evaluation.

    A run that goes on calls it from its step on: of steps that were taken twice it hears twice, unlike metrics.jsonl.

    Attributes:
        name: in `run.callbacks`.
        state: True: it is given the state, and is not called where there is none (after the scores of fine-tuning); the step is
            then waited for, where metrics alone come while the next one runs.
        replay: True: a run that goes on tells it first what metrics.jsonl holds.
        close: called when the run ends, or stops.
    """

    name: str
    every: int
    function: Callable[[Moment], Any]
    state: bool = False
    replay: bool = False
    close: Callable[[], Any] = _nothing

    def due(self, kind: str, step: int, *, last: bool) -> bool:
        return kind == "eval" or last or step % self.every == 0


CALLBACKS: Registry[Callback] = Registry("callback")


def register_callback(
    name: str, *, every: int, state: bool = False
) -> Callable[[Callable[[Moment], Any]], Callable[[Moment], Any]]:
    """Decorator: make a function a callback that `run.callbacks` can name. Arguments as in `Callback`.

    Raises:
        InputError: the name is taken, or `every` is not 1 or more.
    """

    def register(function: Callable[[Moment], Any]) -> Callable[[Moment], Any]:
        file = calling_file()
        if type(every) is not int or every < 1:
            raise InputError(
                f"{file}: callback {name!r}: every = {every!r}, expected 1 or more", path=file, field="every"
            )
        told_of = lambda moment: _call(function, moment, name)
        CALLBACKS.register(Callback(name, every, told_of, state), file)
        return function

    return register


def _call(function: Callable[[Moment], Any], moment: Moment, name: str) -> None:
    try:
        function(moment)
    except OSError:  # of the file system: it is told as such
        raise
    except (Exception, SystemExit) as error:
        raise told(f"callback {name!r}", error, file_of(function)) from error


def check_callbacks(run: RunConfig, *, several: bool = False) -> None:
    """Raise InputError, before any work, for a callback that is unknown or asks for what there is not, or where `wandb` is missing.
    several: processes train together."""
    for name in run.callbacks:
        if CALLBACKS.find(name, "run.callbacks").state and several:
            raise InputError(
                f"run.callbacks: {name} asks for the state, which no process has as a whole when there are several",
                field="run.callbacks",
            )
    if run.wandb and importlib.util.find_spec("wandb") is None:
        raise InputError(
            f"run.wandb = {run.wandb!r}: Weights & Biases is not installed: pip install wandb",
            field="run.wandb",
            hint="pip install wandb",
        )


def callbacks_of(run: RunConfig, directory: Path, step: int) -> list[Callback]:
    """The callbacks that a run at `step` is to have.

    Raises:
        InputError: as `check_callbacks`, or Weights & Biases refuses.
    """
    check_callbacks(run)
    own = [CALLBACKS.find(name, "run.callbacks") for name in run.callbacks]
    return [*own, _weights_and_biases(run, directory, step)] if run.wandb else own


def _weights_and_biases(run: RunConfig, directory: Path, step: int) -> Callback:
    """Metrics for the project `run.wandb`. A run that goes on keeps its identity there (<run>/wandb-id) and leaves out the steps
    that are there already."""
    import wandb  # pyright: ignore[reportMissingImports]  # optional

    file = directory / "wandb-id"
    if not (step and file.is_file()):
        file.write_text(secrets.token_hex(8), encoding="utf-8")
    try:
        there = wandb.init(
            project=run.wandb,
            name=directory.name,
            id=file.read_text(encoding="utf-8").strip(),
            resume="allow",
            reinit="create_new",  # else runs side by side would all be the first of them
            dir=str(directory),
            config=read_json(directory / "config.json", dict),
        )
    except Exception as error:  # of many kinds: no login, no network
        raise InputError(
            f"run.wandb = {run.wandb!r}: {' '.join(str(error).split())}; leave it empty to train without",
            field="run.wandb",
        ) from error
    begun = there.step

    def log(moment: Moment) -> None:
        if moment.step >= begun:
            there.log({f"{moment.kind}/{name}": value for name, value in moment.values.items()}, step=moment.step)

    return Callback("wandb", run.log_every, log, close=there.finish)
