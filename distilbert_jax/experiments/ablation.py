"""Ablation of a recipe: every variant of a config, trained, fine-tuned, compared with the variant `full` (paper, Table 4).

    distilbert-jax ablation ablations:demo --glue demo:glue --out runs/ablations/demo \\
      --tasks demo-topic demo-overlap demo-order --seeds 1 2 3 --glue-seeds 0 1 2
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
from rich.table import Table

from distilbert_jax.base import tables
from distilbert_jax.base.config_io import LEFT_OUT, write_config
from distilbert_jax.base.files import atomic_file, check_results_place
from distilbert_jax.base.tables import show
from distilbert_jax.config import DataConfig, FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.datasets import has_split
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE
from distilbert_jax.glue.summary import medians
from distilbert_jax.glue.sweep import check_ahead, check_shape, run_sweep
from distilbert_jax.pretraining.evaluate import HeldoutFigures, evaluate_mlm
from distilbert_jax.pretraining.run import pretrain
from distilbert_jax.pretraining.setup import check_teacher, check_teacher_at

REFERENCE = "full"
PAPER = {"no_ce": -2.96, "no_cos": -1.46, "no_mlm": -0.31, "random_init": -3.69}  # change of the GLUE score


@dataclass(frozen=True, kw_only=True)
class AblationRun:
    """A config, pre-trained with one seed and fine-tuned."""

    score: float  # × 100: mean over tasks of the median over the seeds of fine-tuning
    tasks: Mapping[str, float]  # {task: that median}
    mlm_loss: float | None = field(default=None, metadata=LEFT_OUT)  # nats, on held-out text
    kl_to_teacher: float | None = field(default=None, metadata=LEFT_OUT)  # nats


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a config comes to, medians over seeds, and the change of its score against `full`, over pairs of one seed."""

    score: float
    change: float  # mean
    change_min: float
    change_max: float
    paper: float | None  # the change that the paper reports
    tasks: Mapping[str, float]
    mlm_loss: float | None
    kl_to_teacher: float | None
    seeds: int


@dataclass(frozen=True)
class AblationResults:
    """What an ablation leaves as results.json."""

    runs: Mapping[str, tuple[AblationRun, ...]]  # {config: one a seed}
    changes: Mapping[str, Change]


def _directory(config: PretrainConfig, seed: int) -> str:
    if not config.run.directory:
        raise InputError("run.directory of a config is empty: each needs one of its own", field="run.directory")
    return f"{config.run.directory}-{seed}"


def measure(
    config: PretrainConfig,
    glue: FinetuneConfig,
    seed: int,
    tasks: Sequence[str],
    glue_seeds: Sequence[int],
    reference: PretrainConfig,
) -> AblationRun:
    """Pre-train with a seed, fine-tune, and evaluate on held-out text; what has ended is found.

    Args:
        reference: the config of `full`. Its held-out text is read as it reads it, and beside its teacher, whatever this config
            trains with: figures of a line are of one kind.
    """
    run = dataclasses.replace(config.run, seed=seed, directory=_directory(config, seed))
    model = str(pretrain(dataclasses.replace(config, run=run)))
    tuning = dataclasses.replace(glue.run, directory=f"{run.directory}/glue")
    scores = medians(run_sweep(dataclasses.replace(glue, model=model, run=tuning, save_model=False), tasks, glue_seeds))
    held: HeldoutFigures | None = None
    if (asked := reference.data).heldout:
        held = evaluate_mlm(
            model, asked.heldout, teacher=reference.teacher, length=asked.length, sequences=asked.sequences
        )
    jax.clear_caches()  # each run compiles its own step
    return AblationRun(
        score=statistics.mean(scores.values()),
        tasks=scores,
        mlm_loss=held and held.mlm_loss,
        kl_to_teacher=held and held.kl_to_teacher,
    )


def changes(runs: Mapping[str, Sequence[AblationRun]]) -> dict[str, Change]:
    """What each config comes to. runs: of each config one a seed, those of a seed in the same place."""
    result = {}
    for name, rows in runs.items():
        pairs = [row.score - base.score for row, base in zip(rows, runs[REFERENCE], strict=True)]
        result[name] = Change(
            score=statistics.median(row.score for row in rows),
            change=statistics.mean(pairs),
            change_min=min(pairs),
            change_max=max(pairs),
            paper=PAPER.get(name),
            tasks={task: statistics.median(row.tasks[task] for row in rows) for task in rows[0].tasks},
            mlm_loss=_median(row.mlm_loss for row in rows),
            kl_to_teacher=_median(row.kl_to_teacher for row in rows),
            seeds=len(rows),
        )
    return result


def _median(values: Iterable[float | None]) -> float | None:
    """None where one is missing."""
    given = list(values)
    there = [value for value in given if value is not None]
    return statistics.median(there) if len(there) == len(given) else None


def _lines(rows: Mapping[str, Change]) -> list[list[str]]:
    """A line for each figure: its name, then its value in every config; the first line names the configs."""
    figures: tuple[tuple[str, Callable[[Change], float | None], str], ...] = (
        ("score", lambda row: row.score, ".1f"),
        ("change, mean", lambda row: row.change, "+.2f"),
        ("lowest", lambda row: row.change_min, "+.2f"),
        ("highest", lambda row: row.change_max, "+.2f"),
        ("paper's change", lambda row: row.paper, "+.2f"),
        *((task, lambda row, task=task: row.tasks[task], ".1f") for task in rows[REFERENCE].tasks),
        ("masked-LM loss", lambda row: row.mlm_loss, ".3f"),
        ("KL to the teacher", lambda row: row.kl_to_teacher, ".3f"),
    )
    say = lambda value, form: "–" if value is None else format(value, form)
    return [["", *rows], *([title, *(say(of(row), form) for row in rows.values())] for title, of, form in figures)]


def table(rows: Mapping[str, Change]) -> Table:
    """`changes` for the terminal, a column a config."""
    return tables.terminal(_lines(rows), "medians over seeds; changes against full: of pairs of one seed")


def markdown(rows: Mapping[str, Change]) -> str:
    """`changes` as a Markdown table."""
    return tables.markdown(_lines(rows))


def run_ablation(
    configs: dict[str, PretrainConfig],
    glue: FinetuneConfig,
    out: Path,
    tasks: Sequence[str] = GLUE,
    seeds: Sequence[int] = (0,),
    glue_seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> None:
    """Train every config, fine-tune each, and show what changes against `full`. Finished runs are found.

    Args:
        configs: by name, `full` among them; their run directories get the seed behind.
        glue: of the fine-tuning.
        out: directory for results.json and table.md.
        tasks: whose mean is the score.
        seeds: of pre-training.
        glue_seeds: of fine-tuning.

    Raises:
        InputError: `full` or another to compare with it is missing, or what is asked for cannot be done.
    """
    _check(configs, glue, out, tasks, seeds, glue_seeds)
    runs: dict[str, list[AblationRun]] = {name: [] for name in configs}
    for seed in seeds:
        for name, config in configs.items():
            runs[name].append(measure(config, glue, seed, tasks, glue_seeds, configs[REFERENCE]))
    rows = changes(runs)
    out.mkdir(parents=True, exist_ok=True)
    of_seeds = {name: tuple(of_config) for name, of_config in runs.items()}
    write_config(AblationResults(of_seeds, rows), out / "results.json")
    with atomic_file(out / "table.md") as file:
        file.write(markdown(rows).encode())
    show(table(rows))


def _check(
    configs: dict[str, PretrainConfig],
    glue: FinetuneConfig,
    out: Path,
    tasks: Sequence[str],
    seeds: Sequence[int],
    glue_seeds: Sequence[int],
) -> None:
    """Raise InputError, before anything is trained, for what `run_ablation` would stumble over."""
    if REFERENCE not in configs or len(configs) < 2:
        raise InputError(
            f"expected a variant {REFERENCE!r} and at least one to compare with it, got: {', '.join(configs) or 'none'}",
            field="config",
        )
    for option, values in (("--seeds", seeds), ("--tasks", tasks), ("--glue-seeds", glue_seeds)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{option} {' '.join(map(str, values))}: expected one or more, each once", field=option)
    check_results_place(out, "--out")
    for name in tasks:
        if not has_split(find_task(name), "train", glue.data):
            raise InputError(
                f"{glue.data}: has no {name}/train.parquet; the score is the mean over all of --tasks", path=glue.data
            )
    for seed in seeds:
        dataclasses.replace(glue.run, seed=seed)  # says what is wrong with it
    made = {Path(_directory(config, seed), "model"): config for config in configs.values() for seed in seeds}
    to_come = list(made)
    teachers = {place.resolve(): config.model for place, config in made.items()}
    check_ahead(glue, tasks, glue_seeds, to_come=to_come)
    places: dict[Path, str] = {}
    for name, config in configs.items():
        _check_heldout(name, config, configs[REFERENCE].data)
        check_shape(glue, tasks, glue_seeds, config.model, name)
        if config.objective == "distillation":
            if theirs := teachers.get(Path(config.teacher).expanduser().resolve()):
                check_teacher(config, theirs)
            else:
                check_teacher_at(config, config.teacher)
        for seed in seeds:
            place = Path(_directory(config, seed)).resolve()
            if place in places:
                raise InputError(
                    f"{places[place]} and {name} both train in {place}: give each a run.directory",
                    path=place,
                    field="run.directory",
                )
            places[place] = name


def _check_heldout(name: str, config: PretrainConfig, reference: DataConfig) -> None:
    """Raise InputError where the held-out text of `full` cannot be read by a model of another config as `full` reads it."""
    own = config.data
    for field_, fits, why in (
        (
            "data.heldout",
            own.heldout == reference.heldout,
            f"is {own.heldout!r}, that of {REFERENCE} {reference.heldout!r}",
        ),
        (
            "model.max_position_embeddings",
            not reference.heldout or config.model.max_length >= reference.length,
            f"{config.model.max_length} positions are fewer than the {reference.length} tokens of {REFERENCE}",
        ),
        (
            "data.sequences",
            not reference.heldout or reference.sequences == "line" or config.model.type_vocab_size >= 2,
            f"{REFERENCE} reads pairs, which take two token types, and its model has {config.model.type_vocab_size}",
        ),
    ):
        if not fits:
            raise InputError(
                f"{name}: {field_}: {why}; figures on held-out text are of one text, read in one way", field=field_
            )
