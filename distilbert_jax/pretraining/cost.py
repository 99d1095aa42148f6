"""FLOPs of a pre-training step."""

from distilbert_jax.config import ModelConfig, PretrainConfig
from distilbert_jax.pretraining.masking import masked_count
from distilbert_jax.training.cost import forward_flops


def step_flops(config: PretrainConfig, teacher: ModelConfig | None) -> float:
    """FLOPs of one step over all devices: three forward passes of the model (its own, and twice as much backward) and one of the
    teacher. What packing leaves empty counts, as it is computed."""
    length, loss = config.data.length, config.loss
    # Over the batch, any row may have all its tokens masked.
    masked = masked_count(length, config.masking.probability) / length if config.masking.per == "row" else 1.0
    scored = 1.0 if teacher is not None and loss.takes_all_logits else masked
    a_token = 3 * forward_flops(config.model, length, scored)
    if teacher is not None:  # for the hidden states alone it gives no logits
        a_token += forward_flops(teacher, length, scored if loss.alpha_ce or loss.alpha_mse else 0.0)
    return a_token * config.data.batch_size * length
