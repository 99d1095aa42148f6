import sys

import pytest

from distilbert_jax.cli import call
from distilbert_jax.errors import InputError

MODULE = "distilbert_jax.data.corpus"


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
