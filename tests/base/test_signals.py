import signal
import subprocess
import sys

import pytest

from distilbert_jax.base.signals import leaving_at_ctrl_c


@pytest.mark.parametrize(("before", "status"), [("signal.default_int_handler", -signal.SIGINT), ("signal.SIG_IGN", 0)])
def test_ctrl_c_ends_imports_without_a_word(before, status):
    """Said for both: a process that a script starts in the background is born with Ctrl-C ignored."""
    script = (
        f"import os, signal; from distilbert_jax.base.signals import leaving_at_ctrl_c; signal.signal(signal.SIGINT, {before})\n"
        "with leaving_at_ctrl_c():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except BaseException: pass"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (status, "")


def test_after_imports_ctrl_c_is_an_exception_again():
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with leaving_at_ctrl_c():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)
