"""FLOPs of a pre-training step."""

from collections.abc import Sequence

from distilbert_jax.config import ModelConfig, PretrainConfig, Reads
from distilbert_jax.pretraining.masking import most_masked
from distilbert_jax.pretraining.objective_table import logits_shares
from distilbert_jax.training.cost import forward_flops, logits_flops, read_flops
from distilbert_jax.training.terms import Weighted, all_reads, projected, weighted_terms


def step_flops(config: PretrainConfig, teacher: ModelConfig | None) -> float:
    """FLOPs of one step over all devices: three forward passes of the model (its own, and twice as much backward) and one of the
    teacher, each as far as the loss needs it, with the matmuls of the terms themselves. What packing leaves empty counts, as it is
    computed; a scheduled share of masked tokens is the largest."""
    length = config.data.length
    ours, theirs = logits_shares(config, _masked_share(config))
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


def step_flops_together(configs: Sequence[PretrainConfig], teacher: ModelConfig) -> float:
    """FLOPs of a step of students side by side: theirs, and one pass of the teacher as far as any of them needs it. The teacher's
    logits in chunks (`loss.chunk`) are counted once, too, though each student computes them again."""
    reads, scored, own = Reads(), 0.0, 0.0
    for config in configs:
        theirs = all_reads(weighted_terms(config.loss), config.model, teacher)[1]
        logits = logits_shares(config, _masked_share(config))[1]
        own += step_flops(config, teacher) - _teacher_flops(config, teacher, theirs, logits)
        reads, scored = reads | theirs, max(scored, logits)
    return own + _teacher_flops(configs[0], teacher, reads, scored)


def _teacher_flops(config: PretrainConfig, teacher: ModelConfig, reads: Reads, scored: float) -> float:
    a_token = read_flops(teacher, config.data.length, reads) + scored * logits_flops(teacher)
    return a_token * config.data.batch_size * config.data.length


def _masked_share(config: PretrainConfig) -> float:
    """The largest share of the tokens whose logits are computed as those of masked ones. Over the batch, any row may have all its
    tokens masked."""
    length = config.data.length
    return most_masked(length, config.masking.probability) / length if config.masking.per == "row" else 1.0


def _term_flops(one: Weighted, student: ModelConfig, teacher: ModelConfig, length: int) -> float:
    """FLOPs a token of the matmuls in a term: three passes of what it makes of the student, one of what it makes of the teacher."""
    flops = 3 * 2 * student.hidden_size * teacher.hidden_size * len(projected(one, student, teacher))
    if one.term.matmuls:
        flops += 3 * one.term.matmuls(student, one.options, length) + one.term.matmuls(teacher, one.options, length)
    return flops
