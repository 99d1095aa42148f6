"""benchmarks/accelerator.py at toy size: what it writes, what a side that fails costs, and that both libraries compute the same."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distilbert_jax.planning.targets import CHIPS, chip_of
from distilbert_jax.training import cost
from tests import compiling
from tests.runs import ROOT

BENCHMARKS = ROOT / "benchmarks"


def run(out: Path, *arguments: str) -> tuple[dict, str]:
    """What the command writes to `out`, and what it prints."""
    flags = (
        os.environ["XLA_FLAGS"].replace(compiling.DEVICES, "").strip()
    )  # one device: the ceilings are those of all cores
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--out", str(out), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return json.loads(out.read_text()) if out.exists() else {}, done.stdout + done.stderr


def module(name: str):
    """One of the scripts, with its neighbours beside it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        found = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def accelerator():
    return module("accelerator")


@pytest.fixture(scope="module")
def sides_of_jax():
    return module("accelerator_jax")


@pytest.mark.slow
def test_what_each_side_finds_is_written_and_compared(tmp_path):
    sides = ["ceilings/jax", "distillation/4x16/jax"]
    found, said = run(tmp_path / "new/out.json", "--toy", "--parts", *sides, "--programs", str(tmp_path / "programs"))
    assert found["toy"]
    assert found["device"]["platform"] == "cpu"
    assert found["versions"]["jax"]
    assert not found["left_out"]
    assert list(found["sides"]) == sides
    ceilings, step = found["sides"].values()
    assert "error" not in ceilings
    assert "error" not in step
    assert ceilings["matmul_bfloat16"]["flops_per_second"] > 0
    assert ceilings["matmul_float32_highest"]["flops_per_second"] > 0
    assert ceilings["copy"]["bytes_per_second"] > 0
    assert step["tokens_per_second"] == pytest.approx(64 / step["ms"] * 1e3)
    assert step["ms_min"] <= step["ms"] <= step["ms_max"]
    assert step["compile_seconds"] > 0
    assert step["program"]["bytes"] > step["program"]["argument_bytes"] > 0
    assert step["loss"] > 0
    assert step["share_of_sheet"] is None  # a CPU has none
    share = found["compared"]["distillation"]["4x16"]["share_of_matmul"]
    assert share == pytest.approx(step["model_flops_per_second"] / ceilings["matmul_bfloat16"]["flops_per_second"])
    assert (tmp_path / "programs/distillation-4x16.hlo.gz").stat().st_size > 0
    assert "| 4 × 16 | " in said
    assert "=== ceilings/jax" in (tmp_path / "new/out.log").read_text()


def found_by(sides_of_jax, tmp_path, name: str) -> dict:
    asked = sides_of_jax.Asked(name, True, 4, 16, str(tmp_path))
    getattr(sides_of_jax, name)(asked, sides_of_jax.Report(tmp_path / "found.json"))
    return json.loads((tmp_path / "found.json").read_text())


@pytest.mark.slow
def test_inference_is_timed_in_a_row_and_waited_for(sides_of_jax, tmp_path):
    found = found_by(sides_of_jax, tmp_path, "inference")
    for name in ("features_1", "features_4", "fill_mask_1", "fill_mask_4"):
        assert found[name]["ms"] > 0
        assert found[name]["waited_for_ms"] > 0
        assert name in found["summary"]


@pytest.mark.slow
def test_five_seeds_are_beside_one(sides_of_jax, tmp_path):
    found = found_by(sides_of_jax, tmp_path, "glue")
    assert found["ratio"] == pytest.approx(5 * found["one_seed"]["ms"] / found["five_seeds"]["ms"])
    assert found["examples"] == 32
    assert found["rows"] * found["length"] < 32 * 103  # packed


@pytest.mark.slow
def test_a_backend_that_is_not_there_is_a_line_beside_the_others(sides_of_jax, tmp_path):
    found = found_by(sides_of_jax, tmp_path, "attention")
    for name in ("project_4x16", "project_segments_4x16_backward", "xla_4x16", "xla_segments_4x16_backward"):
        assert found[name]["ms"] > 0
    assert len(found["cudnn_4x16"]["error"].splitlines()) == 1
    assert "cudnn_4x16: " in found["summary"]


def test_without_an_accelerator_real_sizes_are_refused(sides_of_jax, tmp_path):
    asked = sides_of_jax.Asked("glue", False, 0, 0, str(tmp_path))
    with pytest.raises(sides_of_jax.AbsentError, match="JAX sees no accelerator; --toy"):
        sides_of_jax.glue(asked, sides_of_jax.Report(tmp_path / "found.json"))


def test_sides_are_chosen_by_part_and_name_in_the_order_given(accelerator):
    sides = accelerator.sides_of(toy=False)
    names = lambda *patterns: [side.name for side in accelerator.chosen(sides, list(patterns))]
    assert names("glue", "ceilings/jax") == ["glue/jax", "ceilings/jax"]
    assert names("distillation/64x128", "distillation/*/jax")[:3] == [
        "distillation/64x128/jax",
        "distillation/64x128/torch",
        "distillation/16x512/jax",
    ]
    assert len(names("*", "glue")) == len(sides)
    with pytest.raises(SystemExit, match="no such part or side"):
        names("glu")


def child(accelerator, tmp_path, monkeypatch, body: str, limit: float = 30.0) -> dict:
    """What is found of a side whose process does this."""
    (tmp_path / "accelerator_jax.py").write_text(f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\n{body}")
    monkeypatch.setattr(accelerator, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--out", str(tmp_path / "out.json")])
    return accelerator.Children(accelerator.arguments(), tmp_path).run(accelerator.sides_of(toy=True)[0], limit)


REPORTS = "from sides import main\ndef side(asked, report):\n    report(ms=1.0)\n"


def test_a_side_that_fails_leaves_what_it_had_and_a_line(accelerator, tmp_path, monkeypatch):
    failing = REPORTS + "    raise ValueError('no room\\nfor more')\nmain({'ceilings': side})\n"
    found = child(accelerator, tmp_path, monkeypatch, failing)
    assert found["ms"] == 1.0
    assert found["error"] == "ValueError: no room"


def test_a_side_that_crashes_or_takes_too_long_is_a_line(accelerator, tmp_path, monkeypatch):
    crashing = (
        REPORTS + "    import os\n    print('a fatal error', flush=True)\n    os.abort()\nmain({'ceilings': side})\n"
    )
    found = child(accelerator, tmp_path, monkeypatch, crashing)
    assert (found["ms"], found["error"]) == (1.0, "ended with status -6: a fatal error")
    waiting = REPORTS + "    import time\n    time.sleep(600)\nmain({'ceilings': side})\n"
    found = child(accelerator, tmp_path, monkeypatch, waiting, limit=3.0)
    assert (found["ms"], found["error"]) == (1.0, "stopped after 3 s")


def test_a_missing_package_is_a_line(accelerator, tmp_path, monkeypatch):
    found = child(accelerator, tmp_path, monkeypatch, "import no_such_package\n")
    assert found["error"] == "ended with status 1: ModuleNotFoundError: No module named 'no_such_package'"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("cpu", None),
    ],
)
def test_a_data_sheet_is_found_by_the_name_of_the_device(kind, name):
    assert chip_of(kind) == (name and CHIPS[name])
    found = next((half for known, half, _ in cost.PEAKS if re.fullmatch(known, kind)), None)
    assert found == (name and CHIPS[name].peak), "the log of a run goes by the same peaks"


@pytest.mark.slow
@pytest.mark.parity
def test_losses_agree_with_those_of_torch(tmp_path):
    found, said = run(tmp_path / "out.json", "--toy", "--parts", "distillation/losses")
    assert found["compared"]["losses"]["relative_difference"] < 1e-3, said


def test_ratios_are_to_what_torch_reached_and_shares_to_the_measured_matmul(accelerator):
    step = {
        "seconds": 60.0,
        "ms": 25.0,
        "tokens_per_second": 320e3,
        "model_flops_per_second": 400e12,
        "share_of_sheet": 0.4,
    }
    eager = {"ms": 80.0, "tokens_per_second": 100e3, "peak_memory": 21e9}
    sides = {
        "ceilings/jax": {"seconds": 9.0, "matmul_bfloat16": {"ms": 1.0, "flops_per_second": 800e12}},
        "distillation/64x128/jax": step | {"peak_memory": 12e9, "program": {"bytes": 10e9}},
        "distillation/64x128/torch": {
            "seconds": 50.0,
            "eager": eager,
            "compiled": {"error": "RuntimeError: no compiler"},
        },
        "distillation/16x512/jax": {"seconds": 70.0, "error": "stopped after 70 s"},
        "inference/jax": {"seconds": 40.0, "features_1": {"ms": 0.5}, "features_256": {"ms": 9.0}},
        "inference/torch": {"seconds": 40.0, "features_1": {"ms": 3.0}, "features_1_compiled": {"ms": 1.0}},
        "distillation/losses/jax": {"seconds": 20.0, "loss": 24.6},
        "distillation/losses/torch": {"seconds": 20.0, "loss": 24.0},
    }
    found = accelerator.compared(sides)
    assert found["distillation"] == {
        "64x128": {"share_of_sheet": 0.4, "share_of_matmul": 0.5, "ratio_to_eager": pytest.approx(3.2)}
    }
    assert found["inference"] == {"features_1": {"ratio_to_fastest": 2.0}}
    assert found["losses"]["relative_difference"] == pytest.approx(0.025)
    left_out = {"glue/jax": "no minutes were left"}
    lines = accelerator.table({"sides": sides, "compared": found, "left_out": left_out}).splitlines()
    assert lines[2] == (
        "| 64 × 128 | 25.0 | 320,000 | 40.0 % | 50.0 % | 12.0 (10.0) | 80.0 (21.0) | RuntimeError: no compiler | 3.20 |"
    )
    assert "| distillation/16x512/jax | 70 | stopped after 70 s |" in lines
    assert "| glue/jax | | left out: no minutes were left |" in lines
