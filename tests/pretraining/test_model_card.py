"""The card of a pre-training run: what its records say, and what happens to it afterwards."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from distilbert_jax.base.files import sha256_of
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.model_card import card_of
from distilbert_jax.training.run_directory import recorded_inputs
from tests import runs
from tests.runs import change


def test_a_run_says_what_it_has_learned_from_and_what_was_measured(finished, distilled, world, tmp_path):
    run = Path(finished.run.directory)
    card = ModelCard.load(run / "model/README.md")
    last = runs.entries(run)[-1]
    assert {one.metric_type: one.metric_value for one in card.data.eval_results} == {
        "loss": round(last["mlm_loss"], 4),
        "perplexity": round(last["perplexity"], 4),
        "accuracy": round(last["mlm_accuracy"], 4),
    }
    manifest = Corpus.open(world.corpus).manifest
    for digest in (manifest.sources[0].sha256, sha256_of(run / "model/model.safetensors")):
        assert digest in card.text
    student = (Path(distilled.run.directory) / "model/README.md").read_text(encoding="utf-8")
    assert recorded_inputs(Path(distilled.run.directory))["teacher"] in student
    assert "5 · `kl` (temperature 2.0, tokens all) + 2 · `mlm` + 1 · `cos`" in student
    for text in (student, str(card)):
        assert str(tmp_path.parents[1]) not in text, "a path of this machine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init__positions": "sinusoidal"}, "| `init.positions` | `sinusoidal` |"),
        ({"init__unigram_bias": True}, "| `init.unigram_bias` | `True` |"),
        ({"masking__per": "batch"}, "| `masking.per` | `batch` |"),
        ({"data__sequences": "document"}, "| `data.sequences` | `document` |"),
        ({"optimizer__accumulate": 2}, "| `optimizer.accumulate` | `2` |"),
    ],
)
def test_every_setting_is_told_that_changes_a_model_and_is_no_default(changes, said, finished):
    told = lambda config: "\n".join(card_of(config, Path(finished.run.directory)).sections["Training"])
    assert said in told(change(finished, **changes))
    assert said not in told(finished)


def test_a_finished_run_leaves_an_edited_card_and_writes_a_missing_one_with_the_same_bytes(finished, tmp_path):
    run = tmp_path / Path(finished.run.directory).name
    shutil.copytree(finished.run.directory, run, ignore=shutil.ignore_patterns("checkpoints"))
    config, file = change(finished, run__directory=str(run)), run / "model/README.md"
    written = file.read_bytes()
    assert "model/README.md" not in json.loads((run / "outputs.json").read_text())
    file.write_text("mine")
    runs.train(config)
    assert file.read_text() == "mine"
    file.unlink()
    runs.train(config)
    assert file.read_bytes() == written
