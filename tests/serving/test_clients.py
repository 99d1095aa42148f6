"""The clients that people have, unchanged, against a server process."""

import concurrent.futures
import os
import signal
import threading
import time

import numpy as np
import openai
import pytest
import uvicorn
from huggingface_hub import InferenceClient

from distilbert_jax.cli import main
from distilbert_jax.pipelines import (
    FeatureExtraction,
    FillMask,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from tests.children import Child
from tests.serving.conftest import LABELS, start

TEXT = "reda redb [MASK] redd"


@pytest.fixture(scope="module")
def fill(models):
    return FillMask(models["lm"])


@pytest.fixture(scope="module")
def features(models):
    return FeatureExtraction(models["lm"])


def plain(answers):
    """What huggingface_hub makes an object of, as the dictionaries that came."""
    return [{name: getattr(answer, name) for name in ("score", "token", "token_str", "sequence")} for answer in answers]


def test_fill_mask_of_huggingface_hub_gives_what_the_pipeline_does(endpoint, fill):
    client = InferenceClient(f"{endpoint.url}/models/lm")
    assert plain(client.fill_mask(TEXT)) == list(fill(TEXT))
    assert plain(client.fill_mask(TEXT, top_k=2)) == list(fill(TEXT, top_k=2))
    targets = fill(TEXT, targets=["bluea", "redc"])
    assert [answer.score for answer in client.fill_mask(TEXT, targets=["bluea", "redc"])] == [
        answer["score"] for answer in targets
    ]


def test_feature_extraction_of_huggingface_hub_gives_the_states_of_all_tokens(endpoint, features):
    client = InferenceClient(f"{endpoint.url}/models/lm/pipeline/feature-extraction")
    assert np.array_equal(client.feature_extraction("reda redb"), features("reda redb")[None])


def test_text_classification_of_huggingface_hub_gives_all_labels(endpoint, models):
    answers = InferenceClient(f"{endpoint.url}/models/labels").text_classification("reda redb")
    expected = TextClassification(models["labels"])("reda redb", top_k=None)
    assert [{"label": one.label, "score": one.score} for one in answers] == list(expected)
    assert {one.label for one in answers} == set(LABELS)


def test_token_classification_of_huggingface_hub_gives_spans(endpoint, models):
    client, entities = InferenceClient(f"{endpoint.url}/models/tags"), TokenClassification(models["tags"])
    text = "reda redb bluea"
    expected = entities(text, ignore_labels=[])
    assert len(expected) == 3
    answers = client.token_classification(text, ignore_labels=[])
    assert [{name: getattr(one, name) for name in expected[0]} for one in answers] == list(expected)
    groups = client.token_classification(text, aggregation_strategy="simple", ignore_labels=[])
    assert [one.entity_group for one in groups] == [
        one["entity_group"] for one in entities(text, "simple", ignore_labels=[])
    ]


def test_question_answering_of_huggingface_hub_gives_the_best_answer(endpoint, models):
    client, answer = InferenceClient(f"{endpoint.url}/models/answers"), QuestionAnswering(models["answers"])
    question, context = "reda redb", " ".join(["bluea", "blueb", "bluec", "blued"] * 20)  # several windows
    got = client.question_answering(question, context)
    assert {name: getattr(got, name) for name in ("answer", "score", "start", "end")} == answer(question, context)
    got = endpoint.ask(
        "/models/answers", {"inputs": {"question": question, "context": context}, "parameters": {"top_k": 3}}
    )
    assert got.body == list(answer(question, context, top_k=3))


def test_embeddings_of_openai_are_the_mean_of_the_states_at_length_one(endpoint, features):
    client = openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0)
    texts = ["reda redb", "bluea"]
    expected = features(texts, pooling="mean")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    in_base64 = client.embeddings.create(model="lm", input=texts)  # the client's default
    as_numbers = client.embeddings.create(model="lm", input=texts, encoding_format="float")
    for answer in (in_base64, as_numbers):
        np.testing.assert_allclose([one.embedding for one in answer.data], expected, rtol=0, atol=1e-6)
    assert in_base64.usage.prompt_tokens == 4 + 3
    assert [one.id for one in client.models.list()] == list(endpoint.models)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="reda")


def test_routes_of_text_embeddings_inference(endpoint, features, models):
    texts = ["reda redb", "bluea"]
    vectors = np.array(endpoint.ask("/embed", {"inputs": texts, "normalize": False}).body, np.float32)
    np.testing.assert_allclose(vectors, features(texts, pooling="mean"), rtol=0, atol=1e-6)
    lengths = np.linalg.norm(endpoint.ask("/embed", {"inputs": "reda"}).body, axis=1)
    np.testing.assert_allclose(lengths, [1.0], atol=1e-6)
    info = endpoint.ask("/info").body
    assert (info["model_id"], info["max_input_length"]) == ("lm", 40)
    assert endpoint.ask("/predict", {"inputs": "reda"}).status == 404  # the first model has no labels


def test_in_company_the_answers_are_those_alone(endpoint, fill):
    texts = [" ".join(["redb"] * (i % 9) + ["[MASK]", "reda"]) for i in range(24)]
    client = InferenceClient(f"{endpoint.url}/models/lm")
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        asked = list(pool.map(client.fill_mask, texts))
    batches = endpoint.ask("/metrics").body
    count = lambda name: float(next(line.split()[1] for line in batches.splitlines() if line.startswith(name)))
    assert count("distilbert_jax_batch_texts_sum") > count("distilbert_jax_batch_texts_count")  # some went together
    for answers, text in zip(asked, texts, strict=True):
        alone = fill(text)
        assert [one.token for one in answers] == [one["token"] for one in alone]
        # Logits reach 16, where neighbours in float32 are 1e-6 apart: either side is up to 1.3e-6 from what float64 gives.
        np.testing.assert_allclose([one.score for one in answers], [one["score"] for one in alone], rtol=0, atol=1e-5)


def test_what_was_accepted_is_answered_before_the_process_ends(models):
    endpoint = start({"lm": models["lm"]}, "--wait-ms", "300")
    answers = []
    asking = [
        threading.Thread(target=lambda: answers.append(endpoint.ask("/", {"inputs": TEXT}).status)) for _ in range(8)
    ]
    for thread in asking:
        thread.start()
    accepted, until = 'distilbert_jax_texts_total{model="lm",task="fill-mask"} 8.0', time.monotonic() + 30
    while accepted not in endpoint.ask("/metrics").body:
        assert time.monotonic() < until
    endpoint.child.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(30)
    endpoint.child.communicate(30)
    status = endpoint.child.returncode
    endpoint.child.end()
    assert answers == [200] * 8
    assert status == 0


def serve_signalled_before_the_loop_runs(model):
    """In a child: SIGTERM comes when the server's line is printed and uvicorn has not begun to listen to signals."""
    run = uvicorn.Server.run

    def signalled(self, **given):
        os.kill(os.getpid(), signal.SIGTERM)
        run(self, **given)

    uvicorn.Server.run = signalled
    main.main(["serve", "--model", model, "--port", "0"])


def test_a_signal_before_the_loop_runs_is_not_lost(models):
    child = Child(serve_signalled_before_the_loop_runs, str(models["lm"]))
    try:
        _, said = child.communicate(60)
        assert child.returncode == 0
        assert "ready:" not in said
    finally:
        child.end()


def test_a_signal_while_models_are_prepared_ends_the_process(models):
    child = Child(main.main, ["serve", "--model", str(models["lm"]), "--port", "0", "--batch-size", "64"])
    until = time.monotonic() + 60
    while "being prepared" not in child.said()[0]:
        assert time.monotonic() < until
        assert child.poll() is None, child.said()[1]
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(30)
    status = child.returncode
    child.end()
    assert status == 0
    assert "ready:" not in said


@pytest.mark.parametrize(("times", "status"), [(1, 0), (2, 130)])
def test_a_second_ctrl_c_ends_the_process_at_once(models, times, status):
    child = Child(main.main, ["serve", "--model", str(models["lm"]), "--port", "0"])
    until = time.monotonic() + 60
    while "is ready" not in child.said()[1]:
        assert time.monotonic() < until
        assert child.poll() is None, child.said()[1]
        time.sleep(0.02)
    for _ in range(times):
        child.send_signal(signal.SIGINT)
        time.sleep(0.001)  # two at once are one
    _, said = child.communicate(30)
    returned = child.returncode
    child.end()
    assert returned == status
    assert "Traceback" not in said
