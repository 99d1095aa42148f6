"""FLOPs of fine-tuning."""

from collections.abc import Mapping

from distilbert_jax.config import ModelConfig
from distilbert_jax.training.cost import forward_flops


def tuning_flops(model: ModelConfig, rows_at: Mapping[int, int]) -> float:
    """FLOPs of an epoch of fine-tuning, a teacher's not counted. rows_at: {length that they are padded to: examples}."""
    return sum(3 * forward_flops(model, length, 0.0) * length * rows for length, rows in rows_at.items())
