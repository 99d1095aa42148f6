"""Evaluate a model: `python evaluate.py COMMAND …`, `python evaluate.py COMMAND --help`.

fill-mask  the most likely words for [MASK], also among given words, jointly, or of several pieces
features   hidden states of any layer, of every token or pooled
classify   labels and scores of a fine-tuned model
mlm        masked-LM loss, accuracy and perplexity on held-out text, KL divergence from a teacher
glue       fine-tune on tasks × seeds: the GLUE table, beside the paper's, and the files for the GLUE server
bias       the words of two sides of a prompt, side by side
card       the model card's three prompts, checked against the published scores
speed      latency and tokens a second of the encoder
report     one table, one results.json and the curves of several runs
"""

import dataclasses
import itertools
import json
import operator
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from distilbert_jax.base import runtime, signals
from distilbert_jax.base.config_io import is_config, load_config, to_values
from distilbert_jax.base.parsing import parse, show
from distilbert_jax.config import Dtype, FinetuneConfig, Sequences, SweepConfig
from distilbert_jax.errors import InputError, nearest, one_line_errors
from distilbert_jax.glue.references import GLUE
from distilbert_jax.text.sources import given_texts, split_pair


@dataclass(frozen=True)
class TextCommand:
    """What the commands on texts have in common. Texts are arguments, lines of --file, or lines of standard input."""

    texts: tyro.conf.Positional[tuple[str, ...]]  # none: --file, or standard input
    model: str  # HF directory or hub id
    file: str = ""  # UTF-8, one text a line
    batch_size: int | None = None  # default: 8 on a CPU, 64 on an accelerator
    dtype: Dtype = "float32"
    json: bool = False  # one JSON object a line

    def results(self, pipeline: type, *options: Any, pairs: bool = False) -> Iterator[tuple[Any, Any]]:
        """Texts and what a pipeline says of them, as they are read."""
        texts = given_texts(self.texts, self.file)
        loaded = pipeline(self.model, dtype=self.dtype, batch_size=self.batch_size)
        asked, texts = itertools.tee(map(split_pair, texts, itertools.count(1)) if pairs else texts)
        return zip(texts, loaded(asked, *options), strict=True)


@dataclass(frozen=True)
class FillMaskCommand(TextCommand):
    """The most likely words for each [MASK], as tables or as one JSON object a line."""

    top_k: int | None = None  # default: 5, or all targets
    targets: tuple[str, ...] = ()  # score these words alone, over the vocabulary and among themselves
    joint: bool = False  # several masks together, from left to right
    whole_words: bool = False  # targets may have several pieces

    def run(self) -> None:
        from distilbert_jax.pipelines import FillMask

        options = (self.top_k, self.targets or None, self.joint, self.whole_words)
        for text, answers in self.results(FillMask, *options):
            if self.json:
                print(json.dumps({"text": text, "answers": answers}, ensure_ascii=False))
            else:
                show(answers)


@dataclass(frozen=True)
class FeaturesCommand(TextCommand):
    """Hidden states of an encoder: one vector for each text or, with --pooling tokens, for each of its tokens."""

    pooling: Literal["tokens", "cls", "mean"] = "mean"
    layer: int = -1  # 0: the embeddings, -1: the last layer
    out: str = ""  # .npy file for float32 [texts, hidden], in the place of output

    def run(self) -> None:
        import numpy as np

        from distilbert_jax.base.files import write_array
        from distilbert_jax.pipelines import FeatureExtraction
        from distilbert_jax.pipelines.results import Answers

        if self.out and (self.json or self.pooling == "tokens"):
            raise InputError(
                "--out writes one vector a text: it goes with --pooling cls or mean, and without --json", field="--out"
            )
        if self.out and not Path(self.out).absolute().parent.is_dir():
            raise InputError(
                f"--out {self.out}: the folder {Path(self.out).parent} does not exist; make it first", field="--out"
            )
        found = self.results(FeatureExtraction, self.pooling, self.layer)
        if self.out:
            vectors = np.stack([vector for _, vector in found])
            write_array(Path(self.out), vectors)
            print(f"{self.out}: {' × '.join(map(str, vectors.shape))} {vectors.dtype}")
            return
        rows = []
        for text, values in found:
            if self.json:
                print(json.dumps({"text": text, "features": values.tolist()}, ensure_ascii=False))
            else:
                shape = " × ".join(map(str, values.shape))
                begins = " ".join(f"{value:.4f}" for value in values.flat[:4])
                rows.append({"shape": shape, "norm": float(np.linalg.norm(values)), "begins": begins, "text": text})
        if rows:
            show(Answers(rows))


@dataclass(frozen=True)
class ClassifyCommand(TextCommand):
    """Labels and scores of a fine-tuned model."""

    top_k: int | None = 1  # None: all labels
    pairs: bool = False  # a text is two with a tab between

    def run(self) -> None:
        from distilbert_jax.pipelines import TextClassification
        from distilbert_jax.pipelines.results import Answers

        rows = []
        for text, labels in self.results(TextClassification, self.top_k, pairs=self.pairs):
            parts = dict(zip(("text", "pair"), text if self.pairs else (text,), strict=False))
            if self.json:
                print(json.dumps({**parts, "labels": labels}, ensure_ascii=False))
            else:
                rows += [{**label, **parts} for label in labels]
        if rows:
            show(Answers(rows))


@dataclass(frozen=True)
class MlmCommand:
    """Masked LM on held-out text: loss (nats), accuracy, perplexity and, with --teacher, the KL divergence from it.

    Every model is asked the same questions: 15 % of the tokens, uniform, 80/10/10, drawn from the index of the packed row.
    """

    model: str  # HF directory or hub id
    corpus: str  # directory made by distilbert-jax corpus
    teacher: str = ""  # HF directory or hub id
    length: int = 128  # tokens in a packed row
    sequences: Sequences = "line"
    batch_size: int = 32
    max_rows: int | None = None
    dtype: Dtype = "float32"
    json: bool = False

    def run(self) -> None:
        from distilbert_jax.pretraining.evaluate import evaluate_mlm

        options = {name: value for name, value in vars(self).items() if name != "json"}
        found = evaluate_mlm(**options)
        print(json.dumps(found) if self.json else "\n".join(f"{name:14} {value:.4f}" for name, value in found.items()))


@dataclass(frozen=True)
class GlueCommand:
    """The GLUE table: a model fine-tuned on tasks × seeds, medians and spreads on dev beside the paper's rows.

    evaluate.py glue --model DIR: nine tasks, five seeds, GLUE from the hub.

    … --data FOLDER --tasks rte mrpc --seeds 0 1 2: from FOLDER/<task>/{train,validation}.parquet (of MNLI: validation_matched,
    validation_mismatched).

    … --sweep.learning-rate 5e-5 1e-4 2e-4 --sweep.epochs 3 10: settings chosen on a tenth of train.

    … --submit glue.zip: also the files for the GLUE server.

    Each run stands in <run.directory>/<task>-<seed> (default of run.directory: runs/glue/<model>; as RUN/glue, evaluate.py report
    finds it) and is done once: interrupted, the same command goes on. The table of the tasks and seeds asked for last is left
    beside the runs as glue.json, glue.md, glue.csv and glue.png. --task and --run.seed are for train.py. A config file given first
    (`evaluate.py glue configs/glue.py --model DIR`) sets the defaults. The paper's settings were never published; the defaults are
    the field's.
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
    teacher_runs: str = ""  # what evaluate.py glue left for the teacher: share of its score retained, parameters, speed
    # .zip for the GLUE server, of each task the seed that is best on dev; AX comes from MNLI's. Runs that ended without predictions
    # of the test splits are trained once more: give it from the start.
    submit: str = ""
    json: bool = False  # the whole table as one JSON object in the place of the terminal's

    def run(self) -> None:
        from distilbert_jax.base.hub import locate
        from distilbert_jax.finetuning.runs import sweep_directory
        from distilbert_jax.finetuning.tasks import TASKS
        from distilbert_jax.glue import submission, table
        from distilbert_jax.glue.summary import read_runs
        from distilbert_jax.glue.sweep import run_sweep
        from distilbert_jax.probes.speed import relative_speed

        given, usual = self.run_with, FinetuneConfig()
        for option, hint in (
            ("task", "--tasks"),
            ("selection_split", "--sweep.learning-rate …"),
            ("run.seed", "--seeds"),
        ):
            value = operator.attrgetter(option)
            if value(given) != value(usual):
                raise InputError(f"--{option.replace('_', '-')} is for train.py; here: {hint}")
        if self.submit:
            submission.check_path(self.submit, self.tasks)
        teacher = read_runs(self.teacher_runs) if self.teacher_runs else []
        if teacher:
            locate(teacher[0].result.model)  # its speed is measured in the end
            if not set(self.tasks) & {run.result.task for run in teacher} - {"wnli"}:
                raise InputError(
                    f"--teacher-runs {self.teacher_runs}: has none of the tasks {', '.join(self.tasks)} (WNLI aside)",
                    field="--teacher-runs",
                )
        config = dataclasses.replace(given, predict_test=given.predict_test or bool(self.submit))
        with signals.leaving_when_asked(), runtime.compiling_once():
            results = run_sweep(
                config, self.tasks, self.seeds, sweep=self.sweep, together=self.vmap_seeds, from_mnli=self.from_mnli
            )
        cost = relative_speed(config.model, teacher[0].result.model) if teacher else None
        found = table.table_of(config.model, results, teacher, cost)
        out = Path(config.run.directory or sweep_directory(config))
        table.write(found, results, out)
        if self.json:
            print(json.dumps(to_values(found)))
        else:
            for view in table.terminal(found):
                show(view)
            print(f"{out}/glue.json, .md, .csv and .png written")
        if self.submit:
            files = submission.write_submission(results, self.submit)
            said = ", ".join(f"{name} (seed {seed})" for name, seed in files.items())
            every = (name for task in TASKS.values() for name in task.submission.values())
            lacking = ", ".join(name for name in every if name not in files)
            print(f"{self.submit}: {said}" + (f"; not in it: {lacking}" if lacking else ""), file=sys.stderr)


@dataclass(frozen=True)
class BiasCommand:
    """Paired prompts: the likeliest words of each side, their overlap, and the log-odds of words between the sides."""

    model: str  # HF directory or hub id
    prompts: str = ""  # .yaml or .json file, form: distilbert_jax/probes/prompts.py; empty: the model card's pair
    top_k: int = 10
    words: tuple[str, ...] = ()  # of interest, for every pair; none: those of the file, else all in either top
    out: str = ""  # directory for results.json and log_odds.png
    json: bool = False

    def run(self) -> None:
        from distilbert_jax.pipelines import FillMask
        from distilbert_jax.probes import bias
        from distilbert_jax.probes.prompts import CARD_PAIR, read_pairs

        if Path(self.out).is_file():
            raise InputError(f"--out {self.out}: is a file, expected a directory", field="--out")
        pairs = read_pairs(self.prompts) if self.prompts else [CARD_PAIR]
        results = bias.bias_probe(FillMask(self.model), pairs, top_k=self.top_k, words=self.words)
        for result in results:
            if self.json:
                print(json.dumps(to_values(result), ensure_ascii=False))
            else:
                show(bias.table(result))
        if self.out:
            bias.write(results, self.model, self.out)


@dataclass(frozen=True)
class CardCommand:
    """The three prompts of distilbert-base-uncased's model card: exit status 1 if a token differs or a score by over 1e-4."""

    model: str  # HF directory or hub id
    json: bool = False

    def run(self) -> None:
        from distilbert_jax.pipelines import FillMask
        from distilbert_jax.probes.model_card import check_card, table

        rows = check_card(FillMask(self.model))
        if self.json:
            print("\n".join(map(json.dumps, to_values(rows))))
        else:
            show(table(rows))
        if not all(row.ok for row in rows):
            sys.exit(1)


@dataclass(frozen=True)
class SpeedCommand:
    """Latency and tokens a second of the encoder on random tokens, without padding."""

    model: str  # HF directory or hub id
    batch_size: int = 8
    length: int = 128
    rounds: int = 20
    dtype: Dtype = "float32"
    json: bool = False

    def run(self) -> None:
        from distilbert_jax.probes.speed import encoder_speed, summary

        options = {name: value for name, value in vars(self).items() if name != "json"}
        found = encoder_speed(**options)
        print(json.dumps(to_values(found)) if self.json else summary(found))


@dataclass(frozen=True)
class ReportCommand:
    """Compare pre-training runs: held-out MLM, KL to the teacher, task scores, speed and curves, in one table.

    Writes results.json, report.md and the plots into --out. Task scores are what `evaluate.py glue` left in <run>/glue; differences
    are paired, with 95 % intervals over dev rows and seeds, WNLI aside.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]  # run directories, each with model/ and metrics.jsonl
    out: str  # directory
    heldout: str = ""  # corpus directory; empty: no held-out figures
    teacher: str = ""  # run directory that KL divergence, share of the score and speed are relative to
    against: str = ""  # run directory whose scores the others are compared with
    length: int | None = None  # tokens in a row; that of the runs if not given
    max_rows: int | None = None  # of held-out text; all if not given

    def run(self) -> None:
        from distilbert_jax.experiments.report import report

        report(**vars(self))


COMMANDS: dict[str, Any] = {
    "fill-mask": FillMaskCommand,
    "features": FeaturesCommand,
    "classify": ClassifyCommand,
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
        raise InputError(f"evaluate.py {name}: no such command; {nearest(name, COMMANDS)}")
    default = None
    if name == "glue" and rest and is_config(rest[0]):
        default = GlueCommand(dataclasses.replace(load_config(rest.pop(0), FinetuneConfig), save_model=False))
    command = parse(COMMANDS[name], rest, prog=f"evaluate.py {name}", default=default)
    runtime.keep_freed_memory()
    command.run()


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
