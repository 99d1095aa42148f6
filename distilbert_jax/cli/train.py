"""Training from a config: `distilbert-jax train CONFIG [--field.sub value …]`."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from distilbert_jax.base import runtime, signals
from distilbert_jax.cli.arguments import check_effect, load_config, parse, training_together
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.configs import shipped
from distilbert_jax.errors import InputError


@dataclass(frozen=True)
class PretrainCommand:
    """Pre-train a masked LM, or distil a student."""

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    dry_run: bool = False  # say what the run will take, from its compiled step and ten measured ones, and leave
    profile: bool = False  # write a trace of five steps to <run>/profile, for TensorBoard or Perfetto


@dataclass(frozen=True)
class FinetuneCommand:
    """Fine-tune an encoder on one GLUE task."""

    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")]


def usage(prog: str) -> str:
    prog = f"python {prog}" if prog.endswith(".py") else prog
    return f"""Train from a config: `{prog} CONFIG [--field.sub value …]`; `--help` after the config lists its fields.

CONFIG is a Python file, or the name of one that comes with the package: {", ".join(shipped())}.
A config with variants takes a word behind a colon: `{prog} demo:student`, `{prog} folder/file.py:word`.
`distilbert-jax configs` tells what they are."""


def train(args: list[str], prog: str) -> None:
    """Train what `args` say: a config, then fields of it.

    Raises:
        InputError: a mistake in the config or the fields; what training raises.
    """
    if not args or args[0].startswith("-"):
        asked = args[:1] in (["-h"], ["--help"])
        print(usage(prog), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    name, *overrides = args
    default = load_config(name, PretrainConfig, FinetuneConfig)
    command = PretrainCommand(default) if isinstance(default, PretrainConfig) else FinetuneCommand(default)
    command = parse(type(command), overrides, prog=f"{prog} {name}", default=command)
    check_effect(default, command.config)
    if isinstance(command, PretrainCommand) and command.dry_run and command.profile:
        raise InputError(
            "--dry-run writes nothing of a run, and --profile is written into it: give one of them", field="--dry-run"
        )
    runtime.keep_freed_memory()
    if command.config.run.deterministic:
        runtime.deterministic_gpu()
    # What brings JAX is imported within: --help and a mistake in the config need not wait for it.
    with training_together() as together:
        if isinstance(command, PretrainCommand):
            _pretrain(command, together)
        else:
            _finetune(command.config, together)


def _pretrain(command: PretrainCommand, together: bool) -> None:
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.pretraining.run import dry_run, estimate, pretrain

    if command.dry_run:
        print(estimate(dry_run(command.config)))
    else:
        with signals.leaving_when_asked(together=together):
            pretrain(command.config, profile=command.profile)


def _finetune(config: FinetuneConfig, together: bool) -> None:
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.finetuning.runs import directory_of, finetune
        from distilbert_jax.glue.results import SweepRun
        from distilbert_jax.glue.summary import summary

    with signals.leaving_when_asked(together=together):
        result = finetune(config)
    for split, values in result.scores.items():
        print(f"{result.task} {split}: " + "  ".join(f"{name} {value:.2f}" for name, value in values.items()))
    if config.selection_split or result.task == "wnli":  # whose rows nobody beats
        return
    row = summary([SweepRun(result, directory_of(config))])[result.task]
    if row.failed:
        print(
            f"{result.task}: no better than the same answer to every row, {row.majority:.2f}: nothing was learned; try another "
            "learning rate, or another seed",
            file=sys.stderr,
        )


COMMANDS = {"train": train}
