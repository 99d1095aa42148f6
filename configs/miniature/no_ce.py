"""Miniature, ablation: the student without L_ce.

python train.py configs/miniature/no_ce.py:gpu
"""

from configs.ablations.no_ce import ablate
from configs.miniature.triple import beside
from configs.miniature.triple import get_config as triple
from distilbert_jax.config import PretrainConfig


def get_config(tier: str = "cpu") -> PretrainConfig:
    return beside(ablate(triple(tier)), "no_ce")
