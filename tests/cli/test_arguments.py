"""Arguments: their mistakes in one line, and what was once called otherwise."""

import io
import json
import re
import sys
from dataclasses import dataclass

import pytest

from distilbert_jax.base.config_io import load_config as load
from distilbert_jax.base.config_io import load_variants
from distilbert_jax.cli import renamed
from distilbert_jax.cli.arguments import calling, check_effect, load_config, parse, print_json
from distilbert_jax.cli.glue import COMMANDS as GLUE
from distilbert_jax.cli.glue import GlueCommand
from distilbert_jax.cli.prepare import COMMANDS
from distilbert_jax.cli.train import PretrainCommand
from distilbert_jax.config import AugmentConfig, ExperimentConfig, FinetuneConfig, LossConfig, PretrainConfig
from distilbert_jax.errors import InputError
from tests.runs import ROOT, change, refused


def command(out: str, processes: int | None = None) -> None:
    """A command."""
    print("on stderr:", out, processes, file=sys.stderr)


@pytest.mark.parametrize(
    ("arguments", "field", "shown"),
    [
        ([], "--out", "--out"),
        (["--out", "a", "--procs", "2"], "--procs", "--procs"),
        (["--out", "a", "--processes", "two"], "--processes", "'two'"),
    ],
)
def test_a_mistake_on_a_commands_line_is_one_line(arguments, field, shown):
    refused(
        lambda: calling(command)(arguments, "a command"),
        "a command: ",
        "--help",
        shown,
        by="cli.arguments.parse",
        field=field,
    )


@dataclass(frozen=True)
class Several:
    """A command's options."""

    text: tuple[str, ...] = ()
    length: int = 1
    lowercase: bool = True


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--text", "a", "--length", "2", "--text", "b"], "--text"),
        (["--text", "a", "b", "--text=c"], "--text"),
    ],
)
def test_of_a_list_given_twice_no_value_is_lost(arguments, field):
    refused(lambda: parse(Several, arguments, prog="p"), by="cli.arguments.check_lists", field=field)


def test_of_the_commands_and_configs_lists_are_known():
    for args in (["--run.seed", "1", "--run.seed", "2"], ["--init.layers", "0", "--init.layers", "0"]):
        parse(PretrainCommand, args, prog="p", default=PretrainCommand(PretrainConfig()))
    twice = ["--init.layers", "0", "--init.layers", "1"]
    refused(
        lambda: parse(PretrainCommand, twice, prog="p", default=PretrainCommand(PretrainConfig())),
        field="--init.layers",
    )
    twice = ["--tokenizer", "t", "--out", "o", "--text", "a", "--text", "b"]
    refused(lambda: COMMANDS["corpus"](twice, "p"), field="--text")


def test_an_option_may_be_given_twice_with_the_same_values_and_of_one_the_last_counts():
    again = ["--text", "a", "b", "--length=2", "--no-lowercase"]
    assert parse(Several, [*again, *again, "--length", "3"], prog="p") == Several(("a", "b"), 3, False)


TAUGHT = change(FinetuneConfig(), distill__teacher="t", augment=AugmentConfig(copies=2, model="m"))
DISTILLED = PretrainConfig(objective="distillation", teacher="t")
OWN = change(DISTILLED, objective="mine", loss__kl__weight=0.0)  # may read what it likes


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (FinetuneConfig(), "distill.alpha", 0.9),
        (FinetuneConfig(), "augment.share", 0.5),
        (change(TAUGHT, augment__copies=0), "augment.model", "n"),
        (TAUGHT, "distill.hidden.student_layers", (0,)),
        (change(TAUGHT, distill__alpha=0.0), "distill.temperature", 4.0),
        (PretrainConfig(), "loss.kl.weight", 1.0),
        (change(DISTILLED, loss__kl__weight=0.0), "loss.kl.temperature", 4.0),
        (DISTILLED, "loss.attention_scores.teacher_layers", (1,)),
        (change(DISTILLED, masking__weighting="uniform"), "masking.smoothing", 1.0),
        (change(DISTILLED, masking__random=0.0), "masking.random_differs", True),
        (DISTILLED, "init.layers", (0,)),
        (DISTILLED, "init.copy_transform", False),
    ],
)
def test_an_option_that_changes_nothing_is_refused(config, field, value):
    head, *rest = field.split(".")
    now = change(config, **{"__".join([head, *rest]): value})
    refused(lambda: check_effect(config, now), by="cli.arguments.check_effect", field=f"--{field.replace('_', '-')}")


@pytest.mark.parametrize(
    ("given", "swept"),
    [
        ("--optimizer.learning-rate 3e-5", "--sweep.learning-rate 5e-5 1e-4"),
        ("--batch-size 8", "--sweep.batch-size 16"),
        ("--epochs 7", "--sweep.epochs 3 10"),
    ],
)
def test_a_value_beside_a_sweep_over_its_field_is_refused(given, swept, monkeypatch):
    ran = []
    monkeypatch.setattr(GlueCommand, "run", lambda command: ran.append(command.sweep))
    ask = lambda *options: GLUE["glue"](["--model", "m", *" ".join(options).split()], "p")
    refused(lambda: ask(given, swept), by="cli.arguments.check_effect", field=given.split()[0], hint=swept.split()[0])
    for options in ((given,), (swept,), ("--length 64", swept)):
        ask(*options)
    assert len(ran) == 3


@pytest.mark.parametrize(
    ("config", "now"),
    [
        (TAUGHT, change(TAUGHT, distill__alpha=0.9, augment__share=0.5)),
        (TAUGHT, change(TAUGHT, distill__teacher="")),
        (TAUGHT, change(TAUGHT, augment__copies=0)),
        (TAUGHT, change(TAUGHT, distill__alpha=0.0)),
        (DISTILLED, change(DISTILLED, objective="masked_lm", teacher="")),
        (DISTILLED, change(DISTILLED, loss=LossConfig(chunk=4))),
        (DISTILLED, change(DISTILLED, loss__attention_scores__weight=1.0)),
        (DISTILLED, change(DISTILLED, loss__kl__weight=0.0)),
        (OWN, change(OWN, loss__kl__temperature=4.0)),
    ],
)
def test_an_option_that_takes_effect_or_takes_something_away_is_not(config, now):
    check_effect(config, now)


def test_a_command_gets_its_arguments_and_keeps_its_stderr(capsys):
    calling(command)(["--out", "a", "--processes", "2"], "a command")
    assert capsys.readouterr().err == "on stderr: a 2\n"


def test_a_mistake_in_a_field_keeps_its_name():
    with pytest.raises(InputError) as caught:
        parse(PretrainConfig, ["--run.seed", "-1"], prog="p")
    assert caught.value.field == "seed"


@pytest.mark.parametrize(
    ("option", "now"),
    [
        ("--guide.teacher", "--distill.teacher"),
        ("--guide.temperature=2", "--distill.temperature"),
        ("--grid.learning-rate", "--sweep.learning-rate"),
        ("--held-out", "--selection-split"),
        ("--shapes", "leave it out"),
        ("--glue.shapes=2", "leave it out"),
        ("--held_out", "--selection-split"),
        ("--arms", "--variants"),
        ("--loss.alpha-ce", "--loss.kl.weight"),
        ("--loss.ce_tokens=masked", "--loss.kl.tokens"),
    ],
)
def test_an_option_of_an_earlier_version_is_answered_with_its_new_name(option, now):
    with pytest.raises(InputError) as caught:
        parse(FinetuneConfig, ["--task", "rte", option, "1"], prog="p")
    assert (caught.value.field, caught.value.hint) == (option.partition("=")[0], now)


def test_an_option_that_a_command_has_may_be_called_as_another_was():
    @dataclass(frozen=True)
    class Options:
        arms: int = 2

    assert parse(Options, ["--arms", "3"], prog="p").arms == 3


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("configs/demo/teacher.py", "demo:teacher"),
        ("/a/b/configs/demo/glue.py", "demo:glue"),
        ("configs/ablations/no_ce.py", "ablations:no_ce"),
        ("configs/ablations/demo/full.py", "ablations:demo/full"),
        ("configs/ablations/demo", "ablations:demo"),
        ("configs/ablations", "ablations"),
        ("configs/miniature/experiment.py", "miniature"),
        ("configs/miniature/experiment.py:gpu", "miniature:gpu"),
        ("configs/miniature/triple.py", "miniature:triple"),
        ("configs/miniature/triple.py:cpu", "miniature:triple"),
        ("configs/miniature/triple.py:gpu", "miniature:gpu/triple"),
    ],
)
def test_a_config_file_of_an_earlier_version_is_answered_with_its_new_name(before, now, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_config(before)
    assert (caught.value.path, caught.value.hint) == (before, now)
    if now.startswith("ablations") and "/" not in before.partition("ablations")[2].removeprefix("/demo"):
        assert len(load_variants(now, PretrainConfig)) == 5
    else:
        assert load(now, PretrainConfig, FinetuneConfig, ExperimentConfig)


def test_what_was_never_a_config_stays_unknown():
    assert renamed.config("configs/distilbert_base.py") is None
    assert renamed.config("mine/demo/teacher.py") is None


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1"])
def test_json_is_valid_whatever_the_output_takes_and_the_numbers_are(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
    print_json({"text": "中 × 🙂 \udcff", "scores": [0.5, float("nan")], "worst": (float("-inf"),)})
    sys.stdout.flush()
    found = json.loads(raw.getvalue().decode(encoding), parse_constant=lambda name: pytest.fail(name))
    assert found == {"text": "中 × 🙂 \udcff", "scores": [0.5, None], "worst": [None]}


def test_the_comment_of_an_option_stands_where_help_reads_it():
    """A formatter moves a default and its comment into brackets where the line gets too long: then `--help` has no text."""
    for file in (ROOT / "distilbert_jax/config.py", *(ROOT / "distilbert_jax/cli").glob("*.py")):
        moved = re.search(r"^    (\w+): [^\n=]+ = \(\n[^\n]+  # ", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert moved is None, f"{file}: {moved[1]}"
