"""Runtime of a process: what it asks of its machine's memory, of the GPU's determinism and of JAX's compilation cache."""

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distilbert_jax.base.signals import _scratch


@contextlib.contextmanager
def compiling_once() -> Iterator[Path | None]:
    """In the `with` block a program that was compiled before is found again, though another function asks for it.

    For many runs of one shape in one process: settings, seeds and models of a sweep train with equal programs. It is JAX's
    persistent compilation cache in a folder that is gone with the process, since a program for one CPU may not run on another.
    Where the user has set `JAX_COMPILATION_CACHE_DIR` or switched the cache off, nothing changes. What compiles in less than
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` (1) is not kept.

    Yields:
        The folder; None where nothing changed.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
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
