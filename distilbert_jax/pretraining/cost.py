"""FLOPs of a pre-training step."""

from distilbert_jax.config import ModelConfig, PretrainConfig
from distilbert_jax.pretraining.masking import most_masked
from distilbert_jax.pretraining.objective_table import logits_shares
from distilbert_jax.training.cost import forward_flops


def step_flops(config: PretrainConfig, teacher: ModelConfig | None) -> float:
    """FLOPs of one step over all devices: three forward passes of the model (its own, and twice as much backward) and one of the
    teacher. What packing leaves empty counts, as it is computed; a scheduled share of masked tokens is the largest."""
    length = config.data.length
    # Over the batch, any row may have all its tokens masked.
    masked = most_masked(length, config.masking.probability) / length if config.masking.per == "row" else 1.0
    ours, theirs = logits_shares(config, masked)
    a_token = 3 * forward_flops(config.model, length, ours)
    if teacher is not None:
        a_token += forward_flops(teacher, length, theirs)
    return a_token * config.data.batch_size * length
