"""The commands of `distilbert-jax`: their names, where they are, and how they begin and end."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from distilbert_jax.base import runtime, signals
from distilbert_jax.cli import renamed
from distilbert_jax.errors import InputError, nearest, one_line_errors


@dataclass(frozen=True)
class Command:
    """A module of `distilbert_jax.cli`, in whose `COMMANDS` the command is, and what `--help` says of it in one line."""

    module: str
    help: str


COMMANDS = {
    "train": Command("train", "pre-train, distil or fine-tune from a config"),
    "plan": Command("plan", "what a run takes on TPUs or GPUs that are not here: memory, time, price"),
    "evaluate": Command(
        "evaluate", "masked LM on held-out text: loss, accuracy, perplexity, KL divergence from a teacher"
    ),
    "corpus": Command("prepare", "text files to a corpus of token shards"),
    "tokenizer": Command("prepare", "train a WordPiece vocabulary on text files"),
    "student": Command("prepare", "a DistilBERT that begins with layers of a teacher"),
    "fill-mask": Command(
        "texts", "the most likely words for [MASK], also among given words, jointly, or of several pieces"
    ),
    "features": Command("texts", "hidden states of any layer, of every token or pooled"),
    "classify": Command("texts", "labels and scores of a fine-tuned model"),
    "entities": Command("texts", "named entities, or other labels of words, and where they stand"),
    "answer": Command("texts", "the parts of a context that answer a question"),
    "finetune": Command("finetune", "fine-tune on rows of your own: a .csv and its columns; the score with its spread"),
    "score": Command("finetune", "the metrics of a fine-tuned model on labelled rows of your own"),
    "predict": Command("finetune", "labels and scores of every row of a file, written beside what went in"),
    "glue": Command("glue", "fine-tune on tasks × seeds: the GLUE table, beside the paper's, and the server's files"),
    "bias": Command("probes", "the words of two sides of a prompt, side by side"),
    "card": Command("probes", "the model card's three prompts, checked against the published scores"),
    "speed": Command("probes", "latency and tokens a second of the encoder"),
    "paper": Command("paper", "the paper's Tables 2 and 3: IMDb and SQuAD, and a pass over STS-B at batch 1"),
    "report": Command("experiments", "one table, one results.json and the curves of several runs"),
    "experiment": Command("experiments", "models pre-trained, fine-tuned and compared in pairs, from one config"),
    "ablation": Command(
        "experiments", "what each part of a recipe is worth: variants of a config against the full one"
    ),
    "export": Command("export", "a model as ONNX or StableHLO, compared with this package's outputs"),
    "push": Command("push", "a model's directory to the Hugging Face hub"),
    "serve": Command("serve", "an endpoint and a page: models behind HTTP, in the forms of clients that there are"),
    "demo": Command("demo", "everything once, on Python's own documentation, in minutes"),
    "configs": Command("configs", "the configs that come with the package"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "BERT and DistilBERT in JAX: `distilbert-jax COMMAND …`, `distilbert-jax COMMAND --help`, `distilbert-jax --version`.",
            "`distilbert-jax --with FILE.py COMMAND …` runs a file of yours first, which may bring a family, a task, a term.",
            *(f"{name:{width}}  {command.help}" for name, command in COMMANDS.items()),
        ]
    )


def run(name: str, args: list[str], prog: str) -> None:
    """Run a command of `COMMANDS` with its arguments; `prog` is what its messages call it."""
    runtime.pass_over_compilers()
    with signals.leaving_at_ctrl_c():
        module = importlib.import_module(f"distilbert_jax.cli.{COMMANDS[name].module}")
    module.COMMANDS[name](args, prog)


def _run_first(files: list[str]) -> None:
    """Run a user's file, whose families, tasks and terms the command then knows."""
    if not files:
        raise InputError("--with: no file is given; expected a Python file", field="--with")
    if not Path(files[0]).is_file():
        what = "is not a regular file" if Path(files[0]).exists() else "no such file"
        what = "is a directory" if Path(files[0]).is_dir() else what
        raise InputError(f"--with {files[0]}: {what}; expected a Python file", path=files[0], field="--with")
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.base import config_io  # brings NumPy, for which a list of commands need not wait

        config_io.run_file(config_io.ConfigFile(files[0], Path(files[0]), None))


def main(args: list[str]) -> None:
    """`distilbert-jax` with its arguments.

    Raises:
        InputError: there is no such command (the nearest is named), or what the command raises.
    """
    if not args or args[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if args else sys.stderr)
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        import distilbert_jax

        print(f"distilbert-jax {distilbert_jax.__version__}")
        return
    while args[0] == "--with":
        _run_first(args[1:2])
        args = args[2:] or ["--help"]
    name, *rest = args
    if name in ("-h", "--help"):
        return main([name])
    if name.startswith("-"):
        raise InputError(
            f"distilbert-jax {name}: no such option; before a command there are --help, --version and --with FILE.py",
            field=name,
        )
    if name not in COMMANDS:
        now = renamed.COMMANDS.get(name)
        hint = f"it is now {now!r}" if now else nearest(name, COMMANDS)
        raise InputError(f"distilbert-jax {name}: no such command; {hint}", field=name, hint=now or hint)
    if "--with" in rest:
        hint = f"distilbert-jax --with FILE.py {name} …"
        raise InputError(f"--with stands before the command: {hint}", field="--with", hint=hint)
    run(name, rest, f"distilbert-jax {name}")


def entry() -> None:
    """The process of `distilbert-jax`: its arguments, one line for a mistake, and an exit status."""
    with one_line_errors():
        main(sys.argv[1:])
