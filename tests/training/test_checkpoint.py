import errno
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from distilbert_jax.errors import one_line_errors
from distilbert_jax.training import checkpoint as module
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.step import TrainState, init_state
from tests import compiling
from tests.runs import ROOT, refused

SHAPES = {"encoder.layers.0.ffn_in.kernel": (16, 8), "encoder.layers.0.ffn_in.bias": (8,), "head.norm.scale": (16,)}


@pytest.fixture(autouse=True)
def as_users_save():
    compiling.whole_below(None)
    yield
    compiling.quick_checkpoints()


def mesh(devices, fsdp=1, tensor=1):
    grid = np.array(jax.devices()[:devices]).reshape(-1, fsdp, tensor)
    return Mesh(grid, ("data", "fsdp", "tensor"))


@functools.cache
def blank(on):
    """A state on a mesh, which is compiled once."""
    params = {name: jnp.zeros(shape, jnp.float32) for name, shape in SHAPES.items()}
    return init_state(params, optax.adamw(1e-3), seed=0, mesh=on)


def make_state(step, on=None):
    """A state whose every number depends on the step."""
    rng, like = np.random.default_rng(step), blank(on or mesh(1))
    noisy = lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding)
    key = np.array([0, step], np.uint32)
    place = lambda value, x: jax.device_put(value, x.sharding)
    return TrainState(
        place(np.int32(step), like.step), place(key, like.key), *jax.tree.map(noisy, (like.params, like.opt_state))
    )


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def save(directory, *steps, keep=9, on=None):
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, make_state(step, on))
    checkpoints.wait()
    checkpoints.close()


def restore(directory, on=None, like=None):
    checkpoints = Checkpoints(directory, 9)
    try:
        return checkpoints.restore(like or make_state(99, on))
    finally:
        checkpoints.close()


def files(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with checkpoints of the steps 1 and 2."""
    directory = tmp_path_factory.mktemp("checkpoints") / "two"
    save(directory, 1, 2)
    return directory


@pytest.fixture
def copy(two, tmp_path):
    return Path(shutil.copytree(two, tmp_path / "checkpoints"))


def test_the_newest_state_comes_back_bit_for_bit(two, capsys):
    assert bits(restore(two)) == bits(make_state(2))
    assert capsys.readouterr().err == ""


def test_where_no_checkpoint_is_there_is_no_state(tmp_path):
    assert restore(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("before", "after"), [((8, 2, 2), (1,)), ((8,), (2, 2)), ((1,), (8, 2, 4)), ((2, 1, 2), (8, 8))]
)
def test_a_state_is_restored_onto_another_mesh(before, after, tmp_path):
    save(tmp_path / "checkpoints", 3, on=mesh(*before))
    found = restore(tmp_path / "checkpoints", on=mesh(*after))
    assert bits(found) == bits(make_state(3))
    wanted = make_state(3, mesh(*after))
    for leaf, like in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


def test_a_checkpoint_of_another_model_is_refused_and_kept(copy):
    before = {file: file.read_bytes() for file in files(copy)}
    wider = jax.tree.map(
        lambda leaf: jnp.zeros((*leaf.shape[:-1], leaf.shape[-1] + 8)) if leaf.ndim == 2 else leaf, make_state(0)
    )
    refused(lambda: restore(copy, like=wider), by="training.checkpoint.Checkpoints._check_shapes", path=str(copy / "2"))
    assert {file: file.read_bytes() for file in files(copy)} == before


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_short(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
def test_whatever_file_of_the_newest_is_damaged_it_is_named_and_the_one_before_is_used(two, damage, tmp_path, capsys):
    """Files of orbax beside the item are either not needed or make the checkpoint invisible: no wrong state comes back."""
    names = [file.relative_to(two / "2") for file in files(two / "2")]
    assert len(names) > 10
    for i, name in enumerate(names):
        directory = shutil.copytree(two, tmp_path / str(i))
        damage(directory / "2" / name)
        found, told = bits(restore(directory)), capsys.readouterr().err
        if name.parts[0] == "default":
            assert f"{directory / '2'}: skipped: " in told
            if name.name != "sha256.json" or damage is not flip_a_bit:  # a flipped digest accuses the file it is of
                assert f"{name.relative_to('default')} is missing or damaged" in told
            assert found == bits(make_state(1))
            assert not (directory / "2").exists(), "its step will be saved again"
        else:
            assert found in (bits(make_state(1)), bits(make_state(2)))


def test_a_checkpoint_is_restored_in_its_own_run_alone(two, tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpoints(directory, 9, run="a")
    checkpoints.save(3, make_state(3))
    checkpoints.close()
    assert json.loads((directory / "3/default/sha256.json").read_text()).keys() >= {"run.sha256"}

    def read(place, run):
        checkpoints = Checkpoints(place, 9, run=run)
        try:
            return checkpoints.restore(make_state(99))
        finally:
            checkpoints.close()

    assert bits(read(directory, "a")) == bits(make_state(3))
    for place, run in ((directory, "b"), (directory, ""), (two, "a")):
        refused(lambda place=place, run=run: read(place, run), by="training.checkpoint.Checkpoints._check_run")


def test_a_checkpoint_without_digests_is_skipped(copy, capsys):
    (copy / "2/default/sha256.json").unlink()
    assert bits(restore(copy)) == bits(make_state(1))
    assert f"{copy / '2'}: skipped: sha256.json is missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "metadata"])
def test_a_pipe_or_a_device_that_orbax_would_read_for_ever_is_refused(name, copy):
    place = copy / "2" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    refused(lambda: restore(copy), "named pipe", by="training.checkpoint._check_readable", path=str(place))
    place.unlink()
    place.symlink_to("/dev/zero")
    refused(lambda: restore(copy), "device", by="training.checkpoint._check_readable", path=str(place))


@pytest.mark.parametrize("content", ["[]", "{}", "null", "3", '["_METADATA"]'])
def test_digests_that_are_none_are_named(content, copy, capsys):
    (copy / "2/default/sha256.json").write_text(content)
    assert bits(restore(copy)) == bits(make_state(1))
    assert f"{copy / '2'}: skipped: sha256.json is " in capsys.readouterr().err


def test_a_file_without_a_digest_is_not_trusted(copy, capsys):
    file = copy / "2/default/sha256.json"
    digests = json.loads(file.read_text())
    del digests["_METADATA"]
    file.write_text(json.dumps(digests))
    assert bits(restore(copy)) == bits(make_state(1))
    assert f"{copy / '2'}: skipped: sha256.json is damaged, it lacks _METADATA" in capsys.readouterr().err


def test_when_all_are_damaged_nothing_is_removed_and_nothing_begins(copy, capsys):
    for step in "12":
        flip_a_bit(copy / step / "default/_METADATA")
    for _ in range(2):
        refused(lambda: restore(copy), by="training.checkpoint.Checkpoints.newest", path=str(copy))
        assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["skipped", "skipped"]


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path / "checkpoints", 1, 2, 3, 4, 5, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "5"]


def test_a_step_is_saved_once(two, tmp_path):
    directory = Path(shutil.copytree(two, tmp_path / "checkpoints"))
    checkpoints = Checkpoints(directory, 9)
    checkpoints.save(2, make_state(7))
    checkpoints.wait()
    assert bits(checkpoints.restore(make_state(99))) == bits(make_state(2))
    checkpoints.close()


def test_what_a_killed_save_left_is_cleared_away(copy):
    (copy / "2").rename(copy / "3.orbax-checkpoint-tmp")
    assert bits(restore(copy)) == bits(make_state(1))
    assert sorted(path.name for path in copy.iterdir()) == ["1"]


def test_a_full_disk_is_noticed_before_anything_is_written(two, tmp_path, monkeypatch, capsys):
    directory = Path(shutil.copytree(two, tmp_path / "checkpoints"))
    checkpoints = Checkpoints(directory, 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1e9, 1e9, module.SPARE))
    with pytest.raises(SystemExit) as left, one_line_errors():
        checkpoints.save(3, make_state(3))
    assert left.value.code == 1
    assert capsys.readouterr().err == (
        f"error: No space left on device ({directory}): free some space and run the same command again; "
        "finished work is kept\n"
    )
    checkpoints.close()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]
    assert bits(restore(directory)) == bits(make_state(2))


@pytest.mark.parametrize(
    "kind",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: x"),
        ValueError('Error writing "d/0": File too large'),  # of a file that may not grow
    ],
)
def test_a_disk_that_runs_full_while_it_saves_leaves_the_one_before(copy, monkeypatch, kind, caplog):
    def fail(self):
        raise kind

    monkeypatch.setattr(Checkpoints, "_seal", fail)
    checkpoints = Checkpoints(copy, 1)
    checkpoints.save(3, make_state(3))
    with pytest.raises(OSError, match=r"No space left|File too large") as caught:
        checkpoints.wait()
    assert caught.value.errno == (errno.EFBIG if "File too large" in str(kind) else errno.ENOSPC)
    checkpoints.close()
    assert caplog.records == [], "the error tells it, once"
    monkeypatch.undo()
    assert bits(restore(copy)) == bits(make_state(2))


def test_another_error_of_the_saving_thread_is_no_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_seal", lambda self: int("three"))
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
    checkpoints.save(3, make_state(3))
    with pytest.raises(ValueError, match="three"):
        checkpoints.wait()
    checkpoints.close()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB, where this machine lets one be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_disk_that_is_really_full_the_run_goes_on_once_there_is_space(small_disk, capfd):
    directory = small_disk / "checkpoints"
    checkpoints = Checkpoints(directory, 9)
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    (small_disk / "ballast").write_bytes(b"x" * (3 << 20))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, make_state(2))
    checkpoints.close()
    assert capfd.readouterr().err == ""
    assert bits(restore(directory)) == bits(make_state(1))
    (small_disk / "ballast").unlink()
    save(directory, 2)
    assert bits(restore(directory)) == bits(make_state(2))


LIMITED = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp
from distilbert_jax.errors import one_line_errors
from distilbert_jax.training.checkpoint import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
with one_line_errors():
    try:
        checkpoints.save(1, {str(i): jnp.full(20_000, i * 1.1 + jnp.arange(20_000)) for i in range(40)})
        checkpoints.wait()
    finally:
        checkpoints.close()
"""


def test_a_file_that_may_not_grow_is_told_in_one_line(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", LIMITED, str(tmp_path / "checkpoints")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert f"{tmp_path / 'checkpoints'}" in done.stderr
