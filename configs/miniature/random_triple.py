"""Miniature: the student's batches, masks and triple loss from random weights, which bear, and need, a higher rate.

python train.py configs/miniature/random_triple.py
"""

import dataclasses

from configs.miniature.triple import beside
from configs.miniature.triple import get_config as triple
from distilbert_jax.config import InitConfig, PretrainConfig


def get_config(tier: str = "cpu") -> PretrainConfig:
    config = triple(tier)
    return beside(
        dataclasses.replace(
            config,
            init=InitConfig(unigram_bias=True),
            optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-3),
        ),
        "random_triple",
    )
