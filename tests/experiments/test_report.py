import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from distilbert_jax.base.config_io import read_config, to_json, write_config
from distilbert_jax.base.files import write_json
from distilbert_jax.config import DataConfig, InitConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.experiments import report as module
from distilbert_jax.experiments.figures import RunFigures, SeedFigures
from distilbert_jax.experiments.report import common_tasks, curves, report
from distilbert_jax.experiments.views import markdown
from distilbert_jax.glue.results import Choice, Setting, TriedSetting
from distilbert_jax.models import BertForMaskedLM, hf_format
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.pretraining.evaluate import evaluate_mlm
from distilbert_jax.training import run_directory
from tests.runs import BERT, change, metrics, refused


@pytest.fixture(scope="module")
def pair(finished, distilled, tmp_path_factory):
    """Directories of two runs; the second has task scores of three seeds."""
    path = tmp_path_factory.mktemp("report")
    for name, config in (("first", finished), ("second", distilled)):
        shutil.copytree(config.run.directory, path / name, ignore=shutil.ignore_patterns("checkpoints"))
    for seed, score in enumerate((70.0, 90.0, 80.0)):
        found = {"task": "demo-topic", "seed": seed, "score": score, "model": "m", "diverged": ""}
        directory = path / f"second/glue/demo-topic-{seed}"
        directory.mkdir(parents=True)
        found |= {
            "train_rows": 99,
            "dev_rows": {"validation": 40},
            "cut_share": 0.0,
            "train_seconds": 8.0,
            "together": 2,
        }
        scores = {"validation": {"accuracy": score, "score": score}}
        write_json(directory / "results.json", {**found, "flops": 1e12, "scores": scores})
        (directory / "predictions").mkdir()
        labels = np.arange(40) % 2
        right = np.where(np.arange(40) < 0.4 * score, labels, 1 - labels)
        np.save(directory / "predictions/validation.npy", np.eye(2, dtype=np.float32)[right])
        np.save(directory / "predictions/validation-labels.npy", labels)
    return path


@pytest.fixture(autouse=True)
def few_plots(request, monkeypatch):
    """Plots are drawn for the two tests that look at them."""
    if request.node.name not in ("test_a_report_is_a_table_a_file_and_a_plot", "test_scores_are_compared_in_pairs"):
        for name in ("curves", "differences"):
            monkeypatch.setattr(module, name, lambda *_: None)


def test_a_report_is_a_table_a_file_and_a_plot(pair, world, tmp_path, capsys):
    runs = [str(pair / "first"), str(pair / "second")]
    report(runs, str(tmp_path / "out"), heldout=world.heldout, teacher=str(pair / "first"), length=32)
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert list(found) == ["first", "second"]
    for name, row in found.items():
        assert set(row) == {
            "layers", "parameters", "steps", "train_seconds", "mlm_loss", "mlm_accuracy", "perplexity", "kl_to_teacher",
            "heldout_tokens", "tokens_per_second", "tasks", "score", "majority", "remarks", "train_flops", "tuning_seconds",
            "seeds", "tuning_flops", "of_teacher", "against", "speed", "heldout_parts",
        }  # fmt: skip
        assert (row["layers"], row["steps"]) == (1, 30)
        entries = [entry for entry in metrics(pair / name / "metrics.jsonl") if entry["kind"] == "train"]
        assert row["train_seconds"] == pytest.approx(sum(entry["seconds"] for entry in entries), abs=0.051)
        assert row["tokens_per_second"] > 0
    direct = evaluate_mlm(str(pair / "second/model"), world.heldout, teacher=str(pair / "first/model"), length=32)
    assert found["second"]["mlm_loss"] == pytest.approx(direct.mlm_loss)
    assert found["second"]["kl_to_teacher"] == pytest.approx(direct.kl_to_teacher)
    assert direct.kl_to_teacher > 0.01
    assert abs(found["first"]["kl_to_teacher"]) < 1e-6
    assert (found["first"]["tasks"], found["second"]["tasks"]) == ({}, {"demo-topic": 80.0})
    assert (tmp_path / "out/curves.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "…" not in shown, "figures are cut"
    for word in ("first", "second", "80.0", f"{tmp_path}/out/results.json"):
        assert word in shown.replace("\n", "")


def test_without_held_out_text_a_report_shows_the_rest(pair, tmp_path):
    figures = report([str(pair / "second")], str(tmp_path), length=32)["second"]
    assert figures.kl_to_teacher is figures.mlm_loss is None
    written = json.loads((tmp_path / "results.json").read_text())["second"]
    assert written["kl_to_teacher"] is None
    assert "mlm_loss" not in written


def test_rows_are_as_long_as_those_of_the_runs_unless_asked(pair, tmp_path, monkeypatch):
    asked = []
    found = report([str(pair / "first")], str(tmp_path), length=16)
    monkeypatch.setattr(module, "measure", lambda *_, length, **__: asked.append(length) or found["first"])
    report([str(pair / "first")], str(tmp_path))
    report([str(pair / "first")], str(tmp_path), length=16)
    monkeypatch.setattr(module, "_data", lambda _: [DataConfig(length=length) for length in (32, 24)])
    report([str(pair / "first"), str(pair / "second")], str(tmp_path))
    assert asked == [32, 16, 24, 24]


def test_held_out_text_in_rows_of_another_length_than_in_training_is_told(pair, world):
    asked = {"heldout": world.heldout, "teacher": "", "max_rows": 2}
    assert module.measure(pair / "first", (), **asked, length=32).remarks == ()
    (said,) = module.measure(pair / "first", (), **asked, length=16).remarks
    assert "rows of 32" in said
    assert "rows of 16" in said


def turned_around(run):
    """Every answer of its fine-tuning."""
    for directory in run.glob("glue/*"):
        predictions = np.load(directory / "predictions/validation.npy")
        np.save(directory / "predictions/validation.npy", predictions[:, ::-1])
        found = json.loads((directory / "results.json").read_text())
        score = 100.0 - found["score"]
        scores = {"validation": {"accuracy": score, "score": score}}
        write_json(directory / "results.json", found | {"score": score, "scores": scores})


def test_runs_that_differ_in_their_seed_alone_are_taken_together(pair, tmp_path, monkeypatch):
    base = read_config(PretrainConfig, pair / "second/config.json")
    of_seed = lambda config, seed: dataclasses.replace(config, run=dataclasses.replace(config.run, seed=seed))
    other = dataclasses.replace(base, steps=base.steps + 1)
    moved = dataclasses.replace(base, data=dataclasses.replace(base.data, corpus="elsewhere"))
    configs = {
        "one-3": of_seed(moved, 3),
        "one": of_seed(base, 1),
        "one-9": of_seed(base, 9),
        "untuned": of_seed(base, 4),
        "other text": of_seed(base, 5),
        "of the hub": dataclasses.replace(of_seed(base, 6), init=InitConfig(source="org/one")),
        "of it, another": dataclasses.replace(of_seed(base, 7), init=InitConfig(source="org/two")),
        "other": other,
        "other-2": of_seed(other, 2),
        "alone": None,
    }
    runs = {name: tmp_path / name for name in configs}
    for name, link in runs.items():
        run = tmp_path / "store" / name / "run"  # of links the report has the names
        shutil.copytree(pair / "second", run)
        link.symlink_to(run, target_is_directory=True)
        if name not in ("one", "alone"):
            turned_around(run)
    shutil.rmtree(runs["untuned"] / "glue")
    run_directory.record_input(runs["other text"], "data.corpus", "0" * 64)
    for name in ("of the hub", "of it, another"):
        inputs = run_directory.recorded_inputs(runs[name])
        write_json(
            runs[name] / "inputs.json", {key: one for key, one in inputs.items() if key != "init.source's files"}
        )
    monkeypatch.setattr(module, "_config", lambda run: configs[run.resolve().parent.name])
    asked = {"teacher": str(runs["alone"]), "against": str(runs["other-2"]), "length": 16}
    report([str(run) for name, run in runs.items() if name != "one-9"], str(tmp_path / "out"), **asked)
    found = read_config(dict[str, SeedFigures], tmp_path / "out/seeds.json")
    assert {name: one.runs for name, one in found.items()} == {"one": ("one", "one-3"), "other": ("other", "other-2")}
    assert (found["one"].score, found["other"].score) == (50.0, 20.0)
    assert found["one"].against.name == "other, other-2"
    assert found["one"].against.difference.value == pytest.approx(30.0)
    assert found["one"].against.difference.low < 0 < 60 < found["one"].against.difference.high
    assert found["one"].of_teacher.share.value == pytest.approx(62.5)
    assert found["other"].against is None
    text = (tmp_path / "out/report.md").read_text().partition("## Over seeds of pre-training\n")[2]
    assert "| one, one-3 | 50.0 | 62.5 (" in text
    assert "| other, other-2 | 20.0 | 25.0 (" in text
    # The teacher is one model; what is compared with is that of every seed, those outside the table among them.
    asked = {"teacher": str(runs["one"]), "against": str(runs["one-9"]), "length": 16}
    of_table = ("other", "other-2", "one", "one-3")
    report([str(runs[name]) for name in of_table], str(tmp_path / "out"), **asked)
    found = read_config(dict[str, SeedFigures], tmp_path / "out/seeds.json")
    assert {name: one.runs for name, one in found.items()} == {"other": of_table[:2], "one": of_table[2:]}
    assert found["other"].of_teacher.share.value == pytest.approx(25.0)
    assert found["one"].of_teacher.share.value == pytest.approx(62.5)
    assert (found["other"].against.name, found["one"].against) == ("one, one-3, one-9", None)
    report([str(runs["one"])], str(tmp_path / "out"), length=16)
    assert not (tmp_path / "out/seeds.json").exists(), "of other runs than the report"


def test_scores_are_compared_in_pairs(pair, tmp_path):
    third = tmp_path / "third"
    shutil.copytree(pair / "second", third)
    turned_around(third)
    runs = [str(pair / "second"), str(third), str(pair / "first")]
    found = report(runs, str(tmp_path / "out"), teacher=runs[0], against=runs[0], length=16)
    assert found["second"].against is found["first"].against is found["first"].of_teacher is None
    assert (found["third"].score, found["third"].against.name) == (20.0, "second")
    difference, share = found["third"].against.difference, found["third"].of_teacher.share
    assert difference.value == pytest.approx(-60.0)
    assert difference.low < -60.0 < difference.high < 0
    assert share.value == pytest.approx(25.0)
    assert read_config(dict[str, RunFigures], tmp_path / "out/results.json") == found
    text = (tmp_path / "out/report.md").read_text()
    lines = dict(line.strip("|\n ").split(" | ", 1) for line in text.splitlines() if line.startswith("| "))
    assert lines["mean score"] == "80.0 | 20.0 | – | 50.0"
    assert lines["minus second"].startswith("– | -60.0 (-")
    assert lines["% of the teacher's score"].startswith("– | 25.0 (")
    assert "\n- Dev scores × 100, medians of 3 seeds" in text
    assert "\n- Mean scores are over demo-topic: what all have" in text
    assert (tmp_path / "out/differences.png").is_file()
    report(runs[:1], str(tmp_path / "out"), length=16)
    assert not (tmp_path / "out/differences.png").exists(), "of other runs than the report"


def test_a_report_takes_the_fine_tuning_that_is_asked_for(pair, tmp_path, capsys):
    run = pair / "second"
    figures = report([str(run)], str(tmp_path), length=16, only={run: [("demo-topic", 1), ("rte", 1)]})["second"]
    assert figures.tasks == {"demo-topic": 90.0}
    assert (figures.tuning_seconds, figures.tuning_flops) == (4.0, 1e12)
    assert "left out: demo-topic-0, demo-topic-2" in capsys.readouterr().err


def test_what_choosing_took_is_that_of_the_settings_it_was_chosen_from(pair, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pair / "second", run)
    sweep = run / "glue/choice/demo-topic"
    of_this, of_another = Setting(1e-4, None, 3), Setting(1e-4, None, None)
    for setting, seed in ((of_this, 0), (of_this, 1), (of_another, 0)):
        shutil.copytree(run / "glue/demo-topic-0", sweep / f"{setting.name}-{seed}")
    tried = TriedSetting(**vars(of_this), score=80.0)
    write_config(Choice(1, of_this, (tried,), (0,)), sweep / "choice.json")
    figures = report([str(run)], str(tmp_path / "out"), length=16)["run"]
    assert figures.tuning_flops == 4e12, "of three seeds and one setting"


def test_pairs_of_other_dev_rows_are_refused_before_anything_is_measured(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda *_, **__: pytest.fail("it measures"))
    for name, digest in (("one", "a"), ("two", "b")):
        shutil.copytree(pair / "second", tmp_path / name)
        for place in tmp_path.glob(f"{name}/glue/*"):
            write_json(place / "inputs.json", {"data (validation)": digest * 64})
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    for given in ({"against": two}, {"teacher": two}):
        refused(
            lambda given=given: report([one], str(tmp_path / "out"), length=16, **given),
            by="glue.summary.check_same_dev",
            field="data (validation)",
        )
    side_by_side = lambda: report([one, two], str(tmp_path / "out"), length=16)
    refused(side_by_side, by="glue.summary.check_same_dev", field="data (validation)")


def test_a_figure_that_is_zero_has_its_line(pair, tmp_path):
    figures = report([str(pair / "second")], str(tmp_path), length=16)["second"]
    zero = dataclasses.replace(figures, score=0.0, mlm_accuracy=0.0, tasks={"cola": 0.0})
    text = markdown({"one": zero, "two": zero}, ("cola",))
    assert "| mean score | 0.0 | 0.0 |" in text
    assert "| masked-LM accuracy | 0.0% | 0.0% |" in text


def test_training_is_counted_with_the_teacher_that_a_run_had(distilled, world, tmp_path, capsys):
    ignored = shutil.ignore_patterns("checkpoints", "tensorboard")
    shutil.copytree(distilled.run.directory, tmp_path / "run", ignore=ignored)
    shutil.copytree(world.teacher, tmp_path / "teacher")
    config = change(distilled, teacher=str(tmp_path / "teacher"))
    (tmp_path / "run/config.json").write_text(to_json(config))
    flops = lambda: report([str(tmp_path / "run")], str(tmp_path / "out"), length=16)["run"].train_flops
    assert flops() == config.steps * step_flops(config, BERT)
    values = json.loads((tmp_path / "teacher/config.json").read_text())
    write_json(tmp_path / "teacher/config.json", values | {"num_hidden_layers": 1})
    assert flops() is None
    assert "is not the teacher that it had" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "teacher")
    assert flops() is None, "it may be gone"


def test_means_are_over_the_tasks_that_all_tuned_runs_have():
    assert common_tasks([{"cola": 10.0, "rte": 50.0, "wnli": 56.0}, {"rte": 60.0, "wnli": 20.0}, {}]) == ["rte"]
    assert common_tasks([{"cola": 1.0}, {"rte": 1.0}]) == []
    assert common_tasks([{"cola": 1.0, "rte": 2.0}, {"rte": []}, {}]) == ["rte"], "of a run that is no row, too"
    assert common_tasks([]) == common_tasks([{}]) == []


def test_scores_of_another_model_are_refused(pair, tmp_path):
    shutil.copytree(pair / "second", tmp_path / "run")
    for directory in (tmp_path / "run/glue").iterdir():
        write_json(directory / "inputs.json", {"model": hf_format.fingerprint(tmp_path / "run/model")})
    report([str(tmp_path / "run")], str(tmp_path / "out"), length=16)
    write_json(directory / "inputs.json", {"model": hf_format.fingerprint(pair / "first/model")})
    message = refused(
        lambda: report([str(tmp_path / "run")], str(tmp_path / "out"), length=16),
        by="experiments.report._tuned",
        path=str(directory),
    )
    assert "was not fine-tuned from" in message


def npz(file):
    np.savez(file.with_suffix(""), np.eye(2))
    file.with_suffix(".npz").replace(file)


def in_json(change_it):
    """Damage to a JSON file: what `change_it` makes of its value."""

    def damage(file):
        write_json(file, change_it(json.loads(file.read_text())))

    return damage


def in_log(text):
    return lambda file: file.write_text(file.read_text() + text + "\n")


GLUE = "glue/demo-topic-1"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (f"{GLUE}/inputs.json", lambda file: file.write_text("[]")),
        (f"{GLUE}/config.json", lambda file: file.write_bytes(b"\xff{}")),
        ("config.json", lambda file: file.write_bytes(b"\xff{}")),
        (f"{GLUE}/results.json", in_json(lambda found: found | {"together": 10**400})),
        (
            f"{GLUE}/results.json",
            in_json(lambda found: found | {"scores": {"validation": {"exactness": 90.0, "score": 90.0}}}),
        ),
        (f"{GLUE}/predictions/validation.npy", npz),
        (f"{GLUE}/predictions/validation.npy", lambda file: file.write_bytes(b"PK" + file.read_bytes())),
        ("metrics.jsonl", in_log('{"kind": "train", "step": 31}')),
        ("metrics.jsonl", in_log('{"kind": "train", "step": 31, "seconds": "1"}')),
        ("metrics.jsonl", in_log('{"kind": "train", "step": 1e999, "seconds": 1}')),
    ],
)
def test_what_is_damaged_is_named_in_one_line(name, damage, pair, tmp_path):
    shutil.copytree(pair / "second", tmp_path / "run")
    file = tmp_path / "run" / name
    if name.startswith(GLUE) and name.endswith("config.json"):
        file = tmp_path / "run/glue/demo-topic-0/config.json"  # the first run's settings are told
    damage(file)
    refused(lambda: report([str(tmp_path / "run")], str(tmp_path / "out"), length=16), path=str(file))


def test_the_log_of_another_run_is_not_reported(pair, tmp_path):
    shutil.copytree(pair / "second", tmp_path / "run")
    shutil.copy(pair / "first/metrics.jsonl", tmp_path / "run")
    refused(lambda: report([str(tmp_path / "run")], str(tmp_path / "out"), length=16), path="metrics.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_run_of_no_steps_has_a_log_of_none_of_them(pair, tmp_path, capsys):
    shutil.copytree(pair / "first", tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("")
    run_directory.record_outputs(tmp_path / "run", {"model": tmp_path / "run/model"})
    write_json(tmp_path / "run/config.json", json.loads((tmp_path / "run/config.json").read_text()) | {"steps": 0})
    refused(lambda: report([str(tmp_path / "run")], str(tmp_path / "out"), length=16), path="run/config.json")
    forget = json.loads((tmp_path / "run/inputs.json").read_text())
    write_json(tmp_path / "run/inputs.json", {name: value for name, value in forget.items() if name != "config"})
    found = report([str(tmp_path / "run")], str(tmp_path / "out"), length=16)["run"]
    assert (found.steps, found.train_seconds, found.train_flops) == (0, 0, 0)
    assert (found.tuning_seconds, found.tuning_flops) == (None, None)
    assert "has no metrics.jsonl" not in capsys.readouterr().err


def test_a_report_is_of_a_length_that_all_runs_read_and_replaces_no_runs_results(pair, tmp_path):
    run = str(pair / "first")
    refused(lambda: report([run], str(tmp_path / "out"), length=64), by="experiments.report.report", field="--length")
    refused(lambda: report([run], run, length=16), field="--out")


def test_the_pale_curve_is_of_training_alone(tmp_path, monkeypatch):
    """The evaluations of a distilled run say `loss_mlm`, too."""
    drawn = []
    lines = [{"kind": "train", "step": step, "loss_mlm": 5.0} for step in (1, 2, 3)]
    lines.insert(2, {"kind": "eval", "step": 2, "loss_mlm": 7.0, "mlm_loss": 7.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda _, x, y, **style: drawn.append((x, style)))
    curves([tmp_path], tmp_path / "curves.png")
    pale = next(x for x, style in drawn if "marker" not in style)
    assert list(pale) == [1, 2, 3]


def test_what_a_run_does_not_log_is_drawn_at_its_end_and_the_title_says_who_is_ahead(tmp_path, monkeypatch):
    for name, loss in (("student", 3.0), ("copied", 2.9), ("teacher", 2.0)):
        (tmp_path / name).mkdir()
        line = json.dumps({"kind": "train", "step": 7, "loss_mlm": loss})
        (tmp_path / name / "metrics.jsonl").write_text(line + "\n")
    drawn, titles = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda _, x, y, **style: drawn.append((x, y, style)))
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda _, text, **style: titles.append(text))
    ends = {
        "student": {"mlm_loss": 3.1, "kl_to_teacher": 0.5},
        "copied": {"mlm_loss": 3.0, "kl_to_teacher": 0.9},
        "teacher": {"mlm_loss": 2.1, "kl_to_teacher": 0.0},
    }
    curves([tmp_path / name for name in ends], tmp_path / "curves.png", ends)
    crosses = [(x, y) for x, y, style in drawn if style.get("marker") == "x"]
    assert crosses == [
        ([7], [value]) for metric in ("mlm_loss", "kl_to_teacher") for value in (of[metric] for of in ends.values())
    ]
    said = "lowest masked-LM loss: teacher, 2.10 · nearest to the teacher (KL): student, 0.50"
    assert titles[0].splitlines()[0] == said


def test_speed_is_that_of_the_rounds_beside_the_teacher(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert_jax.probes.speed.encoder_speed", lambda *_, **__: pytest.fail("it times alone"))
    shutil.copytree(pair / "first/model", tmp_path / "large/model")
    BertForMaskedLM(change(BERT, num_hidden_layers=3), rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "large/model")
    runs = [str(tmp_path / "large"), str(pair / "second")]
    found = report(runs, str(tmp_path / "out"), teacher=runs[0], length=16)
    beside = found["second"].speed.throughput
    assert found["second"].tokens_per_second == round(beside.tokens_per_second)
    assert found["large"].tokens_per_second == round(beside.teacher_tokens_per_second)
    assert beside.ratio == pytest.approx(beside.tokens_per_second / beside.teacher_tokens_per_second)


def test_curves_need_no_held_out_loss(pair, tmp_path):
    curves([pair / "second", tmp_path], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_refused_in_one_line_before_anything_is_measured(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert_jax.experiments.report.measure", lambda *_, **__: pytest.fail("it measures"))
    shutil.copytree(pair / "first", tmp_path / "first")
    (tmp_path / "unfinished").mkdir()
    out = str(tmp_path / "out")
    refused(lambda: report([], out), by="experiments.report.report")
    message = refused(
        lambda: report([str(pair / "first"), str(tmp_path / "unfinished")], out),
        "model.safetensors",
        by="experiments.report.report",
    )
    assert message.startswith(f"{tmp_path / 'unfinished'}: has no model")
    refused(lambda: report([str(pair / "first"), str(tmp_path / "first")], out), by="experiments.report.report")
    (tmp_path / "file").write_text("")
    refused(lambda: report([str(pair / "first")], str(tmp_path / "file")), path=str(tmp_path / "file"), field="--out")
    (tmp_path / "first/metrics.jsonl").write_text("damaged\n")
    run_directory.record_outputs(tmp_path / "first", {"model": tmp_path / "first/model"})
    refused(
        lambda: report([str(pair / "second"), str(tmp_path / "first")], out),
        by="training.logging.read_metrics",
        path="metrics.jsonl",
        row=1,
    )
    for option in ({"length": 0}, {"max_rows": -1}):
        refused(lambda option=option: report([str(pair / "second")], out, **option), by="experiments.report.report")
    assert not Path(out).exists()


def test_a_model_in_the_place_of_its_run_is_answered_with_the_run(finished, tmp_path):
    with pytest.raises(InputError) as caught:
        report([f"{finished.run.directory}/model"], str(tmp_path))
    assert caught.value.hint == finished.run.directory


def test_a_run_without_a_log_is_told_of_and_has_no_figures_of_training(pair, tmp_path, capsys):
    bare = tmp_path / "bare[1]"
    shutil.copytree(pair / "first/model", bare / "model")
    found = report([str(bare)], str(tmp_path / "out"), length=32)["bare[1]"]
    assert (found.steps, found.train_seconds) == (None, None)
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{bare}: has no metrics.jsonl; its steps, seconds and curves are left out\n")
    assert "bare[1]" in captured.out.partition("layers")[0]
