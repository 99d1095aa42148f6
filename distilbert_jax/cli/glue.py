"""GLUE sweep and its table: `distilbert-jax glue`."""

import dataclasses
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from distilbert_jax.base import runtime, signals
from distilbert_jax.base.config_io import to_values
from distilbert_jax.base.tables import show
from distilbert_jax.cli.arguments import check_effect, load_config, parse, print_json, training_together
from distilbert_jax.config import FinetuneConfig, SweepConfig
from distilbert_jax.errors import InputError
from distilbert_jax.glue.references import GLUE

if TYPE_CHECKING:
    from distilbert_jax.glue.results import SweepRun


@dataclass(frozen=True)
class GlueCommand:
    """The GLUE table: a model fine-tuned on tasks × seeds, medians and spreads on dev beside the paper's rows.

    distilbert-jax glue --model DIR: nine tasks, five seeds, GLUE from the hub.

    … --data FOLDER --tasks rte mrpc --seeds 0 1 2: from FOLDER/<task>/{train,validation}.parquet (of MNLI: validation_matched,
    validation_mismatched).

    … --sweep.learning-rate 5e-5 1e-4 2e-4 --sweep.epochs 3 10: settings chosen on a tenth of train.

    … --submit glue.zip: also the files for the GLUE server.

    Each run stands in <run.directory>/<task>-<seed> (default of run.directory: runs/glue/<model>; as RUN/glue, `distilbert-jax
    report` finds it) and is done once: interrupted, the same command goes on. The table of the tasks and seeds asked for last is
    left beside the runs as glue.json, glue.md, glue.csv and glue.png. --task and --run.seed are for `distilbert-jax train`. A
    config given first (`distilbert-jax glue demo:glue --model DIR`) sets the defaults. The paper's settings were never published;
    the defaults are the field's.
    """

    run_with: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: FinetuneConfig(save_model=False)
    )
    tasks: tuple[str, ...] = GLUE
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of the head, the order of the rows and dropout
    vmap_seeds: bool = False  # train the seeds of a task side by side in one program: for accelerators
    sweep: SweepConfig = field(default_factory=SweepConfig)
    # RTE, MRPC and STS-B start at the MNLI model of their seed, which is trained first and joins the table.
    from_mnli: bool = False
    # What distilbert-jax glue left for the teacher: share of its score retained, parameters, speed.
    teacher_runs: str = ""
    # .zip for the GLUE server, of each task the seed that is best on dev; AX comes from MNLI's. Runs that ended without predictions
    # of the test splits are trained once more: give it from the start.
    submit: str = ""
    json: bool = False  # the whole table as one JSON object in the place of the terminal's

    def run(self) -> None:
        given = self.run_with
        if given.run.deterministic:
            runtime.deterministic_gpu()
        from distilbert_jax.glue import submission
        from distilbert_jax.glue.summary import check_dev, model_of, read_runs

        _check_other(given)
        if self.submit:
            submission.check_path(self.submit, self.tasks)
        teacher = read_runs(self.teacher_runs) if self.teacher_runs else []
        teacher_model = model_of(teacher) if teacher else ""  # whose speed is measured in the end
        if teacher and not set(self.tasks) & {run.result.task for run in teacher} - {"wnli"}:
            raise InputError(
                f"--teacher-runs {self.teacher_runs}: has none of the tasks {', '.join(self.tasks)} (WNLI aside)",
                field="--teacher-runs",
            )
        check_dev([run for run in teacher if run.result.task in self.tasks], given)
        config = dataclasses.replace(given, predict_test=given.predict_test or bool(self.submit))
        with training_together() as together:
            self._compare(config, teacher, teacher_model, together=together)

    def _compare(
        self, config: FinetuneConfig, teacher: Sequence["SweepRun"], teacher_model: str, *, together: bool
    ) -> None:
        from distilbert_jax.finetuning.runs import sweep_directory
        from distilbert_jax.finetuning.tasks import TASKS
        from distilbert_jax.glue import submission, table
        from distilbert_jax.glue.sweep import run_sweep
        from distilbert_jax.probes.speed import relative_speed
        from distilbert_jax.training import distributed

        with signals.leaving_when_asked(together=together), runtime.compiling_once():
            results = run_sweep(
                config, self.tasks, self.seeds, sweep=self.sweep, together=self.vmap_seeds, from_mnli=self.from_mnli
            )
        if not distributed.is_main_process():
            return
        cost = relative_speed(config.model, teacher_model) if teacher else None
        result = table.table_of(config.model, results, teacher, cost)
        out = Path(config.run.directory or sweep_directory(config))
        table.write(result, results, out)
        if self.json:
            print_json(to_values(result))
        else:
            for view in table.terminal(result):
                show(view)
            print(f"{out}/glue.json, .md, .csv and .png written")
        if self.submit:
            files = submission.write_submission(results, self.submit)
            said = ", ".join(f"{name} (seed {seed})" for name, seed in files.items())
            every = (name for task in TASKS.values() for name in task.submission.values())
            lacking = ", ".join(name for name in every if name not in files)
            print(f"{self.submit}: {said}" + (f"; not in it: {lacking}" if lacking else ""), file=sys.stderr)


def _check_other(config: FinetuneConfig, name: str = "") -> None:
    """Raise InputError where a config, the file `name` or the options, says what the sweep decides."""
    usual = FinetuneConfig()
    for field_, hint in (
        ("task", "--tasks"),
        ("selection_split", "--sweep.learning-rate …"),
        ("run.seed", "--seeds"),
    ):
        value = operator.attrgetter(field_)
        if value(config) != value(usual):
            option = f"--{field_.replace('_', '-')}"
            said = f"{name}: sets {field_} = {value(config)!r}, which" if name else option
            raise InputError(
                f"{said} is for distilbert-jax train; here: {hint}", path=name or None, field=option, hint=hint
            )


def glue(args: list[str], prog: str) -> None:
    """The command; a config may come first."""
    default = None
    if args and not args[0].startswith("-"):
        name, *args = args
        config = load_config(name, FinetuneConfig)
        _check_other(config, name)
        default = GlueCommand(dataclasses.replace(config, save_model=False))
    command = parse(GlueCommand, args, prog=prog, default=default)
    check_effect(default.run_with if default else FinetuneConfig(), command.run_with, command.sweep)
    runtime.keep_freed_memory()
    command.run()


COMMANDS = {"glue": glue}
