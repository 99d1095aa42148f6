"""Options of JAX that would change a run's bits."""

import os

import jax
import pytest

from distilbert_jax.base import runtime
from distilbert_jax.cli import main as cli
from distilbert_jax.training.jax_options import check_jax_options
from tests.runs import change, distilling, refused, train


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_default_matmul_precision", "bfloat16"),
    ],
)
def test_an_option_that_no_record_tells_of_is_refused_before_a_run_begins(name, value, world, tmp_path):
    before = getattr(jax.config, name)
    check_jax_options()
    jax.config.update(name, value)
    try:
        refused(lambda: train(distilling(world, tmp_path / "run")), field=name)
    finally:
        jax.config.update(name, before)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_has_begun_without_determinism_is_told_of(world, tmp_path, monkeypatch):
    config = change(distilling(world, tmp_path / "run"), run__deterministic=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    refused(lambda: check_jax_options([config.run]), field="run.deterministic")
    runtime.deterministic_gpu()
    runtime.deterministic_gpu()
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_multi_thread_eigen=true {runtime.DETERMINISTIC}"
    check_jax_options([config.run])


def test_every_command_that_takes_the_flag_obeys_it(world, tmp_path, monkeypatch):
    """Each fails after the flag is set, and before anything is trained."""
    nowhere = str(tmp_path / "nowhere")
    (tmp_path / "own.py").write_text(
        "import dataclasses\n"
        "from configs import ablations, miniature\n"
        "def deterministic(config):\n"
        "    return dataclasses.replace(config, run=dataclasses.replace(config.run, deterministic=True))\n"
        "def get_config(kind):\n"
        "    if kind == 'glue':\n"
        "        from configs import glue\n"
        "        return deterministic(glue.get_config())\n"
        "    config = miniature.get_config()\n"
        "    return dataclasses.replace(config, glue=deterministic(config.glue))\n"
    )
    own = str(tmp_path / "own.py")
    for asked in (
        ["train", "distilbert_base", "--run.deterministic", "--run.directory", nowhere, "--data.corpus", nowhere],
        ["glue", "--model", nowhere, "--data", nowhere, "--run.deterministic"],
        ["experiment", f"{own}:experiment", "--stages", "pretrain", "--data", str(tmp_path)],
        ["ablation", "ablations:demo", "--glue", f"{own}:glue", "--out", nowhere],
    ):
        monkeypatch.setenv("XLA_FLAGS", "")
        refused(lambda asked=asked: cli.main(asked))
        assert runtime.DETERMINISTIC in os.environ["XLA_FLAGS"], asked
