"""Columns of text in files with columns."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from distilbert_jax.text.columns import column_texts, has_columns
from tests.runs import refused

TEXTS = ["a film, long", 'she said "yes"', "two\nlines", "ünï"]
ROWS = [{"label": i, "text": text, "other": f"o{i}"} for i, text in enumerate(TEXTS)]


def written(path, name, rows=ROWS):
    import pandas

    file, table = path / name, pandas.DataFrame(rows)
    if name.endswith(".csv"):
        table.to_csv(file, index=False)
    elif name.endswith(".json"):
        file.write_text(json.dumps(rows))
    elif name.endswith(("jsonl", "ndjson")):
        file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "x.json", "x.jsonl", "x.ndjson", "x.parquet"])
def test_a_named_column_is_read_whatever_the_file(name, tmp_path):
    if name == "X.CSV":
        file = written(tmp_path, "x.csv").rename(tmp_path / name)
    else:
        file = written(tmp_path, name)
    assert has_columns(file)
    assert list(column_texts(file, ["text"])) == TEXTS
    assert list(column_texts(file, ["text", "other"]))[1] == (TEXTS[1], "o1")
    refused(lambda: list(column_texts(file, [])), "label", "text", path=str(file), field="--column")
    refused(lambda: list(column_texts(file, ["sentence"])), "sentence", "text", path=str(file), field="--column")
    if not name.lower().endswith(".csv"):  # where all is text
        refused(lambda: list(column_texts(file, ["label"])), path=str(file), field="label", row=1)


def test_a_quote_in_a_tsv_is_a_letter(tmp_path):
    (tmp_path / "x.tsv").write_text('text\tlabel\n"a\t0\n"b" c\t1\n')
    assert list(column_texts(tmp_path / "x.tsv", ["text"])) == ['"a', '"b" c']
    (tmp_path / "x.csv").write_text('text,label\n"a,0\nb,1\n')
    refused(lambda: list(column_texts(tmp_path / "x.csv", ["text"])), path="x.csv")


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("x.csv", b"", None),
        ("x.csv", b"text,label\n", None),
        ("x.csv", b"text,label\na,0\nb\n", 3),
        ("x.csv", b"text,label\na,0\n ,1\n", 3),
        ("x.csv", b"text,text\na,0\n", 1),
        ("x.csv", b"text,label\n\xff,0\n", None),
        ("x.csv", b"text,label\na,0\nb\0c,0\n", 3),
        ("x.tsv", b"text\tlabel\na\0\t0\n", 2),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b\\u0000"}\n', 2),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', 2),
        ("x.jsonl", b'{"text": "a"}\n{"label": 0}\n', 2),
        ("x.jsonl", b'{"text": "a"}\n{"text": null}\n', 2),
        ("x.jsonl", b'["a"]\n', 1),
        ("x.json", b'{"text": ["a"]}', None),
        ("x.json", b"[" * 100000, None),
        ("x.json", b"[]", None),
        ("x.parquet", b"PAR1", None),
    ],
)
def test_a_file_that_cannot_be_read_as_its_name_says_is_refused(name, content, row, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(lambda: list(column_texts(tmp_path / name, ["text"])), name, path=name, row=row)


def test_other_columns_of_a_parquet_are_not_read(tmp_path):
    beyond = pyarrow.array([2**60], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"text": ["a"], "date": beyond}), tmp_path / "x.parquet")
    assert list(column_texts(tmp_path / "x.parquet", ["text"])) == ["a"]
    refused(lambda: list(column_texts(tmp_path / "x.parquet", ["date"])), path="x.parquet")


def test_a_tab_is_a_table(tmp_path):
    (tmp_path / "x.tab").write_text("text\tlabel\na b\t0\n")
    assert has_columns(tmp_path / "x.tab")
    assert list(column_texts(tmp_path / "x.tab", ["text"])) == ["a b"]


def test_a_text_may_be_a_whole_document(tmp_path):
    (tmp_path / "x.csv").write_text(f'text,label\n"{"a b " * 50_000}",0\n')
    assert [len(text) for text in column_texts(tmp_path / "x.csv", ["text"])] == [200_000]
