"""Options of JAX, set by its environment variables or by another part of the program, that change the bits of training.

What a run computes follows from its config and its inputs, which are recorded and compared. These options are not, so they have to
be as JAX has them.
"""

import os
from collections.abc import Sequence

import jax

from distilbert_jax.base.runtime import DETERMINISTIC
from distilbert_jax.config import RunConfig
from distilbert_jax.errors import InputError

_EXPECTED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_matmul_precision": None,
}


def check_jax_options(runs: Sequence[RunConfig] = ()) -> None:
    """Raise InputError where one of these options is not as JAX has it by itself, or is not as one of these runs asks for."""
    has_flag = DETERMINISTIC in os.environ.get("XLA_FLAGS", "").split()
    if not has_flag and any(run.deterministic for run in runs) and jax.default_backend() == "gpu":
        raise InputError(
            f"run.deterministic = True: JAX's GPU has begun without it; set XLA_FLAGS={DETERMINISTIC} before JAX is imported",
            field="run.deterministic",
            hint=f"XLA_FLAGS={DETERMINISTIC}",
        )
    for name, expected in _EXPECTED.items():
        value = getattr(jax.config, name)
        if value != expected:
            usual = "nothing" if expected is None else expected
            raise InputError(
                f"{name.upper()} is {value}: it changes what training computes, and no record tells; leave it at {usual} "
                "(run.dtype and run.activations say how precise a run is)",
                field=name,
                hint=str(usual),
            )
