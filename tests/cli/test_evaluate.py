"""evaluate.py in a checkout, and the mistakes of its commands."""

import json

import pytest

import evaluate
from tests.runs import refused


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
        (["classify", "--model", "nowhere", "--file", "."], ["--file .: is a directory"]),
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


def test_figures_are_printed_as_json_or_as_lines(world, capsys):
    arguments = ["mlm", "--model", world.teacher, "--corpus", world.heldout, "--length", "32", "--max-rows", "8"]
    evaluate.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"mlm_loss", "mlm_accuracy", "perplexity", "tokens"}
    evaluate.main(arguments)
    assert f"mlm_loss       {found['mlm_loss']:.4f}" in capsys.readouterr().out
