"""Models on texts: `distilbert-jax fill-mask`, `features`, `classify`, `entities`, `answer`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from distilbert_jax.base.tables import show
from distilbert_jax.cli.arguments import print_json, running
from distilbert_jax.config import Activations, Dtype
from distilbert_jax.errors import InputError
from distilbert_jax.text.sources import given_document, given_texts, split_pair


@dataclass(frozen=True)
class TextCommand:
    """What the commands on texts have in common. Texts are arguments, lines or a column of --file, or lines of standard input."""

    texts: tyro.conf.Positional[tuple[str, ...]]  # none: --file, or standard input
    model: str  # HF directory or hub id
    file: str = ""  # UTF-8, one text a line; of a .csv, .tsv, .jsonl, .json or .parquet a column
    column: tuple[str, ...] = ()  # the column of such a file that holds the texts
    batch_size: int | None = None  # default: 8 on a CPU, 64 on an accelerator
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object a line

    def results(self, pipeline: type, *options: Any, pairs: bool = False) -> Iterator[tuple[Any, Any]]:
        """Texts and what a pipeline says of them, as they are read."""
        texts = given_texts(self.texts, self.file, self.column)
        if len(self.column) > 1 + pairs or len(set(self.column)) < len(self.column):
            what = "one column, or two of pairs" if pairs else "one column"
            raise InputError(f"--column {' '.join(self.column)}: expected {what}", field="--column")
        loaded = pipeline(self.model, dtype=self.dtype, activations=self.activations, batch_size=self.batch_size)
        asked, texts = itertools.tee(
            map(split_pair, texts, itertools.count(1)) if pairs and len(self.column) < 2 else texts
        )
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
                print_json({"text": text, "answers": answers})
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

        from distilbert_jax.base.files import check_writable, write_array
        from distilbert_jax.pipelines import FeatureExtraction
        from distilbert_jax.pipelines.results import Answers

        if self.out and (self.json or self.pooling == "tokens"):
            raise InputError(
                "--out writes one vector a text: it goes with --pooling cls or mean, and without --json",
                field="--out",
                hint="--pooling",
            )
        if self.out:
            check_writable(self.out, "--out", inputs=filter(None, (self.file,)))
            if Path(self.out).suffix != ".npy":  # else a slip of the hand may overwrite a text
                raise InputError(f"--out {self.out}: expected the name of an .npy file", field="--out", hint=".npy")
        vectors = self.results(FeatureExtraction, self.pooling, self.layer)
        if self.out:
            stacked = np.stack([vector for _, vector in vectors])
            write_array(Path(self.out), stacked)
            print(f"{self.out}: {' × '.join(map(str, stacked.shape))} {stacked.dtype}")
            return
        rows = []
        for text, values in vectors:
            if self.json:
                print_json({"text": text, "features": values.tolist()})
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
    pairs: bool = False  # a text is two with a tab between, or those of two columns

    def run(self) -> None:
        from distilbert_jax.pipelines import TextClassification
        from distilbert_jax.pipelines.results import Answers

        rows = []
        for text, labels in self.results(TextClassification, self.top_k, pairs=self.pairs):
            parts = dict(zip(("text", "pair"), text if self.pairs else (text,), strict=False))
            if self.json:
                print_json({**parts, "labels": labels})
            else:
                rows += [{**label, **parts} for label in labels]
        if rows:
            show(Answers(rows))


@dataclass(frozen=True)
class EntitiesCommand(TextCommand):
    """Named entities of texts, or what else a model labels words with: where they stand, as tables or one JSON object a line."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"  # how tokens are joined
    ignore_labels: tuple[str, ...] = ("O",)  # are left out

    def run(self) -> None:
        from distilbert_jax.pipelines import TokenClassification

        for text, entities in self.results(TokenClassification, self.aggregation_strategy, self.ignore_labels):
            if self.json:
                print_json({"text": text, "entities": entities})
            else:
                show(entities)


@dataclass(frozen=True)
class AnswerCommand:
    """Answers to questions: the parts of a context that a fine-tuned model takes for one.

    The context of --question is --context, or else the whole of --file or of standard input. Without --question each line of --file
    or of standard input is a question and its context with a tab between; of a file with columns --column names the two.
    """

    model: str  # HF directory or hub id
    question: tuple[str, ...] = ()  # one or several of one context
    context: tuple[str, ...] = ()  # one for all questions, or one for each
    file: str = ""  # UTF-8
    column: tuple[str, ...] = ()  # of such a file: that of the questions, that of the contexts
    top_k: int = 1  # answers of each question, best first
    handle_impossible_answer: bool = False  # that there is no answer is one, too
    max_answer_len: int = 15  # tokens at most
    # tokens of a window of a long context; default: 384, or the model's positions if fewer
    max_seq_len: int | None = None
    doc_stride: int | None = None  # tokens that windows have in common; default: 128, or half of a window
    max_question_len: int = 64  # tokens at most
    batch_size: int | None = None  # default: 8 on a CPU, 64 on an accelerator
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object a question

    def run(self) -> None:
        from distilbert_jax.pipelines import QuestionAnswering
        from distilbert_jax.pipelines.results import Answers

        asked, questions, contexts = itertools.tee(self._pairs(), 3)
        loaded = QuestionAnswering(
            self.model, dtype=self.dtype, activations=self.activations, batch_size=self.batch_size
        )
        results = loaded(
            (question for question, _ in questions),
            (context for _, context in contexts),
            top_k=self.top_k,
            handle_impossible_answer=self.handle_impossible_answer,
            max_answer_len=self.max_answer_len,
            max_seq_len=self.max_seq_len,
            doc_stride=self.doc_stride,
            max_question_len=self.max_question_len,
        )
        rows = []
        for (question, _), answers in zip(asked, results, strict=True):
            if self.json:
                print_json({"question": question, "answers": answers})
            else:
                rows += [{**answer, "question": question} for answer in answers]
        if rows:
            show(Answers(rows))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """Questions and their contexts, as they are read."""
        if not self.question:
            if self.context:
                raise InputError("--context goes with --question: give at least one", field="--question")
            if self.column and (len(self.column) != 2 or len(set(self.column)) == 1):
                said = "expected two columns, that of the questions and that of the contexts"
                raise InputError(f"--column {' '.join(self.column)}: {said}", field="--column")
            texts = given_texts((), self.file, self.column)
            return texts if self.column else map(split_pair, texts, itertools.count(1))
        if self.column or (self.context and self.file):
            field = "--column" if self.column else "--file"
            raise InputError(
                f"{field} and --{'question' if self.column else 'context'} exclude each other", field=field
            )
        contexts = self.context or (given_document(self.file),)
        if len(contexts) not in (1, len(self.question)):
            said = "expected one for all, or one for each question"
            raise InputError(f"{len(contexts)} times --context: {said}", field="--context")
        return zip(self.question, contexts * len(self.question) if len(contexts) == 1 else contexts, strict=True)


COMMANDS = {
    "fill-mask": running(FillMaskCommand),
    "features": running(FeaturesCommand),
    "classify": running(ClassifyCommand),
    "entities": running(EntitiesCommand),
    "answer": running(AnswerCommand),
}
