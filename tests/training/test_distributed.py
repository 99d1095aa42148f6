"""`train.py` in several real processes on this machine: one run, whoever goes on with it."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import pytest
from flax import nnx

from distilbert_jax.base.config_io import read_config
from distilbert_jax.cli.main import main
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.finetuning.spread import Spread
from distilbert_jax.models import DistilBertForMaskedLM
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training import distributed
from distilbert_jax.training import distributed as module
from distilbert_jax.training.logging import read_metrics
from tests import children, compiling, runs
from tests.children import Child
from tests.cli.test_finetune import write_reviews


def finetune(*arguments: str) -> None:
    with one_line_errors():
        main(["finetune", *arguments])


def started(
    count: int,
    *commands: list[str],
    last: Mapping[str, str] = MappingProxyType({}),
    function: Callable[..., None] = runs.train_command,
) -> contextlib.AbstractContextManager[list[Child]]:
    """`train.py`, or another function, in `count` processes of one device each, with the arguments of `commands`, the last of them
    for the rest, and the variables `last` for the last process alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    common = {**os.environ, "JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(count)}
    common |= {"XLA_FLAGS": compiling.quick_flags(), "NPROC": "16"}
    return children.together(
        Child(
            function,
            *commands[min(index, len(commands) - 1)],
            environment={**common, "JAX_PROCESS_ID": str(index), **(last if index == count - 1 else {})},
        )
        for index in range(count)
    )


def ends(processes: list[Child]) -> tuple[list[int | None], list[tuple[str, str]]]:
    said = [process.communicate() for process in processes]
    return [process.returncode for process in processes], said


def losses(directory: Path) -> list[float]:
    entries = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    train = [entry for entry in entries if entry["kind"] == "train"]
    assert [entry["step"] for entry in train] == list(range(1, runs.STEPS + 1))
    return [entry["loss"] for entry in train]


@pytest.mark.slow
def test_two_processes_are_preempted_and_two_or_one_go_on(world, tmp_path):
    alone = runs.train(runs.distilling(world, tmp_path / "alone", mesh__data=8))
    file = runs.write_config(runs.distilling(world, tmp_path / "run"), tmp_path / "config.py")
    log = tmp_path / "run/metrics.jsonl"
    with started(2, [file]) as processes:
        while not (log.is_file() and log.read_text().count("\n") >= 6):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        statuses, said = ends(processes)
    assert statuses == [75, 75], said
    assert sum(out.count("parameters") for out, _ in said) == 1, "one process speaks"
    assert all("stopped after step" in err for _, err in said)
    assert not (tmp_path / "run/model").exists()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with started(2, [file]) as processes:
        statuses, said = ends(processes)
    assert statuses == [0, 0], said
    assert "goes on from step" in said[0][0]
    runs.train(runs.distilling(world, tmp_path / "copy"))
    expected = losses(Path(alone.run.directory))
    for directory in ("run", "copy"):
        np.testing.assert_allclose(losses(tmp_path / directory), expected, rtol=1e-5)
        assert (tmp_path / directory / "model/model.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_fine_tune_as_one_does(world, tmp_path):
    """Micro-batches, a selection split and a held-out tenth with them; interrupted, and by two processes to the end."""
    write_reviews(tmp_path / "train.csv", 160, 0)
    DistilBertForMaskedLM(runs.STUDENT, rngs=nnx.Rngs(3)).save_pretrained(
        tmp_path / "start", load_tokenizer(world.tokenizer)
    )
    asked = [
        *(
            "--model",
            str(tmp_path / "start"),
            "--train",
            str(tmp_path / "train.csv"),
            "--text",
            "review",
            "--label",
            "verdict",
        ),
        *("--epochs", "3", "--batch-size", "16", "--accumulate", "2", "--select", "--learning-rate", "1e-2"),
        *("--save-every", "5"),
    ]
    finetune(*asked, "--out", str(tmp_path / "alone"))
    log = tmp_path / "run/metrics.jsonl"
    command = [*asked, "--out", str(tmp_path / "run")]
    with started(2, command, function=finetune) as processes:
        while not (log.is_file() and log.read_text().count("\n") >= 6):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGTERM)
        statuses, said = ends(processes)
    assert statuses in ([75, 75], [0, 0]), said  # it may have ended before it heard
    with started(2, command, function=finetune) as processes:
        statuses, said = ends(processes)
    assert statuses == [0, 0], said
    assert not [line for line in said[1][0].splitlines() if "[Gloo]" not in line], "one process speaks"
    ours, theirs = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "alone"))
    assert [(one.kind, one.step) for one in ours] == [(one.kind, one.step) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        compared = [name for name in ("loss", "selection/score", "validation/score") if name in other.values]
        for name in compared:
            assert one.values[name] == pytest.approx(other.values[name], rel=1e-4), (one.step, name)
    scores = [read_config(Spread, tmp_path / name / "spread.json").scores for name in ("run", "alone")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_processes_of_different_configs_are_refused(world, tmp_path):
    file = runs.write_config(runs.distilling(world, tmp_path / "run"), tmp_path / "config.py")
    with started(2, [file], [file, "--steps", "7"]) as processes:
        statuses, said = ends(processes)
    assert statuses == [2, 2], said
    for _, err in said:
        assert "error: the config of process 1 is not that of process 0" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_one_process_lacks_ends_all_of_them_with_its_words(world, tmp_path):
    config = runs.distilling(world, tmp_path / "run", teacher="~/teacher", init__source="")
    file = runs.write_config(config, tmp_path / "config.py")
    (tmp_path / "empty").mkdir()
    os.environ["HOME"], before = str(world.path), os.environ["HOME"]
    try:
        with started(2, [file], last={"HOME": str(tmp_path / "empty")}) as processes:
            statuses, said = ends(processes)
    finally:
        os.environ["HOME"] = before
    assert statuses == [2, 2], said
    for _, err in said:
        assert "error: ~/teacher: no such directory" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.slow
def test_a_directory_that_cannot_be_made_ends_all_processes_with_its_name(world, tmp_path):
    (tmp_path / "file").write_text("")
    file = runs.write_config(runs.distilling(world, tmp_path / "file/run"), tmp_path / "config.py")
    with started(2, [file]) as processes:
        statuses, said = ends(processes)
    assert statuses == [2, 2], said
    for _, err in said:
        assert f"error: --run.directory {tmp_path / 'file/run'}: " in err
        assert "Traceback" not in err


@pytest.fixture
def second_of_two(monkeypatch):
    """Lets this process be the second of two, of which the first says what is put into the list."""
    told = []
    pad = lambda message: np.frombuffer(message.ljust(module._LONGEST, b"\0"), np.uint8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(module.multihost_utils, "process_allgather", lambda own: np.stack([pad(told[0]), own]))
    return told


def fails(error):
    raise error


def test_all_processes_hear_what_the_first_of_them_that_failed_says(second_of_two):
    second_of_two.append(b"")
    assert module.on_all_processes(lambda: 7) == 7
    runs.refused(
        lambda: module.on_all_processes(lambda: fails(InputError("a.txt: empty"))),
        "a.txt",
        by="training.distributed.on_all_processes",
    )
    with pytest.raises(PermissionError) as caught:
        module.on_all_processes(lambda: fails(PermissionError(errno.EACCES, "Permission denied", "runs/x")))
    assert caught.value.strerror == "Permission denied (runs/x)"
    second_of_two[0] = b"28 No space left on device (runs/x)"
    for action in (lambda: 7, lambda: fails(InputError("a.txt: empty"))):
        with pytest.raises(OSError, match="No space left") as caught:
            module.on_all_processes(action)
        assert caught.value.errno == errno.ENOSPC
    second_of_two[0] = b"0 b.txt: empty"
    runs.refused(
        lambda: module.on_main_process(lambda: pytest.fail("only the first acts")),
        "b.txt",
        by="training.distributed.on_all_processes",
    )


def test_a_run_by_hand_needs_all_three_variables(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    runs.refused(distributed.join_processes, by="training.distributed.join_processes")


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    for name, value in {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    runs.refused(distributed.join_processes, by="training.distributed.join_processes", field="JAX_NUM_PROCESSES")


@pytest.mark.parametrize(
    ("address", "index", "words"),
    [
        ("host0", "0", "JAX_COORDINATOR_ADDRESS = host0: expected host:port"),
        ("host0:", "0", "JAX_COORDINATOR_ADDRESS = host0:: expected host:port"),
        ("host0:http", "0", "expected host:port"),
        (":1234", "0", "expected host:port"),
        ("host0:1234", "2", "JAX_PROCESS_ID = 2 of 2 processes: expected 0 for the first"),
    ],
)
def test_variables_that_name_no_place_are_refused(address, index, words, monkeypatch):
    given = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": index}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax.distributed.initialize", lambda *_: pytest.fail("it waits for the others"))
    runs.refused(distributed.join_processes, words, by="training.distributed.join_processes")


def test_without_others_there_is_nothing_to_join(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not distributed.join_processes()


@pytest.mark.parametrize(
    ("variables", "call"),
    [
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            ("h:1", 2, 1),
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ()),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ()),
    ],
)
def test_launchers_are_recognised(variables, call, monkeypatch):
    given = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *arguments: given.append(arguments))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.join_processes()
    assert given == [call]


def test_processes_that_do_not_find_each_other_are_told_of(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("deadline\nexceeded")

    monkeypatch.setattr("jax.distributed.initialize", fails)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    runs.refused(distributed.join_processes, by="training.distributed.join_processes")
