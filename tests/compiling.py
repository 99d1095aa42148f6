"""XLA's flags while tests run, programs that are compiled in a third of the time and do what their HLO says; and quick checkpoints.

A tiny model's step takes seconds to compile and milliseconds to run, so LLVM does not optimise it. XLA's own passes stay as
they are, partitioning, fusion and collectives among them. `make parity` and `make demo` compile as users do; so do all tests
with DISTILBERT_JAX_OPTIMIZE=1.
"""

import functools
import os
import types
import zlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any

DEVICES = "--xla_force_host_platform_device_count=8"


def quick_options() -> dict[str, Any]:
    """What one `jax.jit` is given as `compiler_options` to compile quickly, of what this version of XLA knows."""
    if os.environ.get("DISTILBERT_JAX_OPTIMIZE"):
        return {}
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    known = metadata.version("jaxlib").startswith("0.10.")
    return options | {"xla_cpu_use_fusion_emitters": False} if known else options


def quick_flags() -> str:
    """The same for all programs of a process: one that XLA does not know ends it."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in quick_options().items())


def few_devices() -> None:
    """A run whose config names no mesh takes one of the eight devices, as a user's does on a CPU: no partitioning, no collectives,
    an eighth of the buffers and threads. What says a mesh, and what joins processes, has all; `make_mesh.__wrapped__` is the
    package's own."""
    import jax  # here: conftest sets what it reads before it is imported

    from distilbert_jax.config import MeshConfig
    from distilbert_jax.training import sharding

    make_mesh = sharding.make_mesh

    @functools.wraps(make_mesh)
    def of_one(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
        few = devices is None and config == MeshConfig() and jax.process_count() == 1
        return make_mesh(config, jax.devices()[:1] if few else devices)

    sharding.make_mesh = of_one


def keep_programs() -> None:
    """Commands of many runs forget all programs after each, for the memory that a real model's take: in a test session those of a
    toy, and of every other test, would be compiled again and again."""
    import jax  # here: conftest sets what it reads before it is imported

    jax.clear_caches = lambda: None


def quick_cache() -> None:
    """The compilation cache of a session: JAX packs what it puts there as small as zlib can, which one that goes with the session
    need not be; and a program that this process has compiled or read is not read again, which takes a tenth of compiling it."""
    from jax._src import compilation_cache, compiler  # here: conftest sets what it reads before it is imported

    assert compilation_cache.zlib
    compilation_cache.zlib = types.SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        compress=functools.partial(zlib.compress, level=1), decompress=zlib.decompress
    )
    read, compile_and_write = compiler._cache_read, compiler._compile_and_write_cache
    loaded: dict[tuple[Any, ...], Any] = {}  # by the cache, the key in it, and the devices

    def read_once(name: str, key: str, options: Any, backend: Any, devices: Any, *rest: Any) -> tuple[Any, int | None]:
        place = compilation_cache._get_cache(backend), key, devices
        if executable := loaded.get(place):
            return executable, 0
        executable, seconds = read(name, key, options, backend, devices, *rest)
        if executable is not None:
            loaded[place] = executable
        return executable, seconds

    def compile_once(
        backend: Any, module: Any, devices: Any, options: Any, callbacks: Sequence[Any], name: str, key: str
    ) -> Any:
        executable = compile_and_write(backend, module, devices, options, callbacks, name, key)
        if (cache := compilation_cache._get_cache(backend)) and not callbacks:
            loaded[cache, key, devices] = executable
        return executable

    compiler._cache_read, compiler._compile_and_write_cache = read_once, compile_once


def quick_checkpoints() -> None:
    """Save small arrays whole. orbax cuts what is replicated into a piece for each device, each by a program of its own: on eight
    devices hundreds of them for a toy. Several processes, and `tests/training/test_checkpoint.py`, save as users do."""
    if not os.environ.get("DISTILBERT_JAX_OPTIMIZE"):
        whole_below(1 << 20)


def whole_below(size: int | None) -> None:
    """Arrays of fewer bytes a device are not cut; None: all are, as by default."""
    import jax  # here: conftest sets what it reads before it is imported
    import orbax.checkpoint as ocp

    handler = ocp.type_handlers.get_type_handler(jax.Array)
    assert hasattr(handler, "_min_slice_bytes_for_replica_parallel")
    handler._min_slice_bytes_for_replica_parallel = size
