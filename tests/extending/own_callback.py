"""A callback of one's own: how long the word embeddings are, every five steps, in a file of the run."""

import jax.numpy as jnp

from distilbert_jax import ModelConfig, Moment, PretrainConfig, RunConfig, register_callback


@register_callback("embedding-norm", every=5, state=True)
def embedding_norm(moment: Moment) -> None:
    table = moment.state.params["encoder.embeddings.word"]
    with (moment.directory / "norms.txt").open("a") as file:
        file.write(f"{moment.step} {moment.kind} {jnp.linalg.norm(table):.3f}\n")


def get_config() -> PretrainConfig:
    return PretrainConfig(model=ModelConfig.distilbert_base(), run=RunConfig(callbacks=("embedding-norm",)))
