"""Cost of a step: floating-point operations, memory, the share of the devices' peak that it reaches; timings of an encoder."""

import re
import resource
import sys
from dataclasses import dataclass
from typing import Any

import jax

from distilbert_jax.config import ModelConfig, Reads

# Dense peak of one device in FLOP/s for matmuls of bfloat16 and of float32 operands, from the data sheets, by a pattern of JAX's
# `device_kind`. What is no SXM (H100 PCIe, H200 NVL, GH200) has another data sheet. A TPU has no float32 matmul of its own.
PEAKS: tuple[tuple[str, float, float | None], ...] = (
    ("NVIDIA H200", 989e12, 67e12),
    ("NVIDIA H100 .*HBM3", 989e12, 67e12),
    ("NVIDIA A100.*", 312e12, 19.5e12),
    ("Tesla V100-SXM.*", 125e12, 15.7e12),
    ("TPU v6 lite", 918e12, None),
    ("TPU v5 lite", 197e12, None),
    ("TPU v5p?", 459e12, None),
    ("TPU v4", 275e12, None),
)


def forward_flops(config: ModelConfig, length: int, scored: float) -> float:
    """FLOPs a token of a masked LM's forward pass in rows of `length` tokens: matmuls, a multiplication and an addition are 2.

    Args:
        scored: share of the tokens whose logits are computed.
    """
    return config.num_hidden_layers * _layer_flops(config, length) + scored * logits_flops(config)


def _layer_flops(config: ModelConfig, length: int) -> float:
    D, F = config.hidden_size, config.intermediate_size
    return 2 * (4 * D * D + 2 * D * F) + 4 * length * D


def logits_flops(config: ModelConfig) -> float:
    """FLOPs of a token's logits, the masked-LM head's transform included."""
    D, V = config.hidden_size, config.vocab_size
    return 2 * (D * D + D * V)


def read_flops(config: ModelConfig, length: int, reads: Reads) -> float:
    """FLOPs a token of an encoder's forward pass as far as `reads` needs it, in rows of `length` tokens. Of the last layer
    that may be no more than queries and keys (and values, where these are read) and their scores."""
    D, top = config.hidden_size, reads.depth - 1
    whole = max((layer + 1 for layer in reads.hidden_states), default=0)
    flops = max(whole, top) * _layer_flops(config, length)
    if whole <= top:
        flops += 2 * (3 if top in reads.queries_keys_values else 2) * D * D
        flops += 2 * length * D if top in (*reads.attention_scores, *reads.attentions) else 0
    return flops


def tuning_flops(
    model: ModelConfig,
    rows: int,
    length: int,
    teacher: ModelConfig | None = None,
    reads: tuple[Reads, Reads] | None = None,
    *,
    frozen: bool = False,
) -> float:
    """FLOPs of a step of fine-tuning on `rows` rows of `length` tokens, padding included, and of its teacher's forward pass; those
    of heads are not counted.

    Args:
        frozen: the encoder stays as it is, and has no backward pass.
        reads: of model and teacher, where no more than these layers is computed; None: both encoders whole.
    """
    whole = lambda config: forward_flops(config, length, 0.0)
    if reads and teacher:
        ours, theirs = read_flops(model, length, reads[0]), read_flops(teacher, length, reads[1])
    else:
        ours, theirs = whole(model), whole(teacher) if teacher else 0.0
    return ((1 if frozen else 3) * ours + theirs) * length * rows


def utilisation(flops_per_second: float, dtype: str) -> float | None:
    """Share of the peak of all devices, 0 … 1; None where the peak is not known (a CPU, a new device)."""
    kind = jax.devices()[0].device_kind
    peaks = next(((half, single) for known, half, single in PEAKS if re.fullmatch(known, kind)), (None, None))
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
