"""Decompression of .xz and .gz that reads a file to its last byte: every stream and checksum, and what stands between and behind.

The readers of Python's standard library take a second .xz stream that does not begin as one for the end of the file, and leave the
checksum of a .gz header unread: what follows would be lost without a word. Here a file is whole where `xz -t` and `gzip -t` say so.
"""

import io
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

_CHUNK = 1 << 18
_MEMORY = 1 << 30  # for the dictionary of a stream; `xz -9` takes 65 MiB


class DamagedError(ValueError):
    """A compressed file is not what was written."""


class _Stream(Protocol):
    """One compressed stream, as `lzma.LZMADecompressor` reads it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Member:
    """One member of a .gz; zlib checks its header, CRC-32 and length."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        content = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = len(content) < max_length
        return content


class _Decompressed(io.RawIOBase):
    """The content of a compressed file as a stream of bytes.

    Args:
        raw: the file.
        new: begins a stream.
        padding: what the number of null bytes behind a stream must be a multiple of.
        between: whether such bytes may stand between two streams, too, or behind the last alone.
    """

    def __init__(self, raw: BinaryIO, new: Callable[[], _Stream], padding: int, between: bool):
        self._raw, self._new, self._padding, self._between = raw, new, padding, between
        self._stream, self._next = new(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            content = self._read(len(buffer))
        except (lzma.LZMAError, zlib.error) as error:
            raise DamagedError(str(error)) from None
        buffer[: len(content)] = content
        return len(content)

    def _read(self, most: int) -> bytes:
        while True:
            if self._stream.eof and not self._begin():
                return b""
            data = b""
            if self._stream.needs_input:
                data, self._next = self._next or self._raw.read(_CHUNK), b""
                if not data:
                    raise DamagedError("it ends within a stream")
            if content := self._stream.decompress(data, most):
                return content

    def _begin(self) -> bool:
        """Begin the stream behind one that has ended; False: the file has ended."""
        padded, rest = 0, self._stream.unused_data or self._raw.read(_CHUNK)
        while rest:
            after = rest.lstrip(b"\0")
            padded += len(rest) - len(after)
            if after:
                break
            rest = self._raw.read(_CHUNK)
        if padded % self._padding or (rest and padded and not self._between):
            raise DamagedError("bytes that belong to no stream follow one")
        if rest:
            self._stream, self._next = self._new(), rest.lstrip(b"\0")
        return bool(rest)


def open_xz(raw: BinaryIO) -> io.BufferedReader:
    """The content of an .xz file: one stream or several, null bytes in fours between and behind them.

    Raises:
        DamagedError: while it is read, where `xz -t` finds the file damaged, or it wants more than 1 GiB of memory.
    """
    new = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    return io.BufferedReader(_Decompressed(raw, new, padding=4, between=True), 1 << 20)


def open_gzip(raw: BinaryIO) -> io.BufferedReader:
    """The content of a .gz file: one member or several, perhaps null bytes behind the last.

    Raises:
        DamagedError: while it is read, where `gzip -t` finds the file damaged, or warns of what it would leave out.
    """
    return io.BufferedReader(_Decompressed(raw, _Member, padding=1, between=False), 1 << 20)
