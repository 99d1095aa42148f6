"""Runtime of a process: what it asks of its machine's memory, of a GPU's determinism, of JAX's platforms and its cache."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
import tempfile
import types
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


# Plugins of JAX that `distilbert_jax[plan]` and `[plan-gpu]` bring to compile with, and what a machine has that can run them.
_COMPILERS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
_PLUGINS = {"xla_cuda12", "xla_cuda13"}
_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")
_TPU_MAKER = "0x1ae0"


def pass_over_compilers() -> bool:
    """Let JAX start on the CPU where libtpu or XLA's GPU plugin is installed and the machine has no device for it.

    They are there for `distilbert-jax plan`, which starts them itself. Left alone, JAX tries each at its start, and where there is
    no device they print warnings and a traceback. Nothing changes where `JAX_PLATFORMS` is set, where there may be a device, where
    a plugin of another maker is installed, or JAX has been imported.

    Returns:
        Whether the platform was set.
    """
    if "jax" in sys.modules or os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME"):
        return False
    if not any(map(importlib.util.find_spec, _COMPILERS)) or _other_plugins() or _accelerators():
        return False
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in _COMPILERS:  # JAX imports these whatever the platform is, and the GPU's say that they see no driver
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]  # Python's way to say that it cannot be imported
    for name in _PLUGINS:  # JAX calls the `initialize` of each that is installed
        idle = types.ModuleType(f"jax_plugins.{name}")
        vars(idle)["initialize"] = lambda: None
        sys.modules[idle.__name__] = idle
    return True


def _other_plugins() -> set[str]:
    """Plugins of JAX that are not ours to pass over."""
    spec = importlib.util.find_spec("jax_plugins")
    modules = {one.name for one in pkgutil.iter_modules(spec.submodule_search_locations)} if spec else set()
    named = {point.value.rpartition(".")[2] for point in importlib.metadata.entry_points(group="jax_plugins")}
    return (modules | named) - _PLUGINS


def _accelerators() -> bool:
    """Whether the machine may have a GPU or a TPU: what JAX and its plugins look for themselves."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    made_by = {file.read_text("utf-8", "replace").strip() for file in vendors}
    return _TPU_MAKER in made_by or any(any(Path("/").glob(pattern[1:])) for pattern in _DEVICES)


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


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # XLA's flag


def deterministic_gpu() -> None:
    """Ask XLA for the same bits at every run on a GPU. The flag is read once, when JAX starts its backend."""
    if DETERMINISTIC not in (flags := os.environ.get("XLA_FLAGS", "")).split():
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()
