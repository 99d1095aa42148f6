"""Demo, control 1: the student's layers and batches, masked LM alone. What differs from the student is the loss.

python train.py configs/demo/copied.py
"""

import dataclasses

from configs.demo.student import get_config as student
from distilbert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    config = student()
    run = dataclasses.replace(config.run, directory="runs/demo/copied")
    return dataclasses.replace(config, objective="masked_lm", teacher="", run=run)
