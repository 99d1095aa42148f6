"""evaluate.py in a checkout, and the mistakes of its commands."""

import json

import pytest

import evaluate
from tests.runs import refused


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fillmask"], {"by": "evaluate.main", "field": "fillmask", "hint": "'fill-mask'"}),
        (["xyz"], {"by": "evaluate.main", "field": "xyz", "hint": ", ".join(evaluate.COMMANDS)}),
        (["fill-mask", "[MASK]"], {"by": "cli.arguments.parse", "field": "--model"}),
        (["fill-mask", "--model", "nowhere"], {"by": "text.sources.given_texts", "field": "--file"}),
        (["features", "--model", "nowhere"], {"by": "text.sources.given_texts", "field": "--file"}),
        (
            ["classify", "--model", "nowhere", "text", "--file", "texts.txt"],
            {"by": "text.sources.given_texts", "field": "--file"},
        ),
        (
            ["classify", "--model", "nowhere", "--file", "texts.txt"],
            {"by": "text.sources.given_texts", "field": "--file", "path": "texts.txt"},
        ),
        (
            ["classify", "--model", "nowhere", "--file", "."],
            {"by": "text.sources.given_texts", "field": "--file", "path": "."},
        ),
        (
            ["features", "--model", "nowhere", "a", "--out", "x.npy", "--pooling", "tokens"],
            {"by": "cli.texts.FeaturesCommand.run", "field": "--out", "hint": "--pooling"},
        ),
        (
            ["features", "--model", "nowhere", "a", "--out", "no/x.npy"],
            {"by": "base.files.check_writable", "field": "--out", "path": "no/x.npy"},
        ),
        (["fill-mask", "--model", "nowhere", "[MASK]"], {"path": "nowhere"}),
        (["fill-mask", "--model", "nowhere", "--topk", "3", "[MASK]"], {"field": "--topk", "hint": "--top-k"}),
        (["mlm", "--model", "nowhere"], {"by": "cli.arguments.parse", "field": "--corpus"}),
        (["speed", "--model", "nowhere", "--dtype", "float16"], {"by": "cli.arguments.parse", "field": "--dtype"}),
        (["glue", "--model", "nowhere", "--tasks", "colla"], {"field": "task", "hint": "'cola'"}),
        (["glue", "--model", "nowhere", "--tasks"], {"field": "--tasks"}),
        (["glue", "--model", "nowhere", "--seeds"], {"field": "--seeds"}),
        (["glue", "--model", "nowhere", "--seeds", "1", "1"], {"by": "glue.sweep.run_sweep", "field": "--seeds"}),
        (["report", "--out", "nowhere"], {"by": "experiments.report.report", "field": "runs"}),
    ],
)
def test_a_mistake_in_a_command_is_one_line(arguments, told, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    refused(lambda: evaluate.main(arguments), **told)
    assert capsys.readouterr().out == ""


def test_figures_are_printed_as_json_or_as_lines(world, capsys):
    arguments = ["mlm", "--model", world.teacher, "--corpus", world.heldout, "--length", "32", "--max-rows", "8"]
    evaluate.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"mlm_loss", "mlm_accuracy", "perplexity", "tokens"}
    evaluate.main(arguments)
    assert f"mlm_loss       {found['mlm_loss']:.4f}" in capsys.readouterr().out
