import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilbert_jax.errors import _LESS, counted, nearest, said, with_article

ROOT = Path(__file__).parents[1]
PROGRAM = """
import errno, os, sys
from distilbert_jax.errors import InputError, Interrupted, Preempted, one_line_errors
with one_line_errors():
    {body}
"""


def run(body: str, stdout=subprocess.PIPE) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM.replace("{body}", body)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, text=True, env=environment, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("raise InputError('a.txt: empty')", 2, "error: a.txt: empty"),
        ("raise InputError('two\\n  lines')", 2, "error: two lines"),
        ("raise KeyboardInterrupt", 130, "error: interrupted; the same command goes on from what is finished"),
        ("raise Interrupted('stopped after step 3')", 130, "error: interrupted: stopped after step 3"),
        ("raise Preempted('stopped after step 3')", 75, "error: interrupted: stopped after step 3"),
        ("raise KeyboardInterrupt('at step 3')", 130, "error: interrupted: at step 3"),
        (
            "import atexit, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM); raise Preempted('stopped')",
            75,
            "error: interrupted: stopped",
        ),
        (
            "import atexit, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT); raise KeyboardInterrupt('at 3')",
            -2,
            "error: interrupted: at 3",
        ),
        ("open('no such file')", 1, "error: No such file or directory (no such file)"),
        (
            "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'runs/x')",
            1,
            "error: No space left on device (runs/x): free some space and run the same command again; finished work is kept",
        ),
        ("raise OSError('a library said\\nthis')", 1, "error: a library said this"),
        ("raise MemoryError", 1, f"error: out of memory: {_LESS}"),
        (
            "raise type('PanicException', (BaseException,), {})('called unwrap on\\nan Err')",
            1,
            "error: a library has given up: called unwrap on an Err",
        ),
        ("pass", 0, ""),
    ],
)
def test_an_error_of_the_user_is_one_line_and_a_status(body, status, line):
    done = run(body)
    assert done.returncode == status
    assert done.stderr.splitlines() == ([line] if line else [])


def test_a_device_that_is_not_there_is_told_in_one_line():
    done = run("os.environ['JAX_PLATFORMS'] = 'abacus'; import jax; jax.devices()")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: JAX has no device here that JAX_PLATFORMS=abacus asks for")


def test_a_defect_keeps_its_traceback():
    done = run("raise ValueError('a defect')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_closed_output_is_no_error():
    done = run("os.close(1); sys.stdout = None")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_what_is_said_to_a_closed_stream_goes_nowhere_else(closed, tmp_path):
    body = "print('notice', file=sys.stderr, flush=True); print('result'); f = open('data', 'w')"
    body += "; os.write(2, b'library'); raise InputError('no')"
    program = PROGRAM.replace("{body}", body)
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ("result\n" if "1>" not in closed else "")
    assert done.stderr == ("notice\nlibraryerror: no\n" if "2>" not in closed else "")
    assert (tmp_path / "data").read_text() == ""


def bash(redirection: str, body: str) -> subprocess.CompletedProcess:
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, PROGRAM.replace("{body}", body)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("body", "status"), [("print('result')", 1), ("pass", 0), ("print('a', file=sys.stderr)", 0)])
def test_a_result_that_is_lost_because_the_output_is_closed_is_an_error(body, status):
    done = bash(">&-", body)
    assert done.returncode == status
    assert ("standard output" in done.stderr) == bool(status)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' full device")
def test_a_full_standard_output_is_named(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    done = bash("> /dev/full", "print('result')")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "standard output" in line) == (1, True)


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all():
    assert nearest("ste", ("step", "loop")) == "did you mean 'step'?"
    assert nearest("xyz", ("step", "loop")) == "known: step, loop"


def test_a_reader_that_went_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = run("print('x' * 100_000); sys.stdout.flush()", stdout=closed)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_that_takes_ascii_only_is_no_error():
    command = [sys.executable, "-c", PROGRAM.format(body="print('→ 🙂'); raise InputError('×')")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (2, rb"\u2192 \U0001f642" + b"\n")
    assert done.stderr == rb"error: \xd7" + b"\n"


def test_words_have_their_article_and_their_plural():
    assert [with_article("int"), with_article("str")] == ["an int", "a str"]
    assert [counted(number, "tensor") for number in (0, 1, 2000)] == ["0 tensors", "1 tensor", "2,000 tensors"]


def test_an_exception_that_is_a_riddle_is_said_with_its_name():
    assert (said(KeyError("a")), said(ValueError("b")), said(ValueError())) == ("KeyError: 'a'", "b", "ValueError: ")
