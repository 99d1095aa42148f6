"""Ablation at demo size: the triple loss from random weights.

python train.py configs/ablations/demo/random_init.py
"""

from configs.ablations.demo.full import get_config as full
from configs.ablations.full import in_directory
from configs.ablations.random_init import ablate
from distilbert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    return in_directory(ablate(full()), "runs/ablations/demo/random_init")
