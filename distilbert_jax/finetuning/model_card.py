"""Model card of a fine-tuned model: README.md of a run's model, from its config, its results and those of its other seeds."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from distilbert_jax.base.hub import CARD, is_from_hub
from distilbert_jax.config import FinetuneConfig, Schedule
from distilbert_jax.errors import counted, few
from distilbert_jax.finetuning import settings
from distilbert_jax.finetuning.datasets import HUB
from distilbert_jax.finetuning.own_splits import OwnSplits
from distilbert_jax.finetuning.predictions import majority_score
from distilbert_jax.finetuning.results import RunResult
from distilbert_jax.finetuning.tasks import ERRORS, TASKS, Task, TaskKind, find_task
from distilbert_jax.training import run_directory
from distilbert_jax.training.model_card import (
    Card,
    Score,
    number,
    place_name,
    plain,
    table,
    weighted,
    weighted_terms,
    write_card,
)

_LABELS = 20  # that a card names
_KINDS: Mapping[TaskKind, str] = {
    "classification": "gives each text one of {labels}",
    "multi_label": "gives each text any of {labels}",
    "regression": "gives each text {labels}",
    "tokens": "gives each word one of {labels}",
    "answers": "finds the part of a context that answers a question",
    "choices": "chooses among texts",
}
# Settings that a card tells in places of their own.
_SAID = (
    "selection_split",
    "select",
    *(f"optimizer.{name}" for name in ("warmup", "weight_decay", "clip_norm", "beta1", "beta2", "eps")),
)
_METRICS_OF_HUB = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}  # where its name is another


def write_run_card(
    config: FinetuneConfig, directory: Path, results: Mapping[int, RunResult], *, anew: bool = True
) -> None:
    """Write the README.md of a run's model, as `write_card` does; nothing of a run that has saved none.

    Args:
        results: of every seed of the run's task and setting that is known, this one's among them.
        anew: also where there is one.
    """
    model = directory / "model"
    if (
        results[config.run.seed].diverged
        or not run_directory.finished(directory)
        or not (anew or not (model / CARD).exists())
    ):
        return
    write_card(card_of(config, directory, results), model)


def card_of(config: FinetuneConfig, directory: Path, results: Mapping[int, RunResult]) -> Card:
    """What a run that has ended says of its model; arguments as of `write_run_card`."""
    task, result = find_task(config.task), results[config.run.seed]
    from_hub = _is_glue(task) and not config.data
    labels = few([plain(label) for label in task.outputs], ", ", _LABELS)
    does = _KINDS[task.kind].format(labels=labels)
    return Card(
        name=place_name(str(directory.absolute())),
        about=[
            f"{plain(place_name(config.model))}, fine-tuned on {_data_name(config, task)}: it {does}.",
        ],
        sections={
            "Training data": [*_data(config, task, result, directory)],
            "Training": [*_training(config, result, directory)],
            "Evaluation": [*_evaluation(config, task, results, directory)],
            "Limits and bias": [*_limits(config, task, results, directory)],
        },
        scores=[
            Score(
                data=task.title,
                split=split,
                metric=_METRICS_OF_HUB.get(name, name),
                value=value if name in ERRORS else value / 100.0,
                hub_data=HUB if from_hub else task.title,
            )
            for split, values in result.scores.items()
            for name, value in values.items()
            if name != "score"
        ],
        base_models=[config.model] if is_from_hub(config.model) else [],
        datasets=[HUB] if from_hub else [],
        language="en" if from_hub else None,
        tags=["distillation"] if config.distill.teacher else [],
    )


def _is_glue(task: Task) -> bool:
    return task.name in TASKS and not TASKS.file(task.name) and not task.name.startswith("demo-")


def _data_name(config: FinetuneConfig, task: Task) -> str:
    if isinstance(task.source, OwnSplits):
        return f"rows of {plain(place_name(task.source.train.name))}"
    if not _is_glue(task):
        return f"the task {plain(task.title)}"
    return f"GLUE's {plain(task.title)}" + (
        "" if not config.data else f", as the folder {plain(place_name(config.data))} has it"
    )


def _holds_out(config: FinetuneConfig, task: Task) -> bool:
    """Whether some rows of train are not learned from."""
    apart = isinstance(task.source, OwnSplits) and task.source.dev is None
    return config.select or config.selection_split or apart


def _scored_on(config: FinetuneConfig, task: Task, split: str) -> str:
    """What a split that is scored is."""
    if config.selection_split or (isinstance(task.source, OwnSplits) and task.source.dev is None):
        return "rows held out by the hash of their text, about a tenth of the different texts"
    if isinstance(task.source, OwnSplits) and task.source.dev:
        return f"{plain(place_name(task.source.dev.name))}"
    return f"the split {plain(split)}"


def _data(config: FinetuneConfig, task: Task, result: RunResult, directory: Path) -> Iterator[str]:
    columns = lambda names: few([plain(name) for name in names], ", ", _LABELS)
    learned = task.source.reader.roles.targets if isinstance(task.source, OwnSplits) else task.target
    yield f"Read: {columns(task.columns)}. Learned: {columns(learned)}."
    recorded = {
        name.removeprefix("data (").removesuffix(")"): digest
        for name, digest in run_directory.recorded_inputs(directory).items()
        if name.startswith("data (")
    }
    rows = {"train": result.train_rows, **result.dev_rows}
    # A file has one digest, with what is held out of it.
    whole = ", of the file with what is held out of it" if _holds_out(config, task) else ""
    digest = lambda name: f"`{recorded[name]}`{whole if name == 'train' else ''}" if name in recorded else "of train"
    yield table(
        ("Split", "Rows", "SHA-256"),
        [
            (
                plain(name),
                f"{rows[name]:,}" if name in rows else "",
                digest(name),
            )
            for name in dict.fromkeys((*rows, *recorded))
        ],
    )
    if result.added_rows:
        yield (
            f"Beside them {result.added_rows:,} copies of rows in which {plain(place_name(config.augment.model))} has replaced "
            "words, labelled by the teacher."
        )


def _training(config: FinetuneConfig, result: RunResult, directory: Path) -> Iterator[str]:
    inputs, optimizer, distill = run_directory.recorded_inputs(directory), config.optimizer, config.distill
    of = lambda name: f", SHA-256 of its files `{inputs[name]}`" if name in inputs else ""
    yield f"Began with {plain(place_name(config.model))}{of('model')}, and a new head unless that has one for these labels."
    if distill.teacher:
        yield f"Teacher: {plain(place_name(config.teacher))}{of('distill.teacher')}."
        alpha, heat = distill.alpha, settings.temperature(config)
        if isinstance(alpha, Schedule):
            shares, said = ["(1 − α) · labels", "α · teacher"], f", α {number(alpha)}"
        else:
            shares, said = [weighted(1 - alpha, "labels"), weighted(alpha, "teacher")], ""
        said += "" if heat is None else f", temperature {number(heat)}"
        yield f"Loss: {' + '.join([*shares, *weighted_terms(distill)])}{said}."
    before = f"{counted(distill.layer_epochs, 'epoch')} of layers and then " if distill.layer_epochs else ""
    epochs = f"{before}{counted(config.epochs or 0, 'epoch')}" + (f", {result.steps:,} steps" if result.steps else "")
    rest = settings.others(config, _SAID)
    values = {
        "length": f"{epochs} of batches of {config.batch_size}",
        **_cut(config, result),
        "optimiser": f"AdamW, β {optimizer.beta1} and {optimizer.beta2}, ε {optimizer.eps}, weight decay {optimizer.weight_decay}, "
        f"gradients clipped at {optimizer.clip_norm}",
        "learning rate": f"{optimizer.learning_rate} at its highest, {number(100 * optimizer.warmup)} % warm-up, then linear to 0",
        "matmuls in": config.run.dtype,
        "seed": str(config.run.seed),
        **({"besides": "; ".join(rest)} if rest else {}),
    }
    yield table(("Setting", "Value"), [*values.items()])


def _cut(config: FinetuneConfig, result: RunResult) -> dict[str, str]:
    """How many tokens were read at once, and of how much of train that was not all."""
    share = f"{config.length} at most; {number(100 * result.cut_share)} % of the"
    if find_task(config.task).kind == "answers":  # a context is cut by none of them
        return {"tokens of a window": f"{share} questions of train were too long, and cut"}
    return {"tokens of a row": f"{share} rows of train were longer, and cut"}


def _evaluation(config: FinetuneConfig, task: Task, results: Mapping[int, RunResult], directory: Path) -> Iterator[str]:
    own, several, lines = results[config.run.seed], len(results) > 1, []
    for split, values in own.scores.items():
        for name, value in values.items():
            # A run that diverged has 0, which of a score is the worst, and of an error the best.
            counted_in = [one for one in results.values() if not (one.diverged and name in ERRORS)]
            of_all = [one.scores[split][name] for one in counted_in if split in one.scores]
            spread = (number(statistics.median(of_all)), f"{number(min(of_all))} to {number(max(of_all))}")
            called = f"score, the mean of {' and '.join(task.metrics)}" if name == "score" else name
            if name != "score" or len(task.metrics) > 1:
                lines.append((plain(split), called, number(value), *(spread if several else ())))
    seeds = (f"Median of {len(results)} seeds", "Lowest to highest") if several else ()
    yield table(("Split", "Metric", "This model", *seeds), lines)
    read = "; ".join(
        f"{plain(split)} is {_scored_on(config, task, split)}, {rows:,} rows" for split, rows in own.dev_rows.items()
    )
    chosen = (
        "of the epoch that is best on other rows of train, held out for that" if config.select else "of the last step"
    )
    errors = f", but for {', '.join(ERRORS)}" if {*task.beside} & {*ERRORS} else ""
    yield (
        f"Values are × 100{errors}. {read}. Each seed trains a model of its own with the same settings; the weights are those "
        f"{chosen}."
    )
    if floors := _floors(task, own, directory):
        of = lambda split: f" on {plain(split)}" if len(floors) > 1 else ""
        scored = ", ".join(f"{number(floor)}{of(split)}" for split, floor in floors.items())
        yield f"Always giving the most frequent answer scores {scored}."


def _floors(task: Task, result: RunResult, directory: Path) -> dict[str, float]:
    """`majority_score` on each split that is scored, where there is one; none of a run whose predictions somebody has removed."""
    floors = {
        split: majority_score(task, directory, split)
        for split in result.scores
        if (directory / "predictions" / f"{split}-labels.npy").is_file()
    }
    return {split: floor for split, floor in floors.items() if floor is not None}


def _limits(config: FinetuneConfig, task: Task, results: Mapping[int, RunResult], directory: Path) -> Iterator[str]:
    own = results[config.run.seed]
    said, of = [], lambda split: f" on {plain(split)}" if len(own.scores) > 1 else ""
    recorded = run_directory.recorded_inputs(directory)
    for split in own.scores:
        rows = own.dev_rows[split]
        said.append(
            f"The score{of(split)} is of {rows:,} rows: one of them is worth about {number(100 / rows)} points."
        )
        if recorded.get("data (train)", "") == recorded.get(f"data ({split})"):
            said.append("These are the rows that it was trained on: the score says nothing of others.")
    if len(results) > 1:
        said.append("This is one of the seeds, not the best of them by choice.")
    else:
        said.append("Of one seed: by how much others differ was not measured.")
    if wrong := [str(seed) for seed, one in results.items() if one.diverged]:
        said.append(f"Seed {', '.join(wrong)} diverged, and counts as 0.")
    floors = _floors(task, own, directory)
    if low := [split for split, floor in floors.items() if own.scores[split]["score"] <= floor + 1e-9]:
        where = "" if len(low) == len(own.scores) else f" on {' and '.join(map(plain, low))}"
        said.append(
            f"It is no better than always giving the most frequent answer{where}: it has not learned this task."
        )
    yield " ".join(said)
    yield (
        "Not measured: rows of another origin than those above, other languages, how it treats groups of people that the rows "
        "speak of or come from, whether its scores are probabilities to rely on, and what it says of texts that fit none of what "
        "it has learned."
    )
    yield (
        "It has learned the labels as they are, with the mistakes and the views of whoever gave them, on top of what the encoder "
        "has learned from its own text. A look at rows of the use that is meant, by group where people are concerned, belongs "
        "before that use."
    )
