"""Cost of a step: floating-point operations, memory, the share of the devices' peak that it reaches; timings of an encoder."""

import resource
import sys
from dataclasses import dataclass
from typing import Any

import jax

from distilbert_jax.config import ModelConfig

# Dense peak of one device in FLOP/s for matmuls of bfloat16 and of float32 operands, from the data sheets, by a part of JAX's
# `device_kind`. A TPU has no float32 matmul of its own.
PEAKS: tuple[tuple[str, float, float | None], ...] = (
    ("H200", 989e12, 67e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("V100", 125e12, 15.7e12),
    ("TPU v6 lite", 918e12, None),
    ("TPU v5 lite", 197e12, None),
    ("TPU v5", 459e12, None),
    ("TPU v4", 275e12, None),
)


def forward_flops(config: ModelConfig, length: int, scored: float) -> float:
    """FLOPs a token of a masked LM's forward pass in rows of `length` tokens: matmuls, a multiplication and an addition are 2.

    Args:
        scored: share of the tokens whose logits are computed.
    """
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    layer = 2 * (4 * D * D + 2 * D * F) + 4 * length * D
    return config.num_hidden_layers * layer + scored * 2 * (D * D + D * V)


def tuning_flops(model: ModelConfig, rows: int, length: int) -> float:
    """FLOPs of a step of fine-tuning on `rows` rows of `length` tokens, padding included; a teacher's are not counted."""
    return 3 * forward_flops(model, length, 0.0) * length * rows


def utilisation(flops_per_second: float, dtype: str) -> float | None:
    """Share of the peak of all devices, 0 … 1; None where the peak is not known (a CPU, a new device)."""
    kind = jax.devices()[0].device_kind
    peaks = next(((half, single) for part, half, single in PEAKS if part in kind), (None, None))
    peak = peaks[0] if dtype == "bfloat16" else peaks[1]
    return None if peak is None else flops_per_second / (peak * jax.device_count())


def memory(step: Any) -> tuple[int, int | None]:
    """Bytes that a compiled step needs on each device, and those that the device offers; None where it does not say."""
    needs = step.memory_analysis()
    total = (
        needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes - needs.alias_size_in_bytes
    )
    return total, (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes: on its first device, or else of the host."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True, kw_only=True)
class EncoderSpeed:
    """How fast an encoder reads batches of random tokens without padding: milliseconds a batch over the rounds."""

    median_ms: float
    min_ms: float
    max_ms: float
    tokens_per_second: float  # of the median
    parameters: int  # of the encoder
    batch_size: int
    length: int
    dtype: str
    rounds: int
    device: str


@dataclass(frozen=True, kw_only=True)
class RelativeSpeed:
    """How many times as fast as its teacher an encoder reads, from rounds that alternate between the two."""

    ratio: float  # of the medians
    ratio_min: float  # of a round
    ratio_max: float
    median_ms: float
    teacher_median_ms: float
    tokens_per_second: float  # of the median
    teacher_tokens_per_second: float
    parameters: int  # of the encoder
    teacher_parameters: int
    batch_size: int
    length: int
    dtype: str
    rounds: int
    device: str
