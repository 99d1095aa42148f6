"""Options of JAX that would change a run's bits."""

import jax
import pytest

from distilbert_jax.training.jax_options import check_jax_options
from tests.runs import distilling, refused, train


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
