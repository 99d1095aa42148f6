"""Ablation: without L_cos (paper: −1.46).

python train.py configs/ablations/no_cos.py --data.corpus corpus
"""

import dataclasses

from configs.ablations.full import get_config as full
from configs.ablations.full import in_directory
from distilbert_jax.config import PretrainConfig


def ablate(config: PretrainConfig) -> PretrainConfig:
    term = dataclasses.replace(config.loss.cos, weight=0.0)
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, cos=term))


def get_config() -> PretrainConfig:
    return in_directory(ablate(full()), "runs/ablations/no_cos")
