"""The encoder that BERT, DistilBERT and their kind share: embeddings and post-LayerNorm Transformer layers.

They differ in what `ModelConfig` and the record of its family say: DistilBERT has no token types and no dropout after the
attention output, RoBERTa begins its positions after that of padding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from distilbert_jax.base.ranges import check_range
from distilbert_jax.config import Activations, ModelConfig, Reads
from distilbert_jax.errors import InputError
from distilbert_jax.models.attention import AttentionParts, QueriesKeysValues, SelfAttention, attention_bias
from distilbert_jax.models.layers import (
    Array,
    LayerNorm,
    Linear,
    RowKeys,
    activate,
    activations_dtype,
    dropout,
    embedding,
    fold_rows,
)

Ids = Array | np.ndarray
# What a model is called with: [B, T], or [T] for one row; lists are made arrays of.
Rows = Shaped[Array | np.ndarray, "#B T"] | Shaped[Array | np.ndarray, " T"] | Sequence[Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class EncoderOutput:
    """last_hidden_state [B, T, D]; on request hidden_states, L+1 of [B, T, D] (embeddings first), and attentions,
    L of [B, N, T, T] (probabilities before dropout). All in the dtype of activations."""

    last_hidden_state: Float[Array, "B T D"]
    hidden_states: tuple[Float[Array, "B T D"], ...] | None = None
    attentions: tuple[Float[Array, "B N T T"], ...] | None = None

    def __repr__(self) -> str:
        """What there is, with dtypes and shapes instead of the numbers."""
        fields = [f"{name}={_described(value)}" for name, value in vars(self).items() if value is not None]
        return f"{type(self).__name__}({', '.join(fields)})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerOutputs:
    """What was read of an encoder, in the dtype of activations; by the numbers of layers, the first is 0.

    embeddings [B, T, D], None: not read; hidden_states [B, T, D]; attentions and attention_scores [B, N, T, T]:
    probabilities before dropout, and what they are the softmax of, at all keys, visible or not.
    """

    embeddings: Float[Array, "B T D"] | None
    hidden_states: dict[int, Float[Array, "B T D"]]
    attentions: dict[int, Float[Array, "B N T T"]]
    attention_scores: dict[int, Float[Array, "B N T T"]]
    queries_keys_values: dict[int, QueriesKeysValues]


def _described(value: object) -> str:
    if isinstance(value, tuple) and value:
        return f"{len(value)} × {_described(value[0])}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    return f"{value!r}" if dtype is None or shape is None else f"{dtype}[{', '.join(map(str, shape))}]"


class Embeddings(nnx.Module):
    """Word + position (+ token-type) embedding, LayerNorm, dropout; what they give has the dtype `activations`."""

    def __init__(self, config: ModelConfig, *, activations: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        D, std = config.hidden_size, config.initializer_range
        self.word = embedding(config.vocab_size, D, std=std, rngs=rngs)
        self.position = embedding(config.max_position_embeddings, D, std=std, rngs=rngs)
        if config.type_vocab_size:
            self.token_type = embedding(config.type_vocab_size, D, std=std, rngs=rngs)
        self.norm = LayerNorm(D, eps=config.layer_norm_eps, rngs=rngs)
        self.dropout, self.activations = config.hidden_dropout, activations
        self.first_position, self.pad_token_id = config.first_position, config.pad_token_id

    @property
    def max_length(self) -> int:
        """Tokens of a sequence that there are positions for."""
        return self.position.shape[0] - self.first_position

    def _positions(self, input_ids: Int[Array, "B T"], position_ids: Int[Array, "#B T"] | None) -> Int[Array, "#B T"]:
        """Rows of the position table: int32 [B or 1, T]."""
        if position_ids is not None:
            return position_ids + self.first_position if self.first_position else position_ids
        if not self.first_position:
            return jnp.arange(input_ids.shape[1])[None]
        is_token = input_ids != self.pad_token_id  # the reference goes by the ids, whatever the attention mask says
        return jnp.where(is_token, jnp.cumsum(is_token, axis=1), 0) + self.pad_token_id

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        position_ids: Int[Array, "#B T"] | None,
        token_type_ids: Int[Array, "#B T"] | None,
        rngs: RowKeys | None,
    ) -> Float[Array, "B T {self.word.shape[1]}"]:
        """int32 [B, T] each → [B, T, D]."""
        T, longest = input_ids.shape[1], self.max_length
        if position_ids is None and longest < T:  # JAX would clamp the index and go on with a wrong position
            raise InputError(
                f"input_ids: {T} tokens in a row, the model has {longest} positions; truncate the text",
                field="input_ids",
            )
        x = self.word[...][input_ids]
        x += self.position[...][self._positions(input_ids, position_ids)]
        if hasattr(self, "token_type"):
            x += self.token_type[...][jnp.zeros((1, T), jnp.int32) if token_type_ids is None else token_type_ids]
        return dropout(self.norm(x).astype(self.activations), self.dropout, rngs)


class Layer(nnx.Module):
    """One Transformer layer: attention and feed-forward, each followed by residual and LayerNorm."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        D, F, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.attention = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.attention_norm = LayerNorm(D, eps=config.layer_norm_eps, rngs=rngs)
        self.ffn_in = Linear(D, F, std=std, dtype=dtype, rngs=rngs)
        self.ffn_out = Linear(F, D, std=std, dtype=dtype, rngs=rngs)
        self.ffn_norm = LayerNorm(D, eps=config.layer_norm_eps, rngs=rngs)
        self.activation = config.hidden_act
        self.ffn_dropout = config.hidden_dropout
        self.attention_out_dropout = config.hidden_dropout if config.family.attention_output_dropout else 0.0

    def __call__(
        self, x: Float[Array, "B T D"], bias: Float[Array, "#B 1 #T T"] | None, rngs: RowKeys | None
    ) -> tuple[Float[Array, "B T D"], AttentionParts]:
        """[B, T, D] → [B, T, D] and what lies within its attention."""
        attended, parts = self.attention(x, bias, fold_rows(rngs, 0))
        x = self.attention_norm.of_sum(x, attended, self.attention_out_dropout, fold_rows(rngs, 1))
        fed = self.ffn_out(activate(self.activation, self.ffn_in(x)))
        return self.ffn_norm.of_sum(x, fed, self.ffn_dropout, fold_rows(rngs, 2)), parts


def encoder_of(
    config: ModelConfig, *, dtype: DTypeLike, activations: DTypeLike | Activations = "auto", rngs: nnx.Rngs
) -> Any:
    """The encoder of the config's family: an `Encoder`, or what the family has in its place."""
    return (config.family.encoder or Encoder)(config, dtype=dtype, activations=activations, rngs=rngs)


class Encoder(nnx.Module):
    """Embeddings and layers; what a model computes before a head."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        activations: DTypeLike | Activations = "auto",
        rngs: nnx.Rngs,
    ):
        self.embeddings = Embeddings(config, activations=activations_dtype(activations, dtype), rngs=rngs)
        self.layers = nnx.List([Layer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_hidden_layers)])
        self.output_hidden_states, self.output_attentions = config.output_hidden_states, config.output_attentions

    def __call__(
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        *,
        token_type_ids: Rows | None = None,
        position_ids: Rows | None = None,
        segment_ids: Rows | None = None,
        rngs: RowKeys | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> EncoderOutput:
        """Encode `input_ids` int32 [B, T]; NumPy arrays and lists of lists do as well, and one list is one row.

        Args:
            attention_mask: [B, T], 1 = a token, 0 = padding; None: all are tokens.
            token_type_ids: int32 [B, T], not for DistilBERT; None: all 0.
            position_ids: int32 [B, T], in every family 0 for the first token of a sequence; None: 0 … T-1 (RoBERTa: of what is no
                padding).
            segment_ids: int32 [B, T] of packed rows, 0 = padding; sequences do not see each other.
            rngs: key array [B] for dropout, one a row; None: no dropout.
            output_hidden_states, output_attentions: whether they are given beside the rest; None: as the config says.

        Raises:
            InputError: T is beyond the position table and no `position_ids` are given; outside `jax.jit`, an id without a row.
        """
        last = len(self.layers) - 1
        asked = lambda flag, otherwise: tuple(range(last + 1)) if (otherwise if flag is None else flag) else ()
        hidden = asked(output_hidden_states, self.output_hidden_states)
        attentions = asked(output_attentions, self.output_attentions)
        outputs = self.read(
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            segment_ids=segment_ids,
            rngs=rngs,
            reads=Reads(bool(hidden), hidden or (last,), attentions),
        )
        states = outputs.hidden_states
        return EncoderOutput(
            states[last],
            (cast(Array, outputs.embeddings), *(states[layer] for layer in hidden)) if hidden else None,
            tuple(outputs.attentions[layer] for layer in attentions) if attentions else None,
        )

    def read(
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        *,
        token_type_ids: Rows | None = None,
        position_ids: Rows | None = None,
        segment_ids: Rows | None = None,
        rngs: RowKeys | None = None,
        reads: Reads,
    ) -> LayerOutputs:
        """What `reads` names, and no layer above the last of them; the other arguments as in `__call__`."""
        given = lambda value: value if value is None or isinstance(value, jax.Array) else np.asarray(value)
        # Before they are cut to 32 bits.
        self._check_ids(
            input_ids=given(input_ids), token_type_ids=given(token_type_ids), position_ids=given(position_ids)
        )
        rows = lambda value: jnp.atleast_2d(jnp.asarray(value))
        input_ids = rows(input_ids)
        attention_mask, token_type_ids, position_ids, segment_ids = (
            None if value is None else rows(value)
            for value in (attention_mask, token_type_ids, position_ids, segment_ids)
        )
        bias = attention_bias(attention_mask, segment_ids)
        x = self.embeddings(input_ids, position_ids, token_type_ids, fold_rows(rngs, 0))
        result = LayerOutputs(x if reads.embeddings else None, {}, {}, {}, {})
        for i, layer in enumerate(list(self.layers)[: reads.depth]):
            x, parts = layer(x, bias, fold_rows(rngs, i + 1))
            for kind, value in (
                ("hidden_states", x),
                ("attentions", parts.probabilities),
                ("attention_scores", parts.scores),
                ("queries_keys_values", parts.queries_keys_values),
            ):
                if i in getattr(reads, kind):
                    getattr(result, kind)[i] = value
        return result

    def _check_ids(self, **ids: Ids | None) -> None:
        """Raise InputError for an id that has no row in its table, as far as the ids can be seen."""
        tables = {"input_ids": self.embeddings.word.shape[0], "position_ids": self.embeddings.max_length}
        if hasattr(self.embeddings, "token_type"):
            tables["token_type_ids"] = self.embeddings.token_type.shape[0]
        for name, value in ids.items():
            if name in tables and value is not None and not isinstance(value, Tracer):
                check_range(name, value, tables[name])
