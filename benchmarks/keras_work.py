"""Encoder inference with KerasHub's DistilBERT on Keras's JAX backend, each way of running it that Keras documents.

KerasHub reads the HF directory itself. A model built with dropout 0 takes Keras's `dot_product_attention`; on the CPU that is
no faster, so the model is left as it is loaded.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported
from keras_hub.models import DistilBertBackbone

Call = Callable[[], object]
POLICIES = {"float32": ["float32"], "bfloat16": ["mixed_bfloat16", "bfloat16"]}  # mixed: the weights stay float32


def encoders(dtype: str, student: Path, batch: dict[str, np.ndarray]) -> Iterator[tuple[str, Call]]:
    """Candidates for encoder inference: (how, call that returns the last hidden state [B, T, D])."""
    inputs = {"token_ids": batch["input_ids"], "padding_mask": batch["attention_mask"]}
    for policy in POLICIES[dtype]:
        prefix = "" if policy == "float32" else f"{policy}, "
        # A model for each: predict_on_batch donates the variables' buffers.
        yield f"{prefix}jit", _jitted(_load(student, policy), inputs)
        yield f"{prefix}predict_on_batch", _predicting(_load(student, policy), inputs)


def _load(directory: Path, policy: str) -> DistilBertBackbone:
    return DistilBertBackbone.from_preset(str(directory), dtype=policy)


def _jitted(backbone: DistilBertBackbone, inputs: dict[str, np.ndarray]) -> Call:
    trained, fixed = (
        [variable.value for variable in variables]
        for variables in (backbone.trainable_variables, backbone.non_trainable_variables)
    )
    run = jax.jit(lambda trained, fixed, inputs: backbone.stateless_call(trained, fixed, inputs, training=False)[0])
    inputs = jax.device_put(inputs)
    return lambda: run(trained, fixed, inputs).block_until_ready()


def _predicting(backbone: DistilBertBackbone, inputs: dict[str, np.ndarray]) -> Call:
    return lambda: backbone.predict_on_batch(inputs)
