"""Models compared: `distilbert-jax report`, `experiment`, `ablation`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from distilbert_jax.base import runtime, signals
from distilbert_jax.cli.arguments import calling, check_effect, load_config, load_variants, parse, running
from distilbert_jax.config import STAGES, ExperimentConfig, FinetuneConfig, PretrainConfig, Stage
from distilbert_jax.errors import InputError
from distilbert_jax.experiments.variants import Config, swept
from distilbert_jax.glue.references import GLUE


@dataclass(frozen=True)
class ReportCommand:
    """Compare pre-training runs: held-out MLM, KL to the teacher, task scores, speed and curves, in one table.

    Writes results.json, report.md and the plots into --out. Task scores are what `distilbert-jax glue` left in <run>/glue;
    differences are paired, with 95 % intervals over dev rows and seeds, WNLI aside.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]  # run directories, each with model/ and metrics.jsonl
    out: str  # directory
    heldout: str = ""  # corpus directory; empty: no held-out figures but those of a run's own last evaluation
    teacher: str = ""  # run directory that KL divergence, share of the score and speed are relative to
    against: str = ""  # run directory whose scores the others are compared with
    length: int | None = None  # tokens in a row; that of the runs if not given
    max_rows: int | None = None  # of held-out text; all if not given

    def run(self) -> None:
        from distilbert_jax.experiments.report import report

        report(**vars(self))


def experiment(
    config: tyro.conf.Positional[str],
    stages: tuple[Stage, ...] = STAGES,
    variants: tuple[str, ...] = (),
    text: tuple[Path, ...] = (),
    heldout_text: tuple[Path, ...] = (),
    data: str = "",
    sweep: tuple[str, ...] = (),
    apart: bool = False,
) -> None:
    """Run an experiment, or some stages of it, or some variants. What has ended is found.

    Students that share teacher, corpus, masking and seed train side by side, in one program that asks the teacher once.

    Args:
        config: file whose get_config() returns an ExperimentConfig, or the name of one that comes with the package: miniature.
        stages: corpus, pretrain, glue, report; in this order.
        variants: names of those to pre-train, fine-tune and report; all if none is given.
        text: .txt, .txt.xz or .txt.gz files to train on, UTF-8, a blank line between documents; none once the corpus is there.
        heldout_text: files for evaluation only.
        data: folder with <task>/{train,validation}.parquet; empty: what the config says, else GLUE from the hub.
        sweep: a field of the student's config and values of it, as in --sweep loss.kl.weight 1 2 linear:5:1: each a variant
            beside the student, in the place of the config's others. Of its fine-tuning: --sweep glue.distill.alpha 0.5 1.
        apart: train students in turn, where memory does not hold several.
    """
    given = load_config(config, ExperimentConfig)
    if data:
        reading = lambda glue: glue and dataclasses.replace(glue, data=data)
        read = tuple(dataclasses.replace(one, glue=reading(one.glue)) for one in given.variants)
        given = dataclasses.replace(given, glue=reading(given.glue), variants=read)
    if sweep:
        given = swept(given, sweep[0], sweep[1:], _with_options)
    if apart:
        given = dataclasses.replace(given, together=False)
    if data and not Path(data).is_dir():
        raise InputError(f"--data {data}: no such folder", path=data, field="--data")
    runtime.keep_freed_memory()
    if any(
        run.deterministic
        for one in given.variants
        for run in (given.glue_of(one).run, *([one.pretrain.run] if one.pretrain else ()))
    ):
        runtime.deterministic_gpu()
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.experiments.experiment import run_experiment

    run_experiment(given, stages, variants, text, heldout_text)


def _with_options(options: Sequence[str], config: Config) -> Config:
    changed = parse(type(config), options, prog="--sweep", default=config)
    try:
        check_effect(config, changed)
    except InputError as error:
        raise InputError(
            f"--sweep: {error}; what does not change is a field of the experiment's config",
            field=error.field,
            hint=error.hint,
        ) from None
    return changed


def ablation(
    config: tyro.conf.Positional[str],
    glue: str,
    out: Path,
    tasks: tuple[str, ...] = GLUE,
    seeds: tuple[int, ...] = (0,),
    glue_seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
) -> None:
    """Train every variant of a config, fine-tune each, and show what changes against the variant "full". Finished runs are found.

    Args:
        config: with the variants to compare, or NAME:GROUP for those of a group: ablations, ablations:demo. Their run directories
            get the seed behind.
        glue: config of the fine-tuning: glue, demo:glue.
        out: directory for results.json and table.md.
        tasks: whose mean is the score.
        seeds: of pre-training.
        glue_seeds: of fine-tuning.
    """
    tuning = load_config(glue, FinetuneConfig)
    variants = load_variants(config, PretrainConfig)
    runtime.keep_freed_memory()
    if any(config.run.deterministic for config in (tuning, *variants.values())):
        runtime.deterministic_gpu()
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.experiments.ablation import run_ablation

    run_ablation(variants, tuning, out, tasks, seeds, glue_seeds)


COMMANDS = {
    "report": running(ReportCommand),
    "experiment": calling(experiment),
    "ablation": calling(ablation),
}
