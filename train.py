"""Train from a config file: `python train.py CONFIG.py [--field.sub value …]`, `--help` after the file lists its fields.

A config with variants takes a word behind a colon: `python train.py configs/miniature/teacher.py:gpu`.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from distilbert_jax.base import runtime, signals
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.training import distributed

with signals.leaving_at_ctrl_c():
    import tyro

    from distilbert_jax.base.config_io import load_config
    from distilbert_jax.base.parsing import parse
    from distilbert_jax.config import FinetuneConfig, PretrainConfig


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


def main(args: list[str]) -> None:
    if not args or args[0].startswith("-"):
        asked = args[:1] in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    path, *overrides = args
    default = load_config(path, PretrainConfig, FinetuneConfig)
    command = PretrainCommand(default) if isinstance(default, PretrainConfig) else FinetuneCommand(default)
    command = parse(type(command), overrides, prog=f"train.py {path}", default=command)
    config = command.config
    if isinstance(command, PretrainCommand) and command.dry_run and command.profile:
        raise InputError(
            "--dry-run writes nothing of a run, and --profile is written into it: give one of them", field="--dry-run"
        )

    runtime.keep_freed_memory()
    if config.run.deterministic:
        runtime.deterministic_gpu()
    together = distributed.join_processes()
    if together and isinstance(config, FinetuneConfig):
        raise InputError("fine-tuning runs in one process: start it on one host, or its seeds on several")

    # Imported here: --help and a mistake in the config need not wait for JAX.
    if isinstance(config, PretrainConfig):
        with signals.leaving_at_ctrl_c():
            from distilbert_jax.pretraining.run import dry_run, estimate, pretrain

        if command.dry_run:
            print(estimate(dry_run(config)))
        else:
            with signals.leaving_when_asked(together=together):
                pretrain(config, profile=command.profile)
    else:
        with signals.leaving_at_ctrl_c():
            from distilbert_jax.finetuning.runs import finetune

        with signals.leaving_when_asked():
            result = finetune(config)
        for split, values in result.scores.items():
            print(f"{result.task} {split}: " + "  ".join(f"{name} {value:.2f}" for name, value in values.items()))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
