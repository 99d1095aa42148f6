"""The laboratory's config: what its students cost, and where they begin."""

import dataclasses

import pytest

from distilbert_jax.base.config_io import load_config
from distilbert_jax.config import ExperimentConfig, PretrainConfig, Schedule
from distilbert_jax.configs import laboratory
from distilbert_jax.pretraining.cost import step_flops


@pytest.mark.parametrize("tier", ["screen", "long"])
def test_students_cost_equal_flops_with_what_their_teacher_took_to_get_a_head(tier):
    configs = {name: laboratory.model(name, tier) for name in laboratory.MODELS[tier]}
    architecture = configs["teacher"].model
    flops = {
        name: config.steps * step_flops(config, architecture if config.teacher else None)
        for name, config in configs.items()
    }
    head = flops.pop("teacher")
    assert flops.pop("cut") == 0
    flops |= {
        title: config.steps * step_flops(config, architecture if config.teacher else None)
        for title in (f"{name}-{change}" for name in laboratory.TRAINED for change in laboratory.CHANGES)
        for config in [laboratory.model(title, tier)]
    }
    for name in flops:
        flops[name] += head if name.partition("-")[0] == "triple" else 0
    for name, total in flops.items():
        assert total == pytest.approx(laboratory.PFLOP[tier] * 1e15, rel=0.01), name


def test_students_begin_with_the_same_layers_and_ask_a_head_only_where_they_need_one():
    variants = {one.name: one.pretrain for one in load_config("laboratory", ExperimentConfig).variants}
    head = "runs/laboratory/screen/teacher/model"
    source = variants["mlm"].init.source
    for name, config in variants.items():
        if config is None:
            continue
        assert load_config(f"laboratory:{name}", PretrainConfig) == config
        assert config.run.directory == f"runs/laboratory/screen/{name}"
        if name != "teacher" and "-" not in name:
            assert config.init.layers == (0, 2, 5)
            assert config.init.source == (head if name == "triple" else source)
            assert config.teacher == {"triple": head, "mlm": "", "cut": ""}.get(name, source)
            unlike = ("init", "teacher", "objective", "loss", "steps", "run")
            same = {field.name for field in dataclasses.fields(config)} - set(unlike)
            assert all(getattr(config, field) == getattr(variants["triple"], field) for field in same), name


def test_a_student_with_a_number_differs_in_its_seed_alone():
    first, third = (laboratory.model(name, "long") for name in ("minilmv2", "minilmv2-3"))
    changed = dataclasses.replace(first.run, seed=3, directory="runs/laboratory/long/minilmv2-3")
    assert third == dataclasses.replace(first, run=changed)
    assert load_config("laboratory:long/minilmv2-3", PretrainConfig) == third


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("layers", "init.layers", (1, 3, 5)),
        ("masking", "masking.probability", Schedule("linear", 0.3, 0.15)),
        ("documents", "data.sequences", "document"),
    ],
)
def test_a_student_with_a_word_behind_its_name_differs_in_that_alone(change, field, value):
    group, name = field.split(".")
    for student in laboratory.TRAINED:
        plain, changed = (laboratory.model(title, "long") for title in (f"{student}-3", f"{student}-{change}-3"))
        assert changed.run == dataclasses.replace(
            plain.run, directory=f"runs/laboratory/long/{student}-{change}-3"
        ) or (change == "masking" and changed.steps < plain.steps)
        as_plain = dataclasses.replace(
            changed,
            run=plain.run,
            steps=plain.steps,
            **{group: dataclasses.replace(getattr(changed, group), **{name: getattr(getattr(plain, group), name)})},
        )
        assert as_plain == plain
        assert getattr(getattr(changed, group), name) == value
