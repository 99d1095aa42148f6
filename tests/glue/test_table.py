import csv
import json

import pytest

from distilbert_jax.base.config_io import read_config, to_values
from distilbert_jax.base.tables import show
from distilbert_jax.glue import table
from distilbert_jax.glue.references import GLUE, REFERENCES
from distilbert_jax.glue.results import Choice, GlueTable, Means, Setting
from distilbert_jax.glue.table import MAJORITY, OURS, markdown, means, table_of, write
from distilbert_jax.training.cost import RelativeSpeed
from tests.glue.examples import run
from tests.runs import change


def test_means_are_those_of_the_tasks_asked_for_or_none():
    assert means({"rte": 50.0, "cola": 40.0, "wnli": 60.0}, ["rte", "cola", "wnli"]) == Means(50.0, 45.0)
    assert means({"rte": 50.0}, ["rte", "cola"]) == Means(None, None)
    assert means(REFERENCES["DistilBERT"], GLUE).all == pytest.approx(77.0, abs=0.05)
    assert means(REFERENCES["model card"], GLUE).all is None
    assert means(REFERENCES["model card"], GLUE).without_wnli == pytest.approx(79.46, abs=0.01)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    path = tmp_path_factory.mktemp("glue")
    return [run(path, task, seed, 8 + seed) for task in GLUE for seed in (0, 1)]


def cells(text):
    lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {line[0]: line[1:] for line in lines}


def test_a_whole_table_stands_beside_the_papers_rows_and_says_what_is_odd_about_them(complete):
    made = table_of("bert", complete)
    rows = cells(markdown(made))
    assert rows[""][:2] == ["mean of 9", "no WNLI"]
    assert rows["DistilBERT"] == ["77.0", "79.6", *(f"{REFERENCES['DistilBERT'][task]:.1f}" for task in GLUE)]
    assert rows["model card"][:2] == ["–", "79.5"]
    assert rows["model card"][-1] == "–"
    ours = made.rows[OURS].scores
    assert rows["minus DistilBERT"][2] == f"{ours['cola'] - 51.3:+.1f}"
    assert rows["minus DistilBERT"][-2] == f"{ours['stsb'] - 86.9:+.1f}", "the paper's figure, not the card's"
    assert float(rows["majority"][-1]) == made.rows[MAJORITY].scores["wnli"].__round__(1)
    said = "\n".join(made.remarks)
    for words in ("85.8", "84.7", "40 of 71", "medians of 2 seeds"):
        assert words in said
    assert "not here" not in said
    assert "subset" not in said


def test_a_part_of_the_tasks_is_told_from_the_whole_in_every_row(tmp_path):
    runs = [
        run(tmp_path, "rte", 0, 9),
        run(tmp_path, "qqp", 0, 8),
    ]
    runs[1] = change(runs[1], result__train_rows=25683, result__dev_rows={"validation": 7600})
    made = table_of("bert", runs)
    rows = cells(markdown(made))
    assert rows[""] == ["mean of 2", "QQP", "RTE"]
    assert rows["BERT-base"][0] == f"{(89.6 + 69.3) / 2:.1f}"
    said = "\n".join(made.remarks)
    assert "over 2 of the nine tasks, in every row; not here: CoLA, MNLI, MRPC, QNLI, SST-2, STS-B, WNLI" in said
    assert "QQP: train is a subset, 25,683 of 363,846 rows." in said
    assert "QQP: validation is a subset, 7,600 of 40,430 rows." in said
    assert "STS-B: the model card" not in said


def test_the_share_of_the_teacher_has_an_interval(tmp_path):
    student = [run(tmp_path / "student", task, seed, 7) for task in ("rte", "wnli") for seed in (0, 1)]
    teacher = [run(tmp_path / "teacher", task, seed, 9) for task in ("rte", "wnli") for seed in (0, 1)]
    cost = RelativeSpeed(
        parameters=60, teacher_parameters=100, ratio=1.6, ratio_min=1.5, ratio_max=1.7, median_ms=1.0, teacher_median_ms=1.6,
        tokens_per_second=8.0, teacher_tokens_per_second=5.0, batch_size=1, length=128, dtype="float32", rounds=20, device="cpu",
    )  # fmt: skip
    made = table_of("student", student, teacher, cost)
    share = made.retained.share
    assert share.value == pytest.approx(100 * 70 / 90)
    assert share.low < share.value < share.high < 100
    assert set(made.retained.tasks) == {"rte"}
    text = markdown(made)
    assert "77.8 % are retained (95 % interval" in text
    assert "60 of the teacher's 100 (60%)" in text
    assert "1.60 times as fast (1.50 to 1.70), cpu" in text
    assert cells(text)["teacher"][-2:] == ["90.0", "90.0"]


def test_choices_of_settings_are_told_with_the_number_of_runs(tmp_path):
    choice = Choice(6, Setting(learning_rate=1e-4, epochs=10))
    made = table_of("bert", [change(run(tmp_path, "rte", 0, 9), choice=choice)])
    assert "RTE: learning rate 0.0001, epochs 10, chosen from 6 runs on a tenth of train." in markdown(made)


def test_everything_is_written_in_four_forms(complete, tmp_path, capsys):
    made = table_of("bert", complete)
    write(made, complete, tmp_path / "out")
    assert read_config(GlueTable, tmp_path / "out/glue.json") == made
    assert (tmp_path / "out/glue.md").read_text() == markdown(made)
    assert (tmp_path / "out/glue.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out/glue.csv").open() as file:
        rows = list(csv.DictReader(file))
    mrpc = [row for row in rows if (row["task"], row["seed"], row["metric"]) == ("mrpc", "1", "f1")]
    (one,) = [run.result for run in complete if (run.result.task, run.result.seed) == ("mrpc", 1)]
    assert [float(row["value"]) for row in mrpc] == [one.scores["validation"]["f1"]]
    assert len(rows) == sum(len(values) for one in complete for values in one.result.scores.values())
    assert len(list((tmp_path / "out").iterdir())) == 4
    for view in table.terminal(made):
        show(view)
    shown = capsys.readouterr().out
    for words in ("DistilBERT", "BERT-base", "majority", "failed", "STS-B"):
        assert words in shown
    assert shown.count("DistilBERT") >= 2, "a head is folded within a word"
    assert "…" not in shown


def test_generated_tasks_have_no_references(tmp_path):
    made = table_of("bert", [run(tmp_path, "demo-topic", 0, 9)])
    assert list(made.rows) == [OURS, MAJORITY]
    assert "paper" not in "\n".join(made.remarks)
    assert cells(markdown(made))[""] == ["mean of 1", "demo-topic"]


def test_tables_and_choices_of_earlier_versions_are_read(tmp_path):
    """As they were written before they had classes of their own."""
    choice = """{"runs": 2, "chosen": {"learning_rate": 0.0001, "epochs": 10},
 "settings": [{"learning_rate": 0.0001, "epochs": 10, "score": 81.0}, {"learning_rate": 1.0, "epochs": 10, "score": null}]}"""
    interval = '{"value": 83.3, "low": 70.1, "high": 97.2}'
    (tmp_path / "glue.json").write_text(
        f"""{{"model": "bert", "tasks": {{"rte": {{
  "median": 75.0, "min": 70.0, "max": 80.0, "scores": {{"0": 70.0, "1": 80.0}}, "seeds": 2, "failed": 1,
  "diverged": {{"1": "step 3: loss is not finite"}}, "majority": 57.1,
  "metrics": {{"validation": {{"accuracy": 75.0, "score": 75.0}}}},
  "train_rows": 2490, "dev_rows": {{"validation": 277}}, "cut_share": 0.01, "train_seconds": 12.0, "choice": {choice},
  "settings": "learning rate 0.0001, 10 epochs"}}}},
 "cost": {{"ratio": 1.6, "ratio_min": 1.5, "ratio_max": 1.7, "median_ms": 1.0, "teacher_median_ms": 1.6, "tokens_per_second": 10.0,
  "teacher_tokens_per_second": 6.0, "parameters": 60, "teacher_parameters": 100, "batch_size": 1, "length": 128,
  "dtype": "float32", "rounds": 20, "device": "cpu"}},
 "retained": {{"share": null, "difference": {interval}, "tasks": {{"rte": {interval}}}}},
 "rows": {{"model": {{"scores": {{"rte": 75.0}}, "means": {{"all": 75.0, "without_wnli": null}}}}}},
 "remarks": ["Dev scores"]}}
"""
    )
    table = read_config(GlueTable, tmp_path / "glue.json")
    assert (table.tasks["rte"].choice.chosen, table.cost.ratio) == (Setting(learning_rate=1e-4, epochs=10), 1.6)
    assert [one.score for one in table.tasks["rte"].choice.settings] == [81.0, None]
    assert (table.retained.share, table.retained.tasks["rte"].high) == (None, 97.2)
    assert json.loads((tmp_path / "glue.json").read_text()) == to_values(table)
