"""What a process asks of its machine and of JAX's own caches, and how it leaves when it is asked to."""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from distilbert_jax.errors import InputError, Interrupted, Preempted


@contextlib.contextmanager
def leaving_at_ctrl_c() -> Iterator[None]:
    """In the `with` block Ctrl-C ends the process at once and without a word, with the status that a shell shows as 130.

    For imports: nothing has begun, and an extension module may swallow the exception that Python would raise, or crash on it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def leaving_when_asked(*, together: bool = False) -> Iterator[None]:
    """In the `with` block Ctrl-C and SIGTERM end the process with one line and the status of `Interrupted` or `Preempted`.

    For commands that go on from what is finished, around what takes no signals itself (a training loop does): reading, packing,
    compiling, writing a model. An exception would not do: raised inside a callback of an extension module it is lost. Where
    something else already listens (a notebook to Ctrl-C), it stays so.

    Args:
        together: there are several processes: SIGTERM is left to JAX's preemption service, whose handler Python does not know of.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        asked = Preempted if number == signal.SIGTERM else Interrupted
        sys.stdout.flush()
        os.write(2, b"error: interrupted; the same command goes on from what is finished\n")
        for path in _scratch:
            shutil.rmtree(path, ignore_errors=True)
        os._exit(asked.status)

    theirs = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if together:
        del theirs[signal.SIGTERM]
    taken = [number for number, handler in theirs.items() if signal.getsignal(number) is handler]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, theirs[number])


_scratch: set[str] = set()  # folders that go with the process


@contextlib.contextmanager
def compiling_once() -> Iterator[Path | None]:
    """In the `with` block a program that was compiled before is found again, though another function asks for it.

    For many runs of one shape in one process: settings, seeds and models of a grid train with equal programs. It is JAX's
    persistent compilation cache in a folder that is gone with the process, since a program for one CPU may not run on another.
    Where the user has set `JAX_COMPILATION_CACHE_DIR` or switched the cache off, nothing changes. What compiles in less than
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` (1) is not kept.

    Yields:
        The folder; None where nothing changed.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="distilbert_jax-", ignore_cleanup_errors=True) as folder:
        _scratch.add(folder)
        compilation_cache.reset_cache()  # JAX asks only once whether there is a folder
        jax.config.update("jax_compilation_cache_dir", folder)
        try:
            yield Path(folder)
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()
            _scratch.discard(folder)


_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed for the next step instead of giving it back to the system.

    XLA:CPU allocates the intermediates of a step anew each time. By default every large one is mapped, zeroed page by page at
    its first touch and unmapped again: a third of the time of a distillation step at vocabulary 30,522 on two cores. Has to be
    called before other threads allocate. Where the user has set `MALLOC_…` variables or the C library is another, nothing changes.

    Returns:
        Whether the setting was made.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    # Never map a buffer of its own; never give back the heap's end; one arena, since those of threads grow by mapping only.
    return all(mallopt(*setting) == 1 for setting in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)))


def deterministic_gpu() -> None:
    """Ask XLA for the same bits at every run on a GPU. The flag is read once, when JAX starts its backend."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"


_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_processes() -> bool:
    """Join the other processes of this run, where there are any; returns whether it did. Called before JAX starts its backend.

    By hand, three environment variables say who there is: `JAX_COORDINATOR_ADDRESS` (host:port, which the first process opens),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (from 0). Under `srun` with more than one task, under Open MPI and on a TPU pod
    JAX finds them itself (https://docs.jax.dev/en/latest/multi_process.html).

    Raises:
        InputError: one of the three variables is missing or of another form; the others were not to be found.
    """
    given = {name: os.environ[name] for name in _BY_HAND if os.environ.get(name)}
    if missing := [name for name in _BY_HAND if given and name not in given]:
        raise InputError(f"{', '.join(given)} is set, but not {', '.join(missing)}: a run by hand needs all three")
    for name in given.keys() - {_BY_HAND[0]}:
        if not given[name].isdigit():
            raise InputError(f"{name} = {given[name]}: expected a number")
    if given and not re.fullmatch(r".+:\d+", given[_BY_HAND[0]]):
        raise InputError(f"{_BY_HAND[0]} = {given[_BY_HAND[0]]}: expected host:port, such as host0:1234")
    if given and int(given[_BY_HAND[2]]) >= int(given[_BY_HAND[1]]):
        count, index = given[_BY_HAND[1]], given[_BY_HAND[2]]
        raise InputError(
            f"{_BY_HAND[2]} = {index} of {count} processes: expected 0 for the first of them, below {count}"
        )
    launched = any(int(os.environ.get(name) or 1) > 1 for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    on_tpu = any(True for name in ("accel[0-9]*", "vfio/[0-9]*") for _ in Path("/dev").glob(name))
    if not (given or launched or on_tpu):
        return False
    import jax

    try:
        if given:
            jax.distributed.initialize(given[_BY_HAND[0]], int(given[_BY_HAND[1]]), int(given[_BY_HAND[2]]))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        if given or launched:
            raise InputError(f"the processes of this run did not find each other: {error}") from None
        return False  # one TPU host that belongs to no pod
    return jax.process_count() > 1
