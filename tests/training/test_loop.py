"""The loop with a train step that is plain Python: what it logs, saves and evaluates, and how it stops."""

import dataclasses
import hashlib
import math
import os
import re
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from distilbert_jax.config import RunConfig
from distilbert_jax.errors import Interrupted, Preempted
from distilbert_jax.training import loop
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.loop import fit
from distilbert_jax.training.step import TrainState
from tests.runs import metrics, refused


class Saves:
    """Stands in for Checkpoints: which steps were saved, and what the logs held at that moment."""

    def __init__(self, path=None):
        self.path, self.logged, self.waited = path, {}, 0

    def save(self, step, state, log):
        assert state.step == step
        assert log == (hashlib.sha256(self.path.read_bytes()).hexdigest() if self.path else "")
        self.logged[step] = [entry["step"] for entry in metrics(self.path)] if self.path else []

    def wait(self):
        self.waited = len(self.logged)


def loss(step):
    return 1.0 / step


def run(steps=10, *, start=0, values=lambda step: {"loss": loss(step)}, before=lambda step: None, log=None, **options):
    """`fit` on a state that counts steps; `before(step)` is called when a step is taken."""
    taken = []

    def train_step(state, frozen, batch):
        step = int(state.step) + 1
        before(step)
        taken.append(batch)
        metrics = {name: np.float32(value) for name, value in {"tokens": 64, **values(step)}.items()}
        return dataclasses.replace(state, step=np.int32(step), params={"w": step}), metrics

    for name in ("checkpoints", "evaluate"):
        options |= {name: [options[name]]} if name in options else {}
    numbers = {"save_every": 4, "eval_every": 0, "log_every": 5, **options.pop("numbers", {})}
    end = fit(
        TrainState(np.int32(start), None, {"w": start}, None),
        train_step,
        {},
        lambda first, last: iter(range(first, last)),
        RunConfig(**numbers),
        steps,
        lambda step: 0.1 * step,
        title="run",
        logs=[log] if log else [],
        **options,
    )
    return end, taken


@pytest.fixture
def log(tmp_path):
    log = RunLog(tmp_path, 0, 5)
    yield log
    log.close()


def test_every_step_is_logged_once_with_its_values_and_its_learning_rate(log):
    end, taken = run(log=log)
    assert (end.step, taken) == (10, list(range(10)))
    entries = metrics(log.path)
    assert [entry["step"] for entry in entries] == list(range(1, 11))
    for entry in entries:
        assert entry["kind"] == "train"
        assert entry["loss"] == pytest.approx(1.0 / entry["step"])
        assert entry["learning_rate"] == pytest.approx(0.1 * (entry["step"] - 1))
        assert entry["tokens"] == 64
        assert entry["seconds"] >= 0


def test_a_run_goes_on_with_the_batch_of_its_step():
    end, taken = run(start=6)
    assert (end.step, taken) == (10, [6, 7, 8, 9])


def test_a_run_whose_steps_are_all_taken_takes_none():
    end, taken = run(start=10)
    assert (end.step, taken) == (10, [])


def test_a_checkpoint_is_never_ahead_of_the_logs(log):
    saves = Saves(log.path)
    run(log=log, checkpoints=saves)
    assert saves.logged == {step: list(range(1, step + 1)) for step in (4, 8, 10)}
    assert saves.waited == 3


@pytest.mark.parametrize(("every", "expected"), [(0, [10]), (4, [4, 8, 10]), (5, [5, 10]), (99, [10])])
def test_evaluation_comes_every_so_many_steps_and_at_the_end(log, every, expected):
    run(log=log, evaluate=lambda params: {"mlm_loss": 100.0 + params["w"]}, numbers={"eval_every": every})
    entries = [entry for entry in metrics(log.path) if entry["kind"] == "eval"]
    assert entries == [{"kind": "eval", "step": step, "mlm_loss": 100.0 + step} for step in expected]
    order = [(entry["step"], entry["kind"]) for entry in metrics(log.path)]
    assert order == sorted(order, key=lambda item: (item[0], item[1] == "eval"))


@pytest.mark.parametrize("step", [1, 3, 4, 10])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_that_step_is_logged_or_saved(log, step, value):
    saves = Saves(log.path)
    values = lambda n: {"loss": 1.0, "loss_ce": value if n == step else 1.0}
    refused(
        lambda: run(values=values, log=log, checkpoints=saves),
        f"step {step}: loss_ce ",
        f"batch {step - 1} ",
        by="training.loop.fit.settle",
    )
    assert [entry["step"] for entry in metrics(log.path)] == list(range(1, step))
    assert all(saved < step for saved in saves.logged)


def test_every_part_that_is_not_finite_is_named():
    broken = lambda n: {"loss": math.nan if n == 2 else 1, "loss_ce": 1.0, "grad_norm": math.inf if n == 2 else 1}
    refused(lambda: run(values=broken), "step 2: grad_norm ", " loss ", by="training.loop.fit.settle")


def test_seconds_add_up_to_the_time_of_training_alone(log, monkeypatch):
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now.value))

    def passes(seconds, result=None):
        now.value += seconds
        return result

    saves = SimpleNamespace(save=lambda *_: passes(1000.0), wait=lambda: None)
    run(
        log=log,
        checkpoints=saves,
        before=lambda step: passes(1.0),
        evaluate=lambda params: passes(100.0, {"mlm_loss": 1.0}),
        numbers={"eval_every": 3},
    )
    assert sum(entry["seconds"] for entry in metrics(log.path) if entry["kind"] == "train") == 10.0


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)])
def test_asked_to_stop_the_run_saves_the_step_it_was_in(log, number, error):
    saves, before = Saves(log.path), signal.getsignal(number)
    with pytest.raises(Interrupted) as left:
        run(log=log, checkpoints=saves, before=lambda step: step == 6 and os.kill(os.getpid(), number))
    assert saves.logged == {4: list(range(1, 5)), 6: list(range(1, 7))}
    assert saves.waited == 2
    assert type(left.value) is error
    assert (left.value.step, left.value.kept) == (6, True)
    assert signal.getsignal(number) is before


def test_asked_to_stop_a_run_without_checkpoints_says_that_it_begins_anew():
    with pytest.raises(Interrupted) as left:
        run(before=lambda step: step == 6 and os.kill(os.getpid(), signal.SIGINT))
    assert (left.value.step, left.value.kept) == (6, False)


def test_asked_to_stop_in_the_last_step_the_run_ends():
    saves = Saves()
    end, _ = run(checkpoints=saves, before=lambda step: step == 10 and os.kill(os.getpid(), signal.SIGINT))
    assert end.step == 10
    assert list(saves.logged) == [4, 8, 10]


def test_a_second_ctrl_c_stops_at_once():
    saves, before = Saves(), signal.getsignal(signal.SIGINT)

    def twice(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(checkpoints=saves, before=twice)
    assert type(caught.value) is KeyboardInterrupt
    assert list(saves.logged) == [4]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ((signal.SIGTERM, signal.SIGTERM, signal.SIGTERM), Preempted),
        ((signal.SIGTERM, signal.SIGINT), Preempted),
        ((signal.SIGINT, signal.SIGTERM, signal.SIGTERM), Interrupted),
    ],
)
def test_sigterm_that_comes_again_never_cuts_the_checkpoint_short(numbers, error):
    """The first comes in a step, the others while its checkpoint is written."""
    saves, first = Saves(), numbers[0]
    saves.wait = lambda: [os.kill(os.getpid(), number) for number in numbers[1:]]
    with pytest.raises(Interrupted) as left:
        run(checkpoints=saves, before=lambda step: step == 6 and os.kill(os.getpid(), first))
    assert list(saves.logged) == [4, 6]
    assert type(left.value) is error


def test_a_run_in_another_thread_leaves_signals_alone():
    ends = []
    thread = threading.Thread(target=lambda: ends.append(run()[0].step))
    thread.start()
    thread.join()
    assert ends == [10]


def test_in_a_log_a_line_now_and_then_tells_how_it_goes(capfd):
    run(values=lambda step: {"loss": loss(step), "loss_mlm": 0.5, "loss_cos": 0.25, "grad_norm": 7.0})
    lines = capfd.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["run 5/10", "run 10/10"]
    assert re.fullmatch(r"run 5/10  loss 0.200  cos 0.250  mlm 0.500  [\d,]+ tokens/s  \d+ s left", lines[0])


def test_what_is_held_out_is_told_when_it_was_measured(capfd):
    run(evaluate=lambda params: {"mlm_loss": params["w"], "mlm_accuracy": 0.5}, numbers={"eval_every": 4})
    told = [line for line in capfd.readouterr().err.splitlines() if "held out" in line]
    assert told[0] == "run held out at 4: mlm_loss 4.0000  mlm_accuracy 0.5000"
    assert len(told) == 3
