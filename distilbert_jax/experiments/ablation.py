"""What each part of the recipe is worth: every config of a folder, trained, fine-tuned, compared with `full.py` (paper, Table 4).

    python -m distilbert_jax.experiments.ablation --configs configs/ablations/demo --glue configs/demo/glue.py \\
      --out runs/ablations/demo --tasks demo-topic demo-overlap demo-next --seeds 1 2 3 --glue-seeds 0 1 2
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
from rich.table import Table

from distilbert_jax.base import runtime, tables
from distilbert_jax.base.config_io import LEFT_OUT, load_config, write_config
from distilbert_jax.base.files import atomic_file
from distilbert_jax.base.parsing import call, show
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE
from distilbert_jax.glue.summary import medians
from distilbert_jax.glue.sweep import run_sweep
from distilbert_jax.pretraining.evaluate import evaluate_mlm
from distilbert_jax.pretraining.run import pretrain

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


def find_configs(folder: Path) -> dict[str, PretrainConfig]:
    """The configs of a folder by the names of their files, `full` first.

    Raises:
        InputError: there is no full.py, or no other.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if REFERENCE not in files or len(files) < 2:
        raise InputError(f"{folder}: expected {REFERENCE}.py and at least one config beside it", path=folder)
    names = [REFERENCE, *(name for name in files if name != REFERENCE)]
    return {name: load_config(str(files[name]), PretrainConfig) for name in names}


def _directory(config: PretrainConfig, seed: int) -> str:
    if not config.run.directory:
        raise InputError("run.directory of a config is empty: each needs one of its own")
    return f"{config.run.directory}-{seed}"


def measure(
    config: PretrainConfig, glue: FinetuneConfig, seed: int, tasks: Sequence[str], glue_seeds: Sequence[int]
) -> AblationRun:
    """Pre-train with a seed, fine-tune, and evaluate on held-out text; what has ended is found."""
    run = dataclasses.replace(config.run, seed=seed, directory=_directory(config, seed))
    model = str(pretrain(dataclasses.replace(config, run=run)))
    tuning = dataclasses.replace(glue.run, directory=f"{run.directory}/glue")
    scores = medians(run_sweep(dataclasses.replace(glue, model=model, run=tuning, save_model=False), tasks, glue_seeds))
    held: Mapping[str, float] = {}
    if config.data.heldout:
        held = evaluate_mlm(model, config.data.heldout, teacher=config.teacher, length=config.data.length)
    jax.clear_caches()  # each run compiles its own step
    return AblationRun(
        score=statistics.mean(scores.values()),
        tasks=scores,
        mlm_loss=held.get("mlm_loss"),
        kl_to_teacher=held.get("kl_to_teacher"),
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
    there = list(values)
    return None if None in there else statistics.median(there)


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


def command(
    configs: Path,
    glue: str,
    out: Path,
    tasks: tuple[str, ...] = GLUE,
    seeds: tuple[int, ...] = (0,),
    glue_seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
) -> None:
    """Train every config of a folder, fine-tune each, and show what changes against its full.py. Finished runs are found.

    Args:
        configs: folder with full.py and the configs to compare with it; their run directories get the seed behind.
        glue: config file of the fine-tuning.
        out: directory for results.json and table.md.
        tasks: whose mean is the score.
        seeds: of pre-training.
        glue_seeds: of fine-tuning.
    """
    for option, values in (("--seeds", seeds), ("--tasks", tasks), ("--glue-seeds", glue_seeds)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{option} {' '.join(map(str, values))}: expected one or more, each once")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file, expected a directory", field="--out")
    found, tuning = find_configs(configs), load_config(glue, FinetuneConfig)
    for name in tasks:  # now, and not when the first model is trained
        if tuning.data and not (Path(tuning.data) / find_task(name).name).is_dir():
            raise InputError(
                f"{tuning.data}: has no folder {name}; the score is the mean over all of --tasks", path=tuning.data
            )
    places: dict[Path, str] = {}
    for name, config in found.items():
        for seed in seeds:
            place = Path(_directory(config, seed)).resolve()
            if place in places:
                raise InputError(
                    f"{configs}: {places[place]}.py and {name}.py both train in {place}: give each a run.directory",
                    path=configs,
                )
            places[place] = name
    runs: dict[str, list[AblationRun]] = {name: [] for name in found}
    for seed in seeds:
        for name, config in found.items():
            runs[name].append(measure(config, tuning, seed, tasks, glue_seeds))
    rows = changes(runs)
    out.mkdir(parents=True, exist_ok=True)
    of_seeds = {name: tuple(of_config) for name, of_config in runs.items()}
    write_config(AblationResults(of_seeds, rows), out / "results.json")
    with atomic_file(out / "table.md") as file:
        file.write(markdown(rows).encode())
    show(table(rows))


if __name__ == "__main__":
    with one_line_errors():
        runtime.keep_freed_memory()
        call(command, "distilbert_jax.experiments.ablation")
