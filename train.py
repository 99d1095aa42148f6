"""Train from a config file: `python train.py CONFIG.py [--field.sub value …]`, `--help` after the file lists its fields."""

import sys

from distilbert_jax import runtime
from distilbert_jax.cli import load_config, parse
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError, one_line_errors


def main(args: list[str]) -> None:
    if not args or args[0].startswith("-"):
        asked = args[:1] in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    path, *overrides = args
    default = load_config(path, PretrainConfig, FinetuneConfig)
    config = parse(type(default), overrides, prog=f"train.py {path}", default=default)

    runtime.keep_freed_memory()
    if config.run.deterministic:
        runtime.deterministic_gpu()
    if runtime.join_processes() and isinstance(config, FinetuneConfig):
        raise InputError("fine-tuning runs in one process: start it on one host, or its seeds on several")

    # Imported here: --help and a mistake in the config need not wait for JAX.
    if isinstance(config, PretrainConfig):
        from distilbert_jax.evaluation.mlm import heldout
        from distilbert_jax.training.pretrain import pretrain

        pretrain(config, heldout)
    else:
        from distilbert_jax.evaluation.glue import predict, score
        from distilbert_jax.training.finetune import finetune

        result = finetune(config, predict, score)
        for split, values in result["scores"].items():
            print(f"{result['task']} {split}: " + "  ".join(f"{name} {value:.2f}" for name, value in values.items()))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
