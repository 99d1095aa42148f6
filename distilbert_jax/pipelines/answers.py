"""Answer spans from the logits of a question's windows: the best ones, where they stand in the context, and no answer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from distilbert_jax.pipelines.scores import largest
from distilbert_jax.text.windows import Window


class AnswerSpan(NamedTuple):
    """A part of a context, `context[start:end]`, as an answer; no answer has no text and stands at 0."""

    text: str
    start: int
    end: int
    score: float


class _Candidates(NamedTuple):
    """Spans of one window, best first: the indices of their first and last tokens and their values, [n] each."""

    first: np.ndarray
    last: np.ndarray
    value: np.ndarray


def answer_spans(
    windows: Sequence[Window],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    context: str,
    *,
    top_k: int = 1,
    max_answer: int = 15,
    no_answer: bool = False,
    align_to_words: bool = True,
) -> list[AnswerSpan]:
    """The `top_k` likeliest answers in the windows of one question, as the pipeline of transformers 5.2 scores them; fewer where
    there are fewer.

    A score is P(start) · P(end), float64, each the softmax over [CLS] and the context's tokens of one window. Spans with the same
    text but for case have one score together, also those of several windows, and stand where the first of them stands. That no
    answer is there, with `no_answer`, has the product of [CLS] in the window where it is least.

    Args:
        start_logits, end_logits: float [T] of each window; what is beyond its tokens counts for nothing.
        max_answer: tokens of an answer at most.
        align_to_words: an answer has whole words, as far as they stand in the window.
    """
    answers: dict[str, AnswerSpan] = {}
    absent = np.inf
    for window, start, end in zip(windows, start_logits, end_logits, strict=True):
        p_start, p_end = _probabilities(window, start), _probabilities(window, end)
        absent = min(absent, p_start[0] * p_end[0])
        # Words may make one answer of several, so more are taken than are asked for.
        number = 2 * top_k + 10 if align_to_words else top_k
        best = _best(window, p_start[window.context], p_end[window.context], max_answer, number, np.multiply, 0.0)
        for first, last, score in zip(*best, strict=True):
            begin, stop = _characters(window, first, last, align_to_words)
            text = context[begin:stop]
            known = answers.get(text.lower()) or AnswerSpan(text, begin, stop, 0.0)
            answers[text.lower()] = known._replace(score=known.score + float(score))
    spans = [*answers.values(), *([AnswerSpan("", 0, 0, float(absent))] if no_answer else [])]
    return sorted(spans, key=lambda span: -span.score)[:top_k]


def squad_spans(
    windows: Sequence[Window],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    context: str,
    *,
    n_best: int = 20,
    max_answer: int = 30,
) -> tuple[list[AnswerSpan], float]:
    """The `n_best` answers of one question by the sum of their two logits over all windows, and that sum of no answer: what BERT's
    predictions for SQuAD go by (Devlin et al. 2019, sections 4.2 and 4.3).

    Other than `answer_spans`, windows compare by their logits: one without an answer has low ones, not a softmax of its own.

    Args:
        start_logits, end_logits: float [T] of each window; what is beyond its tokens counts for nothing.
        max_answer: tokens of an answer at most.

    Returns:
        Spans, best first, each place once, whose `score` is the sum of logits; and the least sum of [CLS] in any window. SQuAD 2
        answers with nothing where the latter exceeds the former by more than a threshold.
    """
    places: dict[tuple[int, int], float] = {}
    absent = np.inf
    for window, start, end in zip(windows, start_logits, end_logits, strict=True):
        start, end = (np.asarray(logits[: len(window.context)], np.float64) for logits in (start, end))
        absent = min(absent, start[0] + end[0])
        best = _best(window, start[window.context], end[window.context], max_answer, n_best, np.add, -np.inf)
        for first, last, score in zip(*best, strict=True):
            place = _characters(window, first, last, align_to_words=False)
            places[place] = max(places.get(place, -np.inf), float(score))
    ranked = sorted(places.items(), key=lambda item: (-item[1], item[0]))[:n_best]
    return [AnswerSpan(context[start:end], start, end, score) for (start, end), score in ranked], float(absent)


def _probabilities(window: Window, logits: np.ndarray) -> np.ndarray:
    """P of each token of a window, float64 [T]: 0 but for [CLS] and the context."""
    kept = window.context.copy()
    kept[0] = True
    return softmax(np.where(kept, np.asarray(logits[: len(kept)], np.float64), -np.inf))


def _best(
    window: Window,
    start: np.ndarray,
    end: np.ndarray,
    max_answer: int,
    number: int,
    combine: np.ufunc,
    impossible: float,
) -> _Candidates:
    """The best spans of the context's tokens, with values `combine(start, end)` above `impossible`; start and end float [C]."""
    longest = min(max_answer, len(start))
    padded = np.concatenate([end, np.full(longest - 1, impossible)])
    values = combine(start[:, None], np.lib.stride_tricks.sliding_window_view(padded, longest)).ravel()
    best = largest(values, number)
    best = best[values[best] > impossible]
    first, more = np.divmod(best, longest)
    place = np.flatnonzero(window.context)
    return _Candidates(place[first], place[first + more], values[best])


def _characters(window: Window, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    """Where the span of these tokens begins and ends in the context."""
    if align_to_words and min(window.words[first], window.words[last]) >= 0:
        of_word = lambda token: np.flatnonzero(window.words == window.words[token])
        first, last = of_word(first)[0], of_word(last)[-1]
    return int(window.offsets[first, 0]), int(window.offsets[last, 1])
