"""Ablation at demo size: without L_mlm.

python train.py configs/ablations/demo/no_mlm.py
"""

from configs.ablations.demo.full import get_config as full
from configs.ablations.full import in_directory
from configs.ablations.no_mlm import ablate
from distilbert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    return in_directory(ablate(full()), "runs/ablations/demo/no_mlm")
