"""Spread of a fine-tuned task over seeds: what its runs came to, and which of them learned nothing."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.finetuning.own_splits import OwnSplits
from distilbert_jax.finetuning.predictions import majority_score, read_predictions
from distilbert_jax.finetuning.preparation import check_models
from distilbert_jax.finetuning.results import RunResult, median_metrics
from distilbert_jax.finetuning.runs import finetune_seeds
from distilbert_jax.finetuning.tasks import Task, find_task
from distilbert_jax.training import distributed

_EPSILON = 1e-9
DIVERGED = "diverged: "  # how `Spread.failed` begins of such a seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """What the runs of one task and setting came to, spread.json. Scores are those of the first split that is scored × 100."""

    task: str
    title: str
    kind: str
    model: str  # that was fine-tuned
    median: float
    min: float
    max: float
    scores: Mapping[str, float]  # {seed: score}
    failed: Mapping[str, str]  # {seed: why}: it diverged, or learned nothing
    majority: float | None  # score of always giving the most frequent answer, where that is one
    metrics: Mapping[str, float]  # {metric: median × 100}, of errors the median of the seeds that did not diverge
    split: str  # that is scored
    train_rows: int
    scored_rows: int
    cut_share: float  # of the rows of train, those that were longer than `length`
    epochs: int
    train_seconds: float  # of a seed, median
    saved: str  # the model of the first seed, as a Hugging Face directory; empty: it diverged

    @property
    def is_diverged(self) -> bool:
        """Whether every seed diverged, so that nothing was scored."""
        return all(self.failed.get(seed, "").startswith(DIVERGED) for seed in self.scores)


def directory_of_seed(run: Path, place: int, seed: int) -> Path:
    """Where the run of a seed stands: the first in `run` itself, so that `run`/model is its model, whatever others score."""
    return run if not place else run / f"seed-{seed}"


def finetune_spread(config: FinetuneConfig, seeds: Sequence[int], *, together: bool = False) -> Spread:
    """Fine-tune with each seed, see `finetune_seeds`, and say what all of them came to.

    Args:
        config: its `run.directory` is where the runs stand, see `directory_of_seed`, "" for runs/own/<title of the task>; its seed
            does not count.
        seeds: one or more.
        together: side by side in one vmapped step.
    """
    run = Path(config.run.directory or Path("runs/own") / find_task(config.task).title)
    configs = [
        dataclasses.replace(
            config,
            save_model=not place,
            run=dataclasses.replace(config.run, seed=seed, directory=str(directory_of_seed(run, place, seed))),
        )
        for place, seed in enumerate(seeds)
    ]
    # Each seed may have a teacher of its own.
    distributed.on_all_processes(lambda: [check_models(one, find_task(one.task)) for one in configs])
    results = finetune_seeds(configs, together=together)
    return spread_of(results, [Path(one.run.directory) for one in configs], config.epochs or 0)


def spread_of(results: Sequence[RunResult], directories: Sequence[Path], epochs: int) -> Spread:
    """What runs of one task came to, in the order of their seeds, the first the one whose model is kept."""
    first, task = results[0], find_task(results[0].task)
    split, scores = next(iter(first.scores)), [result.score for result in results]
    floor = majority_score(task, directories[0], split)
    failed = {
        str(result.seed): why
        for result, directory in zip(results, directories, strict=True)
        if (why := _failure(task, result, directory, split, floor))
    }
    return Spread(
        task=task.name,
        title=task.title,
        kind=task.kind,
        model=first.model,
        median=statistics.median(scores),
        min=min(scores),
        max=max(scores),
        scores={str(result.seed): result.score for result in results},
        failed=failed,
        majority=floor,
        metrics={name: value for name, value in median_metrics(results, split).items() if name != "score"},
        split=split,
        train_rows=first.train_rows,
        scored_rows=first.dev_rows[split],
        cut_share=first.cut_share,
        epochs=epochs or task.epochs,
        train_seconds=statistics.median(result.train_seconds / result.together for result in results),
        saved="" if first.diverged else str(directories[0] / "model"),
    )


def _failure(task: Task, result: RunResult, directory: Path, split: str, floor: float | None) -> str:
    """Why a run counts as failed, or ""."""
    if result.diverged:
        return f"{DIVERGED}{result.diverged}"
    if floor is None:
        return "" if result.score > _EPSILON else "nothing is right"
    logits = read_predictions(directory, split, task).logits
    if logits is not None:
        answers = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(-1)
        if bool(np.all(answers == answers[0])):
            return "gives the same answer to every row"
    return "" if result.score > floor + _EPSILON else "no better than the most frequent answer"


def _holds_out(spread: Spread) -> bool:
    """Whether what is scored was held out of the rows that were given to learn from."""
    source = find_task(spread.task).source
    return isinstance(source, OwnSplits) and source.dev is None


def told(spread: Spread, length: int) -> list[str]:
    """What a spread says, in lines. length: tokens that were read of a row."""
    seeds, single = len(spread.scores), len(spread.scores) == 1
    metrics = ", ".join(f"{name} {value:.1f}" for name, value in spread.metrics.items())
    rows = f"{spread.scored_rows:,} {'held-out ' if _holds_out(spread) else ''}rows"
    of = f"median of {seeds} seeds, {spread.min:.1f} to {spread.max:.1f}, on {rows}"
    if single:
        of = f"one seed, on {rows}; --seeds 5 tells by how much that swings"
    lines = [f"{spread.title}: score {spread.median:.1f} ({metrics}; {of})"]
    if spread.majority is not None:
        lines.append(f"always the most frequent answer: {spread.majority:.1f}")
    if not single:
        lines.append("seeds: " + ", ".join(f"{seed} {score:.1f}" for seed, score in spread.scores.items()))
    lines += [f"failed: seed {seed}: {why}" for seed, why in spread.failed.items()]
    if spread.cut_share > 0.05:
        share = f"{spread.cut_share:.0%} of the"
        rows = f"{share} rows were cut at {length} tokens: --length reads more of them"
        lines.append(f"{share} questions are too long, and were cut" if spread.kind == "answers" else rows)
    if spread.saved:
        kept = "" if single else ", that of the first seed, not of the best"
        lines.append(f"model: {spread.saved}{kept}")
    return lines
