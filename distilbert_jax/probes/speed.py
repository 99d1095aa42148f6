"""Speed of an encoder: latency of one batch and tokens a second, on the devices at hand."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.base.config_io import LEFT_OUT
from distilbert_jax.base.hub import locate
from distilbert_jax.config import Activations, ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models import EncoderModel
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.params import count, held_weights, merge, split
from distilbert_jax.training.cost import EncoderSpeed, RelativeSpeed

_WARM_UP = 2  # rounds, the first of which compiles


def encoder_speed(
    model: str,
    *,
    batch_size: int = 8,
    length: int = 128,
    rounds: int = 20,
    dtype: str = "float32",
    activations: Activations = "auto",
) -> EncoderSpeed:
    """Time the encoder of an HF directory on random tokens without padding; compilation and two warm-up rounds are left out.

    Raises:
        InputError: a number below 1, a length beyond the model's positions.
    """
    for name, value in (("--batch-size", batch_size), ("--length", length), ("--rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} {value}: expected 1 or more", field=name)
    forward, parameters = _encoder(model, batch_size, length, dtype, activations)
    seconds = [forward() for _ in range(rounds + _WARM_UP)][_WARM_UP:]
    median = statistics.median(seconds)
    return EncoderSpeed(
        median_ms=1e3 * median,
        min_ms=1e3 * min(seconds),
        max_ms=1e3 * max(seconds),
        tokens_per_second=batch_size * length / median,
        parameters=parameters,
        batch_size=batch_size,
        length=length,
        dtype=dtype,
        rounds=rounds,
        device=jax.devices()[0].device_kind,
    )


def relative_speed(
    model: str, teacher: str, *, batch_size: int = 1, length: int = 128, rounds: int = 20, dtype: str = "float32"
) -> RelativeSpeed:
    """How many times as fast as its teacher an encoder reads, from rounds that alternate between the two."""
    length = min(length, *(read_config(locate(name)).max_length for name in (model, teacher)))
    (ours, parameters), (theirs, of_teacher) = (_encoder(name, batch_size, length, dtype) for name in (model, teacher))
    seconds = [(ours(), theirs()) for _ in range(rounds + _WARM_UP)][_WARM_UP:]
    ratios = [theirs / ours for ours, theirs in seconds]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    return RelativeSpeed(
        ratio=medians[1] / medians[0],
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        median_ms=1e3 * medians[0],
        teacher_median_ms=1e3 * medians[1],
        tokens_per_second=batch_size * length / medians[0],
        teacher_tokens_per_second=batch_size * length / medians[1],
        parameters=parameters,
        teacher_parameters=of_teacher,
        batch_size=batch_size,
        length=length,
        dtype=dtype,
        rounds=rounds,
        device=jax.devices()[0].device_kind,
    )


@dataclass(frozen=True)
class SpeedBesideTeacher:
    """An encoder beside its teacher, one text at a time and in batches; neither of the teacher's own architecture."""

    latency: RelativeSpeed | None = field(default=None, metadata=LEFT_OUT)  # at batch 1
    throughput: RelativeSpeed | None = field(default=None, metadata=LEFT_OUT)  # at batch 32


def speeds(runs: Sequence[Path], teacher: Path, length: int) -> dict[str, SpeedBesideTeacher]:
    """{run: its speed beside the teacher}. Runs of one architecture share what was measured."""
    known: dict[ModelConfig, SpeedBesideTeacher] = {read_config(teacher / "model"): SpeedBesideTeacher()}
    result = {}
    for run in runs:
        config = read_config(run / "model")
        if config not in known:
            models = str(run / "model"), str(teacher / "model")
            known[config] = SpeedBesideTeacher(
                *(relative_speed(*models, batch_size=batch_size, length=length) for batch_size in (1, 32))
            )
        result[run.name] = known[config]
    return result


def throughputs(runs: Sequence[Path], beside: Mapping[str, SpeedBesideTeacher], length: int) -> dict[str, int]:
    """Tokens a second of each run's encoder at batch 32: from the rounds beside the teacher (`speeds`) where there are some, else
    measured alone, once for an architecture."""
    rounds = [one.throughput for one in beside.values() if one.throughput]
    known: dict[ModelConfig, float] = {}
    result = {}
    for run in runs:
        config = read_config(run / "model")
        if config not in known:
            if run.name in beside and (own := beside[run.name].throughput):
                known[config] = own.tokens_per_second
            elif run.name in beside and rounds:  # the teacher's architecture
                known[config] = rounds[0].teacher_tokens_per_second
            else:
                longest = min(length, config.max_length)
                known[config] = encoder_speed(str(run / "model"), batch_size=32, length=longest).tokens_per_second
        result[run.name] = round(known[config])
    return result


def _encoder(
    model: str, batch_size: int, length: int, dtype: str, activations: Activations = "auto"
) -> tuple[Callable[[], float], int]:
    """A function that takes one batch through the encoder and says the seconds, and the encoder's parameters."""
    config = read_config(locate(model))
    if length > config.max_length:
        raise InputError(f"--length {length} is beyond the {config.max_length} positions of {model}", field="--length")
    options = {"dtype": jnp.dtype(dtype), "activations": activations, "add_pooling_layer": False}
    encoder = EncoderModel.from_pretrained(model, **options)
    graphdef, params = split(encoder)
    params = held_weights(encoder, params)
    forward = jax.jit(lambda params, ids: merge(graphdef, params)(ids).last_hidden_state)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length)), jnp.int32)

    def timed() -> float:
        begun = time.perf_counter()
        forward(params, ids).block_until_ready()
        return time.perf_counter() - begun

    return timed, count(params)


def summary(speed: EncoderSpeed) -> str:
    """A speed in one line."""
    return (
        f"batch {speed.batch_size} × {speed.length} tokens, {speed.dtype}: median {speed.median_ms:.1f} ms "
        f"({speed.min_ms:.1f}–{speed.max_ms:.1f}), {speed.tokens_per_second:,.0f} tokens/s, {speed.parameters:,} parameters, "
        f"{speed.device}"
    )
