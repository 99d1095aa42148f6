"""Model cards: what users give is text in them, what is measured is metadata, and whoever edits one keeps it."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from distilbert_jax.base.hub import is_edited
from distilbert_jax.errors import warn_once
from distilbert_jax.models import MaskedLM
from distilbert_jax.training.model_card import Card, Score, card_text, place_name, plain, table, write_card

HOSTILE = "x\n---\nlicense: mit\ntags: [a]\n---\n# Big <script>alert(1)</script> | `code` ![](y) \x00\u2028 **b**"


@pytest.fixture
def model(world, tmp_path):
    return Path(shutil.copytree(world.teacher, tmp_path / "model"))


def card(name="mine", **changes):
    score = Score(data="rows", split="dev", metric="accuracy", value=0.5, hub_data="rows")
    return Card(
        **{"name": name, "about": ["A model."], "sections": {"Evaluation": ["50"]}, "scores": [score], **changes}
    )


def test_scores_and_head_are_metadata_that_the_hub_reads(model):
    data = ModelCard(card_text(card(base_models=["bert-base-uncased"]), model)).data
    assert (data.pipeline_tag, data.library_name, data.model_name) == ("fill-mask", "transformers", "mine")
    assert (data.base_model, data.license) == (["bert-base-uncased"], None)
    (score,) = data.eval_results
    assert (score.dataset_name, score.dataset_split, score.metric_type, score.metric_value) == (
        "rows",
        "dev",
        "accuracy",
        0.5,
    )


def test_names_and_labels_are_neither_metadata_nor_marks_nor_tags(model):
    score = Score(data=HOSTILE, split=HOSTILE, metric="accuracy", value=0.5, hub_data=HOSTILE)
    sections = {"Data": [table(("Name", "Rows"), [(plain(HOSTILE), "3")])]}
    text = card_text(card(HOSTILE, sections=sections, scores=[score], datasets=[HOSTILE], base_models=[HOSTILE]), model)
    read = ModelCard(text)
    assert (read.data.license, read.data.tags) == (None, ["distilbert_jax", "jax", "bert"])
    assert "<script" not in read.text
    assert [line for line in read.text.splitlines() if line.startswith("#")][1:] == [
        "## How to load it",
        "## Data",
        "## Licence",
    ], "no heading but those of the card"
    (row,) = (line for line in read.text.splitlines() if line.endswith(" | 3 |"))
    assert row.replace("\\|", "").count("|") == 3
    assert "`" not in row.replace("\\`", "")
    assert len(text.split("\n---\n")) == 2


def test_what_is_left_of_a_path_is_a_name(monkeypatch):
    assert place_name("/home/somebody/runs/student/model") == "student"
    assert place_name("../data/train.csv") == "train.csv"
    assert place_name("runs/teacher") == "teacher", "gone, it looks like an id; no cache has it"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"cache/{name}/{file}")
    assert place_name("google/bert_uncased_L-2_H-128_A-2") == "google/bert_uncased_L-2_H-128_A-2"


def test_a_model_that_takes_the_place_of_another_has_not_its_card(model, capsys):
    warn_once.cache_clear()
    write_card(card(), model)
    MaskedLM.from_pretrained(model).save_pretrained(model)
    assert not (model / "README.md").exists()
    (model / "README.md").write_text("# My own\n")
    capsys.readouterr()
    MaskedLM.from_pretrained(model).save_pretrained(model)
    assert (model / "README.md").read_text() == "# My own\n"
    assert str(model / "README.md") in capsys.readouterr().err


def test_a_card_is_written_again_until_somebody_edits_it(model, capsys):
    warn_once.cache_clear()
    file = model / "README.md"
    write_card(card("first"), model)
    write_card(card("second"), model)
    assert "# `second`" in file.read_text(encoding="utf-8")
    before = file.stat().st_mtime_ns
    write_card(card("second"), model)
    assert (file.stat().st_mtime_ns, is_edited(file)) == (before, False)
    assert capsys.readouterr().err == ""
    for edited in (file.read_bytes().replace(b"A model.", b"My model."), b"# My own\n"):
        file.write_bytes(edited)
        write_card(card("third"), model)
        assert file.read_bytes() == edited
    assert str(file) in capsys.readouterr().err


def test_a_card_in_a_new_place_leaves_an_edited_one_to_the_place_that_it_goes_to(model, tmp_path):
    new = Path(shutil.copytree(model, tmp_path / "new"))
    (model / "README.md").write_text("mine")
    write_card(card(), new, replaced=model)
    assert not (new / "README.md").exists()
    (model / "README.md").unlink()
    write_card(card(), new, replaced=model)
    assert (new / "README.md").exists()
    assert not (model / "README.md").exists()
