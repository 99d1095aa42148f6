"""A term of one's own: the student's last hidden states are to be as long as the teacher's."""

import jax.numpy as jnp

from distilbert_jax import LossConfig, ModelConfig, PretrainConfig, Tokens, View, register_term


@register_term("norm", needs=("last_hidden_state",), over="tokens")
def norm(student: View, teacher: View, at: Tokens):
    """Σ weights · (‖h_s‖ − ‖h_t‖)²: a sum over the tokens; the objective divides it by their number."""
    ours, theirs = (jnp.linalg.norm(one.last_hidden_state, axis=-1) for one in (student, teacher))
    return jnp.sum(at.weights * jnp.square(ours - theirs))


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig.distilbert_base(), objective="distillation", loss=LossConfig(own={"norm": 0.1})
    )
