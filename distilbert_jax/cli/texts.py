"""Models on texts: `distilbert-jax fill-mask`, `features`, `classify`."""

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
from distilbert_jax.text.sources import given_texts, split_pair


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
        if len(self.column) > 1 + pairs:
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
            check_writable(self.out, "--out")
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


COMMANDS = {
    "fill-mask": running(FillMaskCommand),
    "features": running(FeaturesCommand),
    "classify": running(ClassifyCommand),
}
