"""Ablation of a recipe: every variant of a config, trained, fine-tuned, compared with the variant `full` (paper, Table 4).

    distilbert-jax ablation ablations:demo --glue demo:glue --out runs/ablations/demo \\
      --tasks demo-topic demo-overlap demo-next --seeds 1 2 3 --glue-seeds 0 1 2
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from distilbert_jax.base import tables
from distilbert_jax.base.files import atomic_file, write_json
from distilbert_jax.base.tables import show
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE
from distilbert_jax.glue.summary import medians
from distilbert_jax.glue.sweep import run_sweep
from distilbert_jax.pretraining.evaluate import evaluate_mlm
from distilbert_jax.pretraining.run import pretrain

REFERENCE = "full"
PAPER = {"no_ce": -2.96, "no_cos": -1.46, "no_mlm": -0.31, "random_init": -3.69}  # change of the GLUE score


def _directory(config: PretrainConfig, seed: int) -> str:
    if not config.run.directory:
        raise InputError("run.directory of a config is empty: each needs one of its own", field="run.directory")
    return f"{config.run.directory}-{seed}"


def measure(
    config: PretrainConfig, glue: FinetuneConfig, seed: int, tasks: Sequence[str], glue_seeds: Sequence[int]
) -> dict[str, Any]:
    """Pre-train with a seed, fine-tune, and evaluate on held-out text; what has ended is found.

    Returns:
        `score`, the mean over tasks of the median over `glue_seeds`; `tasks` {name: that median}; `mlm_loss` and
        `kl_to_teacher` in nats.
    """
    run = dataclasses.replace(config.run, seed=seed, directory=_directory(config, seed))
    model = str(pretrain(dataclasses.replace(config, run=run)))
    tuning = dataclasses.replace(glue.run, directory=f"{run.directory}/glue")
    scores = medians(run_sweep(dataclasses.replace(glue, model=model, run=tuning, save_model=False), tasks, glue_seeds))
    figures: dict[str, Any] = {"score": statistics.mean(scores.values()), "tasks": scores}
    if config.data.heldout:
        held = evaluate_mlm(model, config.data.heldout, teacher=config.teacher, length=config.data.length)
        figures |= {name: held[name] for name in ("mlm_loss", "kl_to_teacher") if name in held}
    jax.clear_caches()  # each run compiles its own step
    return figures


def changes(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Per config the medians over seeds, and the change of its score against `full`: mean, min and max over pairs of one seed."""
    found = {}
    for name, rows in runs.items():
        pairs = [row["score"] - base["score"] for row, base in zip(rows, runs[REFERENCE], strict=True)]
        median = lambda key, rows=rows: statistics.median(row[key] for row in rows) if key in rows[0] else None
        found[name] = {
            "score": median("score"),
            "change": statistics.mean(pairs),
            "change_min": min(pairs),
            "change_max": max(pairs),
            "paper": PAPER.get(name),
            "tasks": {task: statistics.median(row["tasks"][task] for row in rows) for task in rows[0]["tasks"]},
            "mlm_loss": median("mlm_loss"),
            "kl_to_teacher": median("kl_to_teacher"),
            "seeds": len(rows),
        }
    return found


def _lines(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line for each figure: its name, then its value in every config; the first line names the configs."""
    row = lambda title, key, form: [title, *("–" if r[key] is None else format(r[key], form) for r in rows.values())]
    tasks = [[task, *(f"{r['tasks'][task]:.1f}" for r in rows.values())] for task in rows[REFERENCE]["tasks"]]
    return [
        ["", *rows],
        row("score", "score", ".1f"),
        row("change, mean", "change", "+.2f"),
        row("lowest", "change_min", "+.2f"),
        row("highest", "change_max", "+.2f"),
        row("paper's change", "paper", "+.2f"),
        *tasks,
        row("masked-LM loss", "mlm_loss", ".3f"),
        row("KL to the teacher", "kl_to_teacher", ".3f"),
    ]


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """`changes` for the terminal, a column a config."""
    return tables.terminal(_lines(rows), "medians over seeds; changes against full: of pairs of one seed")


def markdown(rows: dict[str, dict[str, Any]]) -> str:
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
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in configs}
    for seed in seeds:
        for name, config in configs.items():
            runs[name].append(measure(config, glue, seed, tasks, glue_seeds))
    rows = changes(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", {"runs": runs, "changes": rows})
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
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file, expected a directory", path=out, field="--out")
    for name in tasks:
        if glue.data and not (Path(glue.data) / find_task(name).name).is_dir():
            raise InputError(
                f"{glue.data}: has no folder {name}; the score is the mean over all of --tasks", path=glue.data
            )
    places: dict[Path, str] = {}
    for name, config in configs.items():
        for seed in seeds:
            place = Path(_directory(config, seed)).resolve()
            if place in places:
                raise InputError(
                    f"{places[place]} and {name} both train in {place}: give each a run.directory",
                    path=place,
                    field="run.directory",
                )
            places[place] = name
