"""A run's directory: its config, and whether the command that is given again goes on, has ended, or is another run.

config.json · inputs.json · metrics.jsonl · tensorboard/ · checkpoints/ · model/ (the HF directory, written last).
"""

from pathlib import Path
from typing import Any

from distilbert_jax.config import differences, from_json, to_json
from distilbert_jax.data.files import atomic_file, read_json, write_json
from distilbert_jax.errors import InputError

# Fields that do not change what is computed: they may differ when a run goes on.
FREE = ("run.directory", "run.log_every", "run.eval_every", "run.save_every", "run.keep", "mesh.")
BEGUN = ("metrics.jsonl", "checkpoints", "model", "results.json")  # one of them is there: the run has begun


def enter(config: Any, directory: Path) -> Path:
    """Make `directory` the run's, or check that it already is; returns it.

    A run that was refused before its first step has not begun: its config binds nobody.

    Raises:
        InputError: the directory holds a run of another config; the fields that differ are named.
    """
    recorded = directory / "config.json"
    if recorded.is_file() and any((directory / name).exists() for name in BEGUN):
        old = from_json(type(config), recorded.read_text(encoding="utf-8"), str(recorded))
        changed = [line for line in differences(old, config) if not line.startswith(FREE)]
        if changed:
            raise InputError(
                f"{directory}: holds a run of another config ({'; '.join(changed)}): "
                "choose another --run.directory, or remove that one"
            )
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(recorded) as file:
        file.write(to_json(config).encode())
    return directory


def check_inputs(directory: Path, inputs: dict[str, str]) -> None:
    """Record what the run reads (name → fingerprint), or check that it is what the run began with.

    Raises:
        InputError: an input has changed since the run began.
    """
    recorded = directory / "inputs.json"
    if recorded.is_file():
        before = read_json(recorded)
        changed = [name for name in inputs if before.get(name) != inputs[name]]
        if changed:
            raise InputError(
                f"{directory}: {', '.join(changed)} changed since this run began; remove the directory to begin anew"
            )
    write_json(recorded, inputs)


def finished(directory: Path) -> bool:
    """Whether the run's model is there; it is written last."""
    return (directory / "model" / "model.safetensors").is_file()
