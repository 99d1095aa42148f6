"""Heads on the shared encoder: masked language modelling and sequence classification."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax.config import ModelConfig
from distilbert_jax.models.encoder import Encoder
from distilbert_jax.models.hub import PretrainedModel
from distilbert_jax.models.layers import ACTIVATIONS, Array, Linear, dropout, einsum, fold_rows, layer_norm

HEAD_SITE = 10_000  # row keys of a head never meet those of a layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelOutput:
    """logits float32: [B, T, V] of a masked LM, [B, labels] of a classifier; the rest as in `EncoderOutput`."""

    logits: Array
    last_hidden_state: Array
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


class MLMHead(nnx.Module):
    """Linear, activation, LayerNorm, then the word embedding itself as decoder, with a bias of its own."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        D = config.hidden_size
        self.transform = Linear(D, D, std=config.initializer_range, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(D, eps=config.layer_norm_eps, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,)))
        self.activation = config.hidden_act
        self.dtype = dtype

    def __call__(self, hidden: Array, table: Array) -> Array:
        """hidden [B, T, D], table [V, D] → logits [B, T, V]."""
        x = self.norm(ACTIVATIONS[self.activation](self.transform(hidden)))
        return einsum("btd,vd->btv", x, table, self.dtype) + self.bias[...]


class Pooler(nnx.Module):
    """Linear and activation on the first token: BERT's pooler (tanh), DistilBERT's pre-classifier (ReLU)."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        D = config.hidden_size
        self.dense = Linear(D, D, std=config.initializer_range, dtype=dtype, rngs=rngs)
        self.activation = jnp.tanh if config.model_type == "bert" else jax.nn.relu

    def __call__(self, hidden: Array) -> Array:
        """[B, T, D] → [B, D]."""
        return self.activation(self.dense(hidden[:, 0]))


class MaskedLM(PretrainedModel):
    """Encoder with a masked-LM head. `BertForMaskedLM` and `DistilBertForMaskedLM` give it their names for parameters."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.head = MLMHead(config, dtype=dtype, rngs=rngs)
        self.config = config

    def logits(self, hidden: Array) -> Array:
        """Hidden states [B, T, D] (all of them, or those at chosen positions) → logits [B, T, V]."""
        return self.head(hidden, self.encoder.embeddings.word[...])

    def __call__(self, input_ids: Array, attention_mask: Array | None = None, **inputs: Any) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, T, V]."""
        encoded = self.encoder(input_ids, attention_mask, **inputs)
        return ModelOutput(
            self.logits(encoded.last_hidden_state), encoded.last_hidden_state, encoded.hidden_states, encoded.attentions
        )


class SequenceClassification(PretrainedModel):
    """Encoder, pooler, dropout, classifier. One label makes it a regression."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.pooler = Pooler(config, dtype=dtype, rngs=rngs)
        self.classifier = Linear(
            config.hidden_size, len(config.labels), std=config.initializer_range, dtype=dtype, rngs=rngs
        )
        self.config = config

    def __call__(
        self, input_ids: Array, attention_mask: Array | None = None, *, rngs: Array | None = None, **inputs: Any
    ) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, labels]."""
        encoded = self.encoder(input_ids, attention_mask, rngs=rngs, **inputs)
        pooled = dropout(
            self.pooler(encoded.last_hidden_state), self.config.classifier_dropout, fold_rows(rngs, HEAD_SITE)
        )
        return ModelOutput(
            self.classifier(pooled), encoded.last_hidden_state, encoded.hidden_states, encoded.attentions
        )
