"""Demo: a small BERT reads CPython's documentation, a student of half its layers is distilled from it, two controls beside it.

    distilbert-jax demo                    # all of it: data, tokenizer, corpora, the four trainings, tasks and a report
    distilbert-jax train demo:teacher      # a small BERT learns masked LM
    distilbert-jax train demo:student      # half the layers, begun from the teacher's and distilled with the triple loss
    distilbert-jax train demo:copied       # control 1: the student's layers, masked LM alone for as long
    distilbert-jax train demo:control      # control 2: random weights, masked LM alone for as long: no teacher at all
    distilbert-jax glue demo:glue --model runs/demo/student/model --run.directory runs/demo/student/glue \
      --tasks demo-topic demo-order demo-overlap --seeds 0      # generated tasks, which are no part of GLUE

`distilbert-jax demo --toy`, `demo:toy/teacher` and so on run every part of it, too briefly to learn anything.

Cost: minutes on two cores of a CPU, the teacher the longest. Result: runs/demo/report.md; docs/results/first-run.md explains one.
"""

import dataclasses

from distilbert_jax.config import (
    DataConfig,
    FinetuneConfig,
    InitConfig,
    KLConfig,
    LossConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    student_config,
)

_CONFIGS = ("teacher", "student", "copied", "control", "glue")
VARIANTS = (*_CONFIGS, *(f"toy/{name}" for name in _CONFIGS))


def get_config(variant: str, directory: str = "") -> PretrainConfig | FinetuneConfig:
    """`directory`: where the demo's data, corpora and runs stand; empty: runs/demo, of the toy runs/demo-toy."""
    tier, _, name = variant.rpartition("/")
    makers = {"teacher": teacher, "student": student, "copied": copied, "control": control, "glue": glue}
    config = makers[name](directory or ("runs/demo-toy" if tier else "runs/demo"))
    return _toy(config) if tier else config


def _toy(config: PretrainConfig | FinetuneConfig) -> PretrainConfig | FinetuneConfig:
    if isinstance(config, FinetuneConfig):
        return dataclasses.replace(config, epochs=1, max_train_rows=128)
    return dataclasses.replace(
        config, steps=20, run=dataclasses.replace(config.run, log_every=5, eval_every=10, save_every=10)
    )


def teacher(directory: str) -> PretrainConfig:
    return PretrainConfig(
        # So short a run does not overfit: dropout would only slow it.
        model=ModelConfig.bert_base(
            vocab_size=4096,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        ),
        init=InitConfig(unigram_bias=True),
        data=DataConfig(corpus=f"{directory}/corpus", heldout=f"{directory}/heldout", length=64, batch_size=16),
        masking=MaskingConfig(weighting="uniform"),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=3500,  # only past some 1,200 it learns more than how often a word occurs
        run=RunConfig(directory=f"{directory}/teacher", log_every=100, eval_every=500, save_every=500),
    )


def student(directory: str) -> PretrainConfig:
    config = teacher(directory)
    return dataclasses.replace(
        config,
        model=student_config(config.model, num_hidden_layers=2),
        init=InitConfig(source=f"{directory}/teacher/model"),
        objective="distillation",
        teacher=f"{directory}/teacher/model",
        # At this size logits of all tokens take longer than they teach: the KL is taken at the masked ones.
        loss=LossConfig(kl=KLConfig(tokens="masked")),
        steps=400,
        # A seed of its own: with the teacher's it would be asked what the teacher was asked first.
        run=RunConfig(directory=f"{directory}/student", seed=1, log_every=100, eval_every=100, save_every=100),
    )


def copied(directory: str) -> PretrainConfig:
    """What differs from the student is the loss, and the steps: as many as take as long as the student's with its teacher's."""
    config = student(directory)
    run = dataclasses.replace(config.run, directory=f"{directory}/copied")
    return dataclasses.replace(config, objective="masked_lm", teacher="", steps=720, run=run)


def control(directory: str) -> PretrainConfig:
    config, first = copied(directory), teacher(directory)
    return dataclasses.replace(
        config,
        init=first.init,
        run=dataclasses.replace(config.run, directory=f"{directory}/control"),
    )


def glue(directory: str) -> FinetuneConfig:
    config = FinetuneConfig(data=f"{directory}/data/glue", length=64, save_model=False)
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=5e-4),
        run=RunConfig(directory="", log_every=100),
    )
