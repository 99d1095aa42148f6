"""Miniature, the student: layers 0, 2, 5 of the teacher, distilled with the triple loss.

python train.py configs/miniature/triple.py
"""

import dataclasses

from configs.miniature.teacher import get_config as teacher
from configs.miniature.tiers import find_tier
from distilbert_jax.config import InitConfig, KLConfig, LossConfig, OptimizerConfig, PretrainConfig
from distilbert_jax.models.student import student_config


def get_config(tier: str = "cpu") -> PretrainConfig:
    config, budget = teacher(tier), find_tier(tier)
    model = f"{config.run.directory}/model"
    return dataclasses.replace(
        config,
        model=student_config(config.model, num_hidden_layers=3),
        init=InitConfig(source=model, layers=(0, 2, 5)),
        objective="distillation",
        teacher=model,
        loss=LossConfig(kl=KLConfig(tokens=budget.ce_tokens)),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        steps=budget.steps(budget.student_tokens),
        # A seed of its own, the same for every student: equal batches and masks, but not those that the teacher began with.
        run=dataclasses.replace(
            config.run,
            directory=f"runs/miniature/{tier}/triple",
            seed=1,
            eval_every=budget.eval_every(budget.student_tokens),
        ),
    )


def beside(config: PretrainConfig, name: str) -> PretrainConfig:
    """The config of another student, in a directory of its own beside this one's."""
    directory = config.run.directory.rpartition("/")[0]
    return dataclasses.replace(config, run=dataclasses.replace(config.run, directory=f"{directory}/{name}"))
