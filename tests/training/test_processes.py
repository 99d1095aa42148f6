"""`train.py` in several real processes on this machine: one run, whoever goes on with it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distilbert_jax import runtime
from tests import runs


@contextlib.contextmanager
def started(count: int, *commands: list[str]) -> Iterator[list[subprocess.Popen]]:
    """`train.py` in `count` processes of one device each, with the arguments of `commands`, the last of them for the rest."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    common = {**os.environ, "JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(count)}
    common |= {"XLA_FLAGS": "", "NPROC": "16", "JAX_NUM_CPU_DEVICES": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "train.py", *commands[min(index, len(commands) - 1)]],
            cwd=runs.ROOT,
            env={**common, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ends(processes: list[subprocess.Popen]) -> tuple[list[int], list[tuple[str, str]]]:
    said = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], said


def losses(directory: Path) -> list[float]:
    entries = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    train = [entry for entry in entries if entry["kind"] == "train"]
    assert [entry["step"] for entry in train] == list(range(1, runs.STEPS + 1))
    return [entry["loss"] for entry in train]


@pytest.mark.slow
def test_four_processes_are_preempted_and_two_or_one_go_on(world, tmp_path):
    alone = runs.train(runs.distilling(world, tmp_path / "alone"))
    file = runs.write_config(runs.distilling(world, tmp_path / "run"), tmp_path / "config.py")
    log = tmp_path / "run/metrics.jsonl"
    with started(4, [file]) as processes:
        while not (log.is_file() and log.read_text().count("\n") >= 6):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[2].send_signal(signal.SIGTERM)
        statuses, said = ends(processes)
    assert statuses == [75] * 4, said
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
def test_processes_of_different_configs_are_refused(world, tmp_path):
    file = runs.write_config(runs.distilling(world, tmp_path / "run"), tmp_path / "config.py")
    with started(2, [file], [file, "--steps", "7"]) as processes:
        statuses, said = ends(processes)
    assert statuses == [2, 2], said
    for _, err in said:
        assert "error: the config of process 1 is not that of process 0" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_run_by_hand_needs_all_three_variables(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    runs.refused(runtime.join_processes, "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID")


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    for name, value in {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    runs.refused(runtime.join_processes, "JAX_NUM_PROCESSES = two: expected a number")


def test_without_others_there_is_nothing_to_join(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not runtime.join_processes()


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
    runtime.join_processes()
    assert given == [call]


def test_processes_that_do_not_find_each_other_are_told_of(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("deadline\nexceeded")

    monkeypatch.setattr("jax.distributed.initialize", fails)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    runs.refused(runtime.join_processes, "did not find each other: deadline exceeded")
