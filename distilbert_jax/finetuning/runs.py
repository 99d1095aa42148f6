"""Fine-tuning runs of one task, with one seed or several. The last step is what is scored, unless `select` asks for
the epoch that is best on a part of train; dev chooses nothing."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from distilbert_jax.base.config_io import to_json, write_config
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError
from distilbert_jax.finetuning import identity
from distilbert_jax.finetuning.model_card import write_run_card
from distilbert_jax.finetuning.results import RunResult
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.finetuning.tuning import Tuning
from distilbert_jax.training import run_directory
from distilbert_jax.training.callbacks import check_callbacks


def directory_of(config: FinetuneConfig) -> Path:
    """`run.directory`, or runs/glue/<model>/<task>-<seed> when that is empty."""
    return Path(config.run.directory or sweep_directory(config) / f"{config.task}-{config.run.seed}")


def sweep_directory(config: FinetuneConfig) -> Path:
    """Where the runs of one model stand side by side when nobody names a place: runs/glue/<model>."""
    return Path("runs/glue") / "-".join(
        part for part in Path(config.model).parts[-2:] if part not in ("/", "model", "..")
    )


def finetune(config: FinetuneConfig) -> RunResult:
    """Fine-tune with one seed and score on every dev split, see `finetune_seeds`.

    Raises:
        DivergedError: the loss or a gradient is not finite.
    """
    (result,) = finetune_seeds([config])
    if result.diverged:
        raise DivergedError(f"{directory_of(config)}: {result.diverged}", path=directory_of(config))
    return result


def finetune_seeds(configs: Sequence[FinetuneConfig], *, together: bool = False) -> list[RunResult]:
    """Fine-tune one task with one setting from several seeds. What they share is prepared and compiled once.

    A run that has ended is found, not repeated; one that was interrupted begins anew and gives the same bits. A run that diverges
    scores 0 and says so.

    Args:
        configs: they differ in run.seed, run.directory and model (a start of its own for each seed) alone.
        together: all seeds in one vmapped step, for accelerators; else one after the other.

    Returns:
        What each run came to; it also stands in its directory as results.json, with logits and labels of each split in
        predictions/.

    Raises:
        InputError: also when model, data or teacher are not those that a run began with.
    """
    configs = [dataclasses.replace(config, epochs=config.epochs or find_task(config.task).epochs) for config in configs]
    check_callbacks(configs[0].run)
    directories = [directory_of(config) for config in configs]
    results: dict[int, RunResult] = {}
    tuning = functools.cache(lambda: Tuning(configs[0]))
    inputs = list(map(identity.inputs_of, configs))  # before a directory is made
    with contextlib.ExitStack() as stack:
        for config, directory, given in zip(configs, directories, inputs, strict=True):
            # First the lock: what is refused must not write its config into another process' run.
            stack.enter_context(run_directory.alone(directory))
            identity.enter(config, directory, given)
        for i in range(len(configs)):
            if ended := identity.ended(configs[i], directories[i]):
                print(f"{directories[i]}: finished before", file=sys.stderr)
                results[i] = ended
        left = [i for i in range(len(configs)) if i not in results]
        for config, directory in zip(configs, directories, strict=True) if left else ():
            identity.check_batches(directory, ended=True)
            run_directory.check_dropout(directory, identity.bits_of_dropout(config))
        for group in [left] if together and left else [[i] for i in left]:
            trained = tuning().train([configs[i] for i in group], [directories[i] for i in group])
            for i, result in zip(group, trained, strict=True):
                places = {name: directories[i] / name for name in ("predictions", "model")}
                write_run_card(configs[i], directories[i], {result.seed: result})
                file = directories[i] / "results.json"
                file.unlink(missing_ok=True)  # of the training before, which the new record is not of
                run_directory.record_outputs(directories[i], places, {file.name: to_json(result).encode()})
                write_config(result, file)
                results[i] = result
        by_seed = {result.seed: result for result in results.values()}
        for config, directory in zip(configs, directories, strict=True):
            write_run_card(config, directory, by_seed, anew=len(configs) > 1)
    return [results[i] for i in range(len(configs))]
