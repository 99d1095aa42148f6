"""The Makefile's environments: one that make has not made is left as it is."""

import os
import shutil
import subprocess

import pytest

from tests.runs import ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_an_environment_of_the_users_is_not_cleared(tmp_path):
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/pyvenv.cfg").write_text("of the user\n")
    # `make test VENV=…` hands its variables on to every make below it.
    handed_on = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in handed_on}
    done = subprocess.run(["make", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: .venv: ")
    assert (tmp_path / ".venv/pyvenv.cfg").read_text() == "of the user\n"
