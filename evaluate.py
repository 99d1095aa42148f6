"""Evaluate a model: `python evaluate.py COMMAND …`, `python evaluate.py COMMAND --help`.

fill-mask  the most likely words for [MASK]
mlm        masked-LM loss, accuracy and perplexity on held-out text, KL divergence from a teacher
glue       fine-tune on tasks × seeds and print the dev scores
bias       the words of two sides of a prompt, side by side
card       the model card's three prompts, checked against the published scores
speed      latency and tokens a second of the encoder
report     one table, one results.json and the curves of several runs
"""

import dataclasses
import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from distilbert_jax import runtime
from distilbert_jax.cli import load_config, parse
from distilbert_jax.config import Dtype, FinetuneConfig
from distilbert_jax.errors import InputError, one_line_errors


@dataclass(frozen=True)
class FillMaskCommand:
    """The most likely words for [MASK], as a table or as one JSON object a line."""

    texts: tyro.conf.Positional[tuple[str, ...]]  # each with at least one [MASK]
    model: str  # HF directory
    top_k: int = 5
    json: bool = False
    dtype: Dtype = "float32"

    def run(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from distilbert_jax.pipelines import FillMask

        if not self.texts:
            raise InputError("no text given; put one with [MASK] in quotes behind the command")
        fill = FillMask(self.model, dtype=self.dtype)
        for text, answer in zip(self.texts, fill(self.texts, self.top_k), strict=True):
            if self.json:
                print(json.dumps({"text": text, "answers": answer}, ensure_ascii=False))
                continue
            for i, one in enumerate([answer] if isinstance(answer[0], dict) else answer):
                table = Table(
                    "score", "token", "token_str", "sequence", title=text if i == 0 else None, title_justify="left"
                )
                for row in one:
                    table.add_row(f"{row['score']:.4f}", str(row["token"]), row["token_str"], row["sequence"])
                Console().print(table)


@dataclass(frozen=True)
class MlmCommand:
    """Masked LM on held-out text: loss (nats), accuracy, perplexity and, with --teacher, the KL divergence from it.

    Every model is asked the same questions: 15 % of the tokens, uniform, 80/10/10, drawn from the index of the packed row.
    """

    model: str  # HF directory
    corpus: str  # directory made by python -m distilbert_jax.data.corpus
    teacher: str = ""  # HF directory
    length: int = 128  # tokens in a packed row
    sequences: Literal["line", "document"] = "line"
    batch_size: int = 32
    max_rows: int | None = None
    dtype: Dtype = "float32"
    json: bool = False

    def run(self) -> None:
        from distilbert_jax.evaluation.mlm import evaluate_mlm

        options = {name: value for name, value in vars(self).items() if name != "json"}
        found = evaluate_mlm(**options)
        print(json.dumps(found) if self.json else "\n".join(f"{name:14} {value:.4f}" for name, value in found.items()))


@dataclass(frozen=True)
class GlueCommand:
    """Fine-tune a model on tasks × seeds and print medians and spreads on dev. Finished runs are found, not repeated.

    A config file given first (`evaluate.py glue configs/glue.py --model DIR`) sets the defaults.
    """

    run_with: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(default_factory=FinetuneConfig)
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    json: bool = False

    def run(self) -> None:
        from rich.console import Console

        from distilbert_jax.evaluation.glue import run_grid, summary, table

        rows = summary(run_grid(dataclasses.replace(self.run_with, save_model=False), self.tasks, self.seeds))
        if self.json:
            print(json.dumps({"model": self.run_with.model, "tasks": rows}))
        else:
            Console().print(table(self.run_with.model, rows))


@dataclass(frozen=True)
class BiasCommand:
    """Paired prompts: the likeliest words of each side, their overlap, and the log-odds of words between the sides."""

    model: str  # HF directory or hub id
    prompts: str = ""  # .yaml or .json file, form: distilbert_jax/evaluation/prompts.py; empty: the model card's pair
    top_k: int = 10
    words: tuple[str, ...] = ()  # of interest, for every pair; none: those of the file, else all in either top
    out: str = ""  # directory for results.json and log_odds.png
    json: bool = False

    def run(self) -> None:
        from rich.console import Console

        from distilbert_jax.evaluation import bias
        from distilbert_jax.evaluation.prompts import CARD_PAIR, read_pairs
        from distilbert_jax.pipelines import FillMask

        if Path(self.out).is_file():
            raise InputError(f"--out {self.out}: is a file, expected a directory")
        pairs = read_pairs(self.prompts) if self.prompts else [CARD_PAIR]
        results = bias.bias_probe(FillMask(self.model), pairs, top_k=self.top_k, words=self.words)
        for result in results:
            if self.json:
                print(json.dumps(result, ensure_ascii=False))
            else:
                Console().print(bias.table(result))
        if self.out:
            bias.write(results, self.model, self.out)


@dataclass(frozen=True)
class CardCommand:
    """The three prompts of distilbert-base-uncased's model card: exit status 1 if a token differs or a score by over 1e-4."""

    model: str  # HF directory or hub id
    json: bool = False

    def run(self) -> None:
        from rich.console import Console

        from distilbert_jax.evaluation.card import check_card, table
        from distilbert_jax.pipelines import FillMask

        rows = check_card(FillMask(self.model))
        if self.json:
            print("\n".join(map(json.dumps, rows)))
        else:
            Console().print(table(rows))
        if not all(row["ok"] for row in rows):
            sys.exit(1)


@dataclass(frozen=True)
class SpeedCommand:
    """Latency and tokens a second of the encoder on random tokens, without padding."""

    model: str  # HF directory
    batch_size: int = 8
    length: int = 128
    rounds: int = 20
    dtype: Dtype = "float32"
    json: bool = False

    def run(self) -> None:
        from distilbert_jax.evaluation.speed import encoder_speed

        options = {name: value for name, value in vars(self).items() if name != "json"}
        found = encoder_speed(**options)
        if self.json:
            print(json.dumps(found))
        else:
            print(
                f"{self.model}: batch {self.batch_size} × {self.length} tokens, {self.dtype}: median {found['median_ms']:.1f} ms "
                f"({found['min_ms']:.1f}–{found['max_ms']:.1f}), {found['tokens_per_second']:,.0f} tokens/s, "
                f"{found['parameters']:,} parameters, {found['device']}"
            )


@dataclass(frozen=True)
class ReportCommand:
    """Compare pre-training runs: held-out MLM, KL to the teacher, task scores and curves, in one table.

    Writes results.json and curves.png into --out. Task scores are what `evaluate.py glue` left in <run>/glue.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]  # run directories, each with model/ and metrics.jsonl
    out: str  # directory
    heldout: str = ""  # corpus directory; empty: no held-out figures
    teacher: str = ""  # run directory that the KL divergence is taken to
    length: int = 128

    def run(self) -> None:
        from distilbert_jax.evaluation.report import report

        report(self.runs, self.out, heldout=self.heldout, teacher=self.teacher, length=self.length)


COMMANDS: dict[str, Any] = {
    "fill-mask": FillMaskCommand,
    "mlm": MlmCommand,
    "glue": GlueCommand,
    "bias": BiasCommand,
    "card": CardCommand,
    "speed": SpeedCommand,
    "report": ReportCommand,
}


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if args else sys.stderr)
        sys.exit(0 if args else 2)
    name, *rest = args
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        raise InputError(
            f"evaluate.py {name}: no such command; "
            + (f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(COMMANDS)}")
        )
    default = None
    if name == "glue" and rest and rest[0].endswith(".py"):
        default = GlueCommand(load_config(rest.pop(0), FinetuneConfig))
    command = parse(COMMANDS[name], rest, prog=f"evaluate.py {name}", default=default)
    runtime.keep_freed_memory()
    command.run()


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
