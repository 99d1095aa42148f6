"""Where a model is found: on the disk, in the hub's cache, on the hub. A process each: the hub's settings are read once."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilbert_jax.base.files import sha256_of
from distilbert_jax.base.hub import locate, write_directory
from distilbert_jax.errors import one_line_errors
from distilbert_jax.models import BertForMaskedLM, MaskedLM
from tests import children
from tests.hub import COMMIT, serve
from tests.models.common import build
from tests.runs import refused

NAME = "someone/tiny-bert"
ROOT = Path(__file__).parents[2]


def find_and_print(name, revision=None):
    """In a child."""
    assert "huggingface_hub" not in sys.modules, "it has read its settings already"
    with one_line_errors():
        print(sha256_of(locate(name, revision) / "model.safetensors"))


def load_and_print(name, revision=None):
    """In a child."""
    with one_line_errors():
        print(MaskedLM.from_pretrained(name, revision=revision).num_parameters())


@pytest.fixture(scope="module")
def published(tiny_bert, tmp_path_factory):
    """A model's directory as the hub has it, and the digest of its weights."""
    model = build(BertForMaskedLM, tiny_bert)
    directory = tmp_path_factory.mktemp("published")
    model.save_pretrained(directory)
    (directory / "pytorch_model.bin").write_bytes(b"a pickle")
    (directory / "README.md").write_text("a card")
    return directory, sha256_of(directory / "model.safetensors")


@pytest.fixture
def find(tmp_path):
    """Find a model by its name in a process of its own with a cache of its own: (exit status, stdout, stderr)."""

    def run(*arguments, call=find_and_print, **settings):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        environment = kept | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | settings
        done = children.run(call, *arguments, environment=environment)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return run


def test_a_model_from_the_hub_is_cached_and_then_needs_no_network(published, find, tmp_path):
    directory, expected = published
    with serve(directory, NAME, token="hf_mine") as hub:
        assert find(NAME, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_mine") == (0, expected, "")
        first = len(hub.requests)
        assert find(NAME, "v1", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_mine") == (0, expected, "")
        again = hub.requests[first:]
    read = {path.rpartition("/")[2] for method, path, _ in hub.requests if "/resolve/" in path}
    assert read == {"config.json", "model.safetensors"}, "other formats and the card stay where they are"
    assert not any("/resolve/" in path for _, path, _ in again), "the tag is the commit that is cached already"
    assert f"/api/models/{NAME}/revision/v1" in {path for _, path, _ in again}
    # The hub is gone.
    assert find(NAME, HF_ENDPOINT=hub.endpoint) == (0, expected, "")
    assert find(NAME, HF_HUB_OFFLINE="1") == (0, expected, "")
    assert find(NAME, COMMIT, HF_HUB_OFFLINE="1") == (0, expected, "")
    parameters = BertForMaskedLM.from_pretrained(directory).num_parameters()
    assert find(NAME, COMMIT, call=load_and_print, HF_HUB_OFFLINE="1") == (0, str(parameters), "")


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("someone/else", [], "someone/else: no such directory here, and no such model on the hub"),
        (NAME, [], "the hub gives this model to members only: ask for access there, then set HF_TOKEN"),
        (NAME, ["v9"], "the hub's model has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_one_line(name, revision, message, published, find):
    with serve(published[0], NAME, token="hf_mine") as hub:
        token = {"HF_TOKEN": "hf_mine"} if revision else {}
        status, out, error = find(name, *revision, HF_ENDPOINT=hub.endpoint, **token)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {name}: no such directory here, and")
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("settings", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_network_the_way_to_a_local_copy_is_told(settings, find):
    status, out, error = find(NAME, **settings)
    assert (status, out) == (2, "")
    assert error == (
        f"error: {NAME}: no such directory here, and the hub's model is neither in the cache nor reachable: where there is a "
        f"network, `hf download {NAME} --local-dir DIR` makes a copy; name that directory instead"
    )


def test_a_directory_comes_before_the_hub(published, tmp_path, monkeypatch):
    (tmp_path / "someone").mkdir()
    (tmp_path / NAME).symlink_to(published[0])
    monkeypatch.chdir(tmp_path)
    assert locate(NAME).samefile(published[0])
    refused(lambda: locate(NAME, "v1"), by="base.hub.locate", path=NAME, field="revision")


@pytest.mark.parametrize("path", ["/no/such/model", "./model", "runs/none/model", "../model", "a b", "~/none"])
def test_what_cannot_be_an_id_is_no_directory(path):
    refused(lambda: locate(path), by="base.hub.locate", path=path)


def test_an_empty_name_is_not_the_working_directory():
    refused(lambda: locate(""), by="base.hub.locate", field="model")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    refused(lambda: locate(tmp_path / "model.safetensors"), by="base.hub.locate", path="model.safetensors")


def test_the_home_of_nobody_is_no_directory():
    refused(lambda: locate("~nobody-of-this-name/model"), by="base.hub.locate", path="~nobody-of-this-name/model")


def test_a_directory_is_written_by_one_process(tmp_path):
    other = (
        "import sys; from pathlib import Path; from distilbert_jax.base.hub import write_directory\n"
        "write_directory(sys.argv[1], lambda place: (place / 'theirs').touch())"
    )
    outcomes = []

    def write(place):
        (place / "ours").touch()
        command = [sys.executable, "-c", other, str(tmp_path / "model")]
        outcomes.append(subprocess.run(command, capture_output=True, text=True, cwd=ROOT))

    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial/left").touch()  # by a process that was killed
    write_directory(tmp_path / "model", write)
    assert outcomes[0].returncode == 1
    assert "InputError" in outcomes[0].stderr
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["ours"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_directory_is_none_in_which_something_is(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full/of").mkdir(parents=True)
    write = lambda place: (place / "a").touch()
    write_directory(tmp_path / "empty", write, new=True)
    refused(lambda: write_directory(tmp_path / "full", write, new=True), path=str(tmp_path / "full"))
    write_directory(tmp_path / "full", write)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "a", "empty", "full", "of"]


def test_a_directory_that_cannot_be_written_is_named_and_not_a_temporary_one(tmp_path):
    def full(directory):
        raise OSError(errno.ENOSPC, "full", str(directory / "model.safetensors"))

    for write, name, at_fault in ((full, "model", "model/model.safetensors"), (Path.touch, "m" * 250, "m" * 250)):
        with pytest.raises(OSError, match=r"full|too long") as caught:
            write_directory(tmp_path / name, write)
        assert caught.value.filename == str(tmp_path / at_fault)
    assert list(tmp_path.iterdir()) == []
