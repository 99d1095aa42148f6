"""Masked LM on held-out text: `distilbert-jax evaluate`."""

from dataclasses import dataclass

from distilbert_jax.cli.arguments import print_json, running
from distilbert_jax.config import Activations, Dtype, Sequences


@dataclass(frozen=True)
class EvaluateCommand:
    """Masked LM on held-out text: loss (nats), accuracy, perplexity and, with --teacher, the KL divergence from it.

    Every model is asked the same questions: 15 % of the tokens, uniform, 80/10/10, drawn from the index of the packed row.
    """

    model: str  # HF directory or hub id
    corpus: str  # directory made by distilbert-jax corpus
    teacher: str = ""  # HF directory or hub id
    length: int = 128  # tokens in a packed row
    sequences: Sequences = "line"  # what a sequence of a row is: a line, a document, or two texts
    batch_size: int = 32  # rows at once
    max_rows: int | None = None  # so many, evenly spaced; all if not given
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object

    def run(self) -> None:
        from distilbert_jax.base.config_io import to_values
        from distilbert_jax.pretraining.evaluate import evaluate_mlm

        options = {name: value for name, value in vars(self).items() if name != "json"}
        figures = to_values(evaluate_mlm(**options))
        if self.json:
            print_json(figures)
        else:
            print("\n".join(f"{name:14} {value:.4f}" for name, value in figures.items()))


COMMANDS = {"evaluate": running(EvaluateCommand)}
