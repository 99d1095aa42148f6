"""Fine-tuning of an encoder on one GLUE task, with one seed or several. The last step is what is scored: no best epoch, no early
stop."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilbert_jax.base.files import write_json
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.data import glue
from distilbert_jax.data.tasks import find_task
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.models import hf_format
from distilbert_jax.training import run_directory
from distilbert_jax.training.results import read_result
from distilbert_jax.training.tuning import Evaluation, Tuning, guide_of


def directory_of(config: FinetuneConfig) -> Path:
    """`run.directory`, or runs/glue/<model>/<task>-<seed> when that is empty."""
    return Path(config.run.directory or grid_directory(config) / f"{config.task}-{config.run.seed}")


def grid_directory(config: FinetuneConfig) -> Path:
    """Where the runs of one model stand side by side when nobody names a place: runs/glue/<model>."""
    return Path("runs/glue") / "-".join(
        part for part in Path(config.model).parts[-2:] if part not in ("/", "model", "..")
    )


def finetune(config: FinetuneConfig, evaluation: Evaluation) -> dict[str, Any]:
    """Fine-tune with one seed and score on every dev split, see `finetune_seeds`.

    Raises:
        DivergedError: the loss or a gradient is not finite.
    """
    (found,) = finetune_seeds([config], evaluation)
    if found["diverged"]:
        raise DivergedError(f"{directory_of(config)}: {found['diverged']}")
    return found


def finetune_seeds(
    configs: Sequence[FinetuneConfig], evaluation: Evaluation, *, together: bool = False
) -> list[dict[str, Any]]:
    """Fine-tune one task with one setting from several seeds. What they share is prepared and compiled once.

    A run that has ended is found, not repeated; one that was interrupted begins anew and gives the same bits. A run that diverges
    scores 0 and says so.

    Args:
        configs: they differ in run.seed, run.directory and model (a start of its own for each seed) alone.
        together: all seeds in one vmapped step, for accelerators; else one after the other.

    Returns:
        For each run, and as results.json in its directory, `{"task", "model", "seed", "score" (mean of the metrics on the first dev
        split), "scores" {split: {metric: value}}, "steps", "train_rows", "dev_rows" {split: n}, "cut_share",
        "padding_share", "flops" (of training), "train_seconds" (of all seeds that trained together), "together" (how many they
        were), "tested" {file of a submission: fingerprint of the test split that it predicts}, "diverged" (why, or "")}`. Logits
        and labels of each split are in predictions/.

    Raises:
        InputError: also when model, data or teacher are not those that a run began with.
    """
    configs = [dataclasses.replace(config, epochs=config.epochs or find_task(config.task).epochs) for config in configs]
    directories = [directory_of(config) for config in configs]
    found: dict[int, dict[str, Any]] = {}
    tuning = functools.cache(lambda: Tuning(configs[0], evaluation))
    inputs = list(map(_inputs, configs))  # before a directory is made
    with contextlib.ExitStack() as stack:
        for config, directory, given in zip(configs, directories, inputs, strict=True):
            # First the lock: what is refused must not write its config into another process' run.
            stack.enter_context(run_directory.alone(directory))
            run_directory.enter(config, directory)
            run_directory.check_inputs(directory, given)
        for i in range(len(configs)):
            if ended := _ended(configs[i], directories[i]):
                print(f"{directories[i]}: finished before", file=sys.stderr)
                found[i] = ended
        left = [i for i in range(len(configs)) if i not in found]
        for group in [left] if together and left else [[i] for i in left]:
            results = tuning().train([configs[i] for i in group], [directories[i] for i in group])
            for i, result in zip(group, results, strict=True):
                write_json(directories[i] / "results.json", result)
                found[i] = result
    return [found[i] for i in range(len(configs))]


def _inputs(config: FinetuneConfig) -> dict[str, str]:
    """Fingerprints of what a run trains with and is scored on."""
    if not config.model:
        raise InputError("model is not set: name an HF directory with --model")
    task = find_task(config.task)
    splits = ("train",) if config.held_out else ("train", *task.dev)
    inputs = {"model": hf_format.fingerprint(config.model)}
    if not task.trained_by:
        inputs |= {f"data ({split})": glue.fingerprint(task, split, config.data) for split in splits}
    if config.guide.teacher:
        inputs["guide.teacher"] = hf_format.fingerprint(guide_of(config))
    return inputs


def _ended(config: FinetuneConfig, directory: Path) -> dict[str, Any] | None:
    """The results of a run that has left everything that it is asked for.

    Raises:
        InputError: they are damaged, or of another run.
    """
    if not (directory / "results.json").is_file():
        return None
    found = read_result(directory / "results.json")
    if (found["task"], found["seed"]) != (config.task, config.run.seed):
        raise InputError(
            f"{directory}: its results.json is of {found['task']}, seed {found['seed']}; remove the directory to train it again"
        )
    unsaved = config.save_model and not run_directory.finished(directory)
    if found["diverged"] or not (unsaved or _unpredicted(config, directory, found)):
        return found
    lacking = "its model was not saved" if unsaved else "there are test splits to predict"
    print(f"{directory}: finished before, but {lacking}: trained once more, to the same scores", file=sys.stderr)
    return None


def _unpredicted(config: FinetuneConfig, directory: Path, found: dict[str, Any]) -> bool:
    """Whether test splits are asked for that are there now and were not predicted."""
    if not config.predict_test:
        return False
    splits = glue.test_splits(find_task(config.task), config.data)
    asked = {file: glue.fingerprint(of, split, config.data) for of, split, file in splits}
    kept = all((directory / "predictions" / f"{file}.npy").is_file() for file in asked)
    return found.get("tested") != asked or not kept
