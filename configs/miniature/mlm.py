"""Miniature: the student's layers, batches and masks, masked LM alone.

python train.py configs/miniature/mlm.py
"""

import dataclasses

from configs.miniature.triple import beside
from configs.miniature.triple import get_config as triple
from distilbert_jax.config import PretrainConfig


def get_config(tier: str = "cpu") -> PretrainConfig:
    return beside(dataclasses.replace(triple(tier), objective="masked_lm", teacher=""), "mlm")
