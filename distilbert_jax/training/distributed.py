"""Distributed training, a process on each host: what the first of them does alone, and what all agree on."""

import errno
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distilbert_jax.errors import InputError

T = TypeVar("T")
_LONGEST = 4096  # bytes of a message


def several() -> bool:
    return jax.process_count() > 1


def is_main_process() -> bool:
    """Whether this process writes the run's files and speaks to the terminal."""
    return jax.process_index() == 0


def on_main_process(action: Callable[[], Any]) -> None:
    """Let the first process act while the others wait; they go on only where it could, see `on_all_processes`."""
    on_all_processes(action if is_main_process() else lambda: None)


def on_all_processes(action: Callable[[], T]) -> T:
    """Let every process act, and go on only where all of them could: a process that left alone would be waited for.

    Raises:
        InputError, OSError: the action failed in a process; in all of them, and with the same words.
    """
    result, message = None, b""
    try:
        result = action()
    except InputError as error:
        if not several():
            raise
        message = f"0 {error}".encode()
    except OSError as error:
        if not several():
            raise
        where = f" ({error.filename})" if error.filename else ""
        message = f"{error.errno or errno.EIO} {error.strerror or error}{where}".encode()
    if several() and (told := _tell(message)):
        number, _, words = told.partition(" ")
        raise OSError(int(number), words) if int(number) else InputError(words)
    return cast(T, result)


def _tell(message: bytes) -> str:
    """The message of the first process that has one, in every process; empty where none has."""
    given = np.frombuffer(message[:_LONGEST].ljust(_LONGEST, b"\0"), np.uint8)
    told = (bytes(row).rstrip(b"\0") for row in multihost_utils.process_allgather(given))
    return next(filter(None, told), b"").decode(errors="replace")


def check_same(what: str, text: str) -> None:
    """Raise InputError, in every process, unless all of them were given the same `text`."""
    if several():
        digests = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
        other = np.flatnonzero((digests != digests[0]).any(axis=1))
        if len(other):
            raise InputError(f"{what} of process {other[0]} is not that of process 0: start all with the same command")


def whole(tree: T, mesh: Mesh) -> T:
    """Arrays that lie cut over the mesh as whole ones that every process can read. Called by all of them."""
    return jax.jit(lambda values: values, out_shardings=NamedSharding(mesh, P()))(tree) if several() else tree


def stop_together(step: int) -> bool:
    """Whether to stop after this step, because one of the processes was sent SIGTERM; all get the same answer for a step.

    Called by all of them after every step.
    """
    return multihost_utils.reached_preemption_sync_point(step)


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
            raise InputError(f"{name} = {given[name]}: expected a number", field=name)
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
