"""Text files read line by line."""

import gzip
import io
import lzma
import os

import pytest

from distilbert_jax.text.sources import TextSources, given_texts, texts_of
from tests.runs import refused

UTF16 = "the sea\nred\n".encode("utf-16-le")


@pytest.mark.parametrize(("content", "row"), [(UTF16, 1), (b"one\ntwo\0\n", 2), (b"one\n\0\0\n", 2)])
def test_a_null_character_is_refused_with_its_file_and_line(content, row, tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(content)
    refused(lambda: list(TextSources([file]).lines()), path=str(file), row=row)
    refused(lambda: list(given_texts((), str(file))), path=str(file), row=row)


def test_a_carriage_return_ends_a_line_as_a_line_feed_does(tmp_path):
    documents = [["one", "two"], ["three"]]
    for content in (
        b"one\rtwo\r\rthree",
        b"one\rtwo\r\n\rthree\r",
        b"one\r\ntwo\r\n\r\nthree\r\n",
        b"one\ntwo\n\nthree\n",
    ):
        (tmp_path / "x.txt").write_bytes(content)
        assert list(TextSources([tmp_path / "x.txt"]).documents(1 << 20)) == documents
    assert list(texts_of(io.BytesIO(b"one\rtwo\nthree\r\n"), "x")) == ["one", "two", "three"]
    refused(lambda: list(texts_of(io.BytesIO(b"one\rtwo\r\rthree"), "x")), path="x", row=3)


def test_compressed_text_is_read_and_other_compressed_files_say_so(tmp_path):
    for name, content in (("x.txt.gz", gzip.compress(b"one\ntwo\n")), ("x.txt.xz", lzma.compress(b"one\ntwo\n"))):
        (tmp_path / name).write_bytes(content)
        assert list(given_texts((), str(tmp_path / name))) == ["one", "two"]
        (tmp_path / name).write_bytes(content[:-3])
        refused(lambda name=name: given_texts((), str(tmp_path / name)), path=name)
    for name in ("x.csv.gz", "x.gz", "x.txt.zst"):
        (tmp_path / name).write_bytes(b"text,label\na,1\n")
        refused(lambda name=name: given_texts((), str(tmp_path / name)), path=name, field="--file")


def test_a_text_whose_name_is_not_utf8_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text("a text")
    refused(lambda: TextSources([path]), by="text.sources.TextSources.__init__")
