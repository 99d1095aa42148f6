"""Rows of one's own: `distilbert-jax finetune`, `score`, `predict`."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distilbert_jax.base import runtime, signals
from distilbert_jax.base.config_io import to_values, write_config
from distilbert_jax.base.files import as_name, check_writable
from distilbert_jax.cli.arguments import check_effect, directory_called_out, print_json, running, training_together
from distilbert_jax.config import (
    Activations,
    AugmentConfig,
    DistillConfig,
    Dtype,
    FinetuneConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
)
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.finetuning.files import open_table
from distilbert_jax.finetuning.inferred import LabelKind
from distilbert_jax.finetuning.own import own_task, require_columns, usual_epochs
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.written import check_out
from distilbert_jax.text.columns import Layout


@dataclass(frozen=True)
class RowOptions:
    """Which columns are what, and how a file lies that does not say."""

    text: str = ""  # column of the text
    text_pair: str = ""  # column of a second text, read with it
    # Column of what is learned: a class, a list of classes, or an amount; several columns: 0 or 1 of a class each, or amounts.
    label: tuple[str, ...] = ()
    tokens: str = ""  # column of words (of a file of a token a line, such as CoNLL's: tokens)
    tags: str = ""  # column of their tags (there: tags)
    question: str = ""  # column of what is asked of the context
    context: str = ""  # column of the text that holds the answers
    answers: str = ""  # column of {text, answer_start}, as in SQuAD
    choices: tuple[str, ...] = ()  # columns of which --label names the right one, after --text where it is given
    delimiter: str = ""  # of a .csv, where it is no comma
    columns: tuple[str, ...] = ()  # names of the columns, where the first line of the file is a row already

    @property
    def roles(self) -> Roles:
        return Roles(
            self.text,
            self.text_pair,
            self.label,
            self.tokens,
            self.tags,
            self.question,
            self.context,
            self.answers,
            self.choices,
        )

    @property
    def layout(self) -> Layout:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(self.delimiter, self.delimiter)
        if len(delimiter) > 1 or delimiter in ("\n", "\r", '"'):
            raise InputError(f"--delimiter {delimiter!r}: expected one character, such as ;", field="--delimiter")
        return Layout(delimiter, self.columns)


@dataclass(frozen=True)
class FinetuneCommand:
    """Fine-tune a model on rows of your own; say how good it is, and how much that swings.

    distilbert-jax finetune --model DIR --train train.csv --text review --label stars --seeds 5

    … --text premise --text-pair hypothesis --label entails: pairs of texts.

    … --train train.conll --tokens tokens --tags tags: words and their tags.

    A file is a .csv, .tsv, .jsonl, .json, .parquet or .conll, a folder that the library datasets has saved, or an id of its hub
    (ID:SPLIT). What the labels are is told from the values, and said: --kind and --labels say otherwise. Without --dev a tenth of
    train, by the hash of the text, is scored and not learned from. OUT/model is a Hugging Face directory, that of the first seed;
    the runs of the others stand in OUT/seed-N, without their models. The last epoch counts, and nothing is chosen on dev.
    Interrupted, the same command goes on: seeds that have ended are found, the others go on from their last checkpoint.
    """

    model: str  # HF directory or hub id of a BERT or DistilBERT
    train: str  # file of rows to learn from
    rows: Annotated[RowOptions, tyro.conf.arg(name="")] = field(default_factory=RowOptions)
    dev: str = ""  # file of rows to score; none: a tenth of train
    out: str = ""  # directory of the runs; default: runs/own/<name of the file>
    # what the labels are, where it is not to be told; of tags classification: plain ones, not of entities
    kind: LabelKind | None = None
    labels: tuple[str, ...] = ()  # names of the classes in their order, where it is not to be told
    seeds: int = 1  # so many runs, from --seed on, for the spread
    seed: int = 0  # of the head, the order of the rows and dropout
    epochs: int | None = None  # default: 3, and of few rows up to 20
    learning_rate: float = 5e-5  # at its highest
    batch_size: int = 32
    # tokens that are read of a row, of a question those of a window of its context; what is longer is cut, and the share is told;
    # default: 128, of questions 384, or as many as the model takes
    length: int | None = None
    # balanced: a class counts as much as another, however few its rows
    class_weights: Literal["none", "balanced"] = "none"
    freeze: Literal["nothing", "encoder"] = "nothing"  # encoder: the head alone is trained, a linear probe
    layer_decay: float = 1.0  # learning rate of a layer, times that of the one above it, such as 0.9; 1: the same
    select: bool = False  # keep the epoch that is best on another tenth of train, in the place of the last
    # HF directory of a model fine-tuned on the same labels, to distil from as well; --distill.… says how
    teacher: str = ""
    max_train_rows: int | None = None  # the first so many rows only
    vmap_seeds: bool = False  # train the seeds side by side in one program: for accelerators
    accumulate: int = 1  # micro-batches a step: the same, in less memory
    save_every: int = 1000  # steps from one checkpoint to the next, while a run trains; 0: none
    mesh: MeshConfig = field(default_factory=MeshConfig)
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object
    distill: DistillConfig = field(default_factory=DistillConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def run(self) -> None:
        if not 1 <= self.seeds <= 1000:
            raise InputError(f"--seeds {self.seeds}: expected 1 to 1,000 runs", field="--seeds")
        if self.teacher and self.distill.teacher not in ("", self.teacher):
            raise InputError(
                f"--teacher {self.teacher} and --distill.teacher {self.distill.teacher}: one teacher is expected",
                field="--teacher",
            )
        if not self.model:
            raise InputError("--model is empty; expected a directory or a hub id", field="--model")
        out = check_writable(
            self.out or Path("runs/own") / as_name(Path(self.train).stem or self.train, "rows"), "--out", directory=True
        )
        run = RunConfig(str(out), self.seed, self.dtype, self.activations, save_every=self.save_every)
        optimizer = OptimizerConfig(
            self.learning_rate,
            warmup=0.1,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,
            accumulate=self.accumulate,
        )
        with training_together() as together:
            self._train(out, run, optimizer, together=together)

    def _train(self, out: Path, run: RunConfig, optimizer: OptimizerConfig, *, together: bool) -> None:
        from distilbert_jax.models.hf_format import read_config as read_model_config
        from distilbert_jax.text.tokenizer import BertTokenizer
        from distilbert_jax.text.windows import LENGTH
        from distilbert_jax.training import distributed

        read = lambda: own_task(
            self.train,
            self.dev or None,
            roles=self.rows.roles,
            kind=self.kind,
            labels=self.labels,
            layout=self.rows.layout,
        )
        task = distributed.on_all_processes(read)
        config = FinetuneConfig(
            self.model,
            task.name,
            length=min(
                LENGTH if task.kind == "answers" else FinetuneConfig.length,
                read_model_config(self.model).max_length,
                BertTokenizer.from_pretrained(self.model).max_length,
            )
            if self.length is None
            else self.length,
            batch_size=self.batch_size,
            epochs=usual_epochs(min(task.rows["train"], self.max_train_rows or 2**53), self.batch_size)
            if self.epochs is None
            else self.epochs,
            max_train_rows=self.max_train_rows,
            class_weights=self.class_weights,
            freeze=self.freeze,
            layer_decay=self.layer_decay,
            select=self.select,
            distill=dataclasses.replace(self.distill, teacher=self.teacher or self.distill.teacher),
            augment=self.augment,
            optimizer=optimizer,
            mesh=self.mesh,
            run=run,
        )
        check_effect(dataclasses.replace(config, distill=DistillConfig(), augment=AugmentConfig()), config)
        with signals.leaving_at_ctrl_c():
            from distilbert_jax.finetuning.spread import finetune_spread, told

        with signals.leaving_when_asked(together=together), runtime.compiling_once(), directory_called_out():
            spread = finetune_spread(config, range(self.seed, self.seed + self.seeds), together=self.vmap_seeds)
        distributed.on_main_process(lambda: write_config(spread, out / "spread.json"))
        if self.json:
            print_json(to_values(spread))
        else:
            print("\n".join(told(spread, config.length)))
        if spread.is_diverged:
            raise DivergedError(f"{out}: each seed diverged; try a lower --learning-rate", path=out)


@dataclass(frozen=True)
class ScoreCommand:
    """The metrics of a fine-tuned model on labelled rows; nothing is trained.

    distilbert-jax score --model runs/own/train/model --data new.csv --text review --label stars

    The model is one of `finetune`, of `glue`, or of the hub. Its labels are matched with those of the rows by their names, whatever
    the order of their ids; where the rows have numbers that no label is called, by these.
    """

    model: str  # HF directory or hub id
    data: str  # file of labelled rows, as for finetune
    rows: Annotated[RowOptions, tyro.conf.arg(name="")] = field(default_factory=RowOptions)
    length: int | None = None  # tokens that are read of a row; default: all that the model has positions for
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object

    def run(self) -> None:
        roles, layout = self.rows.roles, self.rows.layout
        roles.require_targets()
        with signals.leaving_at_ctrl_c():
            import jax.numpy as jnp

            from distilbert_jax.finetuning.scoring import score_rows

        result = score_rows(
            self.model,
            self.data,
            roles=roles,
            layout=layout,
            length=self.length,
            dtype=jnp.dtype(self.dtype),
            activations=self.activations,
        )
        if self.json:
            print_json(to_values(result))
            return
        metrics = ", ".join(f"{name} {value:.1f}" for name, value in result.metrics.items())
        print(f"{result.score:.1f} ({metrics}) on {result.rows:,} rows of {result.data}")
        if result.cut_share:
            answers = result.kind == "answers"
            cut = "questions were too long, and cut" if answers else f"rows were cut at {result.length} tokens"
            print(f"{result.cut_share:.1%} of the {cut}", file=sys.stderr)
        if result.remark:
            print(result.remark, file=sys.stderr)


@dataclass(frozen=True)
class PredictCommand:
    """What a fine-tuned model says of every row of a file, written beside what went in.

    distilbert-jax predict --model runs/own/train/model --data new.csv --text review --out predicted.csv

    Columns are added: predicted, score and scores (of every label; in a .csv as JSON); of words with tags in IOB2 also entities,
    each with its first word and the one after its last. A question is answered as `score` scores it.
    Rows are read and written as they come, so that memory does not grow with the file, which takes its name when it is whole.
    """

    model: str  # HF directory or hub id
    data: str  # file of rows, as for finetune
    out: str  # .csv, .jsonl or .parquet
    rows: Annotated[RowOptions, tyro.conf.arg(name="")] = field(default_factory=RowOptions)
    batch_size: int | None = None  # default: 8 on a CPU, 64 on an accelerator
    # tokens that are read of a row, of a question those of a window; default: all that the model has positions for
    length: int | None = None
    no_answer: bool = False  # of questions: that there is none is an answer, too, an empty one; for models of SQuAD 2
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is

    def run(self) -> None:
        roles, layout = self.rows.roles, self.rows.layout
        out = check_out(self.out, "--out", [self.data])
        require_columns(open_table(self.data, layout=layout), roles, labelled=False)
        with signals.leaving_at_ctrl_c():
            import jax.numpy as jnp

            from distilbert_jax.finetuning.scoring import predict_rows

        number = predict_rows(
            self.model,
            self.data,
            out,
            roles=roles,
            layout=layout,
            batch_size=self.batch_size,
            length=self.length,
            no_answer=self.no_answer,
            dtype=jnp.dtype(self.dtype),
            activations=self.activations,
        )
        print(f"{out}: {number:,} rows")


COMMANDS = {
    "finetune": running(FinetuneCommand),
    "score": running(ScoreCommand),
    "predict": running(PredictCommand),
}
