"""How fast an encoder reads: latency of one batch and tokens a second, on the devices at hand."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.errors import InputError
from distilbert_jax.models import MaskedLM
from distilbert_jax.models.hub import read_config
from distilbert_jax.models.params import count, merge, split


def encoder_speed(
    model: str, *, batch_size: int = 8, length: int = 128, rounds: int = 20, dtype: str = "float32"
) -> dict[str, Any]:
    """Time the encoder of an HF directory on random tokens without padding; compilation and two warm-up rounds are left out.

    Returns:
        `{"median_ms", "min_ms", "max_ms", "tokens_per_second" (of the median), "parameters" (of the encoder), "batch_size",
        "length", "dtype", "rounds", "device"}`.
    """
    config = read_config(model)
    if length > config.max_position_embeddings:
        raise InputError(f"--length {length} is beyond the {config.max_position_embeddings} positions of {model}")
    for name, value in (("--batch-size", batch_size), ("--length", length), ("--rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} {value}: expected 1 or more")
    graphdef, params = split(MaskedLM.from_pretrained(model, dtype=jnp.dtype(dtype)).encoder)
    forward = jax.jit(lambda params, ids: merge(graphdef, params)(ids).last_hidden_state)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length)), jnp.int32)
    seconds = []
    for _ in range(rounds + 2):
        begun = time.perf_counter()
        forward(params, ids).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    seconds = seconds[2:]
    median = statistics.median(seconds)
    return {
        "median_ms": 1e3 * median,
        "min_ms": 1e3 * min(seconds),
        "max_ms": 1e3 * max(seconds),
        "tokens_per_second": batch_size * length / median,
        "parameters": count(params),
        "batch_size": batch_size,
        "length": length,
        "dtype": dtype,
        "rounds": rounds,
        "device": jax.devices()[0].device_kind,
    }


def summary(found: dict[str, Any]) -> str:
    """What `encoder_speed` found, in one line."""
    return (
        "batch {batch_size} × {length} tokens, {dtype}: median {median_ms:.1f} ms ({min_ms:.1f}–{max_ms:.1f}), "
        "{tokens_per_second:,.0f} tokens/s, {parameters:,} parameters, {device}".format(**found)
    )
