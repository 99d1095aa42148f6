"""Plain text from disk: `.txt`, `.txt.xz` and `.txt.gz`, UTF-8, a blank line between documents."""

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distilbert_jax.base.files import check_file, open_file, read_text
from distilbert_jax.errors import InputError
from distilbert_jax.text.columns import READERS, column_texts, has_columns
from distilbert_jax.text.compressed import DamagedError, open_gzip, open_xz

_OPENERS = {".txt": None, ".xz": open_xz, ".gz": open_gzip}
# A paragraph is far shorter; without a limit, a file without line ends would be read into memory whole.
_LONGEST_LINE = 16 << 20
_COMPRESSED = {".gz", ".xz", ".bz2", ".zst", ".zip"}


class TextSources:
    """The documents of some text files, read as a stream: memory does not grow with the files.

    Args:
        paths: files named `*.txt`, `*.txt.xz` or `*.txt.gz`. One paragraph or heading per line, which ends with a line feed, a
            carriage return or both; a document never runs over the end of its file.

    Attributes:
        size: bytes on disk of all files together, compressed as they are.
        position: how many of these bytes the current iteration has read.
        continues: whether what `documents` gave last is a further piece of the document that it gave before.
        invisible: lines that it has given which show nothing and are not blank, such as one of U+FEFF or U+200B alone.

    Raises:
        InputError: a file is missing, empty or has another suffix; while reading: it is not UTF-8, has a null character, or ends
            too early.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise InputError("no text file was given: name at least one .txt, .txt.xz or .txt.gz file")
        for path in self.paths:
            check_file(path, "a text file")
            if path.suffix not in _OPENERS or (path.suffix != ".txt" and Path(path.stem).suffix != ".txt"):
                raise InputError(f"{path}: not a text file by its name: expected .txt, .txt.xz or .txt.gz", path=path)
            if any("\ud800" <= letter <= "\udfff" for letter in path.name):  # as Python reads bytes of a name
                raise InputError(
                    f"{str(path)!a}: its name is not UTF-8, and the names of texts are kept; rename it", path=path
                )
            if not path.stat().st_size:
                raise InputError(f"{path}: the file is empty", path=path)
        self.size = sum(path.stat().st_size for path in self.paths)
        self.position = self.invisible = 0
        self.continues = False

    def documents(self, largest: int) -> Iterator[list[str]]:
        """The lines of one document after the other, none of them blank; above `largest` bytes a document is cut in pieces."""
        self.invisible = 0
        for path in self.paths:
            document, size, self.continues = [], 0, False
            for line in self._lines_of(path):
                blank = not line.strip()
                length = len(line.encode())
                if document and (blank or size + length > largest):
                    yield document
                    document, size = [], 0
                    self.continues = not blank
                if not blank:
                    self.invisible += _shows_nothing(line)
                    document.append(line)
                    size += length + 1
            if document:
                yield document

    def chunks(self, largest: int) -> Iterator[tuple[bytes, bool]]:
        """Documents joined by blank lines, as many as fit into `largest` bytes, and whether the first of them is a further piece of
        the document that the chunk before ends with. Such a piece always begins a chunk: beside the one before it does not fit."""
        chunk, size, continues = [], 0, False
        for lines in self.documents(largest):
            document = "\n".join(lines).encode()
            if chunk and size + len(document) > largest:
                yield b"\n\n".join(chunk), continues
                chunk, size = [], 0
            if not chunk:
                continues = self.continues
            chunk.append(document)
            size += len(document) + 2
        if chunk:
            yield b"\n\n".join(chunk), continues

    def lines(self) -> Iterator[str]:
        """All lines that are not blank."""
        for path in self.paths:
            yield from (line for line in self._lines_of(path) if line.strip())

    def _lines_of(self, path: Path) -> Iterator[str]:
        before = sum(other.stat().st_size for other in self.paths[: self.paths.index(path)])
        with open_file(path, "a text file") as raw:
            opener = _OPENERS[path.suffix]
            for _, line in _numbered(opener(raw) if opener else raw, path):
                self.position = before + raw.tell()
                yield line


def _shows_nothing(line: str) -> bool:
    return all(letter.isspace() or unicodedata.category(letter) == "Cf" for letter in line)


def _numbered(stream: BinaryIO, name: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, without their ends, and their numbers from 1."""
    number = 0
    try:
        while line := stream.readline(_LONGEST_LINE):
            _check_length(line, number + 1, name)
            for text in _decoded(line, number + 1, name).split("\r"):
                number += 1
                yield number, text
    except DamagedError as error:
        raise InputError(
            f"{name}: damaged or cut short after line {number} or a later one ({error}); fetch or make the file again",
            path=name,
            row=number,
        ) from error


def given_texts(arguments: Sequence[str], file: str, columns: Sequence[str] = ()) -> Iterator[Any]:
    """The texts of a command: its arguments, the lines of `file` (.txt.gz and .txt.xz are decompressed) or, where neither is given,
    of standard input. Of a file that has columns (.csv, .jsonl, .parquet, …) those of the column that is named, or tuples of those
    of several.

    Raises:
        InputError: none is given, or both are; a file that cannot be read line by line (see `texts_of`) or has columns of which
            none is named (see `column_texts`), found before this returns.
    """
    if columns and not (file and has_columns(Path(file))):
        raise InputError(
            f"--column {' '.join(columns)}: is for a --file with columns ({', '.join(READERS)})", field="--column"
        )
    if arguments and file:
        raise InputError(f"texts are given as arguments and as --file {file}: give one of them", field="--file")
    if arguments:
        return iter(arguments)
    if not file:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError(
                "no text given; put texts in quotes behind the command, or name a file with --file", field="--file"
            )
        return texts_of(sys.stdin.buffer, "standard input")
    path = Path(file)
    if path.is_fifo():  # `<(command)`: it can be read only once
        return texts_of(_open_pipe(path), path)
    try:
        check_file(path, "a file with one text a line")
    except InputError as error:
        raise InputError(f"--file {error}", path=path, field="--file") from None
    for _ in _texts_in(path, columns):
        pass
    return _texts_in(path, columns)


def given_document(file: str) -> str:
    """The whole of `file` or, where none is named, of standard input, as one text.

    Raises:
        InputError: neither is there; the file has columns; it is not UTF-8, or larger than 16 MB.
    """
    if not file:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("no context given; give one with --context, or name a file with --file", field="--context")
        content = sys.stdin.buffer.read(_LONGEST_LINE + 1)
        if len(content) > _LONGEST_LINE:
            raise InputError(f"standard input: is longer than {_LONGEST_LINE >> 20} MB, too long for a text")
        try:
            return _unmarked(content.decode())
        except UnicodeDecodeError as error:
            raise InputError(f"standard input: not UTF-8 ({error.reason})", path="standard input") from None
    path = Path(file)
    if has_columns(path):
        raise InputError(
            f"--file {path}: has columns; name those of questions and contexts with --column, and leave --question out",
            path=path,
            field="--file",
            hint="--column question context",
        )
    return _unmarked(read_text(path, _LONGEST_LINE, "a file with the context"))


def _unmarked(text: str) -> str:
    """A text without the byte order mark of its file, which would move every offset into it."""
    return text.removeprefix("\ufeff")


def _texts_in(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    if has_columns(path):
        yield from column_texts(path, columns)
        return
    opener = _OPENERS.get(path.suffix.lower()) if Path(path.stem).suffix.lower() == ".txt" else None
    if opener is None and path.suffix.lower() in _COMPRESSED:
        raise InputError(
            f"--file {path}: is compressed; unpack it first: only .txt.gz and .txt.xz are read as they are",
            path=path,
            field="--file",
        )
    with open_file(path) as raw:
        yield from texts_of(opener(raw) if opener else raw, path)


def _open_pipe(path: Path) -> BinaryIO:
    """A pipe that somebody writes to: one that nobody does is empty at once, where an ordinary open would wait."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    os.set_blocking(stream.fileno(), True)
    return stream


def split_pair(text: str, number: int) -> tuple[str, str]:
    """The two texts of one line, with a tab between them; `number` is for what the error says."""
    parts = text.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"text {number}: a pair is two texts with one tab between them, found {len(parts) - 1} tabs", row=number
        )
    return parts[0], parts[1]


def texts_of(stream: BinaryIO, name: str | Path) -> Iterator[str]:
    """The lines of a file or of standard input, each of them a text; they are read as they are asked for.

    Raises:
        InputError: there is no line; a line is blank (results are told apart by their place), not UTF-8, or has a null character.
    """
    number = 0
    for number, text in _numbered(stream, name):
        if not text.strip():
            raise InputError(f"{name}, line {number}: is blank; every line is a text", path=name, row=number)
        yield text
    if not number:
        raise InputError(f"{name}: is empty; expected one text a line", path=name)


def _check_length(line: bytes, number: int, name: str | Path) -> None:
    if len(line) == _LONGEST_LINE:
        raise InputError(
            f"{name}, line {number}: longer than {_LONGEST_LINE >> 20} MiB; write one paragraph per line",
            path=name,
            row=number,
        )


def _decoded(line: bytes, number: int, name: str | Path) -> str:
    if b"\0" in line:
        raise InputError(
            f"{name}, line {number}: has a null character, which text has not; UTF-16 is to be converted to UTF-8 first",
            path=name,
            row=number,
        )
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {number}: not UTF-8 (byte {error.start + 1} of the line is "
            f"0x{error.object[error.start]:02x}); convert it to UTF-8 first",
            path=name,
            row=number,
        ) from error
