"""Fill-mask: the words for each `[MASK]`, over the vocabulary or among targets, on their own or jointly."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from distilbert_jax.errors import InputError
from distilbert_jax.models import MaskedLM
from distilbert_jax.models.layers import at_positions
from distilbert_jax.pipelines.base import Pipeline, is_count
from distilbert_jax.pipelines.results import Answers
from distilbert_jax.pipelines.scores import Ids, joint_search, largest, open_gap, replaced, word_log_scores
from distilbert_jax.text.objects import several_texts
from distilbert_jax.text.tokenizer import Row, check_text

_BEAM = 16  # hypotheses that a joint search keeps at least


class FillMask(Pipeline):
    """The most likely words for each `[MASK]`.

    >>> fill = FillMask("path/to/distilbert-base-uncased")
    >>> fill("Hello I'm a [MASK] model.")[0]["token_str"]
    'role'

    The directory must hold a trained masked LM. Arguments: see `Pipeline`.
    """

    _kind = MaskedLM

    @staticmethod
    def compute(model: MaskedLM, batch: dict[str, jax.Array]) -> jax.Array:
        """log P of every token at `positions`: float32 [B, M, V]."""
        hidden = model.encoder(
            batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"]
        ).last_hidden_state
        # The head runs on what is asked for only: over all tokens, its output would be the largest array by far.
        return jax.nn.log_softmax(model.logits(at_positions(hidden, batch["positions"])).astype(jnp.float32))

    def __call__(
        self,
        texts: Any,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        joint: bool = False,
        whole_words: bool = False,
    ) -> Any:
        """Fill the masks of a text, of a list of texts (a list of results), or of an iterator (an iterator of results).

        With several masks each is filled on its own while the others stay masked, so that their words need not go together.
        `joint=True` fills them together, each given those on its left (`scores.joint_search`, with a beam of 16 or `top_k`
        hypotheses). `whole_words=True` scores targets of several pieces by their pseudo-log-likelihood (`scores.word_log_scores`);
        words of different numbers of pieces then fill gaps of different sizes, and the size is given, not scored.

        Args:
            top_k: how many answers; None: 5, or all targets.
            targets: score these tokens alone. A word that is no token of the vocabulary is replaced by its first piece, which a
                line on stderr says; not so with `whole_words`.

        Returns:
            For a text with one mask a list of `{"score", "token", "token_str", "sequence"}`, most likely first; `score` is the
            probability over the whole vocabulary. With targets each has `share` as well, its part of what all of them have
            together. With several masks a list of such lists, and `sequence` keeps the special tokens.

            With `joint` a list of `{"score", "log_score", "tokens", "token_strs", "sequence"}` for each text, however many masks
            it has, without a share. With `whole_words` an answer is `{"score", "log_score", "share", "tokens", "token_str",
            "sequence"}`. Log-scores are in nats.

        Raises:
            InputError: a text is empty or without `[MASK]`, or a mask lies beyond the model's positions; `top_k` is outside
                1 … vocabulary; there is no target; options that contradict each other.
        """
        vocabulary = self.model.config.vocab_size
        if top_k is not None and not (is_count(top_k) and top_k <= vocabulary):
            raise InputError(
                f"top_k = {top_k!r}: expected 1 to {vocabulary}, the size of the vocabulary", field="top_k"
            )
        ids, words = self._asked(targets, joint, whole_words)
        answer: Callable[[Sequence[str], Sequence[Row]], list[Answers]]
        if words:
            answer = lambda texts, rows: self._whole(texts, rows, words, top_k or len(words))
        else:
            if joint:
                answer = lambda texts, rows: self._joint(texts, rows, ids, top_k or 5)
            elif targets is None:
                answer = lambda texts, rows: self._single(texts, rows, ids, top_k or 5, share=False)
            else:
                answer = lambda texts, rows: self._single(texts, rows, ids, top_k or len(ids), share=True)
        return self._over(texts, answer, "filling masks", collect=Answers)

    def check_targets(
        self, targets: str | Sequence[str] | None, *, joint: bool = False, whole_words: bool = False
    ) -> None:
        """Raise InputError where a call with these arguments would, whatever its texts."""
        self._asked(targets, joint, whole_words, quiet=True)

    def masks(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The positions of each text's masks, int64 [n], counted in tokens.

        Raises:
            InputError: a text is empty or has none, or one that lies beyond the model's positions.
        """
        return self._masks(texts, self.tokenizer.rows(texts)[0])

    def _asked(
        self, targets: str | Sequence[str] | None, joint: bool, whole_words: bool, *, quiet: bool = False
    ) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """The ids that are candidates for a mask, int64 [n]; or the pieces of each of the whole words that are."""
        if whole_words and joint:
            raise InputError("joint and whole_words exclude each other: a joint search fills every mask with one token")
        if whole_words and targets is None:
            raise InputError("whole_words scores given words: name them as targets")
        if targets is None:
            return np.arange(self.model.config.vocab_size), []
        given = (
            sorted(targets, key=str) if isinstance(targets, set | frozenset) else targets
        )  # whose order is no matter
        targets = [targets] if isinstance(targets, str) else list(several_texts(given, "targets"))
        if not targets:
            raise InputError("targets: none is given; name at least one word, or leave targets out")
        if whole_words:
            return np.arange(0), self._words(targets)
        return self._tokens(targets, quiet or self.quiet), []

    def _pieces(self, target: str) -> tuple[int, ...]:
        """The ids of a target: a token of the vocabulary as it stands, else the pieces that the tokenizer makes of it."""
        check_text(target, "target")
        token = self.tokenizer.token_to_id(target)
        pieces = self.tokenizer.encode(target, add_special_tokens=False) if token is None else [token]
        if not pieces:
            raise InputError(f"target {target!r} is empty: it has no word to score")
        return tuple(pieces)

    def _tokens(self, targets: Sequence[str], quiet: bool) -> np.ndarray:
        """The ids of single tokens, each once; a line on stderr for those that are none, unless `quiet`."""
        others = [f"{target!r} by {piece!r}" for target, piece in self.replaced(targets).items()]
        if others and not quiet:
            print(f"targets that are no token are replaced by their first piece: {', '.join(others)}", file=sys.stderr)
        return np.unique(list(self._first_pieces(targets).values()))

    def _first_pieces(self, targets: Sequence[str]) -> dict[str, int]:
        return {target: self._pieces(target)[0] for target in targets}

    def replaced(self, targets: Sequence[str]) -> dict[str, str]:
        """{target: its first piece}, of those that are no token of the vocabulary."""
        first = self._first_pieces(targets).items()
        return {
            target: self.tokenizer.id_to_token(piece)
            for target, piece in first
            if self.tokenizer.token_to_id(target) is None
        }

    def _words(self, targets: Sequence[str]) -> list[tuple[int, ...]]:
        """The pieces of words, each word once."""
        words = {self._pieces(target): target for target in targets}
        for pieces, target in words.items():
            if self.tokenizer.ids.unk in pieces:
                raise InputError(f"target {target!r} has characters that the vocabulary lacks: it cannot be scored")
        return list(words)

    def _masks(self, texts: Sequence[str], rows: Sequence[Row]) -> list[np.ndarray]:
        """The positions of each row's masks."""
        mask, places = self.tokenizer.id_to_token(self.tokenizer.ids.mask), []
        for text, row in zip(texts, rows, strict=True):
            places.append(np.flatnonzero(row.ids == self.tokenizer.ids.mask))
            if len(places[-1]) < text.count(mask):
                if len(row.ids) < self.tokenizer.max_length:  # nothing was cut
                    raise InputError(
                        f"text {_shown(text)}: its {mask} is no token: this tokenizer splits it, as its files have it",
                        path=self.name,
                    )
                raise InputError(
                    f"text {_shown(text)}: a {mask} lies beyond the {self.tokenizer.max_length} tokens that the model reads; "
                    "shorten what stands before it"
                )
            if not len(places[-1]):
                raise InputError(f"text {_shown(text)}: has no {mask}")
        return places

    def _single(
        self, texts: Sequence[str], rows: Sequence[Row], candidates: np.ndarray, top_k: int, share: bool
    ) -> list[Answers]:
        """Every mask on its own."""
        masks = self._masks(texts, rows)
        results = [Answers()] * len(rows)
        for i, values in self._forward(rows, masks):
            several = len(masks[i]) > 1
            per_mask = []
            for position, log_p in zip(masks[i], values[:, candidates], strict=False):
                shares = softmax(log_p) if share else log_p
                answers = []
                for best in largest(log_p, top_k):
                    token = candidates[[best]]
                    answers.append(
                        {
                            "score": math.exp(log_p[best]),
                            **({"share": float(shares[best])} if share else {}),
                            "token": int(token[0]),
                            "token_str": self._decode(token),
                            "sequence": self._sequence(replaced(rows[i].ids, [position], token), special=several),
                        }
                    )
                per_mask.append(answers)
            results[i] = _of_masks(per_mask, texts[i])
        return results

    def _joint(self, texts: Sequence[str], rows: Sequence[Row], candidates: np.ndarray, top_k: int) -> list[Answers]:
        """All masks of a text together."""
        masks = self._masks(texts, rows)
        beams = joint_search(self._forward, rows, masks, candidates, max(top_k, _BEAM))
        return [
            Answers(
                [
                    {
                        "score": math.exp(log_score),
                        "log_score": log_score,
                        "tokens": list(tokens),
                        "token_strs": [self._decode([token]) for token in tokens],
                        "sequence": self._sequence(replaced(row.ids, places, tokens), special=False),
                    }
                    for log_score, tokens in beam[:top_k]
                ],
                text,
            )
            for text, row, places, beam in zip(texts, rows, masks, beams, strict=True)
        ]

    def _whole(
        self, texts: Sequence[str], rows: Sequence[Row], words: Sequence[tuple[int, ...]], top_k: int
    ) -> list[Answers]:
        """Every mask on its own, words of any number of pieces in its place."""
        masks = self._masks(texts, rows)
        longest = max(words, key=len)
        for text, row in zip(texts, rows, strict=True):
            if (length := len(row.ids) + len(longest) - 1) > self.tokenizer.max_length:
                raise InputError(
                    f"text {_shown(text)}: with the {len(longest)} pieces of {self._decode(longest)!r} it has {length} tokens, "
                    f"the model reads {self.tokenizer.max_length}; shorten it"
                )
        gaps = [(row, int(position)) for row, places in zip(rows, masks, strict=True) for position in places]
        scores = iter(word_log_scores(self._forward, gaps, words, self.tokenizer.ids.mask))
        results = []
        for text, row, places in zip(texts, rows, masks, strict=True):
            per_mask = []
            for position, log_scores in zip(places, scores, strict=False):
                shares = softmax(log_scores)
                answers = []
                for best in largest(log_scores, top_k):
                    word = words[best]
                    filled = open_gap(row, position, word, len(word), self.tokenizer.ids.mask).ids
                    answers.append(
                        {
                            "score": math.exp(log_scores[best]),
                            "log_score": float(log_scores[best]),
                            "share": float(shares[best]),
                            "tokens": list(word),
                            "token_str": self._decode(word),
                            "sequence": self._sequence(filled, special=len(places) > 1),
                        }
                    )
                per_mask.append(answers)
            results.append(_of_masks(per_mask, text))
        return results

    def _sequence(self, ids: np.ndarray, *, special: bool) -> str:
        """A filled text, with or without special tokens; a mask filled with padding is left out, as in the reference."""
        ids = ids[ids != self.tokenizer.ids.pad]
        return self.tokenizer.decode(ids, skip_special_tokens=not special)

    def _decode(self, tokens: Ids) -> str:
        return self.tokenizer.decode(tokens)


def _of_masks(per_mask: list[list[dict[str, Any]]], text: str) -> Answers:
    """The answers of the only mask, or a list of those of each."""
    if len(per_mask) == 1:
        return Answers(per_mask[0], text)
    return Answers([Answers(answers, f"{text} (mask {n})") for n, answers in enumerate(per_mask, 1)], text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
