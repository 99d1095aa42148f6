"""SQuAD 1.1 and 2 (Rajpurkar et al. 2016, 2018): whether answers stand where they say, and exact match and F1 of a predicted one,
as in the official scripts."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII alone


class AnswerScore(NamedTuple):
    """0 to 1."""

    exact_match: float
    f1: float


def normalized(text: str) -> str:
    """Lower case, without punctuation and the articles a, an and the, words one blank apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def answer_score(given: str, answers: Sequence[str], *, may_lack: bool = False) -> AnswerScore:
    """The best of a predicted answer beside each of those that are right, of the two scores apart.

    Args:
        given: "" is no answer.
        answers: none of a question that has no answer.
        may_lack: whether the data set has such questions. Then an answer of articles and punctuation alone counts as none, and an
            empty one has the F1 of an exact match, which it never has in SQuAD 1.1.
    """
    if may_lack:
        answers = [answer for answer in answers if normalized(answer)] or [""]
    words = normalized(given).split()
    scores = [_beside(words, normalized(answer).split(), empty=may_lack) for answer in answers]
    return AnswerScore(max(one.exact_match for one in scores), max(one.f1 for one in scores))


def _beside(given: Sequence[str], right: Sequence[str], *, empty: bool) -> AnswerScore:
    exact, same = float(given == right), (Counter(given) & Counter(right)).total()
    if same:
        precision, recall = same / len(given), same / len(right)
        return AnswerScore(exact, 2 * precision * recall / (precision + recall))
    return AnswerScore(exact, exact if empty else 0.0)


def wrong_answers(context: str, answers: Any) -> str:
    """What is wrong with the {text, answer_start} of a question; "" where nothing is. Without an answer both are empty."""
    texts, starts = (
        (answers.get(name) for name in ("text", "answer_start")) if isinstance(answers, dict) else (None, None)
    )
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return f"is {answers!r:.60}: expected text and answer_start, two lists as long as one another"
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or type(start) is not int or start < 0:
            return f"has {text!r:.60} at {start!r}: expected a text and where it begins, from 0; none, where there is no answer"
        if context[start : start + len(text)] != text:
            there = context[start : start + len(text)]
            return f"{text!r:.60} does not stand at {start} of the context, where {there!r:.60} does"
    return ""
