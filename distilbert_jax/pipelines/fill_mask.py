"""Fill-mask: the words for each `[MASK]`, over the vocabulary or among targets, on their own or jointly."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from distilbert_jax.data.encoding import Row
from distilbert_jax.errors import InputError
from distilbert_jax.models import MaskedLM
from distilbert_jax.pipelines.base import Pipeline
from distilbert_jax.pipelines.results import Answers


def _log_probabilities(model: MaskedLM, batch: dict[str, jax.Array]) -> jax.Array:
    """log P of every token at `positions`: float32 [B, M, V]."""
    hidden = model.encoder(
        batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"]
    ).last_hidden_state
    # The head runs on what is asked for only: over all tokens, its output would be the largest array by far.
    return jax.nn.log_softmax(model.logits(jnp.take_along_axis(hidden, batch["positions"][..., None], axis=1)))


class FillMask(Pipeline):
    """The most likely words for each `[MASK]`.

    >>> fill = FillMask("path/to/distilbert-base-uncased")
    >>> fill("Hello I'm a [MASK] model.")[0]["token_str"]
    'role'

    Args:
        path_or_id: HF directory or hub id of a masked LM.
        dtype: of the matmuls.
        batch_size: rows of a batch; fewer take less memory.

    Raises:
        InputError: what of the model or its tokenizer is missing, damaged or contradictory.
    """

    def __init__(
        self,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        dtype: DTypeLike = jnp.float32,
        batch_size: int = 32,
    ):
        super().__init__(
            path_or_id, MaskedLM, _log_probabilities, revision=revision, dtype=dtype, batch_size=batch_size
        )

    def __call__(self, texts: Any, top_k: int | None = None, targets: str | Sequence[str] | None = None) -> Any:
        """Fill the masks of a text, of a list of texts (a list of results), or of an iterator (an iterator of results).

        Args:
            top_k: how many answers; None: 5, or all targets.
            targets: score these tokens alone. A word that is no token of the vocabulary is replaced by its first piece, which a
                line on stderr says.

        Returns:
            For a text with one mask a list of `{"score", "token", "token_str", "sequence"}`, most likely first; `score` is the
            probability over the whole vocabulary. With targets each has `share` as well, its part of what all of them have
            together. With several masks a list of such lists, each mask on its own while the others stay masked, and `sequence`
            keeps the special tokens.

        Raises:
            InputError: a text is empty or without `[MASK]`, or a mask lies beyond the model's positions; `top_k` is outside
                1 … vocabulary; there is no target.
        """
        vocabulary = self.model.config.vocab_size
        if top_k is not None and not 1 <= top_k <= vocabulary:
            raise InputError(f"top_k = {top_k}: expected 1 to {vocabulary}, the size of the vocabulary")
        if targets is None:
            top_k, candidates = top_k or 5, np.arange(vocabulary)
        else:
            candidates = self._target_ids([targets] if isinstance(targets, str) else targets)
            top_k = top_k or len(candidates)

        def answer(texts: Sequence[str], rows: Sequence[Row]) -> list[Answers]:
            return self._marginals(texts, rows, top_k, candidates, share=targets is not None)

        return self._over(texts, answer, "filling masks")

    def _target_ids(self, targets: Sequence[str]) -> np.ndarray:
        """Ids of the targets, each once."""
        if not len(targets):
            raise InputError("targets: none is given; name at least one word, or leave targets out")
        ids, replaced = [], []
        for target in targets:
            token = self.tokenizer.token_to_id(target)
            if token is None:
                pieces = self.tokenizer.encode(target, add_special_tokens=False).ids
                if not pieces:
                    raise InputError(f"target {target!r} is empty: it has no word to score")
                token = pieces[0]
                replaced.append(f"{target!r} by {self.tokenizer.id_to_token(token)!r}")
            ids.append(token)
        if replaced:
            print(
                f"targets that are no token are replaced by their first piece: {', '.join(replaced)}", file=sys.stderr
            )
        return np.unique(ids)

    def _masks(self, text: str, row: Row) -> np.ndarray:
        """The positions of a row's masks."""
        shown = text if len(text) <= 60 else text[:57] + "…"
        mask = self.tokenizer.id_to_token(self.tokenizer.ids.mask)
        found = np.flatnonzero(row.ids == self.tokenizer.ids.mask)
        if len(found) < text.count(mask):
            raise InputError(
                f"text {shown!r}: the {mask} at the end lies beyond the {self.tokenizer.max_length} tokens "
                f"that the model reads; shorten what comes before it"
            )
        if not len(found):
            raise InputError(f"text {shown!r}: has no {mask}")
        return found

    def _marginals(
        self, texts: Sequence[str], rows: Sequence[Row], top_k: int, candidates: np.ndarray, *, share: bool
    ) -> list[Answers]:
        masks = [self._masks(text, row) for text, row in zip(texts, rows, strict=True)]
        found = [Answers()] * len(rows)
        for i, values in self._forward(rows, positions=masks):
            per_mask = []
            for position, log_p in zip(masks[i], values, strict=False):
                log_p = log_p[candidates]
                shares = np.exp(log_p - np.logaddexp.reduce(log_p)) if share else None
                answers = []
                for best in _largest(log_p, top_k):
                    token = int(candidates[best])
                    answer = {"score": float(np.exp(log_p[best]))}
                    if share:
                        answer["share"] = float(shares[best])
                    answer |= {
                        "token": token,
                        "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
                        "sequence": self._filled(rows[i].ids, [position], [token], special=len(masks[i]) > 1),
                    }
                    answers.append(answer)
                per_mask.append(Answers(answers, texts[i]))
            found[i] = per_mask[0] if len(per_mask) == 1 else Answers(per_mask, texts[i])
        return found

    def _filled(self, ids: np.ndarray, positions: Sequence[int], tokens: Sequence[int], *, special: bool) -> str:
        """The text with `tokens` at `positions`."""
        replaced = ids.copy()
        replaced[positions] = tokens
        return self.tokenizer.decode(replaced.tolist(), skip_special_tokens=not special)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Indices of the `k` largest values (all, if there are fewer), largest first; equal ones by index."""
    some = np.argpartition(-values, k - 1)[:k] if k < len(values) else np.arange(len(values))
    return some[np.lexsort((some, -values[some]))]
