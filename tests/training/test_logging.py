import json
import math
import os
import subprocess
import sys

import pytest

from distilbert_jax.training.logging import RunLog, StepProgress, read_metrics
from tests import runs
from tests.runs import refused


def write(directory, first, last, *, start=0, every=1):
    log = RunLog(directory, start, every)
    for step in range(first, last + 1):
        log.write("train", step, {"loss": 1.0 / step, "seconds": 0.5})
        if step % 3 == 0:
            log.write("eval", step, {"mlm_loss": 2.0 / step})
    log.close()


def steps(directory, kind="train"):
    return [entry.step for entry in read_metrics(directory / "metrics.jsonl") if entry.kind == kind]


def test_an_entry_is_on_its_way_to_disk_when_write_returns(tmp_path):
    log = RunLog(tmp_path, 0, 1)
    log.write("train", 1, {"loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"kind": "train", "step": 1, "loss": 0.5}\n'
    log.close()


def test_where_no_metrics_are_there_are_no_entries(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path, cut):
    write(tmp_path, 1, 5)
    path = tmp_path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    assert steps(tmp_path) == [1, 2, 3, 4]
    write(tmp_path, 5, 6, start=4)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_damaged_line_is_named(tmp_path):
    write(tmp_path, 1, 5)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    for damaged in (b"\0\0\0\n", b'{"kind": "tr\xff\n', b'{"kind"\n', b"[" * 100_000 + b"\n", b"[1]\n"):
        (tmp_path / "metrics.jsonl").write_bytes(b"".join([*lines[:2], damaged, *lines[2:]]))
        refused(
            lambda: read_metrics(tmp_path / "metrics.jsonl"),
            by="training.logging.read_metrics",
            path="metrics.jsonl",
            row=3,
        )


def test_a_run_that_goes_on_cuts_the_log_back_to_its_step(tmp_path):
    write(tmp_path, 1, 9)
    write(tmp_path, 5, 10, start=4)
    assert steps(tmp_path) == list(range(1, 11))
    assert steps(tmp_path, "eval") == [3, 6, 9]


def test_the_log_of_another_run_is_refused_though_its_steps_fit(tmp_path):
    log = RunLog(tmp_path, 0, 1)
    for step in (1, 2):
        log.write("train", step, {"loss": 1.0})
        known = log.digest
    log.write("train", 3, {"loss": 1.0})
    log.close()
    for given in (known, ""):
        log = RunLog(tmp_path, 2, 1, known=given)
        log.close()
        assert log.digest == known
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("1.0", "2.0", 1))
    kept = path.read_bytes()
    refused(lambda: RunLog(tmp_path, 2, 1, known=known), path="metrics.jsonl")
    assert path.read_bytes() == kept


def test_a_run_that_begins_anew_empties_the_log(tmp_path):
    write(tmp_path, 1, 9)
    write(tmp_path, 1, 2)
    assert steps(tmp_path) == [1, 2]


def test_tensorboard_shows_every_so_many_steps_and_every_evaluation_once(tmp_path):
    write(tmp_path, 1, 9, every=4)
    expected = [(3, "eval/mlm_loss", 2 / 3), (4, "train/loss", 1 / 4), (6, "eval/mlm_loss", 2 / 6)]
    expected += [(8, "train/loss", 1 / 8), (9, "eval/mlm_loss", 2 / 9)]
    for found, wanted in zip(runs.events(tmp_path), expected, strict=True):
        assert found == (*wanted[:2], pytest.approx(wanted[2]))
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.rename(file.with_name("events.out.tfevents.1.earlier"))
    write(tmp_path, 6, 9, start=5, every=4)
    assert [event[:2] for event in runs.events(tmp_path)] == [event[:2] for event in expected]


def test_tensorboard_itself_reads_the_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 1, 4)
    reader = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("eval/mlm_loss")] == [(3, pytest.approx(2 / 3))]
    assert [event.step for event in reader.Scalars("train/loss")] == [1, 2, 3, 4]


def test_a_log_that_cannot_be_written_says_so_once(tmp_path):
    log = RunLog(tmp_path, 0, 1)
    log._file.close()
    log._file = open("/dev/full", "a", buffering=1)  # noqa: SIM115, PTH123
    with pytest.raises(OSError, match="No space left"):
        log.write("train", 1, {"loss": 0.5})
    log.close()


def test_values_that_are_not_finite_survive(tmp_path):
    log = RunLog(tmp_path, 0, 1)
    log.write("eval", 1, {"perplexity": math.inf})
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0].values["perplexity"] == math.inf
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


def test_throughput_counts_what_was_done_since_the_last_line(capfd, monkeypatch):
    clock = iter([10.0, 12.0, 14.0, 98.0, 102.0])  # an evaluation of 80 s before step 4
    monkeypatch.setattr("distilbert_jax.training.logging.time.perf_counter", lambda: next(clock))
    with StepProgress("run", 5, 0, 3, "examples") as progress:
        for step, seconds in enumerate((10.0, 2.0, 2.0, 4.0, 4.0), start=1):
            progress.advance(step, {"loss": 1.0}, 100.0, seconds)
    first, last = capfd.readouterr().err.splitlines()
    assert first == "run 3/5  loss 1.000  50 examples/s  4 s left"  # the first step holds the compilation
    assert last == "run 5/5  loss 1.000  25 examples/s  0 s left"


def test_a_log_that_lacks_steps_of_the_checkpoint_is_refused(tmp_path):
    log = RunLog(tmp_path, 0, 1)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 1.0})
    log.close()
    RunLog(tmp_path, 2, 1).close()
    refused(lambda: RunLog(tmp_path, 3, 1), by="training.logging.RunLog.__init__", path="metrics.jsonl")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    (tmp_path / "metrics.jsonl").unlink()
    refused(lambda: RunLog(tmp_path, 3, 1), by="training.logging.RunLog.__init__")


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ((1, 2, 2, 4), "1 of the first 4 steps are missing"),
        ((1, 1, 1, 1), "3 of the first 4 steps are missing"),
        ((1, 2, 3, 3, 4), "step 3 is there more than once"),
        ((0, 1, 2, 3, 4), "step 0 is none of a run"),
        ((-1, 1, 2, 3), "1 of the first 4 steps are missing"),
    ],
)
def test_a_log_in_which_a_step_is_not_there_once_is_refused_as_it_is(numbers, wrong, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"kind": "train", "step": number}) + "\n" for number in numbers))
    before = path.read_text()
    refused(lambda: RunLog(tmp_path, 4, 1), wrong, by="training.logging.RunLog.__init__", path="metrics.jsonl")
    assert path.read_text() == before


def test_a_log_of_steps_without_their_loss_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "lozz": 2.0}\n')
    refused(lambda: RunLog(tmp_path, 1, 1), by="training.logging.RunLog.__init__", path="metrics.jsonl")


def test_brackets_in_the_name_of_a_run_are_no_markup(capfd):
    with StepProgress("run[red]", 1, 0, 1) as progress:
        progress.advance(1, {"loss": 1.0}, 1.0, 1.0)
        progress.say("run[red] held out")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("run[red] 1/1  loss 1.000")
    assert second == "run[red] held out"


def test_when_the_reader_of_stderr_leaves_training_goes_on():
    script = (
        "import sys; from distilbert_jax.training.logging import StepProgress\n"
        "with StepProgress('run', 3, 0, 1) as progress:\n"
        "    for step in (1, 2, 3): progress.advance(step, {'loss': 1.0}, 1.0, 1.0)\n"
        "    progress.say('said')\n"
        "print('skipped', file=sys.stderr, flush=True)\n"
        "print('done')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=closed, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"done\n")
