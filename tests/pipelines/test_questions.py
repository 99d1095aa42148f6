import json

import pandas
import pytest

from distilbert_jax.pipelines import QuestionAnswering
from tests.golden.record_answers import CASES, FAMILIES, FILE, ODD, POSITIONS, TALE, VOCABULARY, write_model
from tests.runs import refused

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    return {family: QuestionAnswering(write_model(family, folder / family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def ask(pipelines):
    return pipelines["bert"]


def same(found, expected):
    """Whether answers are the same but for rounding of their scores, which depends on the batch."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    score = pytest.approx(expected["score"], rel=1e-4, abs=1e-7)
    return found["score"] == score and {**found, "score": 0} == {**expected, "score": 0}


def test_what_is_recorded_is_what_is_asked():
    assert RECORDED["versions"]["transformers"] == "5.2.0"
    assert RECORDED["vocabulary"] == VOCABULARY
    recorded = [(case["family"], case["question"], case["context"], case["options"]) for case in RECORDED["cases"]]
    assert recorded == [(family, *case) for family in FAMILIES for case in CASES]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_last_reference_that_had_such_a_pipeline(family, pipelines):
    wrong = []
    for case in RECORDED["cases"]:
        if case["family"] != family:
            continue
        question, context, options = case["question"], case["context"], case["options"]
        # Where there are too few spans, the reference fills up with impossible ones, whose score is 0.
        expected = [answer for answer in case["answers"] if answer["score"] > 0]
        found = pipelines[family](question, context, **{"top_k": 1, **options})
        if not same(found, expected):
            wrong.append((question, context, options, expected, list(found)))
    assert not wrong


def test_a_question_has_an_answer_and_with_top_k_a_list(ask):
    best = ask(question="Where lives Ada?", context=TALE)
    assert list(best) == ["score", "start", "end", "answer"]
    assert TALE[best["start"] : best["end"]] == best["answer"]
    assert ask("Where lives Ada?", TALE, top_k=1) == [best]
    several = ask("Where lives Ada?", TALE, top_k=4)
    assert several[0] == best
    assert [type(answer["score"]) for answer in several] == [float] * 4
    assert several.title == "Where lives Ada?"
    assert "<td>" in several._repr_html_()


def test_several_questions_are_answered_in_order_whatever_holds_them(ask, capfd):
    questions, contexts = ["who runs", "where?", "how many dogs"], [TALE * 3, "Bridge.", ODD]
    expected = [ask(question, context) for question, context in zip(questions, contexts, strict=True)]
    table = pandas.DataFrame({"question": questions, "context": contexts})
    lazily = ask(iter(questions), iter(contexts))
    for found in (
        ask(questions, contexts),
        ask(table["question"], table["context"]),
        [next(lazily), *lazily],
        list(ask(iter(questions), contexts)),
    ):
        assert same(found, expected)
    assert same(ask(questions, TALE)[0], ask(questions[0], TALE))
    assert same(list(ask("where?", iter(contexts)))[1], expected[1])
    assert ask([], []) == []
    assert same(ask(questions, contexts, top_k=2)[2], ask(questions[2], ODD, top_k=2))
    assert capfd.readouterr().err == ""


def test_a_question_that_is_too_long_is_cut_and_told_of(ask, capfd):
    long = "where " * 30
    expected = ask("where " * 9, TALE)
    assert capfd.readouterr().err == ""
    assert same(ask([long, "who"], TALE, max_question_len=9)[0], expected)
    assert "1 of 2 questions" in capfd.readouterr().err
    assert ask(long, "a bridge")["answer"]
    assert capfd.readouterr().err.count("\n") == 1


def test_what_cannot_be_answered_is_refused(ask):
    for question, context in RECORDED["refused"]:
        refused(
            lambda question=question, context=context: ask(question, context),
            by="text.windows.context_windows",
            field="context" if question else "question",
            row=1,
        )
    refused(lambda: ask(["who", "where"], [TALE, " \n"]), by="text.windows.context_windows", field="context", row=2)
    refused(lambda: ask("who", None), field="context")
    refused(lambda: ask(["who"], [TALE, TALE]), by="pipelines.questions._pairs", field="context")
    refused(lambda: list(ask(iter(["who"]), iter([TALE, TALE]))), by="pipelines.questions._lazy_pairs", row=2)
    for name in ("top_k", "max_answer_len", "max_question_len"):
        refused(lambda name=name: ask("who", TALE, **{name: 0}), f"{name} = 0", field=name)
    refused(lambda: ask("who", TALE, max_seq_len=1000), "max_seq_len", str(POSITIONS), field="max_seq_len")
    refused(lambda: ask("who", TALE, doc_stride=45), "doc_stride", field="doc_stride")


def test_windows_are_not_padded_beyond_their_own_length(ask, monkeypatch):
    jitted, lengths = ask._forward._jitted, set()

    def watched(params, batch, options):
        lengths.add(batch["input_ids"].shape[1])
        return jitted(params, batch, options)

    monkeypatch.setattr(ask._forward, "_jitted", watched)
    assert ask("who", TALE * 4, max_seq_len=40)["answer"]
    assert max(lengths) == 40
