"""Statement 5 of the design: killed anywhere and started again with the same command, a run ends with the same bits."""

import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import train as train_script
from distilbert_jax.errors import Interrupted
from distilbert_jax.models.layers import DROPOUT_BITS
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.logging import RunLog
from tests import runs


@pytest.fixture
def config(world, tmp_path):
    return runs.pretraining(world, tmp_path / "run")


def card_of(run):
    """The README.md of a run's model without the run's name, and the digest that depends on it."""
    text = (run / "model/README.md").read_text(encoding="utf-8").rpartition("<!--")[0]
    return text.replace(f"# `{run.name}`", "").replace(f"name: {run.name}", "")


def assert_equal_runs(config, expected):
    """Bit-identical weights, every step exactly once with the same losses, TensorBoard without duplicates."""
    found, expected = Path(config.run.directory), Path(expected.run.directory)
    assert runs.weights(found / "model") == runs.weights(expected / "model")
    assert card_of(found) == card_of(expected)
    logged = runs.entries(found)
    assert [entry["step"] for entry in logged if entry["kind"] == "train"] == list(range(1, runs.STEPS + 1))
    assert [entry["step"] for entry in logged if entry["kind"] == "eval"] == [15, 30]
    assert logged == runs.entries(expected)
    shown = runs.events(found)
    assert len(set(shown)) == len(shown) > 0
    assert shown == runs.events(expected)


def test_killed_while_it_saves_a_run_ends_with_the_same_bits(config, finished, tmp_path):
    file = runs.write_config(config, tmp_path / "config.py")
    killed = runs.child("a checkpoint without digests", file)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run/model").exists()
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("*0")] == ["10"]
    train_script.main([file])
    assert_equal_runs(config, finished)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a checkpoint without its name", "the model is written"])
def test_killed_at_other_moments_too(moment, config, finished, tmp_path):
    file = runs.write_config(config, tmp_path / "config.py")
    assert runs.child(moment, file).returncode == -signal.SIGKILL
    train_script.main([file])
    assert_equal_runs(config, finished)


@pytest.mark.slow
def test_killed_at_ten_random_moments(config, finished, tmp_path):
    config = runs.change(config, run__save_every=3)  # else ten kills would leave no step taken
    file = runs.write_config(config, tmp_path / "config.py")
    killed, seeds = [], itertools.count()
    while len(killed) < 10:
        end = runs.child(f"random {next(seeds)}", file)
        if end.returncode == 0:  # it came to its end first: once more from the beginning
            assert_equal_runs(config, finished)
            shutil.rmtree(config.run.directory)
        else:
            assert end.returncode == -signal.SIGKILL, end.stderr
            killed.append(end.stdout.splitlines()[-1])
    print(*(f"{killed.count(phase)} in {phase}" for phase in sorted(set(killed))), sep=", ")
    assert set(killed) == {"steps", "checkpoint", "evaluation"}
    train_script.main([file])
    assert_equal_runs(config, finished)


def test_ctrl_c_leaves_a_checkpoint_and_one_line(config, finished, tmp_path):
    file = runs.write_config(config, tmp_path / "config.py")
    stopped = runs.child("Ctrl-C", file)
    assert stopped.returncode == 130, stopped.stderr
    (line,) = [line for line in stopped.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in stopped.stderr
    step = max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert f"stopped after step {step} of 30; the same command goes on" in line
    assert step % 10, "a step that is saved anyway proves nothing"
    train_script.main([file])
    assert_equal_runs(config, finished)


@pytest.mark.parametrize(
    ("moment", "status"),
    [("Ctrl-C in the set-up", 130), ("SIGTERM in the set-up", 75), ("SIGTERM after the last step", 75)],
)
def test_asked_to_leave_outside_of_the_steps_a_run_says_so_and_goes_on(moment, status, config, finished, tmp_path):
    """75 before the first step too: a scheduler's script gives the same command again at that status alone."""
    file = runs.write_config(config, tmp_path / "config.py")
    stopped = runs.child(moment, file)
    assert stopped.returncode == status, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "error: interrupted; the same command goes on from what is finished"
    assert not (tmp_path / "run/model").exists()
    if moment != "Ctrl-C in the set-up":  # the same as SIGTERM there, but for the status
        train_script.main([file])
        assert_equal_runs(config, finished)


def test_sigterm_leaves_a_checkpoint_and_the_run_goes_on(config, finished, monkeypatch, tmp_path, capsys):
    write = RunLog.write

    def stop(self, kind, step, values, **more):
        write(self, kind, step, values, **more)
        if step == 21:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "write", stop)
    with pytest.raises(Interrupted) as left:
        runs.train(config)
    assert (left.value.step, left.value.kept) == (22, True)
    assert (tmp_path / "run/checkpoints/22/default/sha256.json").is_file()
    monkeypatch.undo()
    runs.train(config)
    assert "goes on from step 22" in capsys.readouterr().out
    assert_equal_runs(config, finished)


def test_with_its_newest_checkpoint_damaged_a_run_goes_on_from_the_one_before(config, finished, tmp_path, capsys):
    shutil.copytree(finished.run.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    (tmp_path / "run/checkpoints/30/default/_METADATA").write_text("{}")
    runs.train(config)
    captured = capsys.readouterr()
    assert "checkpoints/30: skipped: _METADATA" in captured.err
    assert "goes on from step 20" in captured.out
    assert_equal_runs(config, finished)


def test_with_every_step_taken_only_the_model_is_written(config, finished, monkeypatch, tmp_path):
    shutil.copytree(finished.run.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    monkeypatch.setattr(Checkpoints, "save", lambda *_: pytest.fail("a step was taken"))
    runs.train(config)
    assert_equal_runs(config, finished)


def with_other_bits_of_dropout(finished, directory):
    """A run that has left its model out, as one of an earlier version: inputs.json does not say by what it drops."""
    shutil.copytree(finished.run.directory, directory)
    shutil.rmtree(directory / "model")
    recorded = json.loads((directory / "inputs.json").read_text())
    assert recorded.pop("dropout") == DROPOUT_BITS
    (directory / "inputs.json").write_text(json.dumps(recorded))


def test_what_is_left_of_a_run_is_not_trained_with_other_bits_of_dropout(config, finished, tmp_path):
    with_other_bits_of_dropout(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/30")
    runs.refused(lambda: runs.train(config), field="dropout", path=str(tmp_path / "run"))


def test_of_a_run_that_took_every_step_with_other_bits_of_dropout_the_model_is_written(config, finished, tmp_path):
    with_other_bits_of_dropout(finished, tmp_path / "run")
    runs.train(config)
    assert_equal_runs(config, finished)
