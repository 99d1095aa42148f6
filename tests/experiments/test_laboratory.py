"""The laboratory: what its students cost, where they begin, and all of it at the tests' size."""

import dataclasses
import json

import pytest
from flax import nnx

from distilbert_jax.base.config_io import load_config, read_config
from distilbert_jax.cli.main import main
from distilbert_jax.config import ExperimentConfig, FinetuneConfig, PretrainConfig, Schedule, student_config
from distilbert_jax.configs import laboratory
from distilbert_jax.experiments.experiment import run_experiment, side_by_side
from distilbert_jax.models import BertModel
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.runs import BERT, WORDS, change, write_split


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


@pytest.mark.parametrize("tier", ["screen", "long"])
def test_students_of_equal_flops_that_minilm_teaches_train_side_by_side(tier):
    config = laboratory.experiment(tier)
    groups = [[one.name for one in group] for group in side_by_side(config, config.variants)]
    taught = [name for name in laboratory.LOSSES if name != "triple"]
    assert sorted(taught) in map(sorted, groups)
    assert len({laboratory.model(name, tier).steps for name in taught}) == len(taught)


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


@pytest.fixture
def small(world, tmp_path, monkeypatch):
    """The toy laboratory with models of the tests' size, on their text and tasks of a few rows."""
    BertModel(BERT, rngs=nnx.Rngs(5)).save_pretrained(tmp_path / "encoder", load_tokenizer(world.tokenizer))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(laboratory.miniature, "encoder", lambda: "encoder")
    monkeypatch.setattr(laboratory, "_LAYERS", (0,))
    config, few = laboratory.experiment("toy"), {"relation_heads": 4}

    def sized(one):
        if (made := one.pretrain) is None:
            return one
        loss = dataclasses.replace(made.loss, minilmv2=change(made.loss.minilmv2, **few))
        data = change(made.data, corpus="corpus", heldout="heldout", length=32, batch_size=8)
        model = BERT if made.model.num_hidden_layers == 6 else student_config(BERT, 1)
        return dataclasses.replace(
            one, pretrain=dataclasses.replace(made, model=model, data=data, loss=loss, steps=made.steps and 2)
        )

    sentences = [f"{one} goes to {other}" for one in WORDS[:20] for other in WORDS[20:26]]
    for task in ("rte", "mrpc"):
        for split in ("train", "validation"):
            columns = {"sentence1": sentences, "sentence2": sentences[::-1], "label": [0, 1] * 60}
            write_split(tmp_path / "glue", task, split, columns)
    glue = change(config.glue, data="glue", length=32, batch_size=16)
    # One of each kind: with a head and without, of one layer and of all, and a change of another kind than a loss.
    kept = ("teacher", "triple", "tinybert", "minilmv2_mlm", "mlm-masking", "encoder")
    variants = tuple(sized(one) for one in config.variants if one.name in kept)
    return dataclasses.replace(config, variants=variants, tokenizer="encoder", glue=glue)


@pytest.mark.slow
def test_the_laboratory_goes_from_text_to_students_that_a_fine_tuned_teacher_has_taught(world, small, tmp_path, capsys):
    text, heldout = (world.path / f"{name}.txt" for name in ("corpus", "heldout"))
    run_experiment(small, ("corpus", "pretrain"), text=(text,), heldout_text=(heldout,))
    for one in small.variants:
        assert (tmp_path / small.directory / one.name / "model/model.safetensors").is_file(), one.name
    tasks = dataclasses.replace(small, tasks=("rte",))
    run_experiment(tasks, ("glue", "report"), ("minilmv2_mlm",))
    found = json.loads((tmp_path / small.directory / "results.json").read_text())
    assert found["minilmv2_mlm"]["kl_to_teacher"] is None, "the teacher has no masked-LM head"
    assert found["minilmv2_mlm"]["tasks"].keys() == {"rte"}
    # The second step, as docs/results/laboratory.md has it.
    glue = ["--data", "glue", "--tasks", "rte", "--seeds", "0", "--epochs", "1", "--length", "32", "--batch-size", "16"]
    place, student = f"{small.directory}/second", f"{small.directory}/minilmv2_mlm/model"
    teacher = ["glue", "--model", f"{small.directory}/encoder/model", *glue, "--save-model"]
    main([*teacher, "--run.directory", f"{place}/teachers"])
    taught = ["--distill.teacher", f"{place}/teachers/{{task}}-0/model"]
    main(["glue", "--model", student, *glue, *taught, "--run.directory", f"{place}/minilmv2_mlm"])
    config = read_config(FinetuneConfig, tmp_path / place / "minilmv2_mlm/rte-0/config.json")
    assert config.teacher == f"{place}/teachers/rte-0/model"
    logged = (tmp_path / place / "minilmv2_mlm/rte-0/metrics.jsonl").read_text()
    assert "loss_ce" in logged
