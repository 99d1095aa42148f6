"""Miniature: the student's batches and masks, random weights, masked LM alone: what the layers and the teacher are worth together.

python train.py configs/miniature/random_mlm.py
"""

import dataclasses

from configs.miniature.random_triple import get_config as random_triple
from configs.miniature.triple import beside
from distilbert_jax.config import PretrainConfig


def get_config(tier: str = "cpu") -> PretrainConfig:
    return beside(dataclasses.replace(random_triple(tier), objective="masked_lm", teacher=""), "random_mlm")
