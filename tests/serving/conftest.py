"""A server process with two toy models, asked by the clients that people have."""

import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distilbert_jax.cli import main
from distilbert_jax.models import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.children import Child
from tests.models.common import build, masked_lm
from tests.runs import BERT, change

LABELS = ("no", "yes", "maybe")


@dataclass
class Answer:
    """Of an HTTP request. body: parsed where it is JSON."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Endpoint:
    """A server process."""

    child: Child
    port: int
    models: dict[str, Path]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> Answer:
        """A request, POST where it has a body; bytes go as they are, all else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, content, headers)
        response = connection.getresponse()
        read = response.read()
        connection.close()
        of_json = response.headers.get_content_type() == "application/json"
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            json.loads(read) if of_json else read.decode(),
        )


def start(models: dict[str, Path], *options: str) -> Endpoint:
    """A server on a free port, when it is ready."""
    named = [f"{name}={path}" for name, path in models.items()]
    child = Child(main.main, ["serve", "--model", *named, "--port", "0", *options])
    until = time.monotonic() + 120
    while "\n" not in child.said()[0]:
        assert child.poll() is None, child.said()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    endpoint = Endpoint(child, int(child.said()[0].split()[0].rstrip("/").rpartition(":")[2]), models)
    while True:
        try:
            if endpoint.ask("/health").status == 200:
                return endpoint
        except OSError:
            pass
        assert child.poll() is None, child.said()[1]
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture(scope="package")
def models(world, tmp_path_factory):
    path, tokenizer = tmp_path_factory.mktemp("models"), load_tokenizer(world.tokenizer)
    masked_lm(change(BERT, max_position_embeddings=40)).save_pretrained(path / "lm", tokenizer)
    build(BertForSequenceClassification, change(BERT, max_position_embeddings=40, labels=LABELS)).save_pretrained(
        path / "labels", tokenizer
    )
    tagger = build(BertForTokenClassification, change(BERT, max_position_embeddings=40, labels=("O", "B-X", "I-X")))
    tagger.save_pretrained(path / "tags", tokenizer)
    answering = build(BertForQuestionAnswering, change(BERT, max_position_embeddings=40))
    answering.save_pretrained(path / "answers", tokenizer)
    return {name: path / name for name in ("lm", "labels", "tags", "answers")}


@pytest.fixture(scope="package")
def endpoint(models):
    endpoint = start(models, "--max-body", "4096", "--max-texts", "8")
    yield endpoint
    endpoint.child.end()
