"""Tables of labelled rows, whatever they come from."""

import json

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from distilbert_jax.finetuning.files import open_table
from distilbert_jax.finetuning.written import rows_to
from distilbert_jax.text.columns import Layout
from tests.runs import refused

ROWS = [{"text": 'a "film", long', "stars": 1}, {"text": "two\nlines", "stars": 2}, {"text": "ünï", "stars": 3}]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def written(path, name):
    file = path / name
    table = pandas.DataFrame(ROWS)
    if name.endswith(".csv"):
        table.to_csv(file, index=False)
    elif name.endswith(".jsonl"):
        table.to_json(file, orient="records", lines=True)
    elif name.endswith(".json"):
        file.write_text(json.dumps(ROWS))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return str(file)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet"])
def test_a_file_gives_its_rows_and_a_digest_of_its_content(name, tmp_path):
    table = open_table(written(tmp_path, name))
    assert table.columns == ("text", "stars")
    rows = [row for _, row in table.rows()]
    assert [row["text"] for row in rows] == COLUMNS["text"]
    assert [int(row["stars"]) for row in rows] == COLUMNS["stars"]
    assert [row for _, row in table.rows()] == rows  # each time from the first on
    before = table.digest(["text"])
    with open(tmp_path / name, "ab") as file:  # noqa: PTH123
        file.write(b"\n")
    assert name == "a.parquet" or open_table(str(tmp_path / name)).digest(["text"]) != before


@pytest.mark.parametrize(
    "make",
    [
        lambda: ROWS,
        lambda: COLUMNS,
        lambda: {"text": np.array(COLUMNS["text"]), "stars": np.array(COLUMNS["stars"])},
        lambda: pandas.DataFrame(ROWS),
        lambda: pyarrow.Table.from_pylist(ROWS),
        lambda: datasets.Dataset.from_list(ROWS),
    ],
    ids=["dicts", "columns", "arrays", "pandas", "pyarrow", "datasets"],
)
def test_a_table_of_python_gives_the_rows_of_a_file(make):
    table = open_table(make(), what="train")
    assert [row for _, row in table.rows()] == ROWS
    assert all(type(row["stars"]) is int for _, row in table.rows())
    assert table.digest(["text", "stars"]) == open_table(ROWS).digest(["text", "stars"])
    assert table.digest(["text"]) != table.digest(["stars"])
    refused(lambda: table.require(["star"], "--label"), "stars", field="star", hint="--label stars")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", ""])
def test_columns_of_later_rows_are_there_too(name, tmp_path):
    rows = [{"text": "a"}, {"text": "b", "id": 3}]
    if name:
        said = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(said)
    table = open_table(tmp_path / name if name else rows)
    assert table.columns == ("text", "id")
    assert [row for _, row in table.read(table.columns)] == rows


def test_missing_values_of_pandas_are_none():
    rows = [row for _, row in open_table(pandas.DataFrame({"a": pandas.array([1, None], "Int64")})).rows()]
    assert rows == [{"a": 1}, {"a": None}]


@pytest.mark.parametrize(
    "kind", [pandas.DataFrame, lambda columns: {name: pandas.Series(columns[name]) for name in columns}]
)
def test_missing_values_of_pandas_are_missing_in_every_file_that_is_written(kind, tmp_path):
    """In a column of texts, too, where pandas 3 has NaN."""
    table = open_table(kind({"text": ["x", None, "y"], "n": [1.5, np.nan, 2.5]}))
    expected = [{"text": "x", "n": 1.5}, {"text": None, "n": None}, {"text": "y", "n": 2.5}]
    assert [row for _, row in table.rows()] == expected
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with rows_to(tmp_path / name, table) as write:
            for _, row in table.rows():
                write(row)
        found = [row for _, row in open_table(tmp_path / name).rows()]
        empty = {"text": "", "n": ""} if name == "a.csv" else expected[1]
        assert found[1] == empty
    assert [row for _, row in open_table([{"n": np.nan}]).rows()] != [{"n": None}], "of Python NaN is a number"


@pytest.mark.parametrize(
    "given",
    [
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
        {"a": [1], "b": [1, 2]},
        ["a text"],
        {"a": "xy", "b": [1, 2]},
        {"a": {"r1": "x", "r2": "y"}, "b": {"r1": 1, "r2": 2}},
        {"a": {"x", "y"}, "b": [1, 2]},
        {"a": iter("xy"), "b": [1, 2]},
        {"a": "x", "b": 1},
        {"a": pandas.Series(["x", "y"]), "b": pandas.Series([1, 2], index=[1, 0])},
        3,
        pandas.DataFrame([[1]]),
    ],
)
def test_what_is_no_table_is_refused(given):
    refused(lambda: open_table(given, what="train"), "train")


def test_names_of_class_ids_come_with_the_rows(tmp_path):
    label = datasets.ClassLabel(names=["bad", "good"])
    data = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "label": [0, 1], "tags": [[0], [1]]},
        features=datasets.Features(
            {
                "text": datasets.Value("string"),
                "label": label,
                "tags": datasets.List(datasets.ClassLabel(names=["O", "X"])),
            }
        ),
    )
    expected = {"label": ("bad", "good"), "tags": ("O", "X")}
    data.to_parquet(tmp_path / "a.parquet")
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "splits")
    for source in (data, tmp_path / "a.parquet", tmp_path / "saved", f"{tmp_path}/splits:test"):
        table = open_table(source)
        assert table.classes == expected
        assert [row for _, row in table.rows()][1] == {"text": "b", "label": 1, "tags": [1]}
        assert table.size == 2
    refused(lambda: open_table(tmp_path / "splits"), f"{tmp_path}/splits:test", field="--data")
    assert open_table(tmp_path / "splits", split="train").size == 2
    refused(lambda: open_table(tmp_path), "a.parquet", path=str(tmp_path))


def test_conll_columns_are_sentences(tmp_path):
    (tmp_path / "a.conll").write_text(
        "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n", encoding="utf-8"
    )
    table = open_table(tmp_path / "a.conll")
    assert table.columns == ("tokens", "column 2", "tags")
    assert [(line, row["tokens"], row["tags"]) for line, row in table.rows()] == [
        (3, ["EU", "rejects"], ["B-ORG", "O"]),
        (7, ["Peter"], ["B-PER"]),
    ]
    assert open_table(tmp_path / "a.conll", layout=Layout(names=("word", "pos", "tag"))).columns == (
        "word",
        "pos",
        "tag",
    )
    (tmp_path / "a.conll").write_text("EU B-ORG\nrejects\n")
    refused(lambda: list(open_table(tmp_path / "a.conll").rows()), row=2, path="a.conll")


def test_squads_questions_are_rows_of_the_hubs_columns(tmp_path):
    asked = [
        {"id": "q1", "question": "who?", "answers": [{"text": "Bo", "answer_start": 0}]},
        {"id": "q2", "question": "why?", "is_impossible": True, "answers": [], "plausible_answers": []},
    ]
    content = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "Bo ran.", "qas": asked}]}]}
    for wrong in ("true", 1):
        asked[1]["is_impossible"] = wrong
        (tmp_path / "dev.json").write_text(json.dumps(content))
        refused(lambda: open_table(tmp_path / "dev.json"), path="dev.json", field="is_impossible")
    asked[1]["is_impossible"] = True
    (tmp_path / "dev.json").write_text(json.dumps(content))
    rows = [row for _, row in open_table(tmp_path / "dev.json").rows()]
    assert rows == [
        {
            "id": "q1",
            "title": "T",
            "context": "Bo ran.",
            "question": "who?",
            "answers": {"text": ["Bo"], "answer_start": [0]},
        },
        {
            "id": "q2",
            "title": "T",
            "context": "Bo ran.",
            "question": "why?",
            "answers": {"text": [], "answer_start": []},
        },
    ]
    del asked[0]["answers"][0]["text"]
    (tmp_path / "dev.json").write_text(json.dumps(content))
    refused(lambda: open_table(tmp_path / "dev.json"), "data[0].paragraphs[0].qas[0]", field="text")


def test_glues_own_files_are_read_as_they_are(tmp_path):
    # CoLA: no names, four columns; a quote is a letter.
    (tmp_path / "train.tsv").write_text("gj04\t1\t\t\"Our friends won't buy.\nc_13\t0\t*\tThey drank the pub.\n")
    assert [(row["sentence"], row["label"]) for _, row in open_table(tmp_path / "train.tsv").rows()] == [
        ("\"Our friends won't buy.", "1"),
        ("They drank the pub.", "0"),
    ]
    # MRPC: a byte order mark, CRLF.
    (tmp_path / "msr.tsv").write_bytes(
        ('\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said "so\tHe said\r\n').encode()
    )
    ((_, row),) = open_table(tmp_path / "msr.tsv").rows()
    assert (row["Quality"], row["#1 String"], row["#2 String"]) == ("1", 'He said "so', "He said")
    # QQP: three rows that are broken.
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    (tmp_path / "qqp.tsv").write_text(f"{head}0\t1\t2\ta?\tb?\t0\n1\t3\tbroken\n")
    assert len(list(open_table(tmp_path / "qqp.tsv").rows())) == 1


@pytest.mark.parametrize(
    ("name", "content", "row", "shown"),
    [
        ("a.csv", b"", None, ""),
        ("a.csv", b"text,label\n", None, ""),
        ("a.csv", b"text,label\na,0\ncaf\xe9,1\n", 3, "WINDOWS-1252"),
        ("a.csv", "text,label\na,0\n".encode("utf-16"), 1, "UTF-16"),
        ("a.csv", "text,label\na,0\n".encode("utf-16-le"), 1, "UTF-16"),
        ("a.csv", b'text,label\nx,0\n"a b,0\nb,1\n', 3, ""),  # never closed
        ("a.csv", b'text,label\n"a b,0\nb,1\n"c",2\n', 2, ""),  # closed by the quote of a later row
        ("a.csv", b'text,label\n"a\nb",0\n"c\nd",0,1\n', 4, ""),
        ("a.csv", b"text,label,\n,1,\n,2\n", 3, ""),
        ("a.csv", b"text,text\na,0\n", 1, ""),
        ("a.csv", b"text,label\na,0\ntext,label\n", 3, ""),
        ("a.tsv", b"text\tlabel\na\t0\nb\t0\t1\n", 3, ""),
        ("a.jsonl", b'{"text": "a", "label": 0}\n{"text": "b"}\n', 2, "label"),
        ("a.json", b'{"text": {"0": "a"}}', None, ""),
        ("a.conll", b"", None, ""),
        ("a.conll", b"EU O\ncaf\xe9 O\n", 2, "WINDOWS-1252"),
        ("a.xlsx", b"PK", None, ".csv"),
        ("a.csv.gz", b"\x1f\x8b", None, ""),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_told_with_its_row(name, content, row, shown, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(lambda: list(open_table(tmp_path / name).rows()), name, shown, path=name, row=row)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("text;label\na;0\n", "--delimiter ';'"),
        ("text\tlabel\na\t0\n", ".tsv"),
        ("a film that I liked,1\nanother,0\n", "--columns"),
        ("text,label\na,0\n", "--label label"),
    ],
)
def test_columns_that_are_not_there_are_told_with_those_that_are(content, hint, tmp_path):
    (tmp_path / "a.csv").write_text(content)
    refused(lambda: open_table(tmp_path / "a.csv").require(["labels"], "--label"), "labels", field="labels", hint=hint)


def test_a_row_that_is_cut_at_commas_under_another_delimiter_is_told_so(tmp_path):
    (tmp_path / "a.csv").write_text("text;label\na, b, c;0\n")
    refused(lambda: list(open_table(tmp_path / "a.csv").rows()), "--delimiter ';'", row=2)


def test_a_layout_is_for_files_that_do_not_say(tmp_path):
    (tmp_path / "a.csv").write_text("a film;1\nanother;0\n")
    layout = Layout(delimiter=";", names=("text", "label"))
    assert next(row for _, row in open_table(tmp_path / "a.csv", layout=layout).rows()) == {
        "text": "a film",
        "label": "1",
    }
    (tmp_path / "a.csv").write_text("text;label\nanother;0\n")
    refused(lambda: list(open_table(tmp_path / "a.csv", layout=layout).rows()), row=1, hint="--columns")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    refused(lambda: open_table(tmp_path / "a.jsonl", layout=layout), field="--columns")


def test_a_name_that_is_not_there_is_told_with_the_nearest(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0\n")
    refused(
        lambda: open_table(tmp_path / "trian.csv", option="--train"), "train.csv", field="--train", hint="train.csv"
    )
