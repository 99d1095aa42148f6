"""Demo, step 2: a student with half the layers, begun from the teacher's and distilled with the triple loss.

python train.py configs/demo/student.py
"""

import dataclasses

from configs.demo.teacher import get_config as teacher
from distilbert_jax.config import InitConfig, OptimizerConfig, PretrainConfig, RunConfig
from distilbert_jax.models.student import student_config

STEPS = 600


def get_config() -> PretrainConfig:
    config = teacher()
    return dataclasses.replace(
        config,
        model=student_config(config.model, num_hidden_layers=2),
        init=InitConfig(source="runs/demo/teacher/model"),
        objective="distillation",
        teacher="runs/demo/teacher/model",
        optimizer=OptimizerConfig(learning_rate=1e-3),
        steps=STEPS,
        # A seed of its own: with the teacher's it would be asked what the teacher was asked first.
        run=RunConfig(directory="runs/demo/student", seed=1, log_every=100, eval_every=150, save_every=150),
    )
