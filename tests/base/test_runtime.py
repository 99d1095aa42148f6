"""What a process asks of its machine."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.base import runtime
from distilbert_jax.base.runtime import compiling_once

FAULTS = """
import ctypes, resource, threading
from distilbert_jax.base.runtime import keep_freed_memory

made = {called} and keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def step():
    for _ in range(20):
        buffer = libc.malloc(100 << 20)
        ctypes.memset(buffer, 1, 100 << 20)
        libc.free(buffer)

def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_thread():
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()

print(int(made), faults(step), faults(in_thread))
"""
ONCE = (100 << 20) // os.sysconf("SC_PAGE_SIZE")  # page faults of touching the buffer for the first time


def measure(called, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    script = FAULTS.format(called=called)
    run = subprocess.run(
        [sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True, check=True
    )
    return tuple(map(int, run.stdout.split()))


def glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION").startswith("glibc")
    except (AttributeError, ValueError):
        return False


@pytest.mark.skipif(not glibc(), reason="the setting is glibc's")
def test_memory_that_a_step_freed_is_there_for_the_next():
    made, main, thread = measure(called=True)
    assert made
    assert main < 1.5 * ONCE  # 20 steps, one first touch
    assert thread < 1.5 * ONCE
    assert (
        min(measure(called=False)[1:]) > 15 * ONCE
    )  # huge pages, where the system gives them, would make this test pointless


def test_a_users_own_malloc_settings_stay():
    assert measure(called=True, MALLOC_ARENA_MAX="4")[0] == 0


def test_equal_programs_compile_once_in_a_folder_that_goes_with_the_block(no_cache):
    call = lambda: jax.jit(lambda x: jnp.sin(x) @ x + 1)(jnp.ones((3, 3)))
    events = []
    listen = lambda event, **_: events.append(event)
    call()  # JAX decides at the first program whether it has a cache
    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):
            with compiling_once() as folder:
                expected = call()
                assert "/jax/compilation_cache/cache_hits" not in events
                np.testing.assert_array_equal(call(), expected)
                assert events.count("/jax/compilation_cache/cache_hits") == 1
            assert not folder.exists()
            events.clear()
        call()
        assert not any("cache_hits" in event or "cache_misses" in event for event in events)
    finally:
        jax.monitoring.unregister_event_listener(listen)


def test_a_users_own_cache_stays(tmp_path, no_cache):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with compiling_once() as folder:
        assert folder is None
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_what_was_compiled_goes_also_when_the_process_is_asked_to_leave():
    script = (
        "import os, signal; from distilbert_jax.base import runtime, signals as leaving\n"
        "with leaving.leaving_when_asked(), runtime.compiling_once() as folder:\n"
        "    print(folder, folder.exists()); os.kill(os.getpid(), signal.SIGTERM)"
    )
    theirs = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    ended = subprocess.run([sys.executable, "-c", script], env=theirs, capture_output=True, text=True, check=False)
    folder, existed = ended.stdout.split()
    assert (ended.returncode, existed, Path(folder).exists()) == (75, "True", False)


@pytest.mark.parametrize(
    ("change", "set_"),
    [
        ({}, True),
        ({"_COMPILERS": ("no_such_module",)}, False),  # nothing is installed
        ({"_DEVICES": ("/dev/null",)}, False),  # there is a device
        ({"_other_plugins": lambda: {"metal"}}, False),
    ],
    ids=["compilers alone", "none", "device", "another plugin"],
)
def test_jax_passes_over_compilers_where_there_is_no_device_for_them(change, set_, monkeypatch):
    for name in ("xla_cuda12", "xla_cuda13"):  # put back in the end
        monkeypatch.setitem(sys.modules, f"jax_plugins.{name}", sys)
    usual = {"_COMPILERS": ("wave",), "_DEVICES": ("/no/such/device*",), "_TPU_MAKER": "", "_other_plugins": set}
    for name, value in (usual | change).items():
        monkeypatch.setattr(runtime, name, value)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("JAX_PLATFORM_NAME", raising=False)
    assert not runtime.pass_over_compilers()  # JAX has been imported
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setitem(sys.modules, "wave", sys)  # stands for a compiler; put back in the end
    assert runtime.pass_over_compilers() is set_
    assert os.environ.get("JAX_PLATFORMS") == ("cpu" if set_ else None)
    assert (sys.modules["wave"] is None) is set_
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert not runtime.pass_over_compilers()
    assert os.environ["JAX_PLATFORMS"] == "tpu"
