"""`distilbert-jax fill-mask`, `features` and `classify`, by evaluate.py in a checkout."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import evaluate
from distilbert_jax import models
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.golden.record_answers import write_model
from tests.models.common import build
from tests.runs import BERT, ROOT, STUDENT, change, refused


def test_fill_mask_prints_a_json_object_a_line(world, capsys):
    texts = ["reda [MASK] redc", "[MASK] goes [MASK]"]
    evaluate.main(["fill-mask", "--model", world.teacher, "--json", "--top-k", "3", *texts])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [first["text"], second["text"]] == texts
    assert len(first["answers"]) == 3
    assert list(first["answers"][0]) == ["score", "token", "token_str", "sequence"]
    assert [len(answers) for answers in second["answers"]] == [3, 3]


def test_fill_mask_prints_a_table(world, capsys):
    evaluate.main(["fill-mask", "--model", world.teacher, "reda [MASK] redc"])
    shown = capsys.readouterr().out
    assert "reda [MASK] redc" in shown
    assert shown.count("\n") > 8


def test_options_of_fill_mask_reach_it(world, capsys):
    command = ["fill-mask", "--model", world.teacher, "--json", "reda [MASK] [MASK]"]
    evaluate.main([*command, "--targets", "goes", "goess", "--whole-words"])
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert sorted(answer["token_str"] for answer in line["answers"][0]) == ["goes", "goess"]
    evaluate.main([*command, "--joint", "--top-k", "2"])
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [len(answer["tokens"]) for answer in line["answers"]] == [2, 2]


@pytest.fixture
def standard_input(monkeypatch):
    """Lets bytes be standard input."""
    return lambda given: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))


def test_texts_come_from_arguments_a_file_or_standard_input(world, tmp_path, capsys, standard_input):
    command, texts = ["features", "--model", world.teacher, "--json"], ["reda goes", "to Äpfel", "redb"]
    outputs = []
    (tmp_path / "texts").write_bytes("\ufeffreda goes\r\nto Äpfel\nredb".encode())
    standard_input("reda goes\nto Äpfel\nredb\n".encode())
    for source in (texts, ["--file", str(tmp_path / "texts")], []):
        evaluate.main([*command, *source])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    found = [json.loads(line) for line in outputs[0].splitlines()]
    assert [line["text"] for line in found] == texts
    assert {len(line["features"]) for line in found} == {32}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", {"by": "text.sources.texts_of"}),
        (b"reda\n \nredb\n", {"by": "text.sources.texts_of", "row": 2}),
        (b"reda\nred\xff\n", {"by": "text.sources._decoded", "row": 2}),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_before_the_first_result(
    world, content, told, tmp_path, capsys, standard_input
):
    (tmp_path / "texts").write_bytes(content)
    command = ["features", "--batch-size", "1", "--json", "--model"]
    refused(lambda: evaluate.main([*command, "nowhere", "--file", str(tmp_path / "texts")]), path=str(tmp_path), **told)
    standard_input(content)
    refused(lambda: evaluate.main([*command, world.teacher]), path="standard input", **told)
    assert capsys.readouterr().out.count("\n") <= 1


def test_features_are_shown_or_written(world, tmp_path, capsys):
    command = ["features", "--model", world.teacher, "reda goes", "to [b]"]
    evaluate.main([*command, "--pooling", "tokens", "--layer", "0"])
    shown = capsys.readouterr().out
    assert "4 × 32" in shown
    assert "to [b]" in shown
    evaluate.main([*command, "--out", str(tmp_path / "x.npy")])
    assert capsys.readouterr().out == f"{tmp_path}/x.npy: 2 × 32 float32\n"
    text = tmp_path / "texts.txt"
    text.write_text("reda goes\n")
    (tmp_path / "link.npy").symlink_to(text)
    for out in (text, tmp_path / "link.npy"):
        given = ["features", "--model", world.teacher, "--file", str(text), "--out", str(out)]
        refused(lambda given=given: evaluate.main(given), by="base.files.check_writable", field="--out")
    given = ["features", "--model", world.teacher, "reda", "--out", str(tmp_path / "new.txt")]
    refused(lambda: evaluate.main(given), by="cli.texts.FeaturesCommand.run", field="--out")
    assert text.read_text() == "reda goes\n"
    evaluate.main([*command, "--json"])
    listed = [json.loads(line)["features"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.array(listed, np.float32))


def test_classify_takes_texts_and_pairs(world, tmp_path, capsys):
    kind = models.BertForSequenceClassification
    build(kind, change(BERT, labels=("no", "yes"))).save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
    command = ["classify", "--model", str(tmp_path)]
    evaluate.main([*command, "--json", "reda goes"])
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["text"], [set(label) for label in line["labels"]]) == ("reda goes", [{"label", "score"}])
    evaluate.main([*command, "--json", "--pairs", "--top-k", "None", "reda\tgoes", "to\tredb"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (second["text"], second["pair"], len(first["labels"])) == ("to", "redb", 2)
    refused(lambda: evaluate.main([*command, "--pairs", "a\tb", "c"]), by="text.sources.split_pair", row=2)
    evaluate.main([*command, "reda goes", "to"])
    shown = capsys.readouterr().out
    assert "reda goes" in shown
    assert "yes" in shown or "no" in shown


def test_a_file_with_columns_is_asked_for_one(world, tmp_path, capsys):
    kind = models.BertForSequenceClassification
    build(kind, change(BERT, labels=("no", "yes"))).save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
    command = ["classify", "--json", "--model", str(tmp_path), "--file"]
    (tmp_path / "my.csv").write_text("label,text,pair\n0,reda goes,redb\n1,to,redc\n")
    (tmp_path / "my.txt").write_text("label,text\n0,reda goes\n")
    evaluate.main([*command, str(tmp_path / "my.csv"), "--column", "text"])
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["reda goes", "to"]
    evaluate.main([*command, str(tmp_path / "my.csv"), "--pairs", "--column", "text", "pair"])
    assert json.loads(capsys.readouterr().out.splitlines()[1])["pair"] == "redc"
    evaluate.main([*command, str(tmp_path / "my.txt")])  # lines, whatever is in them
    assert len(capsys.readouterr().out.splitlines()) == 2
    for name in ("classify", "features", "fill-mask"):
        ask = [name, "--model", "nowhere", "--file", str(tmp_path / "my.csv")]
        refused(lambda ask=ask: evaluate.main(ask), "label, text", path=str(tmp_path / "my.csv"), field="--column")
    for asked in (["--file", str(tmp_path / "my.txt"), "--column", "text"], ["reda", "--column", "text"]):
        refused(lambda asked=asked: evaluate.main([*command[:-1], *asked]), "text", field="--column")
    two = [*command, str(tmp_path / "my.csv"), "--column", "text", "pair"]
    refused(lambda: evaluate.main(two), "text pair", field="--column")
    twice = [*command, str(tmp_path / "my.csv"), "--pairs", "--column", "text", "text"]
    refused(lambda: evaluate.main(twice), "text text", field="--column")


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_reader_that_goes_away_ends_a_command_quietly(world, options):
    command = [sys.executable, "evaluate.py", "fill-mask", "--model", world.teacher, *["reda [MASK]"] * 2, *options]
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # so that the last line is written while the process ends
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(
            command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True, env=environment, timeout=300
        )
    assert (ended.returncode, ended.stderr) == (141, "")


def test_entities_are_shown_or_printed(world, tmp_path, capsys):
    kind = models.DistilBertForTokenClassification
    build(kind, change(STUDENT, labels=("B-A", "I-B"))).save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
    command = ["entities", "--model", str(tmp_path)]
    evaluate.main([*command, "--json", "--aggregation-strategy", "none", "Reda goess", "to"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], second["text"]) == ("Reda goess", "to")
    assert [one["word"] for one in first["entities"]] == ["reda", "goes", "##s"]
    evaluate.main([*command, "--json", "--ignore-labels", "A", "B", "--", "reda"])
    assert json.loads(capsys.readouterr().out) == {"text": "reda", "entities": []}
    evaluate.main([*command, "reda goes"])
    assert "entity_group" in capsys.readouterr().out


def test_answers_come_from_arguments_lines_columns_or_a_whole_file(tmp_path, capsys, standard_input):
    command = ["answer", "--model", str(write_model("distilbert", tmp_path / "model")), "--json"]
    questions, contexts = ["who runs", "where?"], ["a bridge by the river", "anna runs.\nfar"]
    lines = [f"{question}\t{context}" for question, context in zip(questions, [contexts[0], "anna"], strict=True)]

    def found(*options):
        evaluate.main([*command, *options])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for answer in (answer for line in lines for answer in line["answers"]):
            assert 0.0 < answer.pop("score") < 1.0  # its last digits depend on the batch
        return lines

    expected = found("--question", *questions, "--context", *contexts)
    assert [one["question"] for one in expected] == questions
    for one, context in zip(expected, contexts, strict=True):
        (answer,) = one["answers"]
        assert answer["answer"] == context[answer["start"] : answer["end"]]
    for content in (contexts[1].encode(), f"\ufeff{contexts[1]}".encode()):  # a byte order mark is no letter of it
        (tmp_path / "text.txt").write_bytes(content)
        assert found("--question", questions[1], "--file", str(tmp_path / "text.txt")) == expected[1:]
        standard_input(content)
        assert found("--question", questions[1]) == expected[1:]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    assert found("--file", str(tmp_path / "pairs.txt"))[0] == expected[0]
    (tmp_path / "pairs.csv").write_text(f'q,id,c\n{questions[0]},7,{contexts[0]}\n{questions[1]},8,"{contexts[1]}"\n')
    assert found("--file", str(tmp_path / "pairs.csv"), "--column", "q", "c") == expected
    assert len(found("--question", "who", "--context", contexts[0], "--top-k", "3")[0]["answers"]) == 3
    evaluate.main([*command[:-1], "--question", *questions, "--context", "a bridge"])
    shown = capsys.readouterr().out
    assert all(question in shown for question in questions)
    for options, field in (
        (["--context", "anna"], "--question"),
        (["--question", "who", "--context", "a", "b"], "--context"),
        (["--question", "who", "--context", "a", "--file", str(tmp_path / "text.txt")], "--file"),
        (["--question", "who", "--file", str(tmp_path / "pairs.csv")], "--file"),
        (["--file", str(tmp_path / "pairs.csv"), "--column", "q"], "--column"),
        (["--file", str(tmp_path / "pairs.csv"), "--column", "q", "q"], "--column"),
    ):
        refused(lambda options=options: evaluate.main([*command, *options]), field=field)
    standard_input(b"anna \xff")
    refused(lambda: evaluate.main([*command, "--question", "who"]), path="standard input")
