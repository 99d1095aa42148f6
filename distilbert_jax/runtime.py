"""What a process asks of its machine before JAX starts."""

import ctypes
import os

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
