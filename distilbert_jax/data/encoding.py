"""Texts to the arrays that a model reads: `model(**tokenizer(texts))`."""

import copy
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from distilbert_jax.base.files import read_json
from distilbert_jax.base.hub import locate
from distilbert_jax.data.tokenizer import load_tokenizer, special_ids
from distilbert_jax.errors import InputError

_LONGEST = 512  # BERT's positions, where no file says how many there are


class Row(NamedTuple):
    """A text as the model reads it: ids and type_ids int32 [T], special tokens included."""

    ids: np.ndarray
    type_ids: np.ndarray


def stack(
    rows: Sequence[Row], pad_id: int, *, batch_size: int | None = None, length: int | None = None
) -> dict[str, np.ndarray]:
    """Rows padded to one batch: `input_ids`, `token_type_ids`, `attention_mask` (1 = a token), int32 [B, T] each.

    Args:
        batch_size: B, the rows beyond those given hold nothing; None: as many as given.
        length: T; None: the longest row's.
    """
    shape = batch_size or len(rows), length or max((len(row.ids) for row in rows), default=0)
    batch = {
        "input_ids": np.full(shape, pad_id, np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
        "attention_mask": np.zeros(shape, np.int32),
    }
    for i, (ids, type_ids) in enumerate(rows):
        batch["input_ids"][i, : len(ids)] = ids
        batch["token_type_ids"][i, : len(ids)] = type_ids
        batch["attention_mask"][i, : len(ids)] = 1
    return batch


def announce_cut(cut: int, texts: int, max_length: int) -> None:
    """Say on stderr, in one line, that texts were too long; nothing if none was."""
    if cut:
        which = "the text is" if texts == 1 else f"{cut:,} of {texts:,} texts {'is' if cut == 1 else 'are'}"
        print(f"{which} longer than {max_length} tokens; what is beyond them was cut off", file=sys.stderr)


class BertTokenizer:
    """BERT's tokenizer, which is DistilBERT's too: called with texts, it gives what a model is called with.

    >>> tokenizer = BertTokenizer.from_pretrained("path/to/distilbert-base-uncased")
    >>> model(**tokenizer("Replace me by any text you'd like.")).last_hidden_state

    Every attribute that is not named here (`encode`, `decode`, `token_to_id`, …) is that of the `tokenizers.Tokenizer` it holds.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`.
        ids: `SpecialIds`.
        max_length: tokens that the model has positions for.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int = _LONGEST):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.ids = special_ids(tokenizer)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, revision: str | None = None) -> Self:
        """Load the tokenizer of a directory or hub id, see `load_tokenizer`; `max_length` is the smaller one of the tokenizer's
        own limit and the model's positions, as far as the directory's files name them.

        Raises:
            InputError: nothing to load is there, or it is damaged or no tokenizer of BERT's kind.
        """
        tokenizer = load_tokenizer(path_or_id, revision)
        directory = Path(path_or_id).parent if Path(path_or_id).is_file() else locate(path_or_id, revision)
        limits = []
        for name, field in (("tokenizer_config.json", "model_max_length"), ("config.json", "max_position_embeddings")):
            settings = read_json(directory / name) if (directory / name).is_file() else {}
            limit = settings.get(field) if isinstance(settings, dict) else None
            if isinstance(limit, int) and 0 < limit < 2**31:  # some files say 10³⁰ for "no limit"
                limits.append(limit)
        return cls(tokenizer, max_length=min(limits, default=_LONGEST))

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self).get("tokenizer"), name)

    @functools.cached_property
    def _cutting(self) -> Tokenizer:
        return copy.deepcopy(self.tokenizer)  # one that cuts; the setting would be saved with the other

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Encode one text or several, padded to the longest.

        Args:
            pairs: the second text of each row: `[CLS] text [SEP] pair [SEP]`.
            max_length: tokens to cut longer rows to, the special ones counted; None: `self.max_length`. Of a pair the longer text
                is cut first. A line on stderr says how many rows were cut.

        Returns:
            `input_ids`, `token_type_ids` (1 for the second text) and `attention_mask`, int32 [B, T] each; one text is a row.

        Raises:
            InputError: a text is empty, no string, or has no partner; `max_length` leaves no room for a word, or is beyond the
                model's positions.
        """
        texts, pairs = ([given] if isinstance(given, str) else given for given in (texts, pairs))
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} texts and {len(pairs)} pairs: expected the same number of both")
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        rows, cut = self.rows(given, max_length=max_length)
        announce_cut(cut, len(rows), max_length or self.max_length)
        return stack(rows, self.ids.pad)

    def rows(
        self, texts: Sequence[str | tuple[str, str]], *, max_length: int | None = None, first: int = 1
    ) -> tuple[list[Row], int]:
        """Texts or pairs of texts as rows of their own lengths, and how many of them were cut to `max_length`.

        Args:
            first: the number of the first text, for what errors say.

        Raises:
            InputError: as `__call__`.
        """
        limit = self.max_length if max_length is None else max_length
        shortest = self.tokenizer.num_special_tokens_to_add(any(isinstance(text, tuple) for text in texts)) + 1
        if not shortest <= limit <= self.max_length:
            raise InputError(
                f"max_length = {limit}: expected {shortest} to {self.max_length}, what the model has positions for"
            )
        for number, text in enumerate(texts, first):
            if isinstance(text, tuple) and len(text) != 2:
                raise InputError(f"text {number} is a tuple of {len(text)}; a pair is (text, pair)")
            for part in text if isinstance(text, tuple) else (text,):
                check_text(part, f"text {number}")
        found, cut = self.tokenizer.encode_batch(texts), 0
        for i, encoding in enumerate(found):
            parts = (0, 1) if isinstance(texts[i], tuple) else (0,)
            if not set(parts) <= set(encoding.sequence_ids):
                raise InputError(f"text {first + i} is empty: {texts[i]!r} has no word to read")
            if len(encoding) > limit:
                cut += 1
                found[i] = self._cut(texts[i], limit)
        return [Row(np.array(e.ids, np.int32), np.array(e.type_ids, np.int32)) for e in found], cut

    def _cut(self, text: str | tuple[str, str], limit: int) -> Encoding:
        self._cutting.enable_truncation(limit, strategy="longest_first")
        return self._cutting.encode(*(text if isinstance(text, tuple) else (text,)))


def check_text(text: Any, what: str) -> None:
    """Raise InputError unless `text` is a string of valid Unicode; `what` names it."""
    if not isinstance(text, str):
        raise InputError(f"{what} is a {type(text).__name__} ({text!r:.60}); expected a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is not valid Unicode ({text!r:.60}); was it UTF-8 where it came from?") from None
