"""Masked LM on held-out text: `distilbert-jax evaluate`."""

import json
from dataclasses import dataclass

from distilbert_jax.cli.arguments import running
from distilbert_jax.config import Dtype, Sequences


@dataclass(frozen=True)
class EvaluateCommand:
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
        from distilbert_jax.base.config_io import to_values
        from distilbert_jax.pretraining.evaluate import evaluate_mlm

        options = {name: value for name, value in vars(self).items() if name != "json"}
        figures = to_values(evaluate_mlm(**options))
        lines = (f"{name:14} {value:.4f}" for name, value in figures.items())
        print(json.dumps(figures) if self.json else "\n".join(lines))


COMMANDS = {"evaluate": running(EvaluateCommand)}
