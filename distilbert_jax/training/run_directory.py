"""Run directory: its config, and whether the command that is given again goes on, has ended, or is another run.

config.json · inputs.json · metrics.jsonl · tensorboard/ · checkpoints/ · model/ (the HF directory, written last).
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilbert_jax.base.config_io import differences, read_config, to_json
from distilbert_jax.base.files import atomic_file, read_json, write_json
from distilbert_jax.errors import InputError

# Fields that do not change what is computed: they may differ when a run goes on. With a dot at the end: all below.
FREE = (
    "run.directory",
    "run.log_every",
    "run.eval_every",
    "run.save_every",
    "run.keep",
    "run.callbacks",
    "run.wandb",
    "mesh.",
    "data",  # where a task's files lie; inputs.json says what is in them
    "save_model",
    "predict_test",
)
BEGUN = ("metrics.jsonl", "checkpoints", "model", "results.json")  # one of them is there: the run has begun

FOLDERS = ("tensorboard", "checkpoints", "model", "profile")


def enter(config: Any, directory: Path) -> Path:
    """Make `directory` the run's, or check that it already is; returns it.

    A run that was refused before its first step has not begun: its config binds nobody.

    Raises:
        InputError: the directory holds a run of another config (the fields that differ are named), or something that is no run.
    """
    recorded = directory / "config.json"
    _check_place(directory)
    if recorded.is_file() and _has_begun(directory):
        old = read_config(type(config), recorded)
        changed = [difference for difference in differences(old, config) if not _is_free(difference.field)]
        if changed:
            raise InputError(
                f"{directory}: holds a run of another config ({'; '.join(map(str, changed))}): "
                "choose another --run.directory, or remove that one",
                path=directory,
                field=changed[0].field,
            )
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(recorded) as file:
        file.write(to_json(config).encode())
    return directory


def _is_free(field: str) -> bool:
    return any(field.startswith(free) if free.endswith(".") else field == free for free in FREE)


def _has_begun(directory: Path) -> bool:
    return any((directory / name).exists() for name in BEGUN)


def _check_place(directory: Path) -> None:
    """Raise InputError unless a run may live in `directory`."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file; choose another --run.directory", path=directory)
    if directory.is_dir() and not _is_runs(directory):
        raise InputError(f"{directory}: is not empty and holds no run; choose another --run.directory", path=directory)
    for name in FOLDERS:
        if (directory / name).exists() and not (directory / name).is_dir():
            raise InputError(
                f"{directory / name}: is a file, and a run has a directory there; put it back, or remove the file",
                path=directory / name,
            )


def _is_runs(directory: Path) -> bool:
    """Whether a directory is empty, but for traces of what ended early, or has the config of a run."""
    if (directory / "config.json").is_file():
        return "optimizer" in read_json(directory / "config.json", dict)
    return all(path.name.startswith(".") for path in directory.iterdir())


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory, which is made where it is not there, during the `with` block.

    Raises:
        InputError: another process is in it, or it holds something that is no run.
    """
    _check_place(directory)
    with locked(directory):
        yield


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """`alone` without a look at what the directory holds."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{directory}: another process trains here; wait for it, or choose another --run.directory",
                path=directory,
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def check_inputs(directory: Path, inputs: dict[str, str]) -> None:
    """Record what the run reads (name → fingerprint), or check that it is what the run began with.

    Raises:
        InputError: an input has changed since the run began.
    """
    recorded, before = directory / "inputs.json", {}
    if recorded.is_file() and _has_begun(directory):
        try:
            before = read_json(recorded, dict)
        except InputError as error:
            hint = "remove the run's directory to begin anew"
            raise InputError(f"{error}; {hint}", path=recorded, hint=hint) from None
        changed = [name for name in inputs if before.get(name) != inputs[name]]
        if changed:
            raise InputError(
                f"{directory}: {', '.join(changed)} changed since this run began; remove the directory to begin anew",
                path=directory,
            )
    write_json(recorded, before | inputs)


def finished(directory: Path) -> bool:
    """Whether the run's model is there; it is written last."""
    return (directory / "model" / "model.safetensors").is_file()
