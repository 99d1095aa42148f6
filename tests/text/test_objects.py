"""What stands for several texts, and what only looks so."""

import collections
import csv
import io

import datasets
import numpy as np
import pandas
import pyarrow
import pytest

from distilbert_jax.text.objects import refuse_fields, several_texts
from tests.runs import refused

TEXTS = ["a b", "c"]
TABLE = {"sentence": TEXTS, "label": [0, 1]}


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        collections.deque(TEXTS),
        iter(TEXTS),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
        pandas.Series(TEXTS, index=[7, 3], name="sentence"),
        pandas.DataFrame(TABLE)["sentence"],
        pandas.Index(TEXTS),
        pyarrow.array(TEXTS),
        pyarrow.table(TABLE)["sentence"],
        datasets.Dataset.from_dict(TABLE)["sentence"],
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_list_an_array_or_a_column_is_taken_text_by_text(given):
    found = list(several_texts(given))
    assert found == TEXTS
    assert all(isinstance(text, str) for text in found)


@pytest.mark.parametrize(
    "given",
    [
        TABLE,
        collections.OrderedDict(TABLE),
        collections.ChainMap(TABLE),
        pandas.DataFrame(TABLE),
        pyarrow.table(TABLE),
        pyarrow.table(TABLE).to_batches()[0],
        datasets.Dataset.from_dict(TABLE),
        datasets.DatasetDict(sentence=datasets.Dataset.from_dict(TABLE)),
        np.array([("a", 0)], dtype=[("sentence", "U9"), ("label", int)]),
        csv.DictReader(io.StringIO("sentence,label\na,0\n")),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_has_columns_is_asked_for_one_of_them(given):
    name = "sentence"
    refused(lambda: several_texts(given, "targets"), name, type(given).__name__, field="targets", hint=name)


@pytest.mark.parametrize(
    "given",
    [
        b"bytes",
        bytearray(b"x"),
        memoryview(b"x"),
        {"a", "b"},
        frozenset("ab"),
        collections.UserString("abc"),
        3,
        None,
        np.array("a"),
        np.array([TEXTS]),
        pandas.DataFrame(TABLE).to_numpy(),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_list_of_texts_is_refused(given):
    refused(lambda: several_texts(given), type(given).__name__, by="text.objects.several_texts", field="texts")


Labelled = collections.namedtuple("Labelled", "text label")


@pytest.mark.parametrize(
    "given",
    [Labelled("a", "b"), {"a": "b"}.items(), pandas.MultiIndex.from_tuples([("a", "b")])],
    ids=lambda given: type(given).__name__,
)
def test_what_only_looks_like_pairs_is_refused(given):
    refused(lambda: several_texts(given), type(given).__name__, field="texts", hint="(text, pair)")


def test_a_row_with_fields_is_no_pair():
    rows = [Labelled("a", "b"), next(pandas.DataFrame(TABLE).itertuples(index=False))]
    for number, row in enumerate(rows, 1):
        refused(lambda row=row, n=number: refuse_fields(row, f"text {n}", row=n), type(row).__name__, row=number)
    for row in ("a", ("a", "b"), ["a", "b"], None):
        refuse_fields(row, "text 1")


def test_an_open_file_with_columns_is_refused(tmp_path):
    for name, taken in (("a.txt", True), ("a.csv", False), ("a.parquet", False)):
        (tmp_path / name).write_text("sentence,label\na,0\n")
        with (tmp_path / name).open() as file:
            if taken:
                assert list(several_texts(file)) == ["sentence,label\n", "a,0\n"]
            else:
                refused(lambda file=file: several_texts(file), name, by="text.objects.several_texts")
