"""Splits that are encoded some rows at a time: of every kind the same examples, whatever the number of these."""

import dataclasses
import itertools

import datasets
import numpy as np
import pytest

from distilbert_jax.finetuning.kinds import kind, kind_of
from distilbert_jax.finetuning.ragged import Ragged, Rows
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.finetuning.kinds import test_answers, test_choices, test_several, test_tokens
from tests.runs import refused

ROWS, LENGTH = 23, 16
WORDS = test_tokens.sentences(ROWS, 0, longest=20)
TEXTS, OTHERS = ([" ".join(one) for one in test_tokens.sentences(ROWS, seed, longest=20)["tokens"]] for seed in (0, 1))
EVEN, ODD = [place % 2 for place in range(ROWS)], [1 - place % 2 for place in range(ROWS)]
TEXT = Task("one", "one", ("text",), ("x", "y"), ("accuracy",), target=("label",))
PAIR = Task("two", "two", ("text", "other"), (), ("rmse",), kind="regression", target=("label",))
QUESTIONS = test_answers.questions(ROWS, 0)
CASES = {
    "text": (TEXT, {"text": TEXTS, "label": EVEN}),
    "pair": (PAIR, {"text": TEXTS, "other": OTHERS, "label": [place / 7 for place in range(ROWS)]}),
    "sets": (test_several.COLUMNS, {"text": TEXTS, **dict.fromkeys(test_several.LABELS, EVEN)}),
    "amounts": (test_several.AMOUNTS, {"text": TEXTS, "reds": EVEN, "blues": ODD}),
    "tokens": (test_tokens.TOY, WORDS),
    "answers": (test_answers.TOY, QUESTIONS | {"question": [" goes to" * (1 + 4 * place) for place in EVEN]}),
    "choices": (test_choices.TOY, test_choices.endings(ROWS, 2)),
    "columns": (test_choices.COLUMNS, dict.fromkeys(test_choices.COLUMNS.columns, TEXTS) | {"label": EVEN}),
}


@pytest.fixture
def tokenizer(world):
    """One that keeps how many texts it was given at once."""
    tokenizer = load_tokenizer(world.tokenizer)
    encode, tokenizer.given = tokenizer.encode_batch, []
    tokenizer.encode_batch = lambda texts, **options: tokenizer.given.append(len(texts)) or encode(texts, **options)
    return tokenizer


def encoded(task, table, tokenizer, at_once, monkeypatch):
    """All rows but the third, as a split is that others are held out of."""
    monkeypatch.setattr(kind, "AT_ONCE", at_once)
    rows = datasets.Dataset.from_dict(table).select([place for place in range(len(table["label"])) if place != 2])
    return kind_of(task).encode(rows, task, tokenizer, 8 if task is test_choices.TOY else LENGTH)


def arrays(examples):
    """Every field of examples that has a value, by its name, as arrays."""
    fields = {field.name: getattr(examples, field.name) for field in dataclasses.fields(examples)}
    rows = fields.pop("rows")
    return {
        "ids": [row.ids for row in rows],
        "types": [row.type_ids for row in rows],
        **{name: list(value) for name, value in fields.items() if isinstance(value, np.ndarray | Ragged)},
    }


@pytest.mark.parametrize("case", CASES)
def test_examples_are_the_same_whatever_is_encoded_at_once(case, tokenizer, monkeypatch):
    task, table = CASES[case]
    table = {"label": EVEN, **table}
    whole = encoded(task, table, tokenizer, 1000, monkeypatch)
    assert whole.cut > 0
    assert whole.count == ROWS - 1
    assert isinstance(whole.rows, Rows), "not objects of the tokenizer, nor two arrays a row"
    for at_once in (1, 7):
        tokenizer.given.clear()
        given = encoded(task, table, tokenizer, at_once, monkeypatch)
        most = max(map(len, table["choices"])) if "choices" in table else len(task.labels) if case == "columns" else 1
        assert max(tokenizer.given) <= most * at_once
        assert (given.cut, given.count) == (whole.cut, whole.count)
        for (name, ours), theirs in zip(arrays(given).items(), arrays(whole).values(), strict=True):
            assert len(ours) == len(theirs) > 0, name
            for one, other in zip(ours, theirs, strict=True):  # dtypes too
                np.testing.assert_array_equal(one, other, err_msg=name, strict=True)


@pytest.mark.parametrize("case", ["text", "pair"])
def test_rows_are_those_of_each_text_alone(case, tokenizer, monkeypatch):
    task, table = CASES[case]
    examples = encoded(task, table, tokenizer, 7, monkeypatch)
    tokenizer.enable_truncation(LENGTH)
    given = [one for place, one in enumerate(zip(*(table[name] for name in task.columns), strict=True)) if place != 2]
    for row, texts in zip(examples.rows, given, strict=True):
        expected = tokenizer.encode(*texts)
        assert (row.ids.tolist(), row.type_ids.tolist()) == (expected.ids, expected.type_ids)
        assert row.ids.dtype == row.type_ids.dtype == np.int32
    assert examples.lengths.tolist() == [len(row.ids) for row in examples.rows]


def test_answers_are_found_in_contexts_that_are_read_again(tokenizer, monkeypatch):
    examples = encoded(test_answers.TOY, QUESTIONS | {"label": EVEN}, tokenizer, 7, monkeypatch)
    assert not isinstance(examples.questions.contexts, list), "a column, which may be larger than memory"
    outputs = []  # the highest scores at the right places, of [CLS] where there is no answer
    for row, start, end in zip(examples.rows, examples.starts, examples.ends, strict=True):
        scores = np.zeros((len(row.ids), 2), np.float32)
        scores[start, 0] = scores[end, 1] = 10 if start else 3
        outputs.append(scores)
    answers = kind_of(test_answers.TOY).decoded(outputs, examples)
    whole = [max(examples.starts[at]) > 0 for at in windows_of_each(tokenizer)]
    for answer, right, found in zip(answers, examples.questions.answers, whole, strict=True):
        assert answer.text == (right[0] if found else "")
    assert sum(whole) > ROWS // 2


def windows_of_each(tokenizer):
    """The windows of each question among those of all, told from how many it has alone."""
    ends = [0]
    for place in (place for place in range(ROWS) if place != 2):
        alone = {name: [values[place]] for name, values in QUESTIONS.items()}
        rows = datasets.Dataset.from_dict(alone)
        ends.append(ends[-1] + len(kind_of(test_answers.TOY).encode(rows, test_answers.TOY, tokenizer, LENGTH)))
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def test_a_sentence_without_words_is_told_by_its_row_of_the_split(tokenizer, monkeypatch):
    table = {"tokens": [["reda"]] * 9 + [[]], "tags": [["O"]] * 10, "label": [0] * 10}
    for at_once in (4, 1000):
        refused(lambda n=at_once: encoded(test_tokens.TOY, table, tokenizer, n, monkeypatch), row=8)
