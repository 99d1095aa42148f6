"""Several processes, one on each host, that train one model: what the first of them does alone, and what all agree on."""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

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
    """Let the first process act while the others wait.

    Raises:
        InputError: the action was refused, in every process and with the same words.
    """
    message = b""
    if is_first():
        try:
            action()
        except InputError as error:
            message = str(error).encode()
            if not several():
                raise
    if several() and (told := _tell(message)):
        raise InputError(told)


def _tell(message: bytes) -> str:
    """The first process' message, in every process."""
    given = np.frombuffer(message[:_LONGEST].ljust(_LONGEST, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(given)).rstrip(b"\0").decode(errors="replace")


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
