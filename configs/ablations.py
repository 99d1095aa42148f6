"""Ablations of the triple loss (paper, Table 4): the paper's run, and what is lost without each part of its recipe.

    distilbert-jax ablation ablations --glue glue --out runs/ablations                # all five, with a table of the changes
    distilbert-jax train ablations:no_ce --data.corpus corpus                         # one of them alone

From the corpora runs/corpus and runs/heldout, at five times the cost of distilbert_base; this project has not run it. The paper's
changes of the GLUE score: no_ce −2.96, no_cos −1.46, no_mlm −0.31, random_init −3.69.

At the size of the demo, whose corpus and teacher it needs: fifteen runs of some three minutes on two cores. Result:
docs/results/training.md.

    distilbert-jax ablation ablations:demo --glue demo:glue --out runs/ablations/demo \
      --tasks demo-topic demo-overlap demo-order --seeds 1 2 3 --glue-seeds 0 1 2
    distilbert-jax train ablations:demo/no_ce
"""

import dataclasses
from collections.abc import Callable

from distilbert_jax.config import LossConfig, PretrainConfig
from distilbert_jax.configs.demo import get_config as demo
from distilbert_jax.configs.distilbert_base import get_config as distilbert_base


def _without(term: str) -> Callable[[PretrainConfig], PretrainConfig]:
    def change(config: PretrainConfig) -> PretrainConfig:
        off = dataclasses.replace(getattr(config.loss, term), weight=0.0)
        return dataclasses.replace(config, loss=dataclasses.replace(config.loss, **{term: off}))

    return change


CHANGES: dict[str, Callable[[PretrainConfig], PretrainConfig]] = {
    "full": lambda config: config,
    "no_ce": _without("kl"),
    "no_cos": _without("cos"),
    "no_mlm": _without("mlm"),
    "random_init": lambda config: dataclasses.replace(config, init=dataclasses.replace(config.init, source="")),
}
VARIANTS = (*CHANGES, *(f"demo/{name}" for name in CHANGES))


def get_config(variant: str = "full") -> PretrainConfig:
    group, _, name = variant.rpartition("/")
    config = CHANGES[name](_triple(demo("student")) if group else _full())
    return dataclasses.replace(config, run=dataclasses.replace(config.run, directory=f"runs/ablations/{variant}"))


def _triple(config: PretrainConfig) -> PretrainConfig:
    """With the paper's triple loss, its KL on all tokens."""
    return dataclasses.replace(config, loss=LossConfig())


def _full() -> PretrainConfig:
    config = distilbert_base()
    return dataclasses.replace(
        config,
        teacher="bert-base-uncased",
        init=dataclasses.replace(config.init, source="bert-base-uncased"),
        data=dataclasses.replace(config.data, corpus="runs/corpus", heldout="runs/heldout"),
    )
