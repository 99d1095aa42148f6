"""GLUE sweep: tasks × seeds, and the learning-rate sweep before it. What has ended is found: an interrupted sweep goes on."""

import dataclasses
import functools
import itertools
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from distilbert_jax.base.config_io import write_config
from distilbert_jax.base.hub import locate
from distilbert_jax.config import FinetuneConfig, ModelConfig, SweepConfig
from distilbert_jax.errors import InputError, few, warn_once
from distilbert_jax.finetuning.datasets import check_file, has_split, test_splits
from distilbert_jax.finetuning.identity import check_asked
from distilbert_jax.finetuning.objective import layer_terms
from distilbert_jax.finetuning.preparation import check_held_out, check_models
from distilbert_jax.finetuning.runs import finetune_seeds, sweep_directory
from distilbert_jax.finetuning.tasks import Task, find_task
from distilbert_jax.finetuning.tuning import shared_teacher
from distilbert_jax.glue.results import Choice, Setting, SweepRun, TriedSetting
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.training import distributed, sharding
from distilbert_jax.training.callbacks import check_callbacks
from distilbert_jax.training.terms import check_terms

FROM_MNLI = (
    "rte",
    "mrpc",
    "stsb",
)  # small tasks that gain from a start at the MNLI model (Phang et al. 2018, arXiv 1811.01088)


def run_sweep(
    config: FinetuneConfig,
    tasks: Sequence[str],
    seeds: Sequence[int],
    *,
    sweep: SweepConfig | None = None,
    together: bool = False,
    from_mnli: bool = False,
) -> list[SweepRun]:
    """Fine-tune every (task, seed); finished ones are found. Tasks that a local folder lacks are told of and left out.

    Args:
        sweep: settings to choose among for each task, on a selection split, a tenth of its train split.
        together: the seeds of a task in one vmapped step, else in turn.
        from_mnli: RTE, MRPC and STS-B start from the MNLI model of the same seed, which is trained first.

    Raises:
        InputError: before the first run: a task is misspelt, the folder has none of them, a file of them lacks rows or columns, a
            task and seed has no teacher, or what is asked for is not of a task's kind.
    """
    for option, given in (("--tasks", tasks), ("--seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise InputError(f"{option} {' '.join(map(str, given))}: expected one or more, each once", field=option)
    if sweep and sweep.seeds != SweepConfig().seeds and _settings(sweep) == [Setting()]:
        raise InputError(
            "--sweep.seeds: nothing to choose among; name settings, such as --sweep.learning-rate 5e-5 1e-4",
            field="--sweep.seeds",
        )
    base = Path(config.run.directory or sweep_directory(config))
    wanted = available(config, tasks)
    if from_mnli and any(task.name in FROM_MNLI for task in wanted):
        mnli = find_task("mnli")
        if not has_split(mnli, "train", config.data):
            raise InputError(
                f"--from-mnli: {config.data} has no mnli/train.parquet to train the model that others start at",
                field="--from-mnli",
            )
        _check_files(config, mnli)
        wanted = [mnli, *(task for task in wanted if task is not mnli)]
    elif from_mnli and all(task.name != "mnli" for task in wanted):
        raise InputError(
            f"--from-mnli: changes nothing of {', '.join(task.name for task in wanted)}; it is for {', '.join(FROM_MNLI)}",
            field="--from-mnli",
        )
    distributed.on_all_processes(lambda: _check_runs(config, wanted, seeds, sweep, together=together))
    runs: list[SweepRun] = []
    for task in wanted:
        start = from_mnli and task.name in FROM_MNLI
        single = dataclasses.replace(
            config,
            task=task.name,
            save_model=config.save_model or (from_mnli and task.name == "mnli"),
            run=dataclasses.replace(config.run, directory=str(base)),
        )
        model_of = (lambda seed: str(base / f"mnli-{seed}" / "model")) if start else (lambda seed: config.model)
        if start:
            _check_start(runs)
        choice = None
        if sweep and _settings(sweep) != [Setting()]:
            single, choice = choose(dataclasses.replace(single, model=model_of(seeds[0])), sweep)
        configs = [
            dataclasses.replace(
                single,
                model=model_of(seed),
                run=dataclasses.replace(config.run, seed=seed, directory=str(base / f"{task.name}-{seed}")),
            )
            for seed in seeds
        ]
        results = finetune_seeds(configs, together=together)
        if choice:  # not before: where the runs are refused, what is there was chosen otherwise
            distributed.on_main_process(functools.partial(_record, choice, base / "choice" / task.name))
        for one, result in zip(configs, results, strict=True):
            runs.append(SweepRun(result, Path(one.run.directory), choice))
    return runs


def _record(choice: Choice, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_config(choice, directory / "choice.json")


def _check_start(runs: Sequence[SweepRun]) -> None:
    """Raise InputError if an MNLI model that others are to start at diverged."""
    for run in runs:
        if run.result.task == "mnli" and run.result.diverged:
            raise InputError(
                f"--from-mnli: {run.directory} diverged ({run.result.diverged}), no task can start at it",
                path=run.directory,
                field="--from-mnli",
            )


def available(config: FinetuneConfig, names: Sequence[str]) -> list[Task]:
    """The tasks that there is data for; the others are named on stderr.

    Raises:
        InputError: a task is misspelt or has no training data, the folder has none of them, a file of them lacks rows or columns.
    """
    tasks = [find_task(name) for name in names]
    for task in tasks:
        if task.trained_by:
            raise InputError(
                f"task {task.name!r} has no training data: with --submit the model of {task.trained_by} predicts it",
                field="task",
                hint="--submit",
            )
        if task.kind not in ("classification", "regression") or (task.kind == "regression" and len(task.outputs) > 1):
            raise InputError(
                f"task {task.name!r} is of kind {task.kind!r}: the table of GLUE has texts of one label or one number",
                field="task",
            )
    there = [task for task in tasks if has_split(task, "train", config.data)]
    absent = ", ".join(task.name for task in tasks if task not in there)
    if not there:
        raise InputError(
            f"{config.data}: has no folder {absent}; --data names one with <task>/train.parquet", path=config.data
        )
    if absent:
        warn_once(f"{config.data}: has no {absent}: left out")
    for task in there:
        _check_files(config, task)
    return there


def _check_files(config: FinetuneConfig, task: Task) -> None:
    tests = [(of, split) for of, split, _ in test_splits(task, config.data)] if config.predict_test else []
    for of, split in [(task, "train"), *((task, split) for split in task.dev), *tests]:
        check_file(of, split, config.data)


def check_ahead(
    config: FinetuneConfig,
    tasks: Sequence[str],
    seeds: Sequence[int],
    sweep: SweepConfig | None = None,
    to_come: Collection[Path] = (),
    *,
    together: bool = False,
) -> None:
    """Raise InputError for what would stop `run_sweep` of a model that is yet to be trained, see `check_shape` as well.

    Args:
        to_come: directories of models that will be there by then.
    """
    places = {place.resolve() for place in to_come}
    _check_runs(config, available(config, tasks), seeds, sweep, places, together=together)


def _check_runs(
    config: FinetuneConfig,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    sweep: SweepConfig | None,
    to_come: Collection[Path] = (),
    *,
    together: bool,
) -> None:
    """Raise InputError for what would stop a run of these tasks, whose files are there. The model is not looked at."""
    chooses = sweep is not None and _settings(sweep) != [Setting()]
    if chooses and config.select:
        raise InputError(
            "select = True: not beside a sweep, which chooses among settings on the rows that would choose the epoch: --no-select, "
            "or name one setting",
            field="select",
            hint="--no-select",
        )
    check_callbacks(config.run, several=distributed.several())
    mesh = sharding.make_mesh(config.mesh)
    for size in (sweep and sweep.batch_size) or (config.batch_size,):
        sharding.check_batch(size, config.optimizer.accumulate, mesh, "batch_size")
    for task in tasks:
        of_seed = lambda seed, name=task.name: dataclasses.replace(
            config, task=name, run=dataclasses.replace(config.run, seed=seed)
        )
        if chooses or config.select or config.selection_split:
            check_held_out(dataclasses.replace(config, selection_split=not config.select), task)
        for seed in dict.fromkeys((*(sweep.seeds if sweep and chooses else ()), *seeds)):
            check_asked(of_seed(seed))
            check_models(of_seed(seed), task, to_come)
        if together:
            shared_teacher(list(map(of_seed, seeds)))


def check_shape(
    config: FinetuneConfig, tasks: Sequence[str], seeds: Sequence[int], model: ModelConfig, name: str
) -> None:
    """Raise InputError where a model that is yet to be trained has too few positions for fine-tuning, or layers that cannot be
    compared with those of a task's teacher. name: what it is called."""
    if config.length > model.max_length:
        raise InputError(
            f"glue.length = {config.length}: {name} has {model.max_length} positions",
            field="glue.length",
        )
    if not (asked := layer_terms(config.distill)):
        return
    runs = (
        dataclasses.replace(config, task=task, run=dataclasses.replace(config.run, seed=seed))
        for task in tasks
        for seed in seeds
    )
    for teacher in dict.fromkeys(run.teacher for run in runs if run.teacher):
        check_terms(asked, 0, model, read_config(locate(teacher)))


def check_chosen(choice: Choice | None, sweep: SweepConfig, place: Path) -> None:
    """Raise InputError where a setting was chosen among others than a sweep has now, or with other seeds. What an earlier version
    did not record is not compared.

    Args:
        place: of the runs that it was chosen from.
    """
    wanted, tried = _settings(sweep), [one.setting for one in choice.settings] if choice else []
    if not choice or wanted == [Setting()]:
        return
    seeds = choice.seeds or sweep.seeds
    others = [one.name for one in [*wanted, *tried] if tried and (one in wanted) != (one in tried)]
    others += [f"seed {one}" for one in sorted({*seeds} ^ {*sweep.seeds})]
    if others:
        raise InputError(
            f"{place}: the setting was chosen from other runs than the sweep asks for now ({few(others, ', ')}): --stages glue "
            "chooses again, or give the sweep that it had",
            path=place,
            field="sweep",
        )


def _settings(sweep: SweepConfig) -> list[Setting]:
    """Every combination of the values that are given."""
    values = itertools.product(sweep.learning_rate or (None,), sweep.batch_size or (None,), sweep.epochs or (None,))
    return [Setting(rate, size, epochs) for rate, size, epochs in values]


def choose(config: FinetuneConfig, sweep: SweepConfig) -> tuple[FinetuneConfig, Choice]:
    """The setting with the best mean score on the selection split, a tenth of train; dev is not read.

    Its runs stand in `<run.directory>/choice/<task>/`. Of equal scores the first counts; a setting of which a run diverged is out.

    Returns:
        `config` with the chosen setting, and what it was chosen from.

    Raises:
        InputError: each of the settings diverged.
    """
    base = Path(config.run.directory) / "choice" / config.task
    tried, batches = [], set()
    for setting in _settings(sweep):
        configs = [
            dataclasses.replace(
                _with(config, setting),
                selection_split=True,
                save_model=False,
                predict_test=False,
                run=dataclasses.replace(config.run, seed=seed, directory=str(base / f"{setting.name}-{seed}")),
            )
            for seed in sweep.seeds
        ]
        results = finetune_seeds(configs)
        batches |= {result.batches for result in results}
        if len(batches) > 1:
            raise InputError(
                f"{base}: some settings were trained on batches of similar lengths by an earlier version, others on random ones: "
                "remove the directory to choose anew",
                path=base,
                field="batches",
            )
        diverged = any(result.diverged for result in results)
        score = None if diverged else statistics.fmean(result.score for result in results)
        tried.append(TriedSetting(**vars(setting), score=score))
    ended = [(one.score, one.setting) for one in tried if one.score is not None]
    if not ended:
        raise InputError(f"{base}: each of the {len(tried)} settings diverged; try lower learning rates", path=base)
    best, chosen = max(ended, key=lambda one: one[0])
    runs = len(tried) * len(sweep.seeds)
    print(
        f"{config.task}: chosen from {runs} run{'s' if runs != 1 else ''} on a selection split, a tenth of train: "
        + ", ".join(f"{field} {value:g}" for field, value in chosen.given().items())
        + f" (score {best:.1f}, worst {min(score for score, _ in ended):.1f}"
        + (f", {len(tried) - len(ended)} of {len(tried)} settings diverged)" if len(ended) < len(tried) else ")"),
        file=sys.stderr,
    )
    return _with(config, chosen), Choice(runs, chosen, tuple(tried), tuple(sweep.seeds))


def _with(config: FinetuneConfig, setting: Setting) -> FinetuneConfig:
    values = setting.given()
    rate = values.pop("learning_rate", config.optimizer.learning_rate)
    return dataclasses.replace(config, **values, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate))
