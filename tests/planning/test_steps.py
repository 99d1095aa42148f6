"""Steps to compile: what they take from the target, not from the CPU that compiles them."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import DataConfig, PretrainConfig
from distilbert_jax.planning.runs import Pretraining
from distilbert_jax.planning.steps import _on_target, step_of
from tests.runs import BERT, STUDENT
from tests.training.test_sharding import mesh_of


@pytest.mark.parametrize(("platform", "meant"), [("tpu", "bfloat16"), ("cuda", "bfloat16"), ("cpu", "float32")])
def test_auto_activations_are_those_of_the_target(platform, meant):
    mesh = SimpleNamespace(devices=np.array([[SimpleNamespace(platform=platform)]], object))
    assert _on_target("auto", "bfloat16", mesh) == jnp.dtype(meant)
    assert _on_target("float32", "bfloat16", mesh) == jnp.dtype("float32")


def test_students_side_by_side_are_one_step():
    config = PretrainConfig(
        model=STUDENT, objective="distillation", teacher="teacher", data=DataConfig(length=16, batch_size=4)
    )
    step = step_of(Pretraining(config=config, teacher=BERT, seeds=2), mesh_of(1, 1, 1))
    states, metrics = step.step.lower(*step.arguments).out_info
    assert len(states) == len(metrics) == 2
