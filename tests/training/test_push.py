"""Models to a hub on this machine: what goes up, and what is told when it does not."""

import json

import huggingface_hub.constants
import pytest

from distilbert_jax.base.files import sha256_of
from distilbert_jax.cli.main import main
from distilbert_jax.errors import warn_once
from distilbert_jax.models import BertForMaskedLM
from distilbert_jax.models.push import model_parts
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training.push import push_to_hub
from distilbert_jax.training.run_directory import record_outputs
from tests import hub, runs
from tests.models.common import build
from tests.runs import refused

TOKEN = "hf_of_a_test"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub to its own client


@pytest.fixture
def receiver(monkeypatch, tmp_path):
    with hub.receive(TOKEN) as there:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", there.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        yield there


@pytest.fixture
def directory(tiny_bert, tmp_path, world):
    build(BertForMaskedLM, tiny_bert).save_pretrained(tmp_path / "model", load_tokenizer(world.tokenizer))
    return tmp_path / "model"


def test_what_a_model_is_made_of_goes_up_and_comes_back_and_nothing_else_does(directory, receiver, tmp_path, capsys):
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# A model")
    for name in ("optimizer.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "notes.txt"):
        (directory / name).write_bytes(b"{}")
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints/model.safetensors").write_bytes(b"state")
    main(["push", str(directory), "someone/tiny", "--private", "--json"])
    said = json.loads(capsys.readouterr().out)
    files = receiver.committed["someone/tiny"]
    expected = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(files) == sorted(said["files"]) == expected
    assert receiver.made["someone/tiny"]["visibility"] == "private"
    assert said["url"].startswith(f"{receiver.endpoint}/someone/tiny/commit/")
    for name, content in files.items():
        (tmp_path / "back").mkdir(exist_ok=True)
        (tmp_path / "back" / name).write_bytes(content)
    assert runs.weights(tmp_path / "back") == runs.weights(directory)


def test_a_model_at_hand_goes_up_under_the_name_of_the_tokens_owner(tiny_bert, receiver, world):
    build(BertForMaskedLM, tiny_bert).push_to_hub("tiny", load_tokenizer(world.tokenizer))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(receiver.committed["someone/tiny"])


def test_of_a_model_in_several_files_the_index_and_its_files_go_up(directory):
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "other.safetensors").write_bytes(b"")
    names = list(runs.load_file(directory / "model-00001-of-00001.safetensors"))
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    parts = [name for name in model_parts(directory) if name.startswith(("model", "other"))]
    assert parts == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("repo", "token", "field"),
    [
        ("some one/tiny", TOKEN, "repo_id"),
        ("a/b/c", TOKEN, "repo_id"),
        ("../tiny", TOKEN, "repo_id"),
        ("", TOKEN, "repo_id"),
        ("someone/tiny", "", "token"),
        ("someone/tiny", "hf_of\u2028a test", "token"),
        ("someone/tiny", "hf_of_another", "repo_id"),
        ("nobody/tiny", TOKEN, "repo_id"),
    ],
)
def test_a_name_or_a_token_that_does_not_do_is_told_without_the_token(
    directory, receiver, monkeypatch, repo, token, field
):
    monkeypatch.setenv("HF_TOKEN", token)
    error = refused(lambda: push_to_hub(directory, repo), field=field, by="base.hub.upload")
    assert not token or token not in str(error)
    assert not receiver.committed


def test_weights_that_do_not_arrive_are_told(directory, receiver):
    receiver.broken = True
    refused(lambda: push_to_hub(directory, "someone/tiny"), field="repo_id", by="base.hub.upload")
    assert not receiver.committed


def test_metadata_that_the_hub_refuses_are_told(directory, receiver):
    (directory / "README.md").write_text("---\nlicense: none\n---\n")
    refused(lambda: push_to_hub(directory, "someone/tiny"), field="README.md", by="base.hub.upload")
    assert not receiver.committed


def test_without_a_network_nothing_is_tried_twice(directory, receiver, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(lambda: push_to_hub(directory, "someone/tiny"), field="HF_ENDPOINT", by="base.hub.upload")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(lambda: push_to_hub(directory, "someone/tiny"), field="HF_HUB_OFFLINE", by="base.hub.upload")


def test_what_is_no_model_is_not_pushed(directory, receiver, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    directory.rename(run / "model")
    (run / "config.json").write_text('{"optimizer": {}}')
    refused(lambda: push_to_hub(run, "someone/tiny"), path=str(run), hint=str(run / "model"))
    refused(lambda: push_to_hub(tmp_path / "absent", "someone/tiny"), path=str(tmp_path / "absent"))
    (run / "model/model.safetensors").write_bytes(b"cut short")
    refused(lambda: push_to_hub(run / "model", "someone/tiny"), path=str(run / "model/model.safetensors"))
    assert not receiver.requests


def test_the_model_of_a_run_goes_up_as_the_run_wrote_it(directory, tiny_bert, receiver, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    directory.rename(run / "model")
    record_outputs(run, {"model": run / "model"})
    (run / "model/README.md").write_text("# My own card")
    monkeypatch.chdir(run / "model")
    push_to_hub(".", "someone/tiny")
    foreign = run / "model/special_tokens_map.json"
    foreign.write_text("{}")
    refused(lambda: push_to_hub(run / "model", "someone/tiny"), path=str(foreign))
    foreign.unlink()
    build(BertForMaskedLM, tiny_bert, seed=1).save_pretrained(run / "model")
    refused(lambda: push_to_hub(".", "someone/tiny"), path=str(run / "model/model.safetensors"))
    assert len(receiver.committed) == 1


def test_a_card_goes_up_with_the_weights_that_it_is_of(directory, receiver):
    card = directory / "README.md"
    card.write_text(f"SHA-256 of `model.safetensors`: `{sha256_of(directory / 'model.safetensors')}`.")
    push_to_hub(directory, "someone/tiny")
    card.write_text(f"SHA-256 of `model.safetensors`: `{'0' * 64}`.")
    refused(lambda: push_to_hub(directory, "someone/tiny"), path=str(card), by="training.push._check_card")


def test_a_model_without_a_tokenizer_says_so(tiny_bert, receiver, tmp_path, capsys):
    warn_once.cache_clear()
    build(BertForMaskedLM, tiny_bert).save_pretrained(tmp_path / "bare")
    push_to_hub(tmp_path / "bare", "someone/bare")
    assert "tokenizer" in capsys.readouterr().err
