"""The whole of `distilbert-jax glue`, from parquet to the table and the zip, on miniature tasks that bear GLUE's names."""

import json
import random
import re
import zipfile

import pytest
from flax import nnx

import evaluate
from distilbert_jax.finetuning import tuning as module
from distilbert_jax.glue.submission import check
from distilbert_jax.models import DistilBertForMaskedLM
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.runs import STUDENT, refused

pytestmark = pytest.mark.slow
TASKS = ("mnli", "qnli", "stsb", "wnli")  # there is no data of qnli


def sentences(rows, seed, labels):
    """Sentences of one colour, and their labels: blue is 1 (of a regression: 5); every eleventh lies."""
    choose = random.Random(seed)
    found = []
    for i in range(rows):
        blue = choose.randrange(2)
        text = runs.sentence(choose, choose.randint(2, 9), ("red", "blue")[blue])
        found.append((text, labels[blue if i % 11 else 1 - blue]))
    return found


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("harness")
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(path / "model", load_tokenizer(world.tokenizer))
    for task, columns, labels, splits in (
        (
            "mnli",
            ["premise", "hypothesis"],
            (0, 2),
            {"train": 120, "validation_matched": 60, "validation_mismatched": 50},
        ),
        ("stsb", ["sentence1", "sentence2"], (0.0, 5.0), {"train": 120, "validation": 60}),
        ("wnli", ["sentence1", "sentence2"], (0, 1), {"train": 120, "validation": 60, "test": 146}),
        ("ax", ["premise", "hypothesis"], (0, 2), {"test": 1104}),
    ):
        for seed, (split, rows) in enumerate(splits.items()):
            texts, answers = zip(*sentences(rows, seed, labels), strict=True)
            columns_of = dict(zip(columns, (texts, ["goes to"] * rows), strict=False))
            runs.write_split(path, task, split, {**columns_of, "label": answers if split != "test" else [-1] * rows})
    return path


def command(folder, out, *more):
    return [
        "glue", "--model", str(folder / "model"), "--data", str(folder), "--run.directory", str(out),
        "--tasks", *TASKS, "--seeds", "0", "1", "--length", "16", "--batch-size", "16", "--epochs", "5",
        "--sweep.learning-rate", "1e-9", "5e-3", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    evaluate.main(command(folder, out / "glue", "--submit", str(out / "glue.zip")))
    return out


def test_the_table_has_every_task_that_there_is_data_for(done):
    found = json.loads((done / "glue/glue.json").read_text())
    assert list(found["tasks"]) == ["mnli", "stsb", "wnli"]
    for name, row in found["tasks"].items():
        assert row["seeds"] == 2
        assert (row["choice"]["runs"], row["choice"]["chosen"]) == (2, {"learning_rate": 5e-3})
        if name != "stsb":  # which takes longer to learn
            assert row["failed"] == 0
            assert row["median"] > 75
    assert "Means are over 3 of the nine tasks" in (done / "glue/glue.md").read_text()
    assert {path.name for path in (done / "glue").glob("glue.*")} == {"glue.json", "glue.md", "glue.csv", "glue.png"}


def test_the_zip_holds_what_was_predicted_and_nothing_else(done):
    check(done / "glue.zip", "glue.zip")
    with zipfile.ZipFile(done / "glue.zip") as archive:
        assert set(archive.namelist()) == {"WNLI.tsv", "AX.tsv"}
        rows = [line.split("\t") for line in archive.read("AX.tsv").decode().splitlines()[1:]]
    assert [int(row) for row, _ in rows] == list(range(1104))
    # What the MNLI model has learned holds for AX, row by row; a tenth of the labels lies.
    expected = [("entailment", "neutral", "contradiction")[label] for _, label in sentences(1104, 0, (0, 2))]
    assert sum(answer == true for (_, answer), true in zip(rows, expected, strict=True)) > 0.8 * 1104


def test_the_same_command_trains_nothing_again_and_says_the_same(folder, done, monkeypatch, capsys):
    before = (done / "glue/glue.json").read_text()
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("it trains again"))
    evaluate.main(command(folder, done / "glue", "--json", "--submit", str(done / "again.zip")))
    said = capsys.readouterr()
    found = json.loads(said.out)
    again = json.loads((done / "glue/glue.json").read_text())
    assert found == again == json.loads(before)
    assert (done / "again.zip").read_bytes() == (done / "glue.zip").read_bytes()
    assert f"{folder}: has no qnli: left out" in said.err


def test_a_teacher_stands_beside_its_student(folder, done, capsys):
    evaluate.main(command(folder, done / "glue", "--teacher-runs", str(done / "glue")))
    said = " ".join(capsys.readouterr().out.split())
    assert "100.0 % are retained (95 % interval" in said
    assert re.search(r"Parameters of the encoder: ([\d,]+) of the teacher's \1 \(100%\)", said)


def test_the_results_of_another_model_are_not_taken_for_this_ones(folder, done, world):
    other = command(folder, done / "glue")
    other[2] = world.teacher
    refused(
        lambda: evaluate.main(other), by="training.run_directory.check_config", path=str(done / "glue"), field="model"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--task", "rte"], {"field": "--task", "hint": "--tasks"}),
        (["--run.seed", "3"], {"field": "--run.seed", "hint": "--seeds"}),
        (["--selection-split"], {"field": "--selection-split", "hint": "--sweep"}),
        (["--submit", "glue.tsv"], {"by": "glue.submission.check_path", "field": "--submit"}),
        (["--teacher-runs", "nowhere"], {"by": "glue.summary.read_runs", "path": "nowhere"}),
        (["--sweep.learning-rate", "0"], {"field": "learning_rate"}),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(folder, tmp_path, more, told):
    refused(lambda: evaluate.main(command(folder, tmp_path / "glue", *more)), **told)
    assert not (tmp_path / "glue").exists()
