"""Question and context as rows: windows of a long context, and where in it each token stands."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Encoding

from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import BertTokenizer, Row, check_text
from distilbert_jax.text.tokenizer_files import told_in_a_line, whole

LENGTH, STRIDE, MAX_QUESTION = 384, 128, 64  # tokens, as BERT was fine-tuned on SQuAD


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A question and a part of its context, as the model reads them: `[CLS] question [SEP] part [SEP]`, T tokens.

    Attributes:
        row: ids and type ids.
        context: bool [T], which tokens are of the context.
        offsets: int32 [T, 2], where each of these begins and ends in the context, in characters of the `str`; −1 of the others.
        words: int32 [T], the index of its word in the context, in the order of the text; −1 of the others.
        example: index of the question among those that were given.
    """

    row: Row
    context: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    example: int


def context_windows(
    tokenizer: BertTokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    length: int | None = None,
    stride: int | None = None,
    max_question: int = MAX_QUESTION,
    first: int = 1,
) -> tuple[list[Window], int]:
    """The windows of each question's context, in the order of the questions, and how many questions were cut.

    A question keeps `max_question` tokens, or as many as leave room for `stride` + 1 tokens of the context where these are fewer.

    Args:
        contexts: one for each question.
        length: tokens of a window at most, question and special tokens included; None: 384, or the model's positions if fewer.
        stride: tokens that a window has in common with the next one; None: 128, or half the length.
        first: the number of the first question, for what errors say.

    Raises:
        InputError: a question or a context is empty or no string; `length` is beyond the model's positions, or leaves no room
            with `stride`.
    """
    length, stride = window_shape(tokenizer, length, stride)
    if max_question < 1:
        raise InputError(f"max_question = {max_question}: expected 1 or more tokens", field="max_question")
    if len(questions) != len(contexts):
        raise InputError(
            f"{len(questions)} questions and {len(contexts)} contexts: expected the same number of both",
            field="contexts",
        )
    for number, pair in enumerate(zip(questions, contexts, strict=True), first):
        for name, text in zip(("question", "context"), pair, strict=True):
            check_text(text, f"{name} {number}")
    inner, special = tokenizer.tokenizer, tokenizer.tokenizer.num_special_tokens_to_add(True)
    longest = min(max_question, length - special - stride - 1)
    windows, cut = [], 0
    with told_in_a_line(tokenizer.settings.path), whole(inner):
        asked = inner.encode_batch(list(questions), add_special_tokens=False)
        read = inner.encode_batch(list(contexts), add_special_tokens=False)
        for example, (question, context) in enumerate(zip(asked, read, strict=True)):
            for name, encoding in (("question", question), ("context", context)):
                if not len(encoding):
                    given = {"question": questions, "context": contexts}[name][example]
                    number = first + example
                    raise InputError(
                        f"{name} {number} is empty: {given!r:.60} has no word to read", field=name, row=number
                    )
            direction = tokenizer.settings.truncation_side
            cut += len(question) > longest
            question.truncate(longest, direction=direction)
            context.truncate(length - special - len(question), stride=stride, direction=direction)
            windows += [_window(inner.post_process(question, part), example) for part in _parts(context)]
    return windows, cut


def window_shape(
    tokenizer: BertTokenizer, length: int | None, stride: int | None, names: tuple[str, str] = ("length", "stride")
) -> tuple[int, int]:
    """`length` and `stride` of `context_windows`, with their defaults; `names`: what errors call them.

    Raises:
        InputError: a window of this length has no room for a token of a question and `stride` + 1 of a context, or is beyond the
            model's positions.
    """
    special = tokenizer.tokenizer.num_special_tokens_to_add(True)
    length = min(LENGTH, tokenizer.max_length) if length is None else length
    if not special + 2 <= length <= tokenizer.max_length:
        raise InputError(
            f"{names[0]} = {length}: expected {special + 2} to {tokenizer.max_length}, what the model has positions for",
            field=names[0],
        )
    most = length - special - 2
    stride = min(STRIDE, length // 2, most) if stride is None else stride
    if not 0 <= stride <= most:
        raise InputError(
            f"{names[1]} = {stride}: expected 0 to {most}; of {length} tokens {special} are special, one is of the question, and a "
            "window must have one that the last had not",
            field=names[1],
        )
    return length, stride


def _parts(encoding: Encoding) -> Iterator[Encoding]:
    """A cut encoding and what was cut off."""
    yield encoding
    yield from encoding.overflowing


def _window(encoding: Encoding, example: int) -> Window:
    context = np.array([part == 1 for part in encoding.sequence_ids])
    words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int32)
    row = Row.of(encoding)
    offsets = np.where(context[:, None], np.array(encoding.offsets, np.int32), -1)
    return Window(row, context, offsets, np.where(context, words, -1), example)
