"""`distilbert-jax demo`: its steps, each on its own, in one directory."""

import importlib
from pathlib import Path

import pytest

from distilbert_jax.base.config_io import load_config, write_config
from distilbert_jax.cli import demo as module
from distilbert_jax.cli.main import main
from distilbert_jax.config import PretrainConfig
from distilbert_jax.demo.documents import DemoManifest, TextCounts
from distilbert_jax.errors import InputError
from tests.runs import refused


@pytest.fixture
def steps(monkeypatch):
    """The steps that were done, each with its directory, instead of doing them."""
    done = []
    monkeypatch.setattr(module, "_do", lambda step, out, tier: done.append((step, out)))
    return done


def test_the_demo_is_all_its_steps_in_order(steps):
    main(["demo"])
    assert [step for step, _ in steps] == list(module.STEPS)
    assert {out for _, out in steps} == {Path("runs/demo")}


def test_steps_alone_are_done_in_the_order_of_the_demo(steps, tmp_path):
    main(["demo", "--out", str(tmp_path), "--only", "tokenizer", "data"])
    assert steps == [("data", tmp_path), ("tokenizer", tmp_path)]
    for arguments, field in ((["--only"], "--only"), (["--out", __file__], "--out")):
        with pytest.raises(InputError) as caught:
            main(["demo", *arguments])
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("step", "first"), [("student", "corpora"), ("glue", "data"), ("report", "corpora"), ("fill-mask", "student")]
)
def test_a_step_without_what_earlier_ones_make_says_which(steps, tmp_path, step, first):
    hint = f"--only {first}"
    refused(lambda: main(["demo", "--out", str(tmp_path), "--only", step]), by="cli.demo._check_before", hint=hint)
    assert (steps, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("tier", ["", "toy/"])
def test_a_demo_goes_on_with_models_of_its_own_length_alone(steps, tier, tmp_path):
    config_of = importlib.import_module("distilbert_jax.configs.demo").get_config
    for name in module.TRAININGS:
        (tmp_path / name / "model").mkdir(parents=True)
        write_config(config_of(f"{tier}{name}", str(tmp_path)), tmp_path / name / "config.json")
        (tmp_path / name / "model/model.safetensors").touch()
    arguments = ["demo", "--out", str(tmp_path), "--only", "fill-mask"]
    same, other = (arguments, [*arguments, "--toy"]) if not tier else ([*arguments, "--toy"], arguments)
    main(same)
    assert steps == [("fill-mask", tmp_path)]
    whole = [argument for argument in other if argument not in ("--only", "fill-mask")]
    for asked in (other, whole):
        refused(lambda asked=asked: main(asked), by="cli.demo._check_tier", field="--toy")
    assert len(steps) == 1


def test_the_data_are_written_where_the_other_steps_look(tmp_path, monkeypatch, capsys):
    rows = {"glue/demo-topic/train.parquet": 2000}
    texts = {name: TextCounts(documents=1, words=2) for name in ("train.txt", "heldout.txt")}
    manifest = DemoManifest(format=1, python="3", texts=texts, rows=rows, sha256={})
    written = []
    monkeypatch.setattr(
        "distilbert_jax.demo.documents.write_demo",
        lambda out: written.append(out) or (manifest, False),
    )
    main(["demo", "--out", str(tmp_path), "--only", "data"])
    assert written == [tmp_path / "data"]
    assert "written in" in capsys.readouterr().out


@pytest.mark.parametrize("tier", ["", "toy/"])
def test_each_training_and_tuning_is_that_of_the_demos_config(tier, tmp_path, monkeypatch):
    trained, tuned = [], []
    monkeypatch.setattr(module, "_check_before", lambda only, out, tier: None)
    monkeypatch.setattr("distilbert_jax.pretraining.run.pretrain", trained.append)
    monkeypatch.setattr("distilbert_jax.cli.glue.GlueCommand.run", lambda self: tuned.append(self))
    main(["demo", "--out", str(tmp_path), "--only", *module.TRAININGS, "glue", *["--toy"] * bool(tier)])
    config_of = importlib.import_module("distilbert_jax.configs.demo").get_config
    assert trained == [config_of(f"{tier}{name}", str(tmp_path)) for name in module.TRAININGS]
    assert [(command.tasks, command.seeds) for command in tuned] == [(module.TASKS, (0,))] * 4
    for command, name in zip(tuned, module.TRAININGS, strict=True):
        assert command.run_with.model == f"{tmp_path}/{name}/model"
        assert command.run_with.run.directory == f"{tmp_path}/{name}/glue"
        assert command.run_with.data == f"{tmp_path}/data/glue"
        assert command.run_with.max_train_rows == (128 if tier else None)


def test_the_toy_stands_beside_the_demo_and_is_short(steps):
    main(["demo", "--toy", "--only", "data"])
    assert steps == [("data", Path("runs/demo-toy"))]
    for name in module.TRAININGS:
        whole, toy = (load_config(f"demo:{tier}{name}", PretrainConfig) for tier in ("", "toy/"))
        assert toy.steps == toy.run.eval_every * 2 == 20
        assert toy.run.directory == f"runs/demo-toy/{name}"
        assert (toy.model, toy.objective, toy.loss) == (whole.model, whole.objective, whole.loss)
