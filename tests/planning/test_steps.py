"""Steps to compile: what they take from the target, not from the CPU that compiles them."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import DataConfig, DistillConfig, FinetuneConfig, HiddenConfig, PretrainConfig
from distilbert_jax.planning.runs import Finetuning, Pretraining
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


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_linear_probe_is_planned_without_the_gradients_of_its_encoder(seeds):
    def counted(**options):
        config = FinetuneConfig(model="google/bert_uncased_L-2_H-128_A-2", task="sst2", **options)
        run = Finetuning(config=config, model=BERT, seeds=seeds, rows=8, length=32, segments=1, steps=10)
        step = step_of(run, mesh_of(1, 1, 1))
        flops = step.step.lower(*step.arguments).compile().cost_analysis()["flops"]
        return flops, run.flops()

    (whole, of_whole), (probe, of_probe) = counted(), counted(freeze="encoder")
    assert 3 * of_probe == of_whole
    assert probe < 0.6 * whole  # what is no matmul counts, too, in these


def test_a_teacher_of_answers_alone_is_no_part_of_the_step():
    def parts(layers):
        distill = DistillConfig("google/bert_uncased_L-4_H-256_A-4", hidden=HiddenConfig(layers))
        config = FinetuneConfig(model="google/bert_uncased_L-2_H-128_A-2", task="sst2", distill=distill)
        run = Finetuning(config=config, model=STUDENT, teacher=BERT, seeds=2, rows=8, length=32, segments=3, steps=10)
        step = step_of(run, mesh_of(1, 1, 1))
        assert step.step.lower(*step.arguments).out_info
        _, frozen, batch = step.arguments
        return bool(frozen), batch["taught"].shape if "taught" in batch else None

    assert parts(0.0) == (False, (2, 8, 3, 2))
    assert parts(1.0) == (True, None)
