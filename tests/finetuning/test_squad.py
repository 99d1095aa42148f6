import hashlib
import json

import pytest

from distilbert_jax.finetuning.squad import answer_score, normalized
from tests.golden import record_squad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog!", "cat dog"),
        ("an-other", "another"),
        ("Theatre", "theatre"),
        ("a.b", "ab"),
        ("the", ""),
        ("10\u202f000 «the» Ä", "10 000 « » ä"),
        ("Été\u00a0a\u0301", "été \u0301"),  # as the script has it
    ],
)
def test_answers_are_compared_without_case_ascii_punctuation_and_articles(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("given", "answers", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the denver broncos.", ["Denver Broncos", "Broncos"], 1, 1),
        ("Broncos of Denver", ["Denver Broncos"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("red red", ["red"], 0, 2 * (1 / 2) / (1 / 2 + 1)),
        ("red red", ["red red blue", "blue"], 0, 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("blue", ["red"], 0, 0),
        ("", ["red"], 0, 0),
        ("the", ["a"], 1, 0),
        ("東京", ["東京。"], 0, 0),
        ("Beyoncé", ["beyoncé"], 1, 1),
    ],
)
def test_exact_match_and_f1_are_the_best_over_the_answers(given, answers, exact, f1):
    assert answer_score(given, answers) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("given", "answers", "exact", "f1"),
    [
        ("", [], 1, 1),
        ("red", [], 0, 0),
        ("", ["red"], 0, 0),
        ("red", ["red", "the"], 1, 1),
        ("", ["the"], 1, 1),
        ("a", [], 1, 1),
    ],
)
def test_where_questions_may_lack_an_answer_none_is_right_for_those(given, answers, exact, f1):
    assert answer_score(given, answers, may_lack=True) == (exact, f1)


def test_the_two_scores_are_the_best_each_on_its_own():
    assert answer_score("a b c", ["b", "b c d"]) == (0, pytest.approx(0.8))


@pytest.mark.parametrize(("version", "may_lack"), [("1.1", False), ("2.0", True)])
def test_every_question_of_dev_is_scored_as_by_the_official_script(squad_dir, version, may_lack):
    """Right, partial, empty, wrong and Unicode predictions, in turn; tests/golden/record_squad.py asked the scripts."""
    recorded, file = json.loads(record_squad.FILE.read_text()), squad_dir / "validation.parquet"
    if hashlib.sha256(file.read_bytes()).hexdigest() != recorded["questions"]:
        pytest.skip(f"{file}: another file than the scores were recorded of")
    questions = record_squad.read(file)
    pairs = zip(record_squad.predictions(questions), record_squad.answers(questions, may_lack=may_lack), strict=True)
    found = [answer_score(given, right, may_lack=may_lack) for given, right in pairs]
    assert record_squad.digest(found) == recorded[version]
    assert 20 < recorded[version]["exact_match"] < recorded[version]["f1"] < 80
