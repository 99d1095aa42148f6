"""Miniature: layers 0, 2, 5 of MiniLM as they are, without any step.

python train.py configs/miniature/cut.py
"""

import dataclasses

from configs.miniature.mlm import get_config as mlm
from configs.miniature.tiers import encoder
from configs.miniature.triple import beside
from distilbert_jax.config import PretrainConfig


def get_config(tier: str = "cpu") -> PretrainConfig:
    config = mlm(tier)
    init = dataclasses.replace(config.init, source=encoder(), unigram_bias=True)
    return beside(dataclasses.replace(config, init=init, steps=0), "cut")
