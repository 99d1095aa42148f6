"""What benchmarks/kills.py counts and compares; the kills themselves take an hour."""

import importlib.util
import json
import random
import sys

import pytest

from tests.runs import ROOT


@pytest.fixture(scope="module")
def kills():
    sys.path.insert(0, str(ROOT / "benchmarks"))  # for its neighbours
    try:
        spec = importlib.util.spec_from_file_location("kills", ROOT / "benchmarks/kills.py")
        module = sys.modules["kills"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_a_trial_counts_what_stopped_its_job(kills):
    stop = lambda kind, status: {"kind": kind, "status": status}
    trials = [
        {"job": "corpus", "kills": [stop("SIGKILL", -9), stop("full disk", 0)], "differ": [], "status": 0},
        {"job": "corpus", "kills": [stop("SIGKILL", -9), stop("SIGSTOP", 0)], "differ": ["a.npy"], "status": 0},
    ]
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in kills.table(trials).splitlines()
    }
    assert rows["corpus"] == ["1 of 2", "0 of 0", "0 of 0", "0 of 1", "0 of 0", "1 of 3"]
    assert rows["all"] == rows["corpus"]


def test_what_is_compared_leaves_out_what_was_measured_and_nothing_else(kills, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints/3").mkdir(parents=True)
    for name in ("checkpoints/3/x", ".lock", "curves.png"):
        (run / name).write_text(str(random.random()))
    write = lambda **values: (run / "results.json").write_text(json.dumps({"runs": [values]}))
    write(train_seconds=1.0, score=50.0)
    (run / "weights").write_bytes(b"abc")
    digests = lambda log, model="a": (run / "outputs.json").write_text(
        json.dumps({"metrics.jsonl": log, "weights": model})
    )
    digests("1")
    before = kills.outcome(tmp_path)
    assert set(before) == {"results.json", "outputs.json", "weights"}
    digests("2")  # of a log with other seconds
    assert kills.outcome(tmp_path) == before
    digests("2", "b")
    assert kills.outcome(tmp_path) != before
    digests("1")
    write(train_seconds=2.0, score=50.0)
    assert kills.outcome(tmp_path) == before
    write(train_seconds=2.0, score=51.0)
    assert kills.outcome(tmp_path) != before
