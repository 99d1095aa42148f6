"""Question answering: the parts of a context that answer a question, from a fine-tuned directory."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import jax
import jax.numpy as jnp

from distilbert_jax import models
from distilbert_jax.errors import InputError
from distilbert_jax.pipelines.answers import AnswerSpan, answer_spans
from distilbert_jax.pipelines.base import Pipeline, is_count
from distilbert_jax.pipelines.results import Answers
from distilbert_jax.text.objects import several_texts
from distilbert_jax.text.windows import MAX_QUESTION, Window, context_windows, window_shape


class QuestionAnswering(Pipeline):
    """Answers that stand in a context.

    >>> ask = QuestionAnswering("path/to/distilbert-base-cased-distilled-squad")
    >>> ask(question="Where does Ada live?", context="Ada lives in London, as her mother did.")
    {'score': 0.98…, 'start': 13, 'end': 19, 'answer': 'London'}

    The directory must hold a model that was trained for it; the model itself is `distilbert_jax.models.QuestionAnswering`.
    Arguments: see `Pipeline`.
    """

    _kind = models.QuestionAnswering

    @staticmethod
    def compute(model: models.QuestionAnswering, batch: dict[str, jax.Array]) -> jax.Array:
        """Logits of start and end, float32 [B, 2, T]."""
        output = model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"])
        return jnp.stack([output.start_logits, output.end_logits], axis=1)

    def __call__(
        self,
        question: Any,
        context: Any,
        *,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = MAX_QUESTION,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """Answer a question from a context, several questions from one or as many contexts (a list of results), or iterators of
        them (an iterator of results).

        A context that is longer than the model reads is read in windows that overlap. A question that is too long is cut, which a
        line on stderr says.

        Args:
            top_k: how many answers, best first: a list; fewer where there are fewer. None: the best one alone.
            doc_stride: tokens that a window has in common with the next; None: 128, or half of `max_seq_len`.
            max_answer_len: tokens of an answer at most.
            max_seq_len: tokens of a window at most, with the question; None: 384, or the model's positions if fewer.
            max_question_len: tokens of a question at most.
            handle_impossible_answer: that the context has no answer is one too: `""` at 0.
            align_to_words: an answer has whole words; False: it may begin and end within one.

        Returns:
            For a question `{"score", "start", "end", "answer"}`, where `answer` is `context[start:end]`, or a list of such. What a
            score is, `answer_spans` says: the windows of a long context have a softmax of their own each, and an answer that stands
            in several has the sum, which may exceed 1.

        Raises:
            InputError: an empty question or context, another number of contexts than of questions, a number out of range.
        """
        counts = {"top_k": 1 if top_k is None else top_k, "max_answer_len": max_answer_len}
        for name, value in {**counts, "max_question_len": max_question_len}.items():
            if not is_count(value):
                raise InputError(f"{name} = {value!r}: expected a whole number, 1 or more", field=name)
        length, stride = window_shape(self.tokenizer, max_seq_len, doc_stride, ("max_seq_len", "doc_stride"))

        def encode(pairs: Sequence[tuple[str, str]], first: int) -> tuple[list[list[Window]], int]:
            questions, contexts = zip(*pairs, strict=True)
            windows, cut = context_windows(
                self.tokenizer,
                questions,
                contexts,
                length=length,
                stride=stride,
                max_question=max_question_len,
                first=first,
            )
            return [list(own) for _, own in itertools.groupby(windows, lambda window: window.example)], cut

        def answer(pairs: Sequence[tuple[str, str]], windows: Sequence[list[Window]]) -> Iterator[Any]:
            rows = [window.row for own in windows for window in own]
            logits = dict(self._forward(rows, longest=length))
            read = (logits[i] for i in range(len(logits)))
            for (question, context), own in zip(pairs, windows, strict=True):
                starts, ends = zip(*itertools.islice(read, len(own)), strict=True)
                spans = answer_spans(
                    own,
                    starts,
                    ends,
                    context,
                    top_k=top_k or 1,
                    max_answer=max_answer_len,
                    no_answer=handle_impossible_answer,
                    align_to_words=align_to_words,
                )
                answers = [_shown(span) for span in spans]
                yield Answers(answers, question) if top_k else (answers or [_shown(AnswerSpan("", 0, 0, 0.0))])[0]

        def tell(cut: int, questions: int) -> None:
            if cut:
                which = (
                    "the question is"
                    if questions == 1
                    else f"{cut:,} of {questions:,} questions {'is' if cut == 1 else 'are'}"
                )
                print(f"{which} too long and cut; max_question_len = {max_question_len}", file=sys.stderr)

        pairs = _pairs(question, context)
        return self._over(pairs, answer, "answering", collect=Answers, one=tuple, encode=encode, tell=tell)

    def measure(
        self,
        pairs: Sequence[tuple[str, str]],
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int = MAX_QUESTION,
    ) -> tuple[list[int], int]:
        """Tokens of all windows of each question and context, and how many questions are cut; the arguments as in a call.

        Raises:
            InputError: as a call would.
        """
        length, stride = window_shape(self.tokenizer, max_seq_len, doc_stride, ("max_seq_len", "doc_stride"))
        questions, contexts = zip(*pairs, strict=True)
        windows, cut = context_windows(
            self.tokenizer, questions, contexts, length=length, stride=stride, max_question=max_question_len
        )
        tokens = [0] * len(pairs)
        for window in windows:
            tokens[window.example] += len(window.row.ids)
        return tokens, cut


def _pairs(question: Any, context: Any) -> Any:
    """A question with its context as a tuple, or those of several: a list, or an iterator where the given ones are no lists."""
    if isinstance(question, str) and isinstance(context, str):
        return question, context
    given: list[Iterable[Any]] = [
        itertools.repeat(texts) if isinstance(texts, str) else several_texts(texts, name)
        for name, texts in (("question", question), ("context", context))
    ]
    sizes = [len(texts) for texts in given if isinstance(texts, Sized)]
    if len({*sizes}) > 1:
        raise InputError(
            f"{sizes[0]} questions and {sizes[1]} contexts: expected the same number of both, or one text for all",
            field="context",
        )
    several = not (isinstance(question, str) or isinstance(context, str))
    if len(sizes) == 1 + several:
        return list(zip(*given, strict=several))
    return _lazy_pairs(given, several)


def _lazy_pairs(given: Sequence[Iterable[Any]], several: bool) -> Iterator[tuple[Any, Any]]:
    nothing = object()
    pairs = itertools.zip_longest(*given, fillvalue=nothing) if several else zip(*given, strict=False)
    for number, pair in enumerate(pairs, 1):
        if missing := [name for name, text in zip(("question", "context"), pair, strict=True) if text is nothing]:
            (name,) = missing
            raise InputError(
                f"pair {number}: there is no {name} any more; expected as many as of the other", row=number
            )
        yield pair


def _shown(span: AnswerSpan) -> dict[str, Any]:
    return {"score": span.score, "start": span.start, "end": span.end, "answer": span.text}
