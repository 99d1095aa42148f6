"""`distilbert-jax train`, and train.py in a checkout."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import train
from distilbert_jax.config import FinetuneConfig, PretrainConfig, RunConfig, Schedule
from tests.runs import ROOT, pretraining, refused, write_config


@pytest.fixture
def config(tmp_path):
    """A config file."""
    return write_config(PretrainConfig(steps=7), tmp_path / "config.py")


@pytest.mark.parametrize(
    ("arguments", "field", "shown"),
    [
        (["--optimizer.lerning-rate", "1"], "--optimizer.lerning-rate", "--optimizer.learning-rate"),
        (["--optimizer.learning-rate", "fast"], "--optimizer.learning-rate", "'fast'"),
        (["--steps", "-1"], "steps", "-1"),
        (["--steps"], "--steps", "--steps"),
        (["--loss.kl.weight", "linear:5"], "--loss.kl.weight", "'linear:5'"),
        (["--loss.kl.weight", "linear:5:-1"], "weight", "linear:5:-1"),
        (["--data.sequences", "lines"], "--data.sequences", "'line', 'document'"),
        (["--run.seed", "-1"], "seed", "-1"),
        (["--data.length", "1024"], "length", "1024"),
        (["stray"], None, "stray"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(config, arguments, field, shown):
    message = refused(
        lambda: train.main([config, *arguments]), "train.py", "--help", shown, by="cli.arguments.parse", field=field
    )
    assert not set("│╭╰") & set(message)


def test_a_dry_run_takes_no_trace(config):
    refused(
        lambda: train.main([config, "--dry-run", "--profile"]), "--profile", by="cli.train.train", field="--dry-run"
    )


def test_overrides_reach_the_run(config, monkeypatch):
    taken = []
    monkeypatch.setattr("distilbert_jax.pretraining.run.pretrain", lambda config, profile: taken.append(config))
    train.main([config, "--steps", "9", "--optimizer.learning-rate", "1e-4", "--run.directory", "runs/x"])
    assert (taken[0].steps, taken[0].optimizer.learning_rate, taken[0].run.directory) == (9, 1e-4, "runs/x")
    distils = ["--objective", "distillation", "--teacher", "t"]
    weights = ["--loss.kl.weight", "linear:5:1", "--loss.own", "norm", "cosine:0:1", "--loss.mlm.weight", "3"]
    train.main([config, *distils, *weights])
    loss = taken[1].loss
    assert (loss.kl.weight, loss.mlm.weight) == (Schedule("linear", 5.0, 1.0), 3.0)
    assert loss.own == {"norm": Schedule("cosine", 0.0, 1.0)}


def test_a_config_has_help(config, capsys):
    with pytest.raises(SystemExit) as left:
        train.main([config, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "--optimizer.learning-rate" in shown
    assert "--loss.kl.weight FLOAT|linear:A:B|cosine:A:B" in shown


def test_a_mistake_ends_the_process_with_one_line_and_status_2(world, tmp_path):
    config = write_config(pretraining(world, tmp_path / "run", data__corpus=str(tmp_path)), tmp_path / "config.py")
    command = [sys.executable, "train.py", config]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: no corpus: build one")


@pytest.mark.parametrize("failed", [0, 1])
def test_a_fine_tuning_that_has_learned_nothing_says_so(failed, tmp_path, monkeypatch, capsys):
    config = FinetuneConfig(task="rte", model="model", run=RunConfig(directory=str(tmp_path)))
    file = tmp_path / "config.py"
    file.write_text(f"from distilbert_jax.config import *\n\n\ndef get_config():\n    return {config!r}\n")
    result = SimpleNamespace(task="rte", scores={"validation": {"accuracy": 52.7}})
    monkeypatch.setattr("distilbert_jax.finetuning.runs.finetune", lambda config: result)
    row = SimpleNamespace(failed=failed, majority=52.7)
    monkeypatch.setattr("distilbert_jax.glue.summary.summary", lambda runs: {"rte": row})
    train.main([str(file)])
    told = capsys.readouterr()
    assert told.out == "rte validation: accuracy 52.70\n"
    assert ("52.70" in told.err) == bool(failed)
