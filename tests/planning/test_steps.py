"""Steps to compile: what they take from the target, not from the CPU that compiles them."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.planning.steps import _on_target


@pytest.mark.parametrize(("platform", "meant"), [("tpu", "bfloat16"), ("cuda", "bfloat16"), ("cpu", "float32")])
def test_auto_activations_are_those_of_the_target(platform, meant):
    mesh = SimpleNamespace(devices=np.array([[SimpleNamespace(platform=platform)]], object))
    assert _on_target("auto", "bfloat16", mesh) == jnp.dtype(meant)
    assert _on_target("float32", "bfloat16", mesh) == jnp.dtype("float32")
