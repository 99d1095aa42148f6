"""Ablation, reference: the paper's run with the whole triple loss (Table 4 is the change against it).

    python train.py configs/ablations/full.py --data.corpus corpus

All five rows, with a table at the end, from the corpora runs/corpus and runs/heldout, at five times the cost of
configs/distilbert_base.py:

    python -m distilbert_jax.experiments.ablation --configs configs/ablations --glue configs/glue.py --out runs/ablations
"""

import dataclasses

from configs.distilbert_base import get_config as distilbert_base
from distilbert_jax.config import PretrainConfig


def in_directory(config: PretrainConfig, directory: str) -> PretrainConfig:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, directory=directory))


def get_config() -> PretrainConfig:
    config = distilbert_base()
    return in_directory(
        dataclasses.replace(
            config,
            teacher="bert-base-uncased",
            init=dataclasses.replace(config.init, source="bert-base-uncased"),
            data=dataclasses.replace(config.data, corpus="runs/corpus", heldout="runs/heldout"),
        ),
        "runs/ablations/full",
    )
