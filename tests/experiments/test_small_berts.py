"""The small BERTs: their config, and all of it at toy size: batches and rates chosen on train, seeds, published scores beside."""

import importlib.machinery
import importlib.util
import json
import random
import shutil
import statistics
from pathlib import Path

import pytest
from flax import nnx

from distilbert_jax.base.config_io import load_config
from distilbert_jax.config import ExperimentConfig, FinetuneConfig, SweepConfig, Variant
from distilbert_jax.configs import small_berts
from distilbert_jax.experiments import views
from distilbert_jax.experiments.experiment import run_experiment
from distilbert_jax.experiments.figures import RunFigures
from distilbert_jax.glue.references import GLUE, TEST_REMARK, TEST_SCORES
from distilbert_jax.models import BertForMaskedLM
from distilbert_jax.planning.runs import SMALL_BERTS
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.runs import change, refused


@pytest.fixture(scope="module")
def toy(world, tmp_path_factory):
    """An experiment of one model that has been run: two batch sizes, two seeds."""
    path = tmp_path_factory.mktemp("small")
    model = runs.c.ModelConfig.bert_base(num_hidden_layers=1, **runs.SIZES)
    BertForMaskedLM(model, rngs=nnx.Rngs(3)).save_pretrained(path / "model", load_tokenizer(world.tokenizer))
    choose = random.Random(0)
    for split, rows in (("train", 96), ("validation", 32)):
        blue = [choose.randrange(2) for _ in range(rows)]
        texts = [runs.sentence(choose, 6, ("red", "blue")[one]) for one in blue]
        runs.write_split(path / "data", "sst2", split, {"sentence": texts, "label": blue})
    variant = Variant("2x128", (0, 1), model=str(path / "model"), published="BERT-Tiny", remark="A toy.")
    config = small_berts.experiment(str(path / "out"), variant, tasks=("sst2",), together=False)
    given = {"sweep": SweepConfig(batch_size=(8, 16)), "glue__data": str(path / "data"), "glue__length": 16}
    config = change(config, **given, glue__epochs=1, glue__run__dtype="float32")
    run_experiment(config)
    return config


def test_the_batch_is_chosen_on_train_and_the_seeds_take_it(toy):
    place = Path(toy.directory) / "2x128/glue"
    choice = json.loads((place / "choice/sst2/choice.json").read_text())
    assert [one["batch_size"] for one in choice["settings"]] == [8, 16]
    best = max(choice["settings"], key=lambda one: one["score"])
    assert choice["chosen"]["batch_size"] == best["batch_size"]
    for seed in (0, 1):
        assert json.loads((place / f"sst2-{seed}/config.json").read_text())["batch_size"] == best["batch_size"]
    for tried in place.glob("choice/sst2/batch-size-*"):
        assert json.loads((tried / "config.json").read_text())["selection_split"]
        assert not (set(json.loads((tried / "results.json").read_text())["dev_rows"]) & {"validation"})


def test_the_report_has_median_and_spread_beside_what_was_published(toy):
    row = json.loads((Path(toy.directory) / "results.json").read_text())["2x128"]
    scores = row["seeds"]["sst2"]
    assert (len(scores), row["published"]) == (2, "BERT-Tiny")
    assert row["tasks"]["sst2"] == pytest.approx(statistics.median(scores))
    text = (Path(toy.directory) / "report.md").read_text()
    lines = dict(line.strip("|\n ").split(" | ", 1) for line in text.splitlines() if line.startswith("| "))
    spread = f"{statistics.median(scores):.1f} [{min(scores):.1f}–{max(scores):.1f}]"
    assert lines["sst2, accuracy"].startswith(f"{spread} | 83.2 | ")
    assert lines["mean score"].split(" | ")[1] == "83.2", "the mean of the tasks that are there"
    assert f"\n- {TEST_REMARK}\n" in text
    assert "\n- A toy.\n" in text


def test_run_again_it_trains_nothing(toy, monkeypatch, capsys):
    monkeypatch.setattr("distilbert_jax.finetuning.tuning.Tuning.train", lambda *_: pytest.fail("it fine-tunes"))
    run_experiment(toy, ["corpus", "pretrain", "glue"])
    assert capsys.readouterr().err.count("finished before") == 4


def test_a_row_that_was_not_published_is_refused(toy):
    (variant,) = toy.variants
    wrong = change(toy, variants=(change(variant, published="BERT-Tina"),))
    by, hint = "experiments.experiment.check", "BERT-Tiny"
    refused(lambda: run_experiment(wrong, ["report"]), by=by, field="published", hint=hint)


def test_models_without_weights_that_can_be_read_are_told_before_any_work(toy, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(toy.variants[0].model, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    variants = tuple(Variant(name, (0,), model=str(tmp_path / name)) for name in ("one", "two"))
    config = change(toy, directory=str(tmp_path / "out"), variants=variants, teacher="one", student="one")
    lacking = [variant.model for variant in variants]
    refused(lambda: run_experiment(config), *lacking, by="experiments.experiment._check_weights", path=lacking[0])
    assert not (tmp_path / "out").exists()


def test_there_are_24_models_of_the_shapes_that_their_names_say():
    variants = load_config("small_berts", ExperimentConfig).variants
    assert len({variant.model for variant in variants}) == len(variants) == 24
    for variant in variants:
        layers, hidden = map(int, variant.name.split("x"))
        shape = SMALL_BERTS[variant.model]
        assert (shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size) == (layers, hidden, 4 * hidden)
        assert variant.model.endswith(f"_L-{layers}_H-{hidden}_A-{shape.num_attention_heads}")
        assert shape.hidden_size == 64 * shape.num_attention_heads
        assert load_config(f"small_berts:{variant.name}", FinetuneConfig).model == variant.model
    assert {variant.published for variant in variants} - {""} == set(TEST_SCORES)


def test_published_rows_have_the_mean_that_was_published():
    # Of MNLI the server takes the mean of matched and mismatched.
    mismatched = {"BERT-Tiny": 70.3, "BERT-Mini": 74.3, "BERT-Small": 77.0, "BERT-Medium": 79.1}
    published = {"BERT-Tiny": 64.2, "BERT-Mini": 65.8, "BERT-Small": 71.2, "BERT-Medium": 73.5}
    for name, scores in TEST_SCORES.items():
        assert tuple(scores) == GLUE
        both = {**scores, "mnli": (scores["mnli"] + mismatched[name]) / 2}
        assert statistics.fmean(both.values()) == pytest.approx(published[name], abs=0.1), name


@pytest.mark.parametrize("has", [True, False])
def test_bert_tiny_is_the_packages_where_that_is_installed(tmp_path, monkeypatch, has):
    if has:
        (tmp_path / "model").mkdir()
        (tmp_path / "model/model.safetensors").touch()
    spec = importlib.machinery.ModuleSpec("cognition", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    (variant,) = small_berts.tiny().variants
    assert variant.model == (str(tmp_path / "model") if has else "google/bert_uncased_L-2_H-128_A-2")
    assert bool(variant.remark) == has, "only of the package's weights is there something to say"


def test_runs_are_rows_where_there_are_more_of_them_than_figures():
    row = RunFigures(
        layers=1, parameters=2, steps=None, train_seconds=None, train_flops=None, kl_to_teacher=None, tuning_seconds=None,
        tuning_flops=None, tasks={"rte": 60.0}, seeds={"rte": (60.0,)}, majority={"rte": 50.0}, remarks=(), score=60.0,
    )  # fmt: skip
    few, many = (views.markdown({f"run{i}": row for i in range(number)}, ["rte"]).splitlines() for number in (2, 9))
    assert few[0] == "|  | run0 | run1 | majority |"
    assert many[0] == "|  | layers | parameters, head included | mean score | rte, accuracy |"
    assert many[-4].startswith("| run8 | 1 | 2 | 60.0 | 60.0 |")
