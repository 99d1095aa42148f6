"""GLUE summary, what the runs of a sweep come to: medians, spreads, failed seeds, and what has to be known of them."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from distilbert_jax.base.config_io import Difference, differences, read_config
from distilbert_jax.base.files import read_json
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import InputError, few, warn_once
from distilbert_jax.finetuning import datasets
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.kinds.sentences import majority
from distilbert_jax.finetuning.predictions import Predictions, read_predictions
from distilbert_jax.finetuning.results import median_metrics, read_result
from distilbert_jax.finetuning.settings import begins_at_own_mnli, in_words
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE, REMARKS
from distilbert_jax.glue.results import Choice, SweepRun, TaskSummary, by_task
from distilbert_jax.models.hf_format import known_fingerprints
from distilbert_jax.training import run_directory

_EPSILON = 1e-9
_ROUNDING = 0.01  # of a score × 100: another version of a metric may sum in another order


def medians(runs: Sequence[SweepRun]) -> dict[str, float]:
    """{task: median of the score over its runs}.

    Raises:
        InputError: as for `read`.
    """
    for run in runs:
        read(run)
    return {name: statistics.median(run.result.score for run in of_task) for name, of_task in by_task(runs).items()}


def summary(runs: Sequence[SweepRun]) -> dict[str, TaskSummary]:
    """{task: what its runs come to}, in the paper's order.

    Raises:
        InputError: as for `read`, or the config of a run is damaged.
    """
    groups = by_task(runs)
    order = sorted(groups, key=lambda name: GLUE.index(name) if name in GLUE else len(GLUE))
    return {name: _summary_of(name, groups[name]) for name in order}


def _summary_of(name: str, runs: Sequence[SweepRun]) -> TaskSummary:
    predictions, results = list(map(read, runs)), [run.result for run in runs]
    floor, first = majority(find_task(name), predictions[0].labels)["score"], results[0]
    scores = [result.score for result in results]
    failed = [
        bool(result.diverged) or (name != "wnli" and _is_failed(result.score, one, floor))
        for result, one in zip(results, predictions, strict=True)
    ]
    return TaskSummary(
        median=statistics.median(scores),
        min=min(scores),
        max=max(scores),
        scores={str(result.seed): result.score for result in results},
        seeds=len(runs),
        failed=sum(failed),
        diverged={str(result.seed): result.diverged for result in results if result.diverged},
        majority=floor,
        metrics={split: median_metrics(results, split) for split in first.scores},
        train_rows=first.train_rows,
        dev_rows=first.dev_rows,
        cut_share=first.cut_share,
        train_seconds=statistics.median(result.train_seconds / result.together for result in results),
        choice=runs[0].choice,
        settings=_settings(runs),
        held_out=_held_out(runs[0]),
    )


def read(run: SweepRun) -> Predictions:
    """What a run predicted of its first dev split.

    Raises:
        InputError: that is missing, damaged, or scores otherwise than results.json says.
    """
    result, task = run.result, find_task(run.result.task)
    predictions = read_predictions(run.directory, task.dev[0], task, diverged=bool(result.diverged))
    if predictions.logits is not None:
        again = kind_of(task).score(task, list(predictions.logits), predictions.labels)["score"]
        if abs(again - result.score) > _ROUNDING:
            raise InputError(
                f"{run.directory}: its predictions score {again:.2f}, results.json says {result.score:.2f}: "
                "remove the run and train it again",
                path=run.directory,
                field="score",
            )
    return predictions


def _is_failed(value: float, predictions: Predictions, floor: float) -> bool:
    logits = predictions.logits
    if logits is None or value <= floor + _EPSILON:
        return True
    answers = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(-1)
    return bool(np.all(answers == answers[0]))


def mean_score(scores: Mapping[str, float]) -> float | None:
    """Of the tasks but WNLI; None of none."""
    counted = [score for name, score in scores.items() if name != "wnli"]
    return statistics.fmean(counted) if counted else None


def read_runs(directory: str, only: Collection[tuple[str, int]] | None = None) -> list[SweepRun]:
    """The runs that a sweep left in its directory.

    Args:
        only: task and seed of those that are asked for; others are told of and left out. None: all.

    Raises:
        InputError: there are none, one is no result of a fine-tuning run, or those of a task differ in more than their seed.
    """
    files = sorted(Path(directory).glob("*/results.json"))
    if not files:
        raise InputError(
            f"{directory}: holds no runs of distilbert-jax glue (<task>-<seed>/results.json)", path=directory
        )
    runs: dict[tuple[str, int], SweepRun] = {}
    left_out = []
    for file in files:
        result = read_result(file)
        key = result.task, result.seed
        if only is not None and key not in only:
            left_out.append(file.parent.name)
            continue
        if key in runs:
            raise InputError(
                f"{directory}: {runs[key].directory.name} and {file.parent.name} both say that they are {result.task} with "
                f"seed {result.seed}; remove the one that is not",
                path=directory,
            )
        runs[key] = SweepRun(result, file.parent, choice_of(result.task, file.parent))
    if left_out:
        warn_once(f"{directory}: not asked for, and left out: {few(left_out, ', ')}")
    for of_task in by_task(list(runs.values())).values():
        starts_alike = _start_alike(of_task)
        for other in of_task[1:]:
            _check_alike(of_task[0], other, starts_alike)
    return list(runs.values())


def _check_alike(one: SweepRun, other: SweepRun, starts_alike: bool) -> None:
    """Raise InputError where two runs of a task differ in more than their seed: a median is of one way to fine-tune."""
    if differing := _settings_apart(one, other, starts_alike) or _rows_apart(one, other):
        raise InputError(
            f"{one.directory.parent}: {one.directory.name} and {other.directory.name} are not of one setting "
            f"({few([str(difference) for difference in differing])}), and a median is; remove those that are not meant, or "
            "fine-tune all of them again",
            path=one.directory.parent,
            field=differing[0].field,
        )


def _settings_apart(one: SweepRun, other: SweepRun, starts_alike: bool) -> list[Difference]:
    """The fields in which the configs of two runs differ beyond their seed, as far as they have left them."""
    config, other_config = config_of(one.directory), config_of(other.directory)
    result = apart(config, other_config) if config and other_config else []
    if not starts_alike and one.result.model != other.result.model:
        result.append(Difference("model", one.result.model, other.result.model))
    return result


def _start_alike(runs: Sequence[SweepRun]) -> bool:
    """Whether the runs of a task began each at the MNLI model of its seed, or all at one model, or none at one of MNLI: `model_of`
    asks about these."""
    if all(map(_begins_at_own_mnli, runs)) or len({run.result.model for run in runs}) == 1:
        return True
    return not any(_is_mnli_model(run.result.model, run.directory.parent) for run in runs)


def apart(one: FinetuneConfig, other: FinetuneConfig, ignored: Collection[str] = ()) -> list[Difference]:
    """The fields in which two runs compute something else, their seeds and the models of these aside."""
    ignored = {"run.seed", "model", *ignored}
    changed = differences(one, other)
    return [each for each in changed if each.field not in ignored and not run_directory.is_free(each.field)]


def _rows_apart(one: SweepRun, other: SweepRun) -> list[Difference]:
    """What two runs say otherwise of the rows that they read, of the batches, and of what they learned from beside them."""
    of_results = ("train_rows", "dev_rows", "cut_share", "batches")
    said = [(name, getattr(one.result, name), getattr(other.result, name)) for name in of_results]
    ours, theirs = _digests(one), _digests(other)
    said += [(name, ours[name][:8], theirs[name][:8]) for name in ours if name in theirs]
    return [Difference(*values) for values in said if values[1] != values[2]]


def _digests(run: SweepRun) -> dict[str, str]:
    """Digests of what a run reads beside its model, as far as other seeds read the same and they are of one kind: those of the
    hub's rows are no digests of files."""
    file, config = run.directory / "inputs.json", config_of(run.directory)
    inputs = read_json(file, dict) if file.is_file() else {}
    kind = lambda name: f"{name}, hub" if config and not config.data and name.startswith("data (") else name
    skipped = {"model", "batches", "dropout", "run", "config"}
    if "run" not in inputs or (config and "{seed}" in config.distill.teacher):
        skipped.add("distill.teacher")  # of an earlier version the digest is of fewer files
    is_digest = lambda value: isinstance(value, str) and len(value) == 64
    return {kind(name): value for name, value in inputs.items() if name not in skipped and is_digest(value)}


def config_of(directory: Path) -> FinetuneConfig | None:
    """How a run was fine-tuned; None where no config says.

    Raises:
        InputError: it is damaged, or was edited since.
    """
    file = directory / "config.json"
    run_directory.check_unedited(directory)
    return read_config(FinetuneConfig, file) if file.is_file() else None


def check_same_dev(ours: Sequence[SweepRun], theirs: Sequence[SweepRun]) -> None:
    """Raise InputError where runs of a task were scored on other dev rows, or on the same in another order, by the digests of
    inputs.json: pairs are of one row."""
    groups = by_task(ours), by_task(theirs)
    for name in groups[0].keys() & groups[1].keys():
        first = find_task(name).dev[0]
        given = [(run, _digests(run)) for group in groups for run in group[name]]
        of_a_kind: list[SweepRun] = []  # the first with a file's digest, and the first with one of the hub's rows
        for split in (f"data ({first})", f"data ({first}), hub"):
            known = [(run, digests[split]) for run, digests in given if split in digests]
            of_a_kind += [run for run, _ in known[:1]]
            if other := next((run for run, digest in known if digest != known[0][1]), None):
                raise _other_dev(name, first, known[0][0].directory, other.directory)
        if len(of_a_kind) == 2:  # these digests tell nothing of each other, but both runs have kept the labels
            labels = [
                read_predictions(run.directory, first, find_task(name), diverged=True).labels for run in of_a_kind
            ]
            if not np.array_equal(labels[0], labels[1]):
                raise _other_dev(name, first, *(run.directory for run in of_a_kind))


def check_dev(runs: Sequence[SweepRun], config: FinetuneConfig) -> None:
    """`check_same_dev` of runs with those that a config asks for, before they are there."""
    kind = "" if config.data else ", hub"
    for run in runs:
        task = find_task(run.result.task)
        recorded = _digests(run).get(f"data ({task.dev[0]}){kind}")
        there = recorded and datasets.has_split(task, task.dev[0], config.data)
        if there and recorded != datasets.fingerprint(task, task.dev[0], config.data):
            raise _other_dev(task.name, task.dev[0], run.directory, Path(config.data or datasets.HUB))


def _other_dev(task: str, split: str, one: Path, other: Path) -> InputError:
    return InputError(
        f"{one}: was scored on another {split} split of {task} than {other}, and scores are compared on the same rows in the same "
        "order: fine-tune both on one file",
        path=one,
        field=f"data ({split})",
    )


def begun_with(run: SweepRun) -> str | None:
    """The fingerprint of the model that a run was fine-tuned from; None where an earlier version left none.

    Raises:
        InputError: inputs.json is damaged.
    """
    inputs = run.directory / "inputs.json"
    return read_json(inputs, dict).get("model") if inputs.is_file() else None


def mnli_models(directory: Path) -> list[Path]:
    """The MNLI models that a sweep has left, which other tasks may have started at (--from-mnli)."""
    return [path.parent for path in directory.glob("mnli-*/model/model.safetensors")]


def _is_mnli_model(model: str, directory: Path) -> bool:
    """Whether a model is that of an MNLI run of a sweep's directory."""
    run = Path(model).resolve().parent
    return run.name.startswith("mnli-") and run.parent == directory.resolve()


def _begins_at_own_mnli(run: SweepRun) -> bool:
    return begins_at_own_mnli(run.result.model, run.directory, run.result.seed)


def model_of(runs: Sequence[SweepRun]) -> str:
    """The model that the runs of a sweep were fine-tuned from, as it is now.

    Raises:
        InputError: there are several, it is not there, or it is another one than it was then.
    """
    directory = runs[0].directory.parent
    of_runs = {run.result.model: run for run in runs if not _is_mnli_model(run.result.model, directory)}
    if len(of_runs) > 1:
        raise InputError(
            f"{directory}: its runs are of several models ({', '.join(of_runs)}); a table is of one", path=directory
        )
    for model, run in of_runs.items():
        known = (None, *known_fingerprints(model))
        other = next((one for one in runs if one.result.model == model and begun_with(one) not in known), None)
        if other:
            raise InputError(
                f"{other.directory}: was not fine-tuned from {run.result.model} as it is now; remove it and run distilbert-jax "
                "glue again",
                path=other.directory,
            )
    return next(iter(of_runs), runs[0].result.model)


def choice_of(task: str, directory: Path) -> Choice | None:
    """What `sweep.choose` wrote; None where nothing was chosen, or it was for runs of other settings than this one's."""
    place = directory.parent / "choice" / task
    if not (place / "choice.json").is_file():
        return None
    choice = read_config(Choice, place / "choice.json", "remove it: the command that chose makes it again")
    config = config_of(directory)
    return choice if config is None or _is_chosen(config, choice, place) else None


def _is_chosen(config: FinetuneConfig, choice: Choice, place: Path) -> bool:
    """Whether a config has the values that were chosen, and all else as the runs, as far as they are there, that they come from."""
    own = {"learning_rate": config.optimizer.learning_rate, "batch_size": config.batch_size, "epochs": config.epochs}
    if any(own[name] != value for name, value in choice.chosen.given().items()):
        return False
    tried = [read_config(FinetuneConfig, file) for file in place.glob("*/config.json")]
    return not tried or any(not apart(one, config, ["selection_split"]) for one in tried)


def _settings(runs: Sequence[SweepRun]) -> str:
    """How the runs of a task were fine-tuned, as a config says; empty where there is none."""
    # Of several that began at one MNLI model, that model is of the seed of one: the others do not say that it is of theirs.
    run = next((one for one in runs if not _begins_at_own_mnli(one)), runs[0])
    config, result = config_of(run.directory), run.result
    if config is None:
        return ""
    return in_words(config, similar_lengths=result.batches == "similar lengths", added_rows=result.added_rows)


def _held_out(run: SweepRun) -> bool | None:
    """True of a run that a tenth of train was held out of; None of others."""
    config = config_of(run.directory)
    return True if config and (config.select or config.selection_split) else None


def settings(tasks: Mapping[str, TaskSummary]) -> list[str]:
    """A line for each way in which tasks were fine-tuned."""
    lines: dict[str, list[str]] = {}
    for name, row in tasks.items():
        if row.settings:
            lines.setdefault(row.settings, []).append(find_task(name).title)
    return [f"{', '.join(names)}: {said}." for said, names in lines.items()]


def remarks(tasks: Mapping[str, TaskSummary]) -> list[str]:
    """What a reader has to know of the figures: how they were made, what is a subset, what has failed, how few seeds."""
    glue = [name for name in tasks if name in GLUE]
    said = []
    seeds = sorted({row.seeds for row in tasks.values()})
    measures = (
        "; MRPC and QQP: mean of accuracy and F1, STS-B: of Pearson and Spearman, CoLA: Matthews, the others: accuracy"
    )
    said.append(
        f"Dev scores × 100, medians of {' or '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}"
        + (f"{measures} (MNLI: matched / mismatched)." if glue else ".")
    )
    said += settings(tasks)
    if failed := [f"{find_task(name).title} {row.failed} of {row.seeds}" for name, row in tasks.items() if row.failed]:
        said.append(
            f"Failed: {', '.join(failed)}; they diverged, gave one answer to every row, or scored no more than the majority class "
            "(WNLI, where no model does: diverged alone)."
        )
    for name, row in tasks.items():
        for seed, why in row.diverged.items():
            said.append(f"{find_task(name).title}: seed {seed} diverged and counts as 0: {why}.")
    for name in glue:
        task, row = find_task(name), tasks[name]
        for split, rows in {"train": row.train_rows, **row.dev_rows}.items():
            if rows != task.rows.get(split):
                less = ", without the tenth that is held out" if split == "train" and row.held_out else ""
                said.append(f"{task.title}: {split} is a subset, {rows:,} of {task.rows.get(split, 0):,} rows{less}.")
    if glue:
        said += [line for name, line in REMARKS.items() if name in glue]
    return said


def mean_remark(tasks: Mapping[str, TaskSummary]) -> list[str]:
    """Which of the nine tasks a table's means lack."""
    glue = [name for name in tasks if name in GLUE]
    if not 0 < len(glue) < len(GLUE):
        return []
    missing = ", ".join(find_task(name).title for name in GLUE if name not in glue)
    return [f"Means are over {len(glue)} of the nine tasks, in every row; not here: {missing}."]


PAPER_REMARK = "The paper's rows are dev scores, medians of five runs; its settings of fine-tuning are not known."


def choices(tasks: Mapping[str, TaskSummary]) -> list[str]:
    """A line for each task whose settings were chosen."""
    lines = []
    for name, row in tasks.items():
        if choice := row.choice:
            chosen = ", ".join(f"{field.replace('_', ' ')} {value:g}" for field, value in choice.chosen.given().items())
            lines.append(
                f"{find_task(name).title}: {chosen}, chosen from {choice.runs} run{'s' if choice.runs != 1 else ''} on a tenth "
                "of train."
            )
    return lines
