"""Ablation, reference: the paper's run with the whole triple loss (Table 4 is the change against it).

    python train.py configs/ablations/full.py --data.corpus corpus --teacher bert-base-uncased --init.source bert-base-uncased

Cost: as configs/distilbert_base.py, once for each of the five rows. `make ablations` runs them at demo size on a CPU.
"""

import dataclasses

from configs.distilbert_base import get_config as distilbert_base
from distilbert_jax.config import PretrainConfig


def in_directory(config: PretrainConfig, directory: str) -> PretrainConfig:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, directory=directory))


def get_config() -> PretrainConfig:
    return in_directory(distilbert_base(), "runs/ablations/full")
