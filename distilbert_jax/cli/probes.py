"""Probes of a model: `distilbert-jax bias`, `card`, `speed`."""

import sys
from dataclasses import dataclass

from distilbert_jax.base.config_io import to_values
from distilbert_jax.base.tables import show
from distilbert_jax.cli.arguments import print_json, running
from distilbert_jax.config import Activations, Dtype


@dataclass(frozen=True)
class BiasCommand:
    """Paired prompts: the likeliest words of each side, their overlap, and the log-odds of words between the sides."""

    model: str  # HF directory or hub id
    prompts: str = ""  # .yaml or .json file, form: distilbert_jax/probes/prompts.py; empty: the model card's pair
    top_k: int = 10  # likeliest words of each side
    words: tuple[str, ...] = ()  # of interest, for every pair; none: those of the file, else all in either top
    out: str = ""  # directory for results.json and log_odds.png
    json: bool = False  # one JSON object a pair, in the place of tables

    def run(self) -> None:
        from distilbert_jax.base.files import check_results_place
        from distilbert_jax.pipelines import FillMask
        from distilbert_jax.probes import bias
        from distilbert_jax.probes.prompts import CARD_PAIR, read_pairs

        if self.out:
            check_results_place(self.out, "--out")
        pairs = read_pairs(self.prompts) if self.prompts else [CARD_PAIR]
        fill = FillMask(self.model)
        results = bias.bias_probe(fill, pairs, top_k=self.top_k, words=self.words)
        for result in results:
            if self.json:
                print_json(to_values(result))
            else:
                show(bias.table(result))
        if self.out:
            bias.write(results, self.model, self.out, parameters=fill.model.num_parameters())


@dataclass(frozen=True)
class CardCommand:
    """The three prompts of distilbert-base-uncased's model card: exit status 1 if a token differs or a score by over 1e-4."""

    model: str  # HF directory or hub id
    json: bool = False  # one JSON object a score

    def run(self) -> None:
        from distilbert_jax.pipelines import FillMask
        from distilbert_jax.probes.model_card import check_card, table

        rows = check_card(FillMask(self.model))
        if self.json:
            for row in to_values(rows):
                print_json(row)
        else:
            show(table(rows))
        if not all(row.ok for row in rows):
            sys.exit(1)


@dataclass(frozen=True)
class SpeedCommand:
    """Latency and tokens a second of the encoder on random tokens, without padding."""

    model: str  # HF directory or hub id
    batch_size: int = 8  # rows at once
    length: int = 128  # tokens a row
    rounds: int = 20  # that are timed
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object

    def run(self) -> None:
        from distilbert_jax.probes.speed import encoder_speed, summary

        options = {name: value for name, value in vars(self).items() if name != "json"}
        result = encoder_speed(**options)
        if self.json:
            print_json(to_values(result))
        else:
            print(summary(result))


COMMANDS = {"bias": running(BiasCommand), "card": running(CardCommand), "speed": running(SpeedCommand)}
