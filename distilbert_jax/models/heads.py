"""The heads on the encoder. A family's classes (`bert`, `distilbert`) name its record.

The classes here choose the family by a directory's `model_type`: `MaskedLM.from_pretrained(…)` returns a `BertForMaskedLM` or a
`DistilBertForMaskedLM`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from distilbert_jax.config import Activations, ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models.encoder import EncoderOutput, Rows, encoder_of
from distilbert_jax.models.layers import (
    Array,
    LayerNorm,
    Linear,
    RowKeys,
    activate,
    dropout,
    einsum,
    embedding,
    fold_rows,
)
from distilbert_jax.models.pretrained import PretrainedModel

Choices = Shaped[Array | np.ndarray, "B choices T"] | Sequence[Any]
HEAD_SITE = 10_000  # row keys of a head never meet those of a layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class PooledOutput(EncoderOutput):
    """pooler_output [B, D] (BERT's pooler; else None); the rest as in `EncoderOutput`."""

    pooler_output: Float[Array, "B D"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ModelOutput(EncoderOutput):
    """logits: of a masked LM [B, T, V] in the dtype of activations; else float32, [B, labels] of a classifier, [B, T, labels] of a
    token classifier, [B, choices] of a multiple choice, [B, 2] (0: the second text follows the first) of next sentences."""

    logits: Float[Array, " rows *scores"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class QuestionAnsweringOutput(EncoderOutput):
    """start_logits and end_logits float32 [B, T]."""

    start_logits: Float[Array, "B T"]
    end_logits: Float[Array, "B T"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class PreTrainingOutput(EncoderOutput):
    """prediction_logits [B, T, V] (masked LM) in the dtype of activations, seq_relationship_logits float32 [B, 2] (next)."""

    prediction_logits: Float[Array, "B T V"]
    seq_relationship_logits: Float[Array, "B 2"]


class MLMHead(nnx.Module):
    """Linear, activation, LayerNorm, then the word embedding itself as decoder (or, untied, a table of its own), with a bias."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        D = config.hidden_size
        self.transform = _linear(config, D, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(D, eps=config.layer_norm_eps, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,)))
        self.activation = config.family.mlm_activation or config.hidden_act
        self.dtype = dtype
        if not config.tie_word_embeddings:
            self.decoder = embedding(config.vocab_size, D, std=config.initializer_range, rngs=rngs)

    def __call__(self, hidden: Float[Array, "B T D"], table: Float[Array, "V D"]) -> Float[Array, "B T V"]:
        """hidden [B, T, D], table [V, D] (the word embedding) → logits [B, T, V]."""
        table = self.decoder[...] if hasattr(self, "decoder") else table
        with jax.named_scope("vocabulary"):
            x = self.norm(activate(self.activation, self.transform(hidden)))
            return einsum("btd,vd->btv", x, table, self.dtype, bias=self.bias[...])


class Pooler(nnx.Module):
    """Linear and activation on the first token: BERT's pooler (tanh), DistilBERT's pre-classifier (ReLU)."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dense = _linear(config, config.hidden_size, dtype=dtype, rngs=rngs)
        self.activation = config.family.pooler_activation

    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """[B, T, D] → [B, D]."""
        return self.of_first(hidden[:, 0])

    def of_first(self, first: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Hidden states of first tokens [..., D] → [..., D]."""
        return activate(self.activation, self.dense(first))


def _linear(config: ModelConfig, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Linear:
    return Linear(config.hidden_size, features, std=config.initializer_range, dtype=dtype, rngs=rngs)


def _scores(linear: Linear, x: Float[Array, "*rows D"]) -> Float[Array, "*rows K"]:
    """Float32 scores of a head's last layer: they are few, and bfloat16 would make ties of them."""
    return linear(x.astype(jnp.float32))


def _with(encoded: EncoderOutput, kind: type, **more: Any) -> Any:
    """What the encoder gave, and what a head made of it."""
    return kind(**vars(encoded), **more)


class EncoderModel(PretrainedModel):
    """The encoder without a head; with its pooler where the family has one, unless `add_pooling_layer=False`."""

    bare = True

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        activations: DTypeLike | Activations = "auto",
        rngs: nnx.Rngs,
        add_pooling_layer: bool = True,
    ):
        super().__init__(config)
        self.encoder = encoder_of(config, dtype=dtype, activations=activations, rngs=rngs)
        if add_pooling_layer and config.family.has_pooler:
            self.pooler = Pooler(config, dtype=dtype, rngs=rngs)

    def __call__(self, input_ids: Rows, attention_mask: Rows | None = None, **inputs: Any) -> PooledOutput:
        """Arguments as `Encoder.__call__`."""
        encoded = self.encoder(input_ids, attention_mask, **inputs)
        pooled = self.pooler(encoded.last_hidden_state) if hasattr(self, "pooler") else None
        return _with(encoded, PooledOutput, pooler_output=pooled)


class ModelWithHead(PretrainedModel):
    """An encoder, and on it the head that a subclass adds."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        activations: DTypeLike | Activations = "auto",
        rngs: nnx.Rngs,
    ):
        super().__init__(config)
        self.encoder = encoder_of(config, dtype=dtype, activations=activations, rngs=rngs)
        self.add_head(config, dtype=dtype, rngs=rngs)

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        """Make the modules of the head, as attributes."""
        raise NotImplementedError


class MaskedLM(ModelWithHead):
    """Encoder with a masked-LM head."""

    DECODER = ("head.", "encoder.embeddings.word")  # how the paths of all parameters begin that `logits` reads

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.head = MLMHead(config, dtype=dtype, rngs=rngs)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Hidden states [B, T, D] (all of them, or those at chosen positions) → logits [B, T, V]."""
        return self.head(hidden, self.encoder.embeddings.word[...])

    def __call__(self, input_ids: Rows, attention_mask: Rows | None = None, **inputs: Any) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, T, V]."""
        encoded = self.encoder(input_ids, attention_mask, **inputs)
        return _with(encoded, ModelOutput, logits=self.logits(encoded.last_hidden_state))


class SequenceClassification(ModelWithHead):
    """Encoder, pooler, dropout, classifier (with one label a regression)."""

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.pooler = Pooler(config, dtype=dtype, rngs=rngs)
        self.classifier = _linear(config, len(config.labels), dtype=dtype, rngs=rngs)

    def logits(self, first: Float[Array, "B *S D"], rngs: RowKeys | None = None) -> Float[Array, "B *S C"]:
        """Hidden states of first tokens, [B, D] or of packed rows [B, S, D] → logits [B, (S,) labels]. rngs [B]: for dropout."""
        pooled = self.pooler.of_first(first)
        return _scores(self.classifier, dropout(pooled, self.config.classifier_dropout, fold_rows(rngs, HEAD_SITE)))

    def __call__(
        self, input_ids: Rows, attention_mask: Rows | None = None, *, rngs: RowKeys | None = None, **inputs: Any
    ) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, labels]."""
        encoded = self.encoder(input_ids, attention_mask, rngs=rngs, **inputs)
        return _with(encoded, ModelOutput, logits=self.logits(encoded.last_hidden_state[:, 0], rngs))


class TokenClassification(ModelWithHead):
    """Encoder, dropout, a classifier on every token."""

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.classifier = _linear(config, len(config.labels), dtype=dtype, rngs=rngs)
        self.dropout = getattr(config, config.family.token_dropout)

    def logits(self, hidden: Float[Array, "B T D"], rngs: RowKeys | None = None) -> Float[Array, "B T C"]:
        """Hidden states [B, T, D] → logits [B, T, labels]. rngs [B]: for dropout."""
        return _scores(self.classifier, dropout(hidden, self.dropout, fold_rows(rngs, HEAD_SITE)))

    def __call__(
        self, input_ids: Rows, attention_mask: Rows | None = None, *, rngs: RowKeys | None = None, **inputs: Any
    ) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, T, labels]."""
        encoded = self.encoder(input_ids, attention_mask, rngs=rngs, **inputs)
        return _with(encoded, ModelOutput, logits=self.logits(encoded.last_hidden_state, rngs))


class QuestionAnswering(ModelWithHead):
    """Encoder, dropout (DistilBERT's alone), and for every token how well an answer would start and end there."""

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        if len(config.labels) != 2:  # start and end: with others the reference would not load what is saved
            self.config = dataclasses.replace(config, labels=ModelConfig.labels)
        self.qa_outputs = _linear(config, 2, dtype=dtype, rngs=rngs)

    def logits(self, hidden: Float[Array, "B T D"], rngs: RowKeys | None = None) -> Float[Array, "B T 2"]:
        """Hidden states [B, T, D] → logits of start and end [B, T, 2]. rngs [B]: for dropout."""
        return _scores(self.qa_outputs, dropout(hidden, self.config.qa_dropout, fold_rows(rngs, HEAD_SITE)))

    def __call__(
        self, input_ids: Rows, attention_mask: Rows | None = None, *, rngs: RowKeys | None = None, **inputs: Any
    ) -> QuestionAnsweringOutput:
        """Arguments as `Encoder.__call__`; start_logits and end_logits [B, T], padding included."""
        encoded = self.encoder(input_ids, attention_mask, rngs=rngs, **inputs)
        logits = self.logits(encoded.last_hidden_state, rngs)
        return _with(encoded, QuestionAnsweringOutput, start_logits=logits[..., 0], end_logits=logits[..., 1])


class MultipleChoice(ModelWithHead):
    """Encoder, pooler, dropout, one score for each choice."""

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.pooler = Pooler(config, dtype=dtype, rngs=rngs)
        self.classifier = _linear(config, 1, dtype=dtype, rngs=rngs)

    def logits(self, first: Float[Array, "B *S D"], rngs: RowKeys | None = None) -> Float[Array, " B *S"]:
        """Hidden states of the first tokens of choices, [B, D] or of packed rows [B, S, D] → scores [B, (S)]. rngs [B]: for
        dropout."""
        pooled = dropout(self.pooler.of_first(first), self.config.classifier_dropout, fold_rows(rngs, HEAD_SITE))
        return _scores(self.classifier, pooled)[..., 0]

    def __call__(
        self,
        input_ids: Choices,
        attention_mask: Choices | None = None,
        *,
        token_type_ids: Choices | None = None,
        position_ids: Choices | None = None,
        rngs: RowKeys | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ModelOutput:
        """Arguments as `Encoder.__call__`, but [B, choices, T] each, `rngs` [B]; logits [B, choices].

        Hidden states and attentions come for the B · choices rows, the choices of the first example first.

        Raises:
            InputError: `input_ids` has not three axes.
        """
        shape = np.shape(input_ids)
        if len(shape) != 3:
            raise InputError(f"input_ids has the shape {shape}: a multiple choice takes [rows, choices, tokens]")
        rows = lambda x: None if x is None else jnp.asarray(x).reshape(-1, shape[2])
        if rngs is not None:  # a key for each choice
            fold_all = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
            rngs = fold_all(rngs, jnp.arange(shape[1])).reshape(-1)
        encoded = self.encoder(
            rows(input_ids),
            rows(attention_mask),
            token_type_ids=rows(token_type_ids),
            position_ids=rows(position_ids),
            rngs=rngs,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.logits(encoded.last_hidden_state[:, 0], rngs)
        return _with(encoded, ModelOutput, logits=logits.reshape(shape[:2]))


class NextSentencePrediction(ModelWithHead):
    """BERT's encoder, pooler, and whether the second text follows the first."""

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.pooler = Pooler(config, dtype=dtype, rngs=rngs)
        self.seq_relationship = _linear(config, 2, dtype=dtype, rngs=rngs)

    def __call__(self, input_ids: Rows, attention_mask: Rows | None = None, **inputs: Any) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, 2], 0: follows, 1: is a stranger."""
        encoded = self.encoder(input_ids, attention_mask, **inputs)
        return _with(
            encoded, ModelOutput, logits=_scores(self.seq_relationship, self.pooler(encoded.last_hidden_state))
        )


class PreTraining(ModelWithHead):
    """BERT as it was pre-trained: masked LM and next sentence from one pass."""

    def add_head(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.head = MLMHead(config, dtype=dtype, rngs=rngs)
        self.pooler = Pooler(config, dtype=dtype, rngs=rngs)
        self.seq_relationship = _linear(config, 2, dtype=dtype, rngs=rngs)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Hidden states [B, T, D] (all of them, or those at chosen positions) → logits of the masked LM [B, T, V]."""
        return self.head(hidden, self.encoder.embeddings.word[...])

    def next_sentence(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B 2"]:
        """Hidden states [B, T, D] → logits [B, 2]: B follows A, B is of another document."""
        return _scores(self.seq_relationship, self.pooler(hidden))

    def __call__(self, input_ids: Rows, attention_mask: Rows | None = None, **inputs: Any) -> PreTrainingOutput:
        """Arguments as `Encoder.__call__`; prediction_logits [B, T, V], seq_relationship_logits [B, 2]."""
        encoded = self.encoder(input_ids, attention_mask, **inputs)
        hidden = encoded.last_hidden_state
        logits = {"prediction_logits": self.logits(hidden), "seq_relationship_logits": self.next_sentence(hidden)}
        return _with(encoded, PreTrainingOutput, **logits)
