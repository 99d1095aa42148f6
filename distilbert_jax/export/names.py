"""Formats and heads that `export` knows by name."""

from typing import Literal

Format = Literal["onnx", "stablehlo"]
Head = Literal[
    "",
    "encoder",
    "masked-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
]
