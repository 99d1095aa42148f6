"""Features of texts: hidden states of any layer, for every token or pooled to one vector."""

import operator
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.errors import InputError, nearest
from distilbert_jax.models import EncoderModel
from distilbert_jax.pipelines.base import Pipeline
from distilbert_jax.text.tokenizer import Row

POOLINGS = ("tokens", "cls", "mean")


class FeatureExtraction(Pipeline):
    """The hidden states of an encoder as NumPy arrays.

    >>> features = FeatureExtraction("path/to/distilbert-base-uncased")
    >>> features(["A text.", "Another, longer one."], pooling="mean").shape
    (2, 768)

    The directory may have been saved with any head. Arguments: see `Pipeline`.
    """

    _kind = EncoderModel
    loading = MappingProxyType({"add_pooling_layer": False})

    @staticmethod
    def compute(model: EncoderModel, batch: dict[str, jax.Array], layer: int, pooling: str) -> jax.Array:
        """float32 [B, T, D] for tokens, else [B, D]. Layers beyond the one asked for are not computed: XLA drops them."""
        mask = batch["attention_mask"]
        with jax.named_scope("encoder"):
            output = model(batch["input_ids"], mask, token_type_ids=batch["token_type_ids"], output_hidden_states=True)
        assert output.hidden_states is not None  # asked for
        hidden = output.hidden_states[layer].astype(jnp.float32)
        if pooling == "tokens":
            return hidden
        with jax.named_scope("pooling"):
            if pooling == "cls":
                return hidden[:, 0]
            weights = mask.astype(jnp.float32)
            return jnp.einsum("bt,btd->bd", weights, hidden, precision="highest") / mask.sum(1)[:, None]

    def __call__(self, texts: Any, pooling: str = "tokens", layer: int = -1) -> Any:
        """Features of a text, of a list of texts, or, one by one, of an iterator.

        What is too long is cut, which a line on stderr says.

        Args:
            pooling: `"tokens"`: the states of all tokens, [CLS] and [SEP] among them; `"cls"`: the first one's; `"mean"`: the
                mean over all of these tokens, as sentence-transformers takes it (not normalised).
            layer: 0 for the embeddings, 1 … L for the layers; negative ones count from the end, -1 is the last.

        Returns:
            float32. A text: [T, D] of its tokens without padding, or [D] pooled. A list of N texts: a list of N [Tᵢ, D], or [N, D].

        Raises:
            InputError: an empty text, an unknown pooling, a layer that the model has not.
        """
        if pooling not in POOLINGS:
            raise InputError(
                f"pooling = {pooling!r}: no such pooling; {nearest(str(pooling), POOLINGS)}", field="pooling"
            )
        states = self.model.config.num_hidden_layers + 1
        if not -states <= operator.index(layer) < states:
            raise InputError(
                f"layer = {layer}: the model has 0 (embeddings) to {states - 1}, or -{states} to -1", field="layer"
            )

        def answer(texts: Sequence[str], rows: Sequence[Row]) -> list[np.ndarray]:
            features = dict(self._forward(rows, options=(operator.index(layer) % states, pooling)))
            if pooling == "tokens":  # copies: a view would hold the padded batch
                return [features[i][: len(row.ids)].copy() for i, row in enumerate(rows)]
            return [features[i] for i in range(len(rows))]

        def collect(vectors: Iterator[np.ndarray]) -> np.ndarray | list[np.ndarray]:
            if pooling == "tokens":
                return list(vectors)
            return np.stack(list(vectors)) if len(texts) else np.zeros((0, self.model.config.hidden_size), np.float32)

        return self._over(texts, answer, "extracting features", collect=collect)
