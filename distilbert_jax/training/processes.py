"""Several processes, one on each host, that train one model: what the first of them does alone, and what all agree on."""

import errno
import hashlib
from collections.abc import Callable
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


def is_first() -> bool:
    """Whether this process writes the run's files and speaks to the terminal."""
    return jax.process_index() == 0


def first(action: Callable[[], Any]) -> None:
    """Let the first process act while the others wait; they go on only where it could, see `each`."""
    each(action if is_first() else lambda: None)


def each(action: Callable[[], T]) -> T:
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
