"""Miniature, ablation: the student without L_cos.

python train.py configs/miniature/no_cos.py:gpu
"""

from configs.ablations.no_cos import ablate
from configs.miniature.triple import beside
from configs.miniature.triple import get_config as triple
from distilbert_jax.config import PretrainConfig


def get_config(tier: str = "cpu") -> PretrainConfig:
    return beside(ablate(triple(tier)), "no_cos")
