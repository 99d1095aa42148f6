"""SQuAD scores: exact match and F1 of a predicted answer, as in the official scripts of SQuAD 1.1 and 2 (Rajpurkar et al. 2016,
2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

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
