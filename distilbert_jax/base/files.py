"""Files, JSON and arrays written atomically, there in full or not at all, and their checksums."""

import contextlib
import functools
import hashlib
import io
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distilbert_jax.errors import InputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the `with` block ends without an error.

    A disk that runs full or a process that is killed leaves what was under the name before; the OSError names `path`.
    """
    # Hosts that share the directory may write the same file at the same moment.
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # Unlike an open, a write does not say in its error what it wrote to.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, atomically."""
    array = np.ascontiguousarray(array)
    with atomic_file(path) as file:
        # Not np.save: on a full disk its OSError has no errno.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", path=path) from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError alike
        raise InputError(f"{path}: damaged, not JSON that can be read ({error})", path=path) from error


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as a PNG, atomically, and close it."""
    from matplotlib import pyplot

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    pyplot.close(figure)
    with atomic_file(path) as file:
        file.write(drawn.getvalue())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(path: Path) -> str:
    """`sha256_of`, taken once a process of a file that has not changed since, by its inode, size and times: the change time
    moves with whatever is written, though the modification time be set back."""
    stat = path.stat()
    return _known(path.resolve(), (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@functools.lru_cache(maxsize=256)
def _known(path: Path, state: tuple[int, ...]) -> str:
    return sha256_of(path)
