import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import evaluate
import train
from distilbert_jax import models
from distilbert_jax.base.config_io import load_config
from distilbert_jax.base.parsing import call
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import build
from tests.runs import BERT, ROOT, change, pretraining, refused, write_config


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


CONFIG = "from distilbert_jax.config import *\n\n\ndef get_config():\n    return PretrainConfig(steps=7)\n"


def test_a_config_file_gives_its_config(write):
    assert load_config(write(CONFIG), PretrainConfig, FinetuneConfig) == PretrainConfig(steps=7)


def test_a_config_file_does_not_take_the_name_of_another_module(write):
    import json as before

    load_config(write(CONFIG, "json.py"), PretrainConfig)
    assert sys.modules["json"] is before


def test_a_word_behind_a_colon_goes_to_the_config(write):
    words = CONFIG.replace("get_config()", "get_config(size='7')").replace("steps=7", "steps=int(size)")
    file = write(words)
    assert load_config(file, PretrainConfig).steps == 7
    assert load_config(f"{file}:12", PretrainConfig).steps == 12
    refused(lambda: load_config(f"{file}:many", PretrainConfig), f"{file}: line", "'many'")
    refused(lambda: load_config(f"{write(CONFIG)}:12", PretrainConfig), "takes 0 positional arguments")
    refused(lambda: load_config(f"{file}x.py:12", PretrainConfig), f"{file}x.py: no such config file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", ["line 1: invalid syntax"]),
        ("x = 1\n", ["has no get_config()"]),
        ("def get_config():\n    return 3\n", ["returned a int", "PretrainConfig"]),
        (CONFIG.replace("steps", "step"), ["line 5", "unexpected keyword argument 'step'"]),
        (CONFIG.replace("steps=7", "steps=-7"), ["PretrainConfig.steps = -7"]),
        ("import nowhere\n", ["line 1", "nowhere"]),
        ("import sys\nsys.exit(0)\n", ["line 2", "must not end Python"]),
        (
            CONFIG.replace("steps=7", "objective='distillation', teacher=__import__('pathlib').Path('a')"),
            ["PosixPath('a') is a PosixPath"],
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(write, text, words):
    refused(lambda: load_config(write(text), PretrainConfig), *words)


def test_a_mistake_in_a_config_file_of_a_relative_path_has_its_line(write, tmp_path, monkeypatch):
    write(CONFIG.replace("steps", "step"), "mine.py")
    monkeypatch.chdir(tmp_path)
    refused(lambda: load_config("mine.py", PretrainConfig), "mine.py: line 5: ")


def test_a_value_of_another_type_in_a_config_file_is_one_line(write):
    refused(lambda: load_config(write(CONFIG.replace("7", "7.5")), PretrainConfig), "steps: expected int, got 7.5")


def test_a_missing_config_file_is_answered_with_the_nearest(write, tmp_path):
    write(CONFIG, "student.py")
    refused(lambda: load_config(str(tmp_path / "studnet.py")), "no such config file", str(tmp_path / "student.py"))
    message = refused(lambda: load_config(str(tmp_path / "xyz/a.py")), "no such config file")
    assert "did you mean" not in message
    refused(lambda: load_config(str(tmp_path)), "no such config file")
    (tmp_path / "config.txt").write_text("")
    refused(lambda: load_config(str(tmp_path / "config.txt")), "not a Python file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--optimizer.lerning-rate", "1"],
            ["--optimizer.lerning-rate", "perhaps you meant --optimizer.learning-rate"],
        ),
        (["--optimizer.learning-rate", "fast"], ["--optimizer.learning-rate", "'fast'"]),
        (["--steps", "-1"], ["PretrainConfig.steps = -1", "0 or more"]),
        (["--steps"], ["--steps", "Missing value"]),
        (["--data.sequences", "lines"], ["--data.sequences", "'lines'", "'line', 'document'"]),
        (["--run.seed", "-1"], ["RunConfig.seed = -1"]),
        (["--data.length", "1024"], ["length = 1024", "max_position_embeddings"]),
        (["stray"], ["stray"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(write, arguments, words):
    message = refused(lambda: train.main([write(CONFIG), *arguments]), "train.py", "--help", *words)
    assert not set("│╭╰") & set(message)


def test_a_dry_run_takes_no_trace(write):
    refused(lambda: train.main([write(CONFIG), "--dry-run", "--profile"]), "--dry-run", "--profile", "give one of them")


def test_overrides_reach_the_run(world, write, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "distilbert_jax.pretraining.run.pretrain", lambda config, heldout, profile: taken.append(config)
    )
    train.main([write(CONFIG), "--steps", "9", "--optimizer.learning-rate", "1e-4", "--run.directory", "runs/x"])
    assert (taken[0].steps, taken[0].optimizer.learning_rate, taken[0].run.directory) == (9, 1e-4, "runs/x")


@pytest.mark.parametrize("main", [train.main, evaluate.main])
@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["-h"], 0), (["--help"], 0)])
def test_help_is_there_without_a_command(main, arguments, status, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == status
    captured = capsys.readouterr()
    assert "python" in (captured.err if status else captured.out)


@pytest.mark.parametrize("command", evaluate.COMMANDS)
def test_every_command_has_help_and_is_told_of(command, capsys):
    with pytest.raises(SystemExit) as left:
        evaluate.main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: evaluate.py {command}" in capsys.readouterr().out
    assert f"\n{command} " in evaluate.__doc__


def test_a_config_has_help(write, capsys):
    with pytest.raises(SystemExit) as left:
        train.main([write(CONFIG), "--help"])
    assert left.value.code == 0
    assert "--optimizer.learning-rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fillmask"], ["evaluate.py fillmask: no such command", "did you mean 'fill-mask'?"]),
        (["xyz"], ["no such command", *evaluate.COMMANDS]),
        (["fill-mask", "[MASK]"], ["--model"]),
        (["fill-mask", "--model", "nowhere"], ["no text given", "--file"]),
        (["features", "--model", "nowhere"], ["no text given"]),
        (["classify", "--model", "nowhere", "text", "--file", "texts.txt"], ["give one of them"]),
        (["classify", "--model", "nowhere", "--file", "texts.txt"], ["--file texts.txt: no such file"]),
        (["classify", "--model", "nowhere", "--file", "."], ["--file .: is a folder"]),
        (["features", "--model", "nowhere", "a", "--out", "x.npy", "--pooling", "tokens"], ["--pooling cls or mean"]),
        (
            ["features", "--model", "nowhere", "a", "--out", "no/x.npy"],
            ["--out no/x.npy: the folder no does not exist"],
        ),
        (["fill-mask", "--model", "nowhere", "[MASK]"], ["nowhere: no such directory"]),
        (["fill-mask", "--model", "nowhere", "--topk", "3", "[MASK]"], ["--topk", "--top-k"]),
        (["mlm", "--model", "nowhere"], ["--corpus"]),
        (["speed", "--model", "nowhere", "--dtype", "float16"], ["--dtype", "'float16'", "'bfloat16'"]),
        (["glue", "--model", "nowhere", "--tasks", "colla"], ["'colla'", "did you mean 'cola'"]),
        (["glue", "--model", "nowhere", "--tasks"], ["--tasks"]),
        (["glue", "--model", "nowhere", "--seeds"], ["--seeds"]),
        (["glue", "--model", "nowhere", "--seeds", "1", "1"], ["--seeds", "1"]),
        (["report", "--out", "nowhere"], ["no run given"]),
    ],
)
def test_a_mistake_in_a_command_is_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    refused(lambda: evaluate.main(arguments), *words)
    assert capsys.readouterr().out == ""


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
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"reda\n \nredb\n", ["line 2: is blank"]),
        (b"reda\nred\xff\n", ["line 2: not UTF-8 (byte 4 of the line is 0xff)"]),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_before_the_first_result(
    world, content, words, tmp_path, capsys, standard_input
):
    (tmp_path / "texts").write_bytes(content)
    command = ["features", "--batch-size", "1", "--json", "--model"]
    refused(lambda: evaluate.main([*command, "nowhere", "--file", str(tmp_path / "texts")]), str(tmp_path), *words)
    standard_input(content)
    refused(lambda: evaluate.main([*command, world.teacher]), "standard input", *words)
    assert capsys.readouterr().out.count("\n") <= 1


def test_features_are_shown_or_written(world, tmp_path, capsys):
    command = ["features", "--model", world.teacher, "reda goes", "to [b]"]
    evaluate.main([*command, "--pooling", "tokens", "--layer", "0"])
    shown = capsys.readouterr().out
    assert "4 × 32" in shown
    assert "to [b]" in shown
    evaluate.main([*command, "--out", str(tmp_path / "x.npy")])
    assert capsys.readouterr().out == f"{tmp_path}/x.npy: 2 × 32 float32\n"
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
    refused(lambda: evaluate.main([*command, "--pairs", "a\tb", "c"]), "text 2: a pair", "found 0 tabs")
    evaluate.main([*command, "reda goes", "to"])
    shown = capsys.readouterr().out
    assert "reda goes" in shown
    assert "yes" in shown or "no" in shown


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


def test_figures_are_printed_as_json_or_as_lines(world, capsys):
    arguments = ["mlm", "--model", world.teacher, "--corpus", world.heldout, "--length", "32", "--max-rows", "8"]
    evaluate.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"mlm_loss", "mlm_accuracy", "perplexity", "tokens"}
    evaluate.main(arguments)
    assert f"mlm_loss       {found['mlm_loss']:.4f}" in capsys.readouterr().out


def test_a_mistake_ends_the_process_with_one_line_and_status_2(world, tmp_path):
    config = write_config(pretraining(world, tmp_path / "run", data__corpus=str(tmp_path)), tmp_path / "config.py")
    command = [sys.executable, "train.py", config]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: no corpus: build one")


MODULE = "distilbert_jax.pretraining.build_corpus"


def command(out: str, processes: int | None = None) -> None:
    """A command."""
    print("on stderr:", out, processes, file=sys.stderr)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [([], "--out"), (["--out", "a", "--procs", "2"], "--procs"), (["--out", "a", "--processes", "two"], "'two'")],
)
def test_a_mistake_on_a_commands_line_is_one_line(arguments, wrong, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(InputError, match=r"--help lists what there is$") as caught:
        call(command, MODULE)
    message = str(caught.value)
    assert message.startswith(f"python -m {MODULE}: ")
    assert wrong in message
    assert "\n" not in message


def test_a_command_gets_its_arguments_and_keeps_its_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--out", "a", "--processes", "2"])
    call(command, MODULE)
    assert capsys.readouterr().err == "on stderr: a 2\n"
