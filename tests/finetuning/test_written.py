"""Files of predicted rows."""

import json
import math
from decimal import Decimal

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pytest
from pyarrow import parquet

from distilbert_jax.finetuning import written as module
from distilbert_jax.finetuning.files import open_table
from distilbert_jax.finetuning.written import check_out, new_names, rows_to
from tests.runs import refused

ROWS = [
    {"text": 'a "b",\nc', "predicted": "good", "score": 0.75, "scores": {"good": 0.75, "bad": 0.25}},
    {"text": "ünï", "predicted": "bad", "score": 0.5, "scores": {"good": 0.5, "bad": 0.5}},
]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_rows_come_back_as_they_were_written(name, tmp_path):
    with rows_to(tmp_path / name) as write:
        for row in ROWS:
            write(row)
    table = open_table(tmp_path / name)
    rows = [row for _, row in table.rows()]
    if name == "a.csv":
        rows = [{**row, "score": float(row["score"]), "scores": json.loads(row["scores"])} for row in rows]
    assert rows == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_what_ends_early_leaves_what_was_there(name, tmp_path):
    (tmp_path / name).write_text("before")

    def half():
        with rows_to(tmp_path / name) as write:
            write(ROWS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert (tmp_path / name).read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_of_rows_is_no_place_for_its_own_predictions(tmp_path):
    (tmp_path / "a.csv").write_text("text\na\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    refused(lambda: check_out(tmp_path / "link.csv", "--out", [tmp_path / "a.csv"]), field="--out")
    refused(lambda: check_out(tmp_path / "a.txt", "--out"), field="--out", hint=".csv")
    refused(lambda: check_out(tmp_path / "none/a.csv", "--out"), field="--out")
    assert check_out(tmp_path / "b.csv", "--out", [tmp_path / "a.csv"]) == tmp_path / "b.csv"


def test_new_columns_stand_beside_those_of_an_earlier_model():
    assert new_names(["text"], ["predicted", "score"]) == ["predicted", "score"]
    assert new_names(["text", "score"], ["predicted", "score"]) == ["predicted_2", "score_2"]
    assert new_names(["score", "predicted_2"], ["predicted", "score"]) == ["predicted_3", "score_3"]


def test_json_has_no_numbers_that_are_none(tmp_path):
    with rows_to(tmp_path / "a.jsonl") as write:
        write({"a": math.nan, "b": [math.inf, 1.0]})
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"a": None, "b": [None, 1.0]}


def test_values_of_several_kinds_are_no_column_of_parquet(tmp_path):
    def written():
        with rows_to(tmp_path / "a.parquet") as write:
            write({"a": 1})
            write({"a": "x"})

    refused(written, path="a.parquet", hint=".jsonl")
    assert not list(tmp_path.iterdir())


def test_every_group_of_a_parquet_file_has_the_columns_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    rows = [{"n": 1, "late": None, "of": {"a": 1}}] * 3 + [{"n": 1.5, "late": "x", "of": {"a": 1, "b": 2}}]
    with rows_to(tmp_path / "a.parquet") as write:
        for row in rows:
            write(row)
    read = [row for _, row in open_table(tmp_path / "a.parquet").rows()]
    assert read == [{**row, "of": {"a": 1, "b": row["of"].get("b")}} for row in rows]


def odd_columns():
    """A column of each type whose values Python has none of, or others for."""
    made = {
        "ns": pa.array([1, 1_700_000_000_123_456_789], pa.timestamp("ns")),
        "zone": pa.array([1, None], pa.timestamp("us", "Europe/Berlin")),
        "time": pa.array([1, 2], pa.time64("ns")),
        "span": pa.array([1, 2], pa.duration("ns")),
        "narrow": pa.array([0.1, None], pa.float32()),
        "half": pa.array(np.array([0.1, 0.2], np.float16)),
        "price": pa.array([Decimal("1.10"), None], pa.decimal128(10, 2)),
        "large": pa.array([2**64 - 1, 3], pa.uint64()),
        "small": pa.array([1, 2], pa.int8()),
        "map": pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "nothing": pa.nulls(2),
        "struct": pa.array([{"a": 1, "b": None}, {"a": None, "b": "x"}]),
    }
    return pa.table(made).replace_schema_metadata({"made": "here"})


@pytest.mark.parametrize("form", ["file", "table", "dataset"])
def test_columns_of_arrow_keep_their_types_and_values_in_parquet(form, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    given = pa.concat_tables([odd_columns()] * 3).slice(0, 5)
    if form == "dataset":
        given = given.drop_columns(["map", "kind"])  # which it has not
    parquet.write_table(given, tmp_path / "in.parquet", row_group_size=3)
    source = {
        "file": lambda: tmp_path / "in.parquet",
        "table": lambda: given,
        "dataset": lambda: datasets.Dataset(given),
    }
    table = open_table(source[form]())
    with rows_to(tmp_path / "out.parquet", table) as write:
        for number, row in table.rows():
            write({**row, "predicted": "x", "score": number / 2})
    read = parquet.read_table(tmp_path / "out.parquet")
    assert read.select(given.column_names).cast(given.schema).equals(given)
    assert [field.type for field in read.schema][:-2] == [field.type for field in given.schema]
    assert read["score"].to_pylist() == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert form == "dataset" or read.schema.metadata[b"made"] == b"here"


def test_a_type_that_parquet_has_not_is_refused_before_the_first_row(tmp_path):
    given = pa.table({"text": ["a"], "span": pa.array([None], pa.month_day_nano_interval())})
    refused(lambda: rows_to(tmp_path / "a.parquet", open_table(given)).__enter__(), field="span", hint=".jsonl")


def test_a_file_that_is_replaced_meanwhile_is_not_written_beside_what_was_read(tmp_path):
    parquet.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "in.parquet")

    def written():
        table = open_table(tmp_path / "in.parquet")
        with rows_to(tmp_path / "out.parquet", table) as write:
            for _, row in table.rows():
                write({**row, "predicted": "x"})
            parquet.write_table(pa.table({"text": ["other", "rows"]}), tmp_path / "in.parquet")

    refused(written, path="in.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_bare_carriage_return_ends_no_row(tmp_path):
    rows = [{"text": "a\rb", "id": ""}, {"text": " c ", "id": "x\r\ny"}]
    with rows_to(tmp_path / "a.csv") as write:
        for row in rows:
            write(row)
    assert [row for _, row in open_table(tmp_path / "a.csv").rows()] == rows
    with rows_to(tmp_path / "b.csv") as write:
        write({"text": ""})
    assert [row for _, row in open_table(tmp_path / "b.csv").rows()] == [{"text": ""}]


def test_pandas_reads_what_is_written(tmp_path):
    with rows_to(tmp_path / "a.csv") as write:
        write(ROWS[0])
    assert pandas.read_csv(tmp_path / "a.csv")["text"][0] == ROWS[0]["text"]
