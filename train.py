"""Train from a config file in a checkout: `python train.py CONFIG.py …` is `distilbert-jax train CONFIG.py …`."""

import sys

from distilbert_jax.base import runtime, signals
from distilbert_jax.errors import one_line_errors

with signals.leaving_at_ctrl_c():
    from distilbert_jax.cli.train import train


def main(args: list[str]) -> None:
    runtime.pass_over_compilers()
    train(args, "train.py")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
