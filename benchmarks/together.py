"""Students side by side against one after the other: the time of a step on this machine, beside what the FLOPs say.

    python benchmarks/together.py --students 5 --rows 8 --rounds 5

A MiniLM-sized teacher (6 × 384, random weights) and students of three layers, full rows of 128 random tokens; a relation loss
(MiniLMv2), and the triple loss. Each round times a step of the company and a step of one student, in turn; the ratio is that of the
company to so many students one after the other. `distilbert-jax plan CONFIG --students 5 --target v5e:1x1` tells it of a TPU.
"""

import argparse
import statistics
import time

import jax
import numpy as np
from flax import nnx

from benchmarks import machine
from distilbert_jax.config import (
    CosConfig,
    DataConfig,
    KLConfig,
    LossConfig,
    MaskingConfig,
    MeshConfig,
    MiniLMv2Config,
    MLMConfig,
    ModelConfig,
    PretrainConfig,
    student_config,
)
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM
from distilbert_jax.models.params import split
from distilbert_jax.pretraining.cost import step_flops, step_flops_together
from distilbert_jax.pretraining.masking import log_weights
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.pretraining.setup import optimizer_of
from distilbert_jax.pretraining.together import company
from distilbert_jax.training import sharding
from distilbert_jax.training.step import init_state, make_step_together

LENGTH = 128
TEACHER = ModelConfig.bert_base(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
LOSSES = {
    "minilmv2": LossConfig(KLConfig(0.0), MLMConfig(0.0), CosConfig(0.0), minilmv2=MiniLMv2Config(1.0)),
    "kl + mlm + cos": LossConfig(),
}


class Steps:
    """Steps of students that train together, on one batch."""

    def __init__(self, config: PretrainConfig, students: int, rows: int):
        mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
        teacher, self.frozen = split(BertForMaskedLM(TEACHER, rngs=nnx.Rngs(0)))
        graph, params = split(DistilBertForMaskedLM(config.model, rngs=nnx.Rngs(1)))
        weights = log_weights(np.ones(config.model.vocab_size), (0, 100, 101, 102, 103), MaskingConfig())
        given, optimizer = Given(graph, teacher, weights, 103, config), optimizer_of(config)
        self.states = tuple(init_state(params, optimizer, 0, mesh) for _ in range(students))
        several = company([given] * students), [optimizer] * students
        self.step = make_step_together(*several, self.states, self.frozen, mesh)
        ids = np.random.default_rng(0).integers(1000, config.model.vocab_size, (rows, LENGTH)).astype(np.int32)
        places = np.tile(np.arange(LENGTH, dtype=np.int32), (rows, 1))
        batch = {"input_ids": ids, "segment_ids": np.ones_like(ids), "position_ids": places}
        self.batch = sharding.place(batch, rows, mesh)

    def seconds(self) -> float:
        begun = time.perf_counter()
        self.states, metrics = self.step(self.states, self.frozen, self.batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("students", 5), ("rows", 8), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    print(
        f"{machine.processor()}, commit {machine.commit()}, jax {jax.__version__}, {given.rows} rows of {LENGTH} tokens"
    )
    print("\n| loss | students | one alone, s | side by side, s | of one after the other | by the FLOPs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, loss in LOSSES.items():
        config = PretrainConfig(
            model=student_config(TEACHER, 3),
            objective="distillation",
            teacher="teacher",
            loss=loss,
            data=DataConfig(batch_size=given.rows),
        )
        alone, together = Steps(config, 1, given.rows), Steps(config, given.students, given.rows)
        for steps in (alone, together):  # compiled
            steps.seconds()
        rounds = [(alone.seconds(), together.seconds()) for _ in range(given.rounds)]
        ratios = sorted(several / (given.students * one) for one, several in rounds)
        flops = step_flops_together([config] * given.students, TEACHER) / (given.students * step_flops(config, TEACHER))
        one, several = (statistics.median(times) for times in zip(*rounds, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {given.students} | {one:.2f} | {several:.2f} | {spread} | {flops:.2f} |")


if __name__ == "__main__":
    main()
