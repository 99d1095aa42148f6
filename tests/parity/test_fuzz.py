"""A hundred and fifty mutations of what comes from outside; `benchmarks/fuzz.py` tries thousands."""

import json
import os
import subprocess
import sys

import pytest

from tests import compiling
from tests.runs import ROOT

pytestmark = [pytest.mark.parity, pytest.mark.slow]
MUTATIONS = 150
# A process of their own, as in the benchmark: what is tried stops a process of the tests' runner.
TRY = """
import json, pathlib, sys
from tests.fuzzing import GOOD, KINDS, Fuzzer
fuzzer = Fuzzer(pathlib.Path(sys.argv[1]))
outcomes = [fuzzer.run(0, number) for number in range(int(sys.argv[2]))]
bad = [str(one) for one in outcomes if one.outcome not in GOOD]
untried = sorted(set(KINDS) - {one.kind for one in outcomes})
refused = sum(one.outcome == "refused" for one in outcomes)
pathlib.Path(sys.argv[1], "outcomes.json").write_text(json.dumps([bad, untried, refused]))
"""


def test_no_mutation_ends_in_a_traceback_or_in_a_result_that_is_not_its_oracles(tmp_path):
    line = [sys.executable, "-c", TRY, str(tmp_path), str(MUTATIONS)]
    # Its hundred programs run once each: LLVM need not optimise them.
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {compiling.quick_flags()}"}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    bad, untried, refused = json.loads((tmp_path / "outcomes.json").read_text())
    assert (bad, untried) == ([], [])
    assert MUTATIONS / 4 < refused < MUTATIONS, "mutations that do nothing, or break all, test nothing"
