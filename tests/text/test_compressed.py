"""Compressed files are read to their last byte; `xz -t` and `gzip -t` say which are whole."""

import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from distilbert_jax.text.compressed import DamagedError, open_gzip, open_xz

TEXT = b"".join(b"line %d of the text\n" % number for number in range(64))
HALF = len(TEXT) // 2
# `xz -t` and `gzip -t` were asked about each of these (xz 5.4, gzip 1.12); where they are installed, they are asked again.
XZ = [lzma.compress(TEXT[:HALF]), lzma.compress(TEXT[HALF:], check=lzma.CHECK_SHA256)]
GZ = [gzip.compress(TEXT[:HALF]), gzip.compress(TEXT[HALF:])]


def flipped(data: bytes, byte: int, bit: int = 0) -> bytes:
    return data[:byte] + bytes([data[byte] ^ (1 << bit)]) + data[byte + 1 :]


def with_header_checksum(member: bytes, wrong: int = 0) -> bytes:
    header = flipped(member, 3, 1)[:10]
    return header + ((zlib.crc32(header) & 0xFFFF) ^ wrong).to_bytes(2, "little") + member[10:]


WHOLE = {
    "two.xz": b"".join(XZ),
    "padded.xz": XZ[0] + b"\0" * 4 + XZ[1] + b"\0" * 8,
    "two.gz": b"".join(GZ),
    "padded.gz": b"".join(GZ) + b"\0" * 5,
    "checked.gz": with_header_checksum(GZ[0]) + GZ[1],
}
DAMAGED = {
    "second-header.xz": XZ[0] + flipped(XZ[1], 0),
    "second-flags.xz": XZ[0] + flipped(XZ[1], 7),
    "second-block.xz": XZ[0] + flipped(XZ[1], 30),
    "second-footer.xz": XZ[0] + flipped(XZ[1], len(XZ[1]) - 1),
    "behind.xz": b"".join(XZ) + b"more",
    "one-byte-behind.xz": b"".join(XZ) + b"\xfd",
    "padding-of-three.xz": b"".join(XZ) + b"\0" * 3,
    "padding-of-two-between.xz": XZ[0] + b"\0" * 2 + XZ[1],
    "cut.xz": b"".join(XZ)[:-1],
    "cut-in-second-header.xz": XZ[0] + XZ[1][:6],
    "another.xz": GZ[0],
    "lzma.xz": lzma.compress(TEXT, format=lzma.FORMAT_ALONE)[:-9],
    "second-header.gz": GZ[0] + flipped(GZ[1], 0),
    "second-checksum.gz": GZ[0] + flipped(GZ[1], len(GZ[1]) - 8),
    "second-length.gz": GZ[0] + flipped(GZ[1], len(GZ[1]) - 1),
    "behind.gz": b"".join(GZ) + b"more",
    "one-byte-behind.gz": b"".join(GZ) + b"\x1f",
    "member-behind-padding.gz": GZ[0] + b"\0" * 4 + GZ[1],
    "reserved-flag.gz": flipped(b"".join(GZ), 3, 5),
    "wrong-header-checksum.gz": with_header_checksum(GZ[0], wrong=1) + GZ[1],
    "cut.gz": b"".join(GZ)[:-1],
    "cut-in-second-header.gz": GZ[0] + GZ[1][:6],
    "another.gz": XZ[0],
}


def content(name: str, data: bytes) -> bytes:
    return {"xz": open_xz, "gz": open_gzip}[name.rpartition(".")[2]](io.BytesIO(data)).read()


def is_whole(name: str, data: bytes, directory) -> bool | None:
    """What the tool says; None where it is not installed."""
    program = shutil.which("xz" if name.endswith("xz") else "gzip")
    (directory / name).write_bytes(data)
    return program and subprocess.run([program, "-t", str(directory / name)], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", WHOLE)
def test_every_stream_of_a_whole_file_is_read(name, tmp_path):
    assert content(name, WHOLE[name]) == TEXT
    assert is_whole(name, WHOLE[name], tmp_path) in (True, None)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(name, tmp_path):
    with pytest.raises(DamagedError):
        content(name, DAMAGED[name])
    assert is_whole(name, DAMAGED[name], tmp_path) in (False, None)


@pytest.mark.parametrize(("name", "data"), [("a.xz", XZ), ("a.gz", GZ)])
def test_a_flipped_bit_is_refused_or_changes_nothing(name, data):
    whole = b"".join(data)
    for byte in range(len(whole)):
        with contextlib.suppress(DamagedError):
            assert content(name, flipped(whole, byte, byte % 8)) == TEXT, byte


def test_a_file_is_read_in_parts_of_any_size():
    text = np.random.default_rng(0).integers(0, 255, 3_000_000, np.uint8).tobytes() + bytes(3_000_000)
    for opened in (open_xz(io.BytesIO(lzma.compress(text, preset=0))), open_gzip(io.BytesIO(gzip.compress(text, 1)))):
        parts = iter(lambda opened=opened: opened.read(777_777), b"")
        assert b"".join(parts) == text


def test_a_stream_that_wants_gigabytes_is_refused():
    narrow = lzma.compress(TEXT)
    size = (narrow[12] + 1) * 4  # of the header of the first block, behind the 12 bytes of the stream's
    header = bytearray(narrow[12 : 12 + size - 4])
    header[header.index(b"\x21\x01") + 2] = 37  # a dictionary of 1.5 GiB
    wide = narrow[:12] + header + zlib.crc32(header).to_bytes(4, "little") + narrow[12 + size :]
    with pytest.raises(DamagedError):
        content("a.xz", wide)
