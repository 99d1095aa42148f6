"""GLUE summary, what the runs of a sweep come to: medians, spreads, failed seeds, and what has to be known of them."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distilbert_jax.base.config_io import read_config
from distilbert_jax.base.files import read_json
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.metrics import majority, score
from distilbert_jax.finetuning.predictions import Predictions, read_predictions
from distilbert_jax.finetuning.results import read_result
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE, REMARKS
from distilbert_jax.glue.results import Choice, SweepRun, TaskSummary, by_task
from distilbert_jax.models.hf_format import known_fingerprints
from distilbert_jax.training.terms import weighted_terms

_EPSILON = 1e-9
_ROUNDING = 0.01  # of a score × 100: another version of a metric may sum in another order


def medians(runs: Sequence[SweepRun]) -> dict[str, float]:
    """{task: median of the score over its runs}."""
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
        metrics={
            split: {metric: statistics.median(result.scores[split][metric] for result in results) for metric in values}
            for split, values in first.scores.items()
        },
        train_rows=first.train_rows,
        dev_rows=first.dev_rows,
        cut_share=first.cut_share,
        train_seconds=statistics.median(result.train_seconds / result.together for result in results),
        choice=runs[0].choice,
        settings=_settings(runs[0]),
    )


def read(run: SweepRun) -> Predictions:
    """What a run predicted of its first dev split.

    Raises:
        InputError: that is missing, damaged, or scores otherwise than results.json says.
    """
    result, task = run.result, find_task(run.result.task)
    predictions = read_predictions(run.directory, task.dev[0], task, diverged=bool(result.diverged))
    if predictions.logits is not None:
        again = score(task, predictions.logits, predictions.labels)["score"]
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


def read_runs(directory: str) -> list[SweepRun]:
    """The runs that a sweep left in its directory.

    Raises:
        InputError: there are none, or one is no result of a fine-tuning run.
    """
    files = sorted(Path(directory).glob("*/results.json"))
    if not files:
        raise InputError(
            f"{directory}: holds no runs of distilbert-jax glue (<task>-<seed>/results.json)", path=directory
        )
    runs: dict[tuple[str, int], SweepRun] = {}
    for file in files:
        result = read_result(file)
        key = result.task, result.seed
        if key in runs:
            raise InputError(
                f"{directory}: {runs[key].directory.name} and {file.parent.name} both say that they are {result.task} with "
                f"seed {result.seed}; remove the one that is not",
                path=directory,
            )
        choice = file.parent.parent / "choice" / result.task / "choice.json"
        runs[key] = SweepRun(result, file.parent, _read_choice(choice))
    return list(runs.values())


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


def _read_choice(file: Path) -> Choice | None:
    """What `sweep.choose` wrote; None where nothing was chosen."""
    if not file.is_file():
        return None
    return read_config(Choice, file, "remove it: the command that chose makes it again")


def _settings(run: SweepRun) -> str:
    """How a run was fine-tuned, as its config says; empty where there is none."""
    file = run.directory / "config.json"
    if not file.is_file():
        return ""
    config = read_config(FinetuneConfig, file)
    said = (
        f"learning rate {config.optimizer.learning_rate:g}, {config.epochs} epochs, batch {config.batch_size}, length "
        f"{config.length}, {config.run.dtype}"
    )
    if run.result.batches == "similar lengths":
        said += ", batches of similar lengths (of an earlier version)"
    if Path(config.model).parent.name.startswith("mnli-"):
        said += ", from the MNLI model of the same seed"
    if config.distill.teacher:
        said += (
            f", distilled from {config.distill.teacher} (α {config.distill.alpha:g}, T {config.distill.temperature:g}"
            + "".join(f", {one.term.name} {one.weight}" for one in weighted_terms(config.distill, "distill"))
            + (f"; {config.distill.layer_epochs} epochs of layers first" if config.distill.layer_epochs else "")
            + ")"
        )
    if run.result.added_rows is not None:
        augment = config.augment
        said += (
            f", with {run.result.added_rows:,} copies of rows, {augment.copies} of each, in which {augment.model} replaced "
            f"{augment.share:.0%} of the words"
        )
    return said


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
                said.append(f"{task.title}: {split} is a subset, {rows:,} of {task.rows.get(split, 0):,} rows.")
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
