"""Words that somebody else has split, as rows: which word each token is of, for a label a word."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import BertTokenizer, Row, check_text
from distilbert_jax.text.tokenizer_files import told_in_a_line, whole


class WordRow(NamedTuple):
    """The words of a sentence as the model reads them, T tokens.

    Attributes:
        row: ids and type ids, special tokens included.
        words: int32 [T], the index of each token's word; −1 of a special token.
        first: bool [T], which tokens are the first piece of a word. A word of no piece (a control character) has none.
        cut: how many words have no piece in the row because they lie beyond `max_length`.
    """

    row: Row
    words: np.ndarray
    first: np.ndarray
    cut: int


def word_rows(
    tokenizer: BertTokenizer, sentences: Sequence[Sequence[str]], *, max_length: int | None = None, first: int = 1
) -> list[WordRow]:
    """Sentences of words as rows of their own lengths, `[CLS] words [SEP]`.

    Args:
        max_length: tokens of a row at most, the special ones counted; None: `tokenizer.max_length`.
        first: the number of the first sentence, for what errors say.

    Raises:
        InputError: a sentence is a string, has no words, or a word that is no string; `max_length` leaves no room for a
            word, or is beyond the model's positions.
    """
    inner, limit = tokenizer.tokenizer, tokenizer.max_length if max_length is None else max_length
    special = inner.num_special_tokens_to_add(False)
    if not special < limit <= tokenizer.max_length:
        raise InputError(
            f"max_length = {limit}: expected {special + 1} to {tokenizer.max_length}, what the model has positions for",
            field="max_length",
        )
    for number, sentence in enumerate(sentences, first):
        if isinstance(sentence, str | bytes):
            raise InputError(
                f"sentence {number} is a {type(sentence).__name__} ({sentence!r:.60}); expected a list of words",
                row=number,
            )
        if not len(sentence):
            raise InputError(f"sentence {number} has no words", row=number)
        for word in sentence:
            check_text(word, f"sentence {number}: a word")
    with told_in_a_line(tokenizer.settings.path), whole(inner):
        encodings = inner.encode_batch(
            [list(sentence) for sentence in sentences], is_pretokenized=True, add_special_tokens=False
        )
        rows = []
        for encoding in encodings:
            words = np.array(encoding.word_ids, np.int32)  # of none where no word has a piece
            begins = np.diff(words, prepend=-1) != 0
            encoding.truncate(limit - special, direction=tokenizer.settings.truncation_side)
            kept = (
                slice(len(encoding)) if tokenizer.settings.truncation_side == "right" else slice(-len(encoding), None)
            )
            framed = inner.post_process(encoding)
            own = np.array([part == 0 for part in framed.sequence_ids])
            put = lambda values, elsewhere, own=own: _put(values, own, elsewhere)
            row = Row.of(framed)
            cut = len({*words.tolist()} - {*words[kept].tolist()})
            rows.append(WordRow(row, put(words[kept], -1), put(begins[kept], False), cut))
    return rows


def _put(values: np.ndarray, where: np.ndarray, elsewhere: int | bool) -> np.ndarray:
    result = np.full(len(where), elsewhere, values.dtype)
    result[where] = values
    return result
