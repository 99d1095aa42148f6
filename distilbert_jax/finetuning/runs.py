"""Fine-tuning runs of one task, with one seed or several. The last step is what is scored, unless `select` asks for
the epoch that is best on a part of train; dev chooses nothing."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distilbert_jax.base.config_io import to_json, write_config
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError
from distilbert_jax.finetuning import checkpoints, identity
from distilbert_jax.finetuning.model_card import write_run_card
from distilbert_jax.finetuning.results import RunResult
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.finetuning.tuning import Tuning
from distilbert_jax.training import distributed, run_directory
from distilbert_jax.training.callbacks import check_callbacks
from distilbert_jax.training.jax_options import check_jax_options


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

    A run that has ended is found, not repeated; one that was interrupted goes on from its last checkpoint and gives the same bits.
    A run that diverges scores 0 and says so. Several processes train as one, and all get the results.

    Args:
        configs: they differ in run.seed, run.directory and model (a start of its own for each seed) alone.
        together: all seeds in one vmapped step, for accelerators; else one after the other.

    Returns:
        What each run came to; it also stands in its directory as results.json, with logits and labels of each split in
        predictions/.

    Raises:
        InputError: also when model, data or teacher are not those that a run began with.
        Interrupted, Preempted: after Ctrl-C, after SIGTERM; the same call goes on.
    """
    configs = [dataclasses.replace(config, epochs=config.epochs or find_task(config.task).epochs) for config in configs]
    check_jax_options([config.run for config in configs])
    check_callbacks(configs[0].run, several=distributed.several())
    directories = [directory_of(config) for config in configs]
    results: dict[int, RunResult] = {}
    tuning = functools.cache(lambda: distributed.on_all_processes(lambda: Tuning(configs[0])))
    inputs = distributed.on_all_processes(lambda: list(map(identity.inputs_of, configs)))  # before a directory is made
    distributed.check_same("the config", "".join(map(to_json, configs)))
    distributed.check_same("what is read", repr(inputs))
    with contextlib.ExitStack() as stack:
        for given in zip(configs, directories, inputs, strict=True):
            distributed.on_main_process(functools.partial(_enter, *given, stack))
        for i in range(len(configs)):
            if ended := distributed.on_all_processes(functools.partial(identity.ended, configs[i], directories[i])):
                results[i] = ended
        left = [i for i in range(len(configs)) if i not in results]
        for config, directory in zip(configs, directories, strict=True) if left else ():
            identity.check_batches(directory, ended=True)
            run_directory.check_dropout(directory, identity.bits_of_dropout(config))
        groups = _groups(configs, directories, results, together=together)
        for i in sorted(results.keys() - {i for group in groups for i in group}):
            print(f"{directories[i]}: finished before", file=sys.stderr)
            distributed.on_main_process(functools.partial(checkpoints.remove, directories[i]))
        for group in groups:
            there = [directories[i] for i in group]
            given = [configs[i] for i in group]
            trained = tuning().train(given, there)
            distributed.on_main_process(functools.partial(_finish, given, there, trained))
            results |= zip(group, trained, strict=True)
        by_seed = {result.seed: result for result in results.values()}
        for given in zip(configs, directories, strict=True):
            card = functools.partial(write_run_card, *given, by_seed, anew=len(configs) > 1)
            distributed.on_main_process(card)
    return [results[i] for i in range(len(configs))]


def _enter(config: FinetuneConfig, directory: Path, inputs: dict[str, str], stack: contextlib.ExitStack) -> None:
    # First the lock: what is refused must not write its config into another process' run.
    stack.enter_context(run_directory.alone(directory))
    identity.enter(config, directory, inputs)


def _groups(
    configs: Sequence[FinetuneConfig], directories: Sequence[Path], results: Mapping[int, RunResult], *, together: bool
) -> list[list[int]]:
    """The runs that train, in groups that do so side by side, by their places. Of a group that was interrupted all do, as many as
    began: sums of another number of seeds may have other last bits.

    Args:
        results: of those that have ended.
    """
    left = [i for i in range(len(configs)) if i not in results]
    if not together:
        return [[i] for i in left]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in left:
        groups.setdefault(identity.began_beside(directories[i]), []).append(i)
    for seeds, group in groups.items():
        ended = [i for i, result in results.items() if result.seed in seeds and result.together == len(seeds)]
        group[:] = sorted([*group, *ended])
    return list(groups.values())


def _finish(configs: Sequence[FinetuneConfig], directories: Sequence[Path], results: Sequence[RunResult]) -> None:
    """Write what runs came to, after which they have ended."""
    for config, directory, result in zip(configs, directories, results, strict=True):
        write_run_card(config, directory, {result.seed: result})
        places = {name: directory / name for name in ("predictions", "model")}
        file = directory / "results.json"
        run_directory.record_outputs(directory, places, {file.name: to_json(result).encode()})
        write_config(result, file)
    for directory in directories:  # not before: of a group that is interrupted here all go on
        checkpoints.remove(directory)
