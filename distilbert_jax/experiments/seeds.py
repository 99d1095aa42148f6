"""Seeds of pre-training in a report: which runs differ in nothing else, and what they come to together."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from distilbert_jax.config import PretrainConfig
from distilbert_jax.experiments.figures import ComparisonWith, RunFigures, SeedFigures
from distilbert_jax.experiments.variants import leaves
from distilbert_jax.glue import bootstrap
from distilbert_jax.glue.results import Comparison, SweepRun
from distilbert_jax.training import run_directory

# Of inputs.json: what differs with the seed, and what no weight depends on.
_NOT_SHARED = ("run", "config", "initial weights", "data.heldout", "teacher's files")


def alike(configs: Mapping[Path, PretrainConfig | None]) -> list[dict[int, Path]]:
    """Runs that differ in nothing but their seed of pre-training, in groups of two or more: {seed: run}. Corpora and models go by
    their content, wherever they lie, as far as inputs.json tells it."""
    groups: dict[str, dict[int, Path]] = {}
    for run, config in configs.items():
        if config:
            read = run_directory.recorded_inputs(run)
            # What lies on the hub is told by its name alone.
            told = lambda name, read=read: name in run_directory.PLACES and (name in read or f"{name}'s files" in read)
            settings = {
                name: value
                for name, value in leaves(config)
                if name != "run.seed" and not run_directory.is_free(name) and not told(name)
            }
            read = {name: digest for name, digest in read.items() if name not in _NOT_SHARED}
            groups.setdefault(repr((settings, sorted(read.items()))), {}).setdefault(config.run.seed, run)
    return [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]


def over_seeds(
    rows: Mapping[Path, RunFigures],
    tuned: Mapping[Path, Sequence[SweepRun]],
    configs: Mapping[Path, PretrainConfig | None],
    tasks: Sequence[str],
    *,
    teacher: str,
    against: str,
) -> dict[str, SeedFigures]:
    """The figures of the runs that are alike but for their seed of pre-training, under the name of the first. Runs without scores
    are left out.

    Args:
        rows: the figures of each run, by its path as it was given.
        tuned: what fine-tuning left in them, in the teacher and in the run that they are compared with, by their resolved paths.
        configs: how these were trained, as far as they were.
        tasks: that the scores are over, which all runs with scores have.
    """
    given = {path.resolve(): path for path in (*map(Path, filter(None, (teacher, against))), *rows)}
    groups = alike({run: configs[run] for run, scores in tuned.items() if tasks and scores})

    def side_of(run: Path) -> Mapping[int, Path]:
        return next((group for group in groups if run in group.values()), {0: run})

    def beside(group: Mapping[int, Path], theirs: Mapping[int, Path]) -> Comparison:
        of_side = lambda side: [tuned[run] for run in side.values()]
        return bootstrap.compare_runs(of_side(group), of_side(theirs), tasks, paired=group.keys() == theirs.keys())

    names = lambda group: tuple(given[run].name for run in group.values())
    scored = lambda name: bool(name) and bool(tuned[Path(name).resolve()])
    taught_by = {0: Path(teacher).resolve()} if scored(teacher) else {}  # one model, whatever runs are alike to it
    compared = side_of(Path(against).resolve()) if scored(against) else {}
    found = {}
    for whole in groups:
        # Others are there to be compared with alone.
        group = {seed: run for seed, run in whole.items() if given[run] in rows}
        scores = [one.score for one in (rows[given[run]] for run in group.values()) if one.score is not None]
        if len(scores) < max(2, len(group)):
            continue
        apart = compared and not set(group.values()) <= set(compared.values())
        found[names(group)[0]] = SeedFigures(
            runs=names(group),
            score=statistics.fmean(scores),
            of_teacher=beside(group, taught_by) if taught_by else None,
            against=ComparisonWith(**vars(beside(group, compared)), name=", ".join(names(compared))) if apart else None,
        )
    return found
