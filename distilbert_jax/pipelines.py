"""What people use in notebooks: a model and its tokenizer behind one call on texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from distilbert_jax.data.tokenizer import load_tokenizer, special_ids
from distilbert_jax.errors import InputError
from distilbert_jax.models import MaskedLM
from distilbert_jax.models.params import merge, split

Filled = dict[str, Any]  # {"sequence": str, "score": float, "token": int, "token_str": str}


class FillMask:
    """The most likely words for each `[MASK]`.

    >>> fill = FillMask("path/to/distilbert-base-uncased")
    >>> fill("Hello I'm a [MASK] model.")[0]["token_str"]
    'role'
    """

    def __init__(self, directory: str | Path, *, dtype: DTypeLike = jnp.float32):
        self.tokenizer = load_tokenizer(directory)
        self.ids = special_ids(self.tokenizer)
        self.model = MaskedLM.from_pretrained(directory, dtype=dtype)
        if self.tokenizer.get_vocab_size() > self.model.config.vocab_size:
            raise InputError(
                f"{directory}: its tokenizer has {self.tokenizer.get_vocab_size()} pieces, the embedding only "
                f"{self.model.config.vocab_size} rows"
            )
        graphdef, self._params = split(self.model)
        self._logits = jax.jit(lambda params, ids, mask: merge(graphdef, params)(ids, mask).logits)

    def __call__(self, texts: str | Sequence[str], top_k: int = 5) -> list[Any]:
        """The `top_k` tokens for the mask of a text, most likely first; the probabilities are over the whole vocabulary.

        Returns:
            For one text a list of `{"sequence", "score", "token", "token_str"}`; with several masks a list of such lists, each
            mask on its own, where `sequence` keeps the special tokens. For a list of texts a list of those.

        Raises:
            InputError: a text without `[MASK]`, a text beyond the model's positions, `top_k` outside 1 … vocabulary.
        """
        if isinstance(texts, str):
            return self._fill(texts, top_k)
        return [self._fill(text, top_k) for text in texts]

    def _fill(self, text: str, top_k: int) -> list[Any]:
        config = self.model.config
        if not 1 <= top_k <= config.vocab_size:
            raise InputError(f"top_k = {top_k}: expected 1 to {config.vocab_size}, the size of the vocabulary")
        ids = np.array(self.tokenizer.encode(text).ids, np.int32)
        masks = np.flatnonzero(ids == self.ids.mask)
        shown = text if len(text) <= 60 else text[:57] + "…"
        if len(ids) > config.max_position_embeddings:
            raise InputError(
                f"text {shown!r}: {len(ids)} tokens, the model has {config.max_position_embeddings} positions"
            )
        if not len(masks):
            raise InputError(f"text {shown!r}: has no {self.tokenizer.id_to_token(self.ids.mask)}")
        # Padded to a multiple of 32, so that few shapes are compiled.
        length = min(-(-len(ids) // 32) * 32, config.max_position_embeddings)
        padded = np.full((1, length), self.ids.pad, np.int32)
        padded[0, : len(ids)] = ids
        logits = self._logits(self._params, padded, (np.arange(length) < len(ids))[None].astype(np.int32))
        probabilities = np.asarray(jax.nn.softmax(logits[0, masks], axis=-1))
        filled = []
        for position, row in zip(masks, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top_k]
            filled.append(
                [self._answer(ids, position, int(token), float(row[token]), len(masks) == 1) for token in best]
            )
        return filled[0] if len(filled) == 1 else filled

    def _answer(self, ids: np.ndarray, position: int, token: int, score: float, single: bool) -> Filled:
        replaced = ids.copy()
        replaced[position] = token
        return {
            "sequence": self.tokenizer.decode(replaced.tolist(), skip_special_tokens=single),
            "score": score,
            "token": token,
            "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
        }
