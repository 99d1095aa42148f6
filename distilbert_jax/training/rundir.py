"""A run's directory: its config, and whether the command that is given again goes on, has ended, or is another run.

config.json · metrics.jsonl · tensorboard/ · checkpoints/ · model/ (the HF directory, written last).
"""

from pathlib import Path
from typing import Any

from distilbert_jax.config import differences, from_json, to_json
from distilbert_jax.errors import InputError

# Fields that do not change what is computed: they may differ when a run goes on.
FREE = ("run.log_every", "run.eval_every", "run.save_every", "run.keep", "mesh.")


def enter(config: Any, directory: Path) -> Path:
    """Make `directory` the run's, or check that it already is; returns it.

    Raises:
        InputError: the directory holds a run of another config; the fields that differ are named.
    """
    recorded = directory / "config.json"
    if recorded.is_file():
        old = from_json(type(config), recorded.read_text(encoding="utf-8"), str(recorded))
        changed = [line for line in differences(old, config) if not line.startswith(FREE)]
        if changed:
            raise InputError(
                f"{directory}: holds a run of another config ({'; '.join(changed)}): "
                "choose another --run.directory, or remove that one"
            )
    directory.mkdir(parents=True, exist_ok=True)
    partial = recorded.with_suffix(".partial")
    partial.write_text(to_json(config), encoding="utf-8")
    partial.replace(recorded)
    return directory


def finished(directory: Path) -> bool:
    """Whether the run's model is there; it is written last."""
    return (directory / "model" / "model.safetensors").is_file()
