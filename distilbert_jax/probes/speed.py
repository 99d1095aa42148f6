"""How fast an encoder reads: latency of one batch and tokens a second, on the devices at hand."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.base.hub import locate
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models import EncoderModel
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.params import count, merge, split

_WARM_UP = 2  # rounds, the first of which compiles


def encoder_speed(
    model: str, *, batch_size: int = 8, length: int = 128, rounds: int = 20, dtype: str = "float32"
) -> dict[str, Any]:
    """Time the encoder of an HF directory on random tokens without padding; compilation and two warm-up rounds are left out.

    Returns:
        `{"median_ms", "min_ms", "max_ms", "tokens_per_second" (of the median), "parameters" (of the encoder), "batch_size",
        "length", "dtype", "rounds", "device"}`.
    """
    for name, value in (("--batch-size", batch_size), ("--length", length), ("--rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} {value}: expected 1 or more")
    forward, parameters = _encoder(model, batch_size, length, dtype)
    seconds = [forward() for _ in range(rounds + _WARM_UP)][_WARM_UP:]
    median = statistics.median(seconds)
    return {
        "median_ms": 1e3 * median,
        "min_ms": 1e3 * min(seconds),
        "max_ms": 1e3 * max(seconds),
        "tokens_per_second": batch_size * length / median,
        "parameters": parameters,
        "batch_size": batch_size,
        "length": length,
        "dtype": dtype,
        "rounds": rounds,
        "device": jax.devices()[0].device_kind,
    }


def relative_speed(
    model: str, teacher: str, *, batch_size: int = 1, length: int = 128, rounds: int = 20, dtype: str = "float32"
) -> dict[str, Any]:
    """How many times as fast as its teacher an encoder reads, from rounds that alternate between the two.

    Returns:
        `{"ratio" (of the medians), "ratio_min", "ratio_max" (of a round), "median_ms", "teacher_median_ms", "tokens_per_second",
        "teacher_tokens_per_second" (of the medians), "parameters", "teacher_parameters" (of the encoders), "batch_size", "length",
        "dtype", "rounds", "device"}`.
    """
    length = min(length, *(read_config(locate(name)).max_length for name in (model, teacher)))
    (ours, parameters), (theirs, of_teacher) = (_encoder(name, batch_size, length, dtype) for name in (model, teacher))
    seconds = [(ours(), theirs()) for _ in range(rounds + _WARM_UP)][_WARM_UP:]
    ratios = [theirs / ours for ours, theirs in seconds]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    return {
        "ratio": medians[1] / medians[0],
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "median_ms": 1e3 * medians[0],
        "teacher_median_ms": 1e3 * medians[1],
        "tokens_per_second": batch_size * length / medians[0],
        "teacher_tokens_per_second": batch_size * length / medians[1],
        "parameters": parameters,
        "teacher_parameters": of_teacher,
        "batch_size": batch_size,
        "length": length,
        "dtype": dtype,
        "rounds": rounds,
        "device": jax.devices()[0].device_kind,
    }


def speeds(runs: Sequence[Path], teacher: Path, length: int) -> dict[str, dict[str, dict[str, Any]]]:
    """{run: {"latency": `relative_speed` at batch 1, "throughput": at batch 32}} beside the teacher. Runs of one architecture
    share what was measured, and the teacher's own has none."""
    known: dict[ModelConfig, dict[str, dict[str, Any]]] = {read_config(teacher / "model"): {}}
    found = {}
    for run in runs:
        config = read_config(run / "model")
        if config not in known:
            models = str(run / "model"), str(teacher / "model")
            sizes = {"latency": 1, "throughput": 32}
            known[config] = {
                name: relative_speed(*models, batch_size=size, length=length) for name, size in sizes.items()
            }
        found[run.name] = known[config]
    return found


def throughputs(runs: Sequence[Path], fast: dict[str, dict[str, dict[str, Any]]], length: int) -> dict[str, int]:
    """Tokens a second of each run's encoder at batch 32: from the rounds beside the teacher (`speeds`) where there are some, else
    measured alone, once for an architecture."""
    teachers = next((one["throughput"]["teacher_tokens_per_second"] for one in fast.values() if one), None)
    known: dict[ModelConfig, float] = {}
    found = {}
    for run in runs:
        config = read_config(run / "model")
        if config not in known:
            if beside := fast.get(run.name):
                known[config] = beside["throughput"]["tokens_per_second"]
            elif run.name in fast and teachers:
                known[config] = teachers
            else:
                alone = encoder_speed(str(run / "model"), batch_size=32, length=min(length, config.max_length))
                known[config] = alone["tokens_per_second"]
        found[run.name] = round(known[config])
    return found


def _encoder(model: str, batch_size: int, length: int, dtype: str) -> tuple[Callable[[], float], int]:
    """A function that takes one batch through the encoder and says the seconds, and the encoder's parameters."""
    config = read_config(locate(model))
    if length > config.max_length:
        raise InputError(f"--length {length} is beyond the {config.max_length} positions of {model}", field="--length")
    graphdef, params = split(EncoderModel.from_pretrained(model, dtype=jnp.dtype(dtype), add_pooling_layer=False))
    forward = jax.jit(lambda params, ids: merge(graphdef, params)(ids).last_hidden_state)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length)), jnp.int32)

    def timed() -> float:
        begun = time.perf_counter()
        forward(params, ids).block_until_ready()
        return time.perf_counter() - begun

    return timed, count(params)


def summary(found: dict[str, Any]) -> str:
    """What `encoder_speed` found, in one line."""
    return (
        "batch {batch_size} × {length} tokens, {dtype}: median {median_ms:.1f} ms ({min_ms:.1f}–{max_ms:.1f}), "
        "{tokens_per_second:,.0f} tokens/s, {parameters:,} parameters, {device}".format(**found)
    )
