"""Ablation: the triple loss from random weights (paper: −3.69).

python train.py configs/ablations/random_init.py --data.corpus corpus
"""

import dataclasses

from configs.ablations.full import get_config as full
from configs.ablations.full import in_directory
from distilbert_jax.config import PretrainConfig


def ablate(config: PretrainConfig) -> PretrainConfig:
    return dataclasses.replace(config, init=dataclasses.replace(config.init, source=""))


def get_config() -> PretrainConfig:
    return in_directory(ablate(full()), "runs/ablations/random_init")
