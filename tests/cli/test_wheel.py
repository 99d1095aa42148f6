"""A wheel of this checkout in an environment that has nothing else of it."""

import shutil
import subprocess
import sys
import sysconfig

import pytest

import distilbert_jax
from distilbert_jax.cli.main import COMMANDS
from tests.runs import ROOT


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment with the wheel; what it depends on comes from the one of these tests."""
    pytest.importorskip("setuptools", minversion="77")
    path = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, path / name)
    for name in ("distilbert_jax", "configs"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run = lambda *line: subprocess.run(line, check=True, cwd=path)
    run(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "dist")
    run(sys.executable, "-m", "venv", "--without-pip", "empty")
    (site,) = path.glob("empty/lib/python*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = path.glob("dist/*.whl")
    run(*pip, "--python", "empty/bin/python", "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    assert list(site.glob("distilbert_jax/configs/*.py"))
    return path / "empty"


def ask(environment, *args):
    line = [str(environment / "bin" / "distilbert-jax"), *args]
    return subprocess.run(line, cwd=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_configs_travel_in_the_wheel_and_are_found_by_name(environment):
    for name in ("distilbert_base", "demo:student", "ablations:no_ce"):
        helped = ask(environment, "train", name, "--help")
        assert (helped.returncode, helped.stderr) == (0, "")
        assert "--optimizer.learning-rate" in helped.stdout
    assert ask(environment, "train", "demo:studnet").returncode == 2


@pytest.mark.slow
def test_no_other_package_comes_with_the_wheel(environment):
    (record,) = environment.glob("lib/python*/site-packages/distilbert_jax-*.dist-info/RECORD")
    tops = {line.split(",")[0].split("/")[0] for line in record.read_text().splitlines()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"distilbert_jax", ".."}, (
        "the script stands in bin/"
    )


@pytest.mark.slow
def test_the_page_of_the_endpoint_the_types_and_every_command_travel_in_the_wheel(environment):
    (package,) = environment.glob("lib/python*/site-packages/distilbert_jax")
    for name in ("py.typed", "serving/page.html"):
        assert (package / name).read_bytes() == (ROOT / "distilbert_jax" / name).read_bytes()
    asked = ask(environment, "--version")
    assert (asked.returncode, asked.stdout) == (0, f"distilbert-jax {distilbert_jax.__version__}\n")
    helped = ask(environment, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert set(COMMANDS) <= {line.split()[0] for line in helped.stdout.splitlines()}
