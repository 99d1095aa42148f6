"""What a client may send that is wrong: one clear answer with the right status, and a server that goes on."""

import json
import socket
import time

import pytest

from distilbert_jax.cli.main import main
from tests.runs import refused

MASK = "reda [MASK]"

WRONG = {
    "no inputs": ("/", {}, 422, "inputs"),
    "inputs of a wrong type": ("/", {"inputs": 3}, 422, "inputs"),
    "no texts": ("/", {"inputs": []}, 422, "inputs"),
    "nested lists": ("/", {"inputs": [[MASK]]}, 422, "inputs[0]"),
    "no mask": ("/", {"inputs": "reda"}, 422, "inputs"),
    "an empty text": ("/", {"inputs": ""}, 422, "inputs"),
    "many texts": ("/", {"inputs": [MASK] * 100}, 413, "inputs"),
    "an unknown parameter": ("/", {"inputs": MASK, "parameters": {"topk": 1}}, 422, "parameters.topk"),
    "parameters of a wrong type": ("/", {"inputs": MASK, "parameters": [1]}, 422, "parameters"),
    "a number that is none": ("/", {"inputs": MASK, "parameters": {"top_k": True}}, 422, "parameters.top_k"),
    "no target": ("/", {"inputs": MASK, "parameters": {"targets": []}}, 422, "parameters.targets"),
    "an empty target": ("/", {"inputs": MASK, "parameters": {"targets": [""]}}, 422, "parameters.targets"),
    "a target that is no token": (
        "/",
        {"inputs": MASK, "parameters": {"targets": ["redaredb"]}},
        422,
        "parameters.targets",
    ),
    "a query": ("/?top_k=1", {"inputs": MASK}, 422, "query"),
    "a model in the query": ("/models/labels?model=lm", {"inputs": "reda"}, 422, "query"),
    "a parameter twice": (
        "/models/lm/pipeline/feature-extraction",
        {"inputs": "reda", "pooling": "cls", "parameters": {"pooling": "mean"}},
        422,
        "pooling",
    ),
    "a field beside": ("/", {"inputs": MASK, "top_k": 1}, 422, "top_k"),
    "too long, not to be cut": (
        "/",
        {"inputs": f"[MASK] {'reda ' * 60}", "parameters": {"truncate": False}},
        413,
        "inputs",
    ),
    "too long for /embed": ("/embed", {"inputs": "reda " * 60}, 413, "inputs"),
    "tokens for /embed": ("/embed", {"inputs": "reda", "pooling": "tokens"}, 422, "pooling"),
    "an unknown model": ("/models/bert", {"inputs": MASK}, 404, "model"),
    "a task of another head": ("/models/labels/pipeline/token-classification", {"inputs": "reda"}, 404, "task"),
    "an unknown task": ("/models/lm/pipeline/translation", {"inputs": MASK}, 404, "task"),
    "a question without a context": ("/models/answers", {"inputs": {"question": "reda"}}, 422, "inputs"),
    "an empty context": ("/models/answers", {"inputs": {"question": "reda", "context": " "}}, 422, "context"),
    "a question as a text": ("/models/answers", {"inputs": "reda"}, 422, "inputs"),
    "no such strategy": (
        "/models/tags",
        {"inputs": "reda", "parameters": {"aggregation_strategy": "best"}},
        422,
        "parameters.aggregation_strategy",
    ),
    "invalid UTF-8": ("/", b'{"inputs": "\xff [MASK]"}', 400, "body"),
    "a surrogate": ("/", b'{"inputs": "\\ud800 [MASK]"}', 400, "body"),
    "no JSON": ("/", b"inputs=reda", 400, "body"),
    "not a number": ("/", b'{"inputs": "reda [MASK]", "parameters": {"top_k": NaN}}', 400, "body"),
    "a key twice": ("/", b'{"inputs": "a", "inputs": "b"}', 400, "body"),
    "deep": ("/", b"[" * 2000 + b"]" * 2000, 400, "body"),
    "a list": ("/", b"[1]", 400, "body"),
    "too large": ("/", b" " * 5000, 413, "body"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(endpoint, case):
    path, body, status, field = WRONG[case]
    answer = endpoint.ask(path, body)
    assert (answer.status, answer.body["field"]) == (status, field)
    assert "\n" not in answer.body["error"]
    assert "Traceback" not in answer.body["error"]
    assert endpoint.ask("/health").status == 200


def test_paths_and_methods_that_are_none(endpoint):
    assert endpoint.ask("/../etc/passwd").status == 404
    assert endpoint.ask("/models/").status == 404
    assert endpoint.ask("/embed").status == 405
    assert endpoint.ask("/health", {}, method="DELETE").status == 405


def test_the_form_of_a_request_to_a_proxy_is_understood(endpoint):
    models = endpoint.ask("/models").body
    assert endpoint.ask(f"{endpoint.url}/models").body == models
    assert endpoint.ask("HTTP://elsewhere/models/lm").body == models[0]
    assert endpoint.ask("http://elsewhere").status == 200
    assert endpoint.ask("http://elsewhere/none").status == 404


def test_errors_of_openai_have_its_form(endpoint):
    answer = endpoint.ask("/v1/embeddings", {"model": "lm", "input": 3})
    assert answer.status == 422
    assert answer.body["error"]["param"] == "input"


def test_a_cut_text_is_answered_and_said(endpoint):
    answer = endpoint.ask("/", {"inputs": f"[MASK] {'reda ' * 60}"})
    assert (answer.status, answer.headers["x-truncated-texts"]) == (200, "1")


def test_curl_sends_a_form_that_is_json(endpoint):
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert endpoint.ask("/models/lm", {"inputs": MASK}, **kind).status == 200


def test_a_client_that_hangs_up_harms_nobody(endpoint):
    for sent in (b"", b"POST / HT", b"POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
            client.sendall(sent)
    body = json.dumps({"inputs": MASK}).encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    time.sleep(0.1)
    assert endpoint.ask("/", {"inputs": MASK}).status == 200
    assert "Traceback" not in endpoint.child.said()[1]


@pytest.mark.parametrize("token", ["sécret", "two words", "tab\t"])
def test_a_token_that_clients_would_send_in_several_ways_is_refused(token, monkeypatch):
    refused(
        lambda: main(["serve", "--model", "no/such", "--token", token]),
        by="cli.serve.ServeCommand.run",
        field="--token",
    )
    monkeypatch.setenv("DISTILBERT_JAX_TOKEN", token)
    refused(lambda: main(["serve", "--model", "no/such"]), by="cli.serve.ServeCommand.run", field="--token")
