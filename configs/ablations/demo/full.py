"""Ablation at demo size, reference: the demo's student with the whole triple loss. Needs the demo's corpus and teacher.

python train.py configs/ablations/demo/full.py
"""

from configs.ablations.full import in_directory
from configs.demo.student import get_config as student
from distilbert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    return in_directory(student(), "runs/ablations/demo/full")
