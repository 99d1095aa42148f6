import itertools

import numpy as np
import pytest

from distilbert_jax.pipelines.answers import answer_spans, squad_spans
from distilbert_jax.text.windows import context_windows
from tests.text.test_windows import ODD, odd_tokenizer

CONTEXT = f"{ODD} red goes to REDS, blues to red."


@pytest.fixture(scope="module")
def windows():
    found, _ = context_windows(odd_tokenizer(), ["red?"], [CONTEXT], length=20, stride=7)
    assert len(found) > 2
    return found


def logits(windows, seed, padding=3):
    rng = np.random.default_rng(seed)
    return [[rng.normal(0, 3, len(w.row.ids) + padding).astype(np.float32) for w in windows] for _ in range(2)]


def spans_of(window, longest):
    inside = np.flatnonzero(window.context).tolist()
    return [(s, e) for s, e in itertools.product(inside, inside) if s <= e < s + longest]


def probabilities(window, values):
    """Over [CLS] and the context, one after the other."""
    kept = [0, *np.flatnonzero(window.context).tolist()]
    total = sum(np.exp(np.float64(values[i])) for i in kept)
    return {i: np.exp(np.float64(values[i])) / total for i in kept}


def every_answer(windows, starts, ends, longest):
    """Every span of every window, best first in each, and what no answer has there."""
    result, absent = [], []
    for window, start, end in zip(windows, starts, ends, strict=True):
        p, q = probabilities(window, start), probabilities(window, end)
        absent.append(p[0] * q[0])
        spans = sorted(spans_of(window, longest), key=lambda span: -p[span[0]] * q[span[1]])
        result.append([(s, e, p[s] * q[e]) for s, e in spans])
    return result, min(absent)


@pytest.mark.parametrize("longest", [1, 4, 15])
def test_answers_are_the_likeliest_spans_of_the_context(windows, longest):
    starts, ends = logits(windows, seed=1)
    per_window, absent = every_answer(windows, starts, ends, longest)
    expected = {}
    for window, spans in zip(windows, per_window, strict=True):
        for s, e, score in spans[:6]:
            start, end = window.offsets[s, 0], window.offsets[e, 1]
            key = CONTEXT[start:end].lower()
            place, so_far = expected.get(key, ((start, end), 0.0))
            expected[key] = place, so_far + score
    found = answer_spans(
        windows, starts, ends, CONTEXT, top_k=6, max_answer=longest, no_answer=True, align_to_words=False
    )
    best = sorted([(score, place) for place, score in expected.values()] + [(absent, (0, 0))], reverse=True)[:6]
    assert [span.score for span in found] == pytest.approx([score for score, _ in best], rel=1e-9)
    assert [(span.start, span.end) for span in found] == [place for _, place in best]
    assert all(CONTEXT[span.start : span.end] == span.text for span in found)


def certain(windows, which, first, last):
    """Logits that are sure of a span of one window and of [CLS] in the others."""
    starts, ends = ([np.full(len(w.row.ids), -9.0, np.float32) for w in windows] for _ in range(2))
    for i in range(len(windows)):
        starts[i][first if i == which else 0] = ends[i][last if i == which else 0] = 9.0
    return starts, ends


def test_an_answer_has_whole_words_and_is_what_the_context_says(windows):
    window = windows[0]
    place = np.flatnonzero(window.context)
    starts, ends = certain(windows, 0, place[1], place[1])
    (whole,) = answer_spans(windows, starts, ends, CONTEXT)
    (piece,) = answer_spans(windows, starts, ends, CONTEXT, align_to_words=False)
    assert (whole.text, piece.text) == ("Blues", "s")
    starts, ends = certain(windows, 0, place[2], place[5])
    (odd,) = answer_spans(windows, starts, ends, CONTEXT)
    assert odd.text == "😀 É to e\u0301at"
    assert odd.score == pytest.approx(1.0, abs=1e-4)


def test_no_answer_is_what_no_window_has(windows):
    starts, ends = ([np.full(len(w.row.ids), -9.0, np.float32) for w in windows] for _ in range(2))
    for values in (*starts, *ends):
        values[0] = 9.0
    (best,) = answer_spans(windows, starts, ends, CONTEXT, no_answer=True)
    assert best[:3] == ("", 0, 0)
    (other,) = answer_spans(windows, starts, ends, CONTEXT)
    assert other.text
    starts, ends = certain(windows, 1, *np.flatnonzero(windows[1].context)[[2, 3]])
    assert answer_spans(windows, starts, ends, CONTEXT, no_answer=True)[0].text
    starts, ends = logits(windows, seed=4)
    (absent,) = (a for a in answer_spans(windows, starts, ends, CONTEXT, top_k=1000, no_answer=True) if not a.text)
    assert absent.score == pytest.approx(every_answer(windows, starts, ends, 1)[1])


def test_no_more_answers_are_given_than_there_are():
    windows, _ = context_windows(odd_tokenizer(), ["red?"], ["goes to"])
    starts, ends = logits(windows, seed=2)
    found = answer_spans(windows, starts, ends, "goes to", top_k=9)
    assert {span.text for span in found} == {"goes", "to", "goes to"}
    assert len(squad_spans(windows, starts, ends, "goes to")[0]) == 3


@pytest.mark.parametrize("longest", [1, 5, 30])
def test_predictions_for_squad_go_by_the_sum_of_logits_over_all_windows(windows, longest):
    starts, ends = logits(windows, seed=3)
    places = {}
    for window, start, end in zip(windows, starts, ends, strict=True):
        for s, e in spans_of(window, longest):
            place = (int(window.offsets[s, 0]), int(window.offsets[e, 1]))
            places[place] = max(places.get(place, -np.inf), float(start[s]) + float(end[e]))
    expected = sorted(places.items(), key=lambda item: -item[1])[:20]
    found, absent = squad_spans(windows, starts, ends, CONTEXT, max_answer=longest)
    assert [(span.start, span.end) for span in found] == [place for place, _ in expected]
    assert [span.score for span in found] == pytest.approx([score for _, score in expected])
    assert absent == pytest.approx(min(float(s[0]) + float(e[0]) for s, e in zip(starts, ends, strict=True)))
