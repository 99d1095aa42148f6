"""`distilbert-jax`: the table of commands, its help, and names that are unknown."""

import os
import subprocess
import sys

import pytest

import distilbert_jax
import evaluate
import train
from distilbert_jax import families
from distilbert_jax.cli import renamed
from distilbert_jax.cli.main import COMMANDS, main
from distilbert_jax.configs import shipped
from distilbert_jax.errors import InputError
from tests.runs import ROOT, refused

MAINS = {"distilbert-jax": main, "python train.py": train.main, "python evaluate.py": evaluate.main}


def leaves(call, *args):
    with pytest.raises(SystemExit) as left:
        call(*args)
    return left.value.code


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["-h"], 0), (["--help"], 0)])
def test_help_is_there_without_a_command(name, arguments, status, capsys):
    assert leaves(MAINS[name], arguments) == status
    captured = capsys.readouterr()
    assert name in (captured.err if status else captured.out)
    assert (captured.out if status else captured.err) == ""


def test_help_lists_every_command(capsys):
    leaves(main, ["--help"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == list(COMMANDS)
    leaves(evaluate.main, ["--help"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == list(evaluate.COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_command_has_help(command, capsys):
    assert leaves(main, [command, "--help"]) == 0
    assert f"usage: distilbert-jax {command}" in capsys.readouterr().out


def test_a_command_of_a_checkout_goes_by_the_name_that_was_typed(capsys):
    leaves(evaluate.main, ["mlm", "--help"])
    assert "usage: evaluate.py mlm" in capsys.readouterr().out


HELP = """
import sys
from distilbert_jax.cli.main import main

for args in ARGS:
    try:
        main(args)
    except SystemExit:
        pass
sys.exit(any(name in sys.modules for name in ("jax", "flax", "orbax")))
"""


def test_no_help_waits_for_jax():
    """Of commands and of configs, all in one process."""
    args = [["--help"], *([name, "--help"] for name in COMMANDS), ["configs"]]
    args += [["train", name, "--help"] for name in ("distilbert_base", "demo:student", "glue", "ablations:no_ce")]
    ended = subprocess.run(
        [sys.executable, "-c", HELP.replace("ARGS", repr(args))], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    assert ended.returncode == 0


def test_the_list_of_commands_comes_without_anything_heavy():
    code = (
        "import sys, distilbert_jax.cli.main; sys.exit(any(name in sys.modules for name in ('numpy', 'tyro', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_an_unknown_command_is_answered_with_the_nearest():
    for name, near in (("trian", "'train'"), ("fillmask", "'fill-mask'"), ("xyz", "fill-mask")):
        with pytest.raises(InputError) as caught:
            main([name])
        assert caught.value.field == name
        assert near in caught.value.hint
    with pytest.raises(InputError) as caught:
        main(["mlm", "--model", "m"])
    assert caught.value.hint == "evaluate"
    assert set(renamed.COMMANDS.values()) <= set(COMMANDS)


def test_the_version_is_the_packages(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"distilbert-jax {distilbert_jax.__version__}\n"


def test_the_package_is_the_command_and_no_module_beside_it():
    line = [sys.executable, "-m", "distilbert_jax", "trian"]
    ended = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"}
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: distilbert-jax trian: ")
    guarded = [
        path for path in (ROOT / "distilbert_jax").rglob("*.py") if "if __name__" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in guarded] == ["__main__.py"]


def test_configs_are_listed_with_their_first_line_and_variants(capsys):
    main(["configs"])
    listed = capsys.readouterr().out
    for name in shipped():
        assert f"{name}: " in listed
    assert "demo:  teacher student copied control glue" in listed
    assert "miniature:gpu/  teacher triple" in listed


def test_a_file_of_ones_own_is_run_before_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(families, "_REGISTERED", dict(families._REGISTERED))
    file = tmp_path / "twin.py"
    file.write_text(
        "import dataclasses\n\nfrom distilbert_jax import families\n\n"
        'families.register(dataclasses.replace(families.BERT, name="twin"))\n'
    )
    main(["--with", str(file), "configs"])
    assert "distilbert_base" in capsys.readouterr().out
    assert "twin" in families.known()
    file.write_text("\n1 / 0\n")
    with pytest.raises(InputError) as caught:
        main(["--with", str(file), "configs"])
    assert (caught.value.path, "line 2" in str(caught.value)) == (str(file), True)
    for args in (["--with"], ["--with", str(tmp_path / "missing.py"), "configs"]):
        with pytest.raises(InputError) as caught:
            main(args)
        assert caught.value.field == "--with"


def test_a_file_to_run_first_is_a_regular_one_and_does_not_end_python(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    fifo = str(tmp_path / "fifo")
    refused(lambda: main(["--with", fifo, "configs"]), "is not a regular file", path=fifo, field="--with")
    (tmp_path / "ends.py").write_text("\nraise SystemExit\n")
    line = refused(lambda: main(["--with", str(tmp_path / "ends.py"), "configs"]), "must not end Python", row=2)
    assert "config " not in line


def test_a_file_to_run_first_stands_before_the_command():
    refused(lambda: main(["train", "demo:teacher", "--with", "mine.py"]), by="cli.main.main", field="--with")
    for name in ("nothing.py", "."):
        refused(lambda name=name: main(["--with", name, "train"]), by="cli.main._run_first", path=name)


def test_a_config_that_says_what_a_sweep_decides_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from distilbert_jax.config import *\n\n\ndef get_config():\n    return FinetuneConfig(task='rte')\n"
    )
    refused(lambda: main(["glue", str(file)]), by="cli.glue._check_other", path=str(file), hint="--tasks")
