"""Demo, control 2: the student's batches, random weights, masked LM alone: what a student without a teacher learns.

python train.py configs/demo/control.py
"""

import dataclasses

from configs.demo.copied import get_config as copied
from configs.demo.teacher import get_config as teacher
from distilbert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    config = copied()
    return dataclasses.replace(
        config,
        init=teacher().init,
        optimizer=teacher().optimizer,  # random weights bear, and need, the higher rate
        run=dataclasses.replace(config.run, directory="runs/demo/control"),
    )
