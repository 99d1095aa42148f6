"""Evaluate a model in a checkout: `python evaluate.py COMMAND …` is `distilbert-jax COMMAND …`, and `mlm` is `evaluate` there."""

import sys

from distilbert_jax.cli.main import COMMANDS as ALL
from distilbert_jax.cli.main import run
from distilbert_jax.errors import InputError, nearest, one_line_errors

COMMANDS = {
    name: "evaluate" if name == "mlm" else name
    for name in (
        "fill-mask",
        "features",
        "classify",
        "entities",
        "answer",
        "mlm",
        "score",
        "predict",
        "glue",
        "bias",
        "card",
        "speed",
        "report",
    )
}


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        listed = "\n".join(f"{name:10} {ALL[command].help}" for name, command in COMMANDS.items())
        about = "Evaluate a model: `python evaluate.py COMMAND …`, `python evaluate.py COMMAND --help`."
        print(f"{about}\n\n{listed}", file=sys.stdout if args else sys.stderr)
        sys.exit(0 if args else 2)
    name, *rest = args
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS)
        raise InputError(f"evaluate.py {name}: no such command; {hint}", field=name, hint=hint)
    run(COMMANDS[name], rest, f"evaluate.py {name}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
