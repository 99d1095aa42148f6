"""`distilbert-jax tokenizer` and `student`."""

import subprocess
import sys

import numpy as np
import pytest

from distilbert_jax.cli.main import main
from distilbert_jax.cli.prepare import student, tokenizer
from distilbert_jax.config import student_config
from distilbert_jax.errors import InputError
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM
from distilbert_jax.models.params import split
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.text.tokenizer import fingerprint, load_tokenizer
from tests.models.common import deviation
from tests.runs import ROOT, refused

WORDS = ["the tokenizer reads words and writes pieces of words; reading, writing, rereading: Äpfel, naïve café"] * 20


def test_a_tokenizer_finds_its_own_output_and_keeps_another_tokenizer(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(WORDS))
    tokenizer((text,), 64, tmp_path / "out")
    before = (tmp_path / "out" / "tokenizer.json").read_bytes()
    tokenizer((text,), 64, tmp_path / "out")
    first, second = capsys.readouterr().out.splitlines()
    assert "64 entries from 1 file(s)" in first
    assert "found equal" in second
    refused(lambda: tokenizer((text,), 70, tmp_path / "out"), by="cli.prepare.tokenizer", path=str(tmp_path / "out"))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "model.safetensors", "special_tokens_map.json"])
def test_a_tokenizer_takes_no_place_in_a_models_directory(name, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(WORDS))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    refused(
        lambda: tokenizer((tmp_path / "text.txt",), 64, tmp_path / "out"),
        name,
        by="cli.prepare.tokenizer",
        path=str(tmp_path / "out"),
    )
    assert [file.name for file in (tmp_path / "out").iterdir()] == [name]


def test_a_command_answers_a_mistake_with_one_line(tmp_path):
    arguments = ["--text", str(tmp_path / "missing.txt"), "--vocab-size", "100", "--out", str(tmp_path / "out")]
    run = subprocess.run(
        [sys.executable, "-m", "distilbert_jax", "tokenizer", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.splitlines() == [f"error: {tmp_path}/missing.txt: no such file"]


def test_a_student_is_made_from_a_directory_and_written_with_the_tokenizer(world, tmp_path, capfd):
    teacher = BertForMaskedLM.from_pretrained(world.teacher)
    student(str(world.teacher), str(tmp_path / "all"))
    ids = np.array([[2, 7, 8, 9, 3]])
    assert deviation(DistilBertForMaskedLM.from_pretrained(tmp_path / "all")(ids).logits, teacher(ids).logits) < 1e-5
    student(str(world.teacher), str(tmp_path / "one"), layers=(1,), fold_token_type=False)
    found = split(DistilBertForMaskedLM.from_pretrained(tmp_path / "one"))[1]
    expected = split(
        student_from_teacher(teacher, student_config(teacher.config, 1), layers=(1,), fold_token_type=False)
    )
    for path, value in expected[1].items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    assert fingerprint(load_tokenizer(tmp_path / "one")) == fingerprint(load_tokenizer(world.teacher))
    assert capfd.readouterr().err.splitlines()[-1] == f"{tmp_path}/one: layers 1 of {world.teacher}"
    refused(
        lambda: student(str(world.teacher), str(tmp_path / "two"), layers=(1,), num_hidden_layers=2),
        by="cli.prepare.student",
        field="--num-hidden-layers",
    )


def test_a_student_never_takes_its_teachers_place(world):
    refused(
        lambda: student(str(world.teacher), f"{world.path}/./teacher", layers=(0,)),
        by="cli.prepare.student",
        field="--out",
    )


def test_a_student_takes_the_place_of_nothing_that_is_there(world, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    student(str(world.teacher), str(tmp_path / "out"), layers=(0,))
    before = (tmp_path / "out/model.safetensors").read_bytes()
    for place in ("out", "notes", "notes/mine.txt"):
        with pytest.raises(InputError) as caught:
            student(str(world.teacher), str(tmp_path / place), layers=(1,))
        assert caught.value.field == "--out"
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("size", ["1000000000", "63", "-1"])
def test_a_vocabulary_that_cannot_be_is_refused_before_the_text_is_read(size, tmp_path):
    command = ["tokenizer", "--text", str(tmp_path / "no.txt"), "--out", str(tmp_path / "out"), "--vocab-size", size]
    refused(lambda: main(command), by="text.wordpiece.check_vocab_size", field="vocab_size")


@pytest.mark.parametrize(
    "command",
    [
        ["tokenizer", "--text", "no.txt", "--vocab-size", "100"],
        ["corpus", "--text", "no.txt", "--tokenizer", "nowhere"],
        ["student", "--teacher", "nowhere"],
        ["features", "--model", "nowhere", "text"],
        ["bias", "--model", "nowhere"],
        ["demo"],
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work_and_stays_as_it_is(command, tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "file").touch()
    for name in ("null", "null/below", "file/below"):
        refused(
            lambda name=name: main([*command, "--out", str(tmp_path / name)]),
            by="base.files.check_writable",
            path=str(tmp_path / name),
            field="--out",
        )
    assert (tmp_path / "null").is_symlink()
