import errno
import functools
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from distilbert_jax.base.files import (
    atomic_file,
    check_directory,
    check_file,
    check_results_place,
    check_writable,
    fingerprint_of,
    open_file,
    parse_json,
    read_array,
    read_json,
    read_text,
    sha256_of,
    write_array,
    write_json,
)
from distilbert_jax.errors import InputError, shortened
from tests.runs import refused


def _nothing(path):
    pass


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def _link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


NO_FILES = [
    _nothing,
    Path.mkdir,
    _pipe,
    _socket,
    _link_to_a_pipe,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.parent),
    lambda path: path.symlink_to("nothing"),
]


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    write_json(path, [1])
    with atomic_file(path) as file:
        file.write(b"[2]")
        file.flush()
        assert read_json(path, list) == [1]
    assert read_json(path, list) == [2]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, {1, 2})
    with pytest.raises(RuntimeError), atomic_file(path):
        raise RuntimeError
    assert read_json(path, list) == [1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [Path.mkdir, _pipe, lambda path: path.symlink_to("/dev/null"), _link_to_a_pipe])
def test_what_is_no_regular_file_is_never_replaced(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    before = path.lstat()
    refused(lambda: write_json(path, [1]), path=str(path.resolve()))
    refused(lambda: check_writable(path, "--out"), path=str(path), field="--out")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_link_stays_one_and_what_it_names_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for value in ([1], [2]):
        write_json(tmp_path / "link", value)
        assert (tmp_path / "link").is_symlink()
        assert read_json(tmp_path / "there/file", list) == value


@pytest.mark.parametrize("directory", [True, False])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(tmp_path, directory):
    (tmp_path / "file").touch()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/pipe")
    (tmp_path / "link").symlink_to("nothing")
    for name in ("file/below", "file/far/below", "pipe/pipe", "pipe/pipe/below", "link", "link/below"):
        refused(
            lambda name=name: check_writable(tmp_path / name, "--out", directory=directory),
            by="base.files.check_writable",
            path=str(tmp_path / name),
            field="--out",
        )
    other = tmp_path / "file" if directory else tmp_path
    refused(lambda: check_writable(other, "--out", directory=directory), by="base.files.check_writable")
    if directory:
        check_writable(tmp_path / "new/far/below", "--out", directory=True)
    else:
        refused(lambda: check_writable(tmp_path / "new/file", "--out"), by="base.files.check_writable")
    check_writable(tmp_path if directory else tmp_path / "file", "--out", directory=directory)
    check_writable(tmp_path / "new", "--out", directory=directory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    refused(lambda: check_writable(tmp_path / "file", "--out"), by="base.files.check_writable", field="--out")
    tmp_path.chmod(0o700)


def test_an_error_of_the_system_names_the_file_and_not_a_temporary_one(tmp_path):
    path = tmp_path / ("a" * 300)
    with pytest.raises(OSError, match="too long") as caught:
        write_json(path, [1])
    assert caught.value.filename == str(path)
    write_json(tmp_path / ("é" * 120), [1])  # as long as a name may be


def test_two_processes_may_write_the_same_file_at_the_same_moment(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with atomic_file(path) as first:
        first.write(b"first")
        monkeypatch.setattr("os.getpid", lambda: -1)
        with atomic_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b"", 1),
        (b"[1", 1),
        (b'{"a": 1,\n "b": 2\n "c": 3}', 3),
        (b"\xef\xbb\xbf{}", 1),
        (b'{"a":\n"\xff"}', 2),
        (b'{"a": 1, "b": 2, "a": 1}', None),
        (b'{"x": [{"a": 1, "a": 2}]}', None),
        (b"[" * 100_000 + b"]" * 100_000, None),
        (b'{"a":' * 101 + b"1" + b"}" * 101, None),
        (b'{"a": [NaN]}', None),
        (b'{"a": -Infinity}', None),
        (b'{"a": 1e999}', None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
        (rb'{"a": "\ud800"}', None),
        (rb'{"\udfff": 1}', None),
        (b"[1]", None),
        (b'"text"', None),
        (b"null", None),
        (b'["' + b"a" * 1000 + b'"]', None),
    ],
    ids=lambda value: shortened(repr(value), 30),
)
def test_json_that_is_damaged_or_no_object_is_named_in_a_short_line(tmp_path, content, row):
    path = tmp_path / "file"
    path.write_bytes(content)
    line = refused(lambda: read_json(path, dict), path=str(path))
    assert line.startswith(f"{path}: ")
    assert len(line) < len(str(path)) + 150
    with pytest.raises(InputError) as caught:
        read_json(path, dict)
    assert caught.value.row == row


def test_json_is_read_up_to_a_limit_of_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b'{"a": 1}')
    assert read_json(tmp_path / "file", dict, limit=8) == {"a": 1}
    refused(lambda: read_json(tmp_path / "file", dict, limit=7), by="base.files.read_bytes")
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    refused(lambda: read_json(tmp_path / "file", dict), by="base.files.read_bytes", path=str(tmp_path / "file"))


def test_json_within_the_limits_is_what_json_says(tmp_path):
    value = {"a": [1, 2.5, "é🙂\u2028", None, True, -(10**30)], "b": {"a": {}}, "": 1e300}
    value["deep"] = functools.reduce(lambda inner, _: [inner], range(98), 1)
    for ascii_only in (True, False):
        (tmp_path / "file").write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
        assert read_json(tmp_path / "file", dict) == value
        assert read_json(tmp_path / "file", object) == value


def test_a_line_of_a_file_may_have_what_a_measurement_gives(tmp_path):
    assert parse_json(b'{"loss": Infinity}', dict, "metrics.jsonl", row=3, finite=False) == {"loss": np.inf}
    refused(lambda: parse_json(b'{"a": 1\n', dict, "metrics.jsonl", row=3), path="metrics.jsonl", row=3)


@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # a socket's name may have some hundred letters
    path = Path("file")
    make(path)
    for read in (check_file, open_file, lambda path: read_json(path, dict), read_text, sha256_of, fingerprint_of):
        refused(lambda read=read: read(path), by="base.files.check_file", path="file")


def test_what_lies_under_a_file_is_no_file(tmp_path):
    (tmp_path / "file").touch()
    refused(lambda: open_file(tmp_path / "file" / "below"), path=str(tmp_path / "file" / "below"))


def test_a_name_that_no_file_can_have_is_refused():
    refused(lambda: open_file("a\0b"), by="base.files.check_file")


def test_a_regular_file_behind_a_link_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"a\r\n")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "a\r\n"
    assert check_file(tmp_path / "link") == tmp_path / "link"


def test_a_directory_is_asked_for_as_such(tmp_path):
    (tmp_path / "file").touch()
    assert check_directory(tmp_path) == tmp_path
    for name in ("file", "nothing", "file/below"):
        refused(lambda name=name: check_directory(tmp_path / name), path=str(tmp_path / name))


def test_checksum_is_the_published_one_of_its_input(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("shape", [(3, 4), (0, 2), (5,)])
def test_an_array_is_the_file_that_numpy_writes(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    np.save(tmp_path / "reference.npy", array)
    write_array(tmp_path / "array.npy", array)
    assert (tmp_path / "array.npy").read_bytes() == (tmp_path / "reference.npy").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' full device")
@pytest.mark.parametrize(
    "write", [lambda path: write_json(path, [1]), lambda path: write_array(path, np.zeros(1 << 20))]
)
def test_a_full_disk_is_named_with_the_file_that_found_it_full(tmp_path, write):
    with atomic_file(tmp_path / "file"):
        (partial,) = tmp_path.iterdir()
    (tmp_path / "file").unlink()
    partial.symlink_to("/dev/full")
    with pytest.raises(OSError, match="file") as caught:
        write(tmp_path / "file")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mapped", [False, True])
def test_an_array_with_any_byte_of_its_header_changed_is_read_or_refused_in_a_line(mapped, tmp_path):
    array = np.arange(24, dtype=np.int64).reshape(2, 12)
    file = tmp_path / "array.npy"
    write_array(file, array)
    np.testing.assert_array_equal(read_array(file, mapped=mapped), array)
    whole, refusals = file.read_bytes(), []
    for place in range(len(whole) - array.nbytes):
        for value in b"\x00\xff(')#\\\n9":
            file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                read_array(file, mapped=mapped)
            except InputError as error:
                refusals.append(error)
    assert len(refusals) > 200
    assert {error.path for error in refusals} == {str(file)}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04N."])
def test_what_is_no_array_is_refused(content, tmp_path):
    (tmp_path / "array.npy").write_bytes(content)
    refused(lambda: read_array(tmp_path / "array.npy"), path="array.npy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(lambda: read_array(tmp_path / "objects.npy"), path="objects.npy")


def test_results_do_not_replace_those_of_a_run_or_a_model(tmp_path):
    assert check_results_place(tmp_path, "--out") == tmp_path
    check_results_place(tmp_path / "new", "--out")
    (tmp_path / "config.json").write_text("{}")
    refused(lambda: check_results_place(tmp_path, "--out"), path=str(tmp_path), field="--out")
