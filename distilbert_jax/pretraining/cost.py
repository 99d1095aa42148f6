"""FLOPs of a pre-training step."""

from distilbert_jax.config import ModelConfig, PretrainConfig
from distilbert_jax.pretraining.masking import most_masked
from distilbert_jax.pretraining.objective_table import logits_shares
from distilbert_jax.training.cost import forward_flops, logits_flops, read_flops
from distilbert_jax.training.terms import Weighted, all_reads, projected, weighted_terms


def step_flops(config: PretrainConfig, teacher: ModelConfig | None) -> float:
    """FLOPs of one step over all devices: three forward passes of the model (its own, and twice as much backward) and one of the
    teacher, each as far as the loss needs it, with the matmuls of the terms themselves. What packing leaves empty counts, as it is
    computed; a scheduled share of masked tokens is the largest."""
    length = config.data.length
    # Over the batch, any row may have all its tokens masked.
    masked = most_masked(length, config.masking.probability) / length if config.masking.per == "row" else 1.0
    ours, theirs = logits_shares(config, masked)
    if teacher is not None and config.objective == "distillation":
        asked = weighted_terms(config.loss)
        of_student, of_teacher = all_reads(asked, config.model, teacher)
        a_token = 3 * (read_flops(config.model, length, of_student) + ours * logits_flops(config.model))
        a_token += read_flops(teacher, length, of_teacher) + theirs * logits_flops(teacher)
        a_token += sum(_term_flops(one, config.model, teacher, length) for one in asked)
    else:
        a_token = 3 * forward_flops(config.model, length, ours)
        if teacher is not None:
            a_token += forward_flops(teacher, length, theirs)
    return a_token * config.data.batch_size * length


def _term_flops(one: Weighted, student: ModelConfig, teacher: ModelConfig, length: int) -> float:
    """FLOPs a token of the matmuls in a term: three passes of what it makes of the student, one of what it makes of the teacher."""
    flops = 3 * 2 * student.hidden_size * teacher.hidden_size * len(projected(one, student, teacher))
    if one.term.matmuls:
        flops += 3 * one.term.matmuls(student, one.options, length) + one.term.matmuls(teacher, one.options, length)
    return flops
