import errno
from pathlib import Path

import numpy as np
import pytest

from distilbert_jax.base.files import atomic_file, read_json, sha256_of, write_array, write_json
from tests.runs import refused


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    write_json(path, [1])
    with atomic_file(path) as file:
        file.write(b"[2]")
        file.flush()
        assert read_json(path) == [1]
    assert read_json(path) == [2]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, {1, 2})
    with pytest.raises(RuntimeError), atomic_file(path):
        raise RuntimeError
    assert read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


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


def test_missing_and_damaged_json_are_named(tmp_path):
    refused(lambda: read_json(tmp_path / "file"), by="base.files.read_json", path="file")
    (tmp_path / "file").write_bytes(b"[1")
    refused(lambda: read_json(tmp_path / "file"), by="base.files.read_json", path="file")


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
