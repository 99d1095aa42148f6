"""Files: regular ones opened, JSON from outside read, and all that is written there in full or not at all; checksums."""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from distilbert_jax.errors import InputError, shortened

Root = TypeVar("Root")

JSON_BYTES = 16 << 20  # parsed, the worst of it takes some 25 times as much
JSON_DEPTH = 100
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ROOTS = {dict: "an object", list: "a list"}


def kind_of_place(mode: int) -> str:
    """What a path leads to, by `st_mode`, as errors call it: "a file", "a directory", "a named pipe" …"""
    for holds, name in (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if holds(mode):
            return name
    return "a device"


def check_file(path: str | os.PathLike, expected: str = "a file") -> Path:
    """A path that leads to a regular file, for libraries that open it by its name. Links are followed.

    Args:
        expected: what it should be, as the error calls it.

    Raises:
        InputError: nothing is there, or a directory, a pipe, a socket or a device, which is not opened.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file", path=path) from None
    except ValueError as error:  # a null byte in a name that another file gives
        raise InputError(f"{str(path)!r}: cannot be the name of a file ({error})", path=path) from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is {kind_of_place(mode)}; expected {expected}", path=path)
    return path


def check_directory(path: str | os.PathLike, expected: str = "a directory") -> Path:
    """A path that leads to a directory.

    Args:
        expected: what it should be, as the error calls it.

    Raises:
        InputError: nothing is there, or something else.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such directory; expected {expected}", path=path) from None
    if not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is {kind_of_place(mode)}; expected {expected}", path=path)
    return path


def open_file(path: str | os.PathLike, expected: str = "a file") -> io.BufferedReader:
    """Open a regular file for reading, and nothing else: a pipe without a writer would wait for one, a device never ends.

    Raises:
        InputError: as `check_file`.
    """
    path = check_file(path, expected)
    # What is there may have been replaced since; an open that does not wait finds out.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if stat.S_ISREG(mode := os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path}: is {kind_of_place(mode)}; expected {expected}", path=path)


def read_bytes(path: str | os.PathLike, limit: int, expected: str = "a file") -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        InputError: as `check_file`, or the file is larger.
    """
    with open_file(path, expected) as file:
        content = file.read(limit + 1)  # some files (of /proc) have more than their size says
    if len(content) > limit:
        raise InputError(f"{path}: has more than {limit:,} bytes; {expected} of this kind has not", path=path)
    return content


def read_text(path: str | os.PathLike, limit: int = JSON_BYTES, expected: str = "a file") -> str:
    """The content of a regular UTF-8 file of at most `limit` bytes; line ends stay as they are.

    Raises:
        InputError: as `check_file`, the file is larger, or not UTF-8: the line is named.
    """
    return _decoded(read_bytes(path, limit, expected), str(path))


def _decoded(content: bytes, where: str, row: int | None = None) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = row or content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{where}: damaged, not UTF-8 (line {line}: byte 0x{content[error.start]:02x})", path=where, row=line
        ) from None


def read_json(path: str | os.PathLike, root: type[Root], *, limit: int = JSON_BYTES, finite: bool = True) -> Root:
    """Read a JSON file that may come from anywhere: `parse_json` of a regular file.

    Args:
        root: what the whole is: `dict`, `list`, or `object` for anything.
        limit: bytes that the file may have.
        finite: refuse numbers that are not.

    Raises:
        InputError: the file is missing, no regular one, too large, or as `parse_json`.
    """
    return parse_json(read_bytes(path, limit), root, str(path), finite=finite)


def parse_json(
    content: str | bytes, root: type[Root], where: str, *, row: int | None = None, finite: bool = True
) -> Root:
    """JSON as its standard has it: UTF-8, each key of an object once, `JSON_DEPTH` levels, text that is valid Unicode.

    Args:
        where: the file, for errors.
        row: the line of the file that this is; None: it is the whole file.
        finite: refuse numbers that are not, or that float64 cannot hold.

    Raises:
        InputError: it is not that, or something else than a `root`.
    """
    text = _decoded(content, where, row) if isinstance(content, bytes) else content
    place = f"line {row}: " if row else ""

    def wrong(what: object, line: int | None = row) -> InputError:
        return InputError(f"{where}: damaged, not JSON that can be read ({what})", path=where, row=line)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise wrong(f"{place}{shortened(repr(twice))} is there twice")
        return values

    try:
        value = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        line = row or error.lineno
        raise wrong(f"line {line}: {error.msg}", line) from None
    except RecursionError:
        raise wrong(f"{place}nested more than {JSON_DEPTH} deep") from None
    except InputError:
        raise
    except ValueError:
        raise wrong(f"{place}a number has thousands of digits") from None
    if problem := _problem(value, finite, surrogates=bool(_SURROGATE.search(text))):
        raise wrong(f"{place}{problem}")
    if not isinstance(value, root):
        what = f"expected {_ROOTS.get(root, root.__name__)}, got {shortened(repr(value))}"
        raise InputError(f"{where}: {place}{what}", path=where, row=row)
    return value


def _problem(value: Any, finite: bool, surrogates: bool) -> str:
    """What is wrong with a parsed value, which is gone through level by level; "" where nothing is."""
    level, depth = [value], 0
    while level:
        depth += 1
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
                if surrogates:
                    below += one
            elif isinstance(one, list):
                below += one
            elif finite and isinstance(one, float) and not math.isfinite(one):
                return "a number is not finite"
            elif surrogates and isinstance(one, str) and any("\ud800" <= letter <= "\udfff" for letter in one):
                return "a text is not valid Unicode"
        if below and depth > JSON_DEPTH:
            return f"nested more than {JSON_DEPTH} deep"
        level = below
    return ""


def as_name(text: str, otherwise: str) -> str:
    """A text, such as a path or a hub id, as the name of a file or folder; `otherwise` where nothing of it can stand in one."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or otherwise


def check_writable(
    path: str | os.PathLike, option: str, *, directory: bool = False, inputs: Iterable[str | os.PathLike] = ()
) -> Path:
    """A path that can be written to, asked before the work whose result goes there. Nothing is made.

    Args:
        option: that names it, for the error.
        directory: a directory is meant, which may be there or not, as may those above it; else a file in one that is there.
        inputs: what is read, and must not be written over, under whatever name.

    Raises:
        InputError: it is one of `inputs`, something else is there, it lies under a file, or the place may not be written to.
    """
    path = Path(path)
    wrong = lambda what: InputError(f"{option} {path}: {what}", path=path, field=option)
    for given in inputs:
        with contextlib.suppress(OSError):
            if path.exists() and Path(given).samefile(path):
                raise wrong("is the file that is read; choose another name")
    expected = "a directory" if directory else "a file"
    above = path.absolute()
    try:
        mode = path.stat().st_mode
        if directory != stat.S_ISDIR(mode) or not (directory or stat.S_ISREG(mode)):
            raise wrong(f"is {kind_of_place(mode)}; expected the name of {expected}")
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise wrong("is a link to nothing; remove it, or choose another name") from None
        above = next(one for one in above.parents if one.exists() or one.is_symlink())
        if not above.is_dir():
            there = "a link to nothing" if above.is_symlink() else kind_of_place(above.stat().st_mode)
            raise wrong(f"{above} is {there}, under which nothing can lie") from None
        if not directory and above != path.absolute().parent:
            raise wrong(f"the folder {path.parent} does not exist; make it first") from None
    if not os.access(above, os.W_OK) or not os.access(above if above.is_dir() else above.parent, os.W_OK):
        raise wrong(f"{above} may not be written to")
    return path


def check_results_place(path: str | os.PathLike, option: str) -> Path:
    """`check_writable` of a directory for results.json, tables and plots.

    Raises:
        InputError: as there, or a run or a model lies in it, whose results.json would be replaced.
    """
    path = check_writable(path, option, directory=True)
    if (path / "config.json").exists():
        raise InputError(
            f"{option} {path}: holds a run or a model, with files of its own; name another directory",
            path=path,
            field=option,
        )
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the `with` block ends without an error.

    A disk that runs full or a process that is killed leaves what was under the name before; the OSError names `path`. A link is
    followed: what it names is replaced, not the link.

    Raises:
        InputError: a directory, a device or a pipe has the name; it stays as it is.
    """
    target = Path(os.path.realpath(path))
    if target.exists():
        check_file(target, "the name of a file to write")
    # Hosts that share the directory may write the same file at the same moment.
    partial = target.with_name(f".{target.name[:50]}.{platform.node()}-{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # as when the name is too long: the first error tells
            partial.unlink(missing_ok=True)
        # Unlike an open, a write does not say in its error what it wrote to.
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array of an .npy file, never a pickle or an archive.

    Args:
        mapped: read only, from the disk as it is used.

    Raises:
        InputError: there is no such file, or it is damaged; the error says why.
    """
    with open_file(path) as file:
        try:
            return np.lib.format.open_memmap(path, mode="r") if mapped else np.lib.format.read_array(file)
        except Exception as error:  # NumPy parses the header as Python, and lets through what that raises
            raise InputError(f"{path}: damaged, no array ({error!s:.100})", path=path) from None


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, atomically."""
    array = np.ascontiguousarray(array)
    with atomic_file(path) as file:
        # Not np.save: on a full disk its OSError has no errno.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def finite_values(value: Any) -> Any:
    """A value of JSON with null in the place of numbers that are not finite, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: finite_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite_values(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


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
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(path: Path) -> str:
    """`sha256_of`, taken once a process of a file that has not changed since, by its inode, size and times: the change time
    moves with whatever is written, though the modification time be set back."""
    status = check_file(path).stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return _known(path.resolve(), (status.st_dev, status.st_ino, status.st_size, *times))


@functools.lru_cache(maxsize=256)
def _known(path: Path, state: tuple[int, ...]) -> str:
    return sha256_of(path)
