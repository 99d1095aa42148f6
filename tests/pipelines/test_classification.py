import json
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from distilbert_jax.models import BertForSequenceClassification, DistilBertForSequenceClassification
from distilbert_jax.pipelines import TextClassification
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import build, call
from tests.runs import BERT, STUDENT, change, refused

LABELS = ("no", "yes", "maybe")
CLASSES = {"bert": (BertForSequenceClassification, BERT), "distilbert": (DistilBertForSequenceClassification, STUDENT)}


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    """Family, labels → the directory of a classifier."""

    def save(family, labels):
        kind, config = CLASSES[family]
        path = tmp_path_factory.mktemp("classifier") / "model"
        build(kind, change(config, labels=labels)).save_pretrained(path, load_tokenizer(world.tokenizer))
        return path

    return save


@pytest.fixture(scope="module", params=CLASSES)
def classify(request, saved):
    return TextClassification(saved(request.param, LABELS))


def logits(classify, *text):
    """Of a text or a pair alone, without padding."""
    encoded = classify.tokenizer.tokenizer.encode(*text)
    types = np.array([encoded.type_ids], np.int32)
    return np.asarray(call(classify.model, np.array([encoded.ids], np.int32), token_type_ids=types).logits[0])


def softmax(values):
    return np.exp(values - values.max()) / np.exp(values - values.max()).sum()


def test_labels_have_their_probabilities_best_first(classify):
    texts = ["reda goes", "to " * 20, "redb to"]
    for text, found in zip(texts, classify(texts, top_k=None), strict=True):
        expected = softmax(logits(classify, text))
        assert [answer["label"] for answer in found] == [LABELS[i] for i in np.argsort(-expected)]
        assert [answer["score"] for answer in found] == pytest.approx(np.sort(expected)[::-1], rel=1e-4)
        assert [answer["label"] for answer in classify(text)] == [found[0]["label"]]
        assert [answer["label"] for answer in classify(text, top_k=2)] == [answer["label"] for answer in found[:2]]


def test_a_tuple_is_a_pair(classify):
    pairs = [("reda goes", "to redb"), ("to", "goes")]
    for pair, found in zip(pairs, classify(pairs), strict=True):
        assert found[0]["score"] == pytest.approx(softmax(logits(classify, *pair)).max(), rel=1e-4)
        assert classify(pair)[0]["label"] == found[0]["label"]
    assert [len(found) for found in classify(iter(["reda", *pairs]), None)] == [3, 3, 3]
    refused(lambda: classify(("reda", "redb", "redc")), by="text.tokenizer.BertTokenizer.encodings", row=1)
    refused(lambda: classify([("reda", " ")]), by="text.tokenizer.BertTokenizer.encodings", row=1)
    refused(lambda: classify([("reda", None)]), by="text.tokenizer.check_text")
    assert classify([]) == []


@pytest.mark.parametrize(
    ("problem", "labels", "scores_of"),
    [
        ("regression", ("score",), lambda values: values),
        ("regression", LABELS, lambda values: values),
        ("multi_label_classification", LABELS, expit),
        ("single_label_classification", LABELS, softmax),
        (None, LABELS, softmax),
        (None, ("score",), expit),
    ],
)
def test_scores_are_what_the_problem_type_makes_of_the_logits_before_and_after_a_round_trip(
    problem, labels, scores_of, saved, tmp_path
):
    path = saved("distilbert", labels)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"problem_type": problem}))
    classify = TextClassification(path)
    classify.model.save_pretrained(tmp_path, classify.tokenizer)
    expected = scores_of(logits(classify, "reda goes"))
    for pipeline in (classify, TextClassification(tmp_path)):
        found = {answer["label"]: answer["score"] for answer in pipeline("reda goes", None)}
        assert [found[label] for label in labels] == pytest.approx(expected, rel=1e-4)
    assert json.loads((tmp_path / "config.json").read_text()).get("problem_type") == problem


def test_scores_that_are_not_finite_are_refused_with_the_models_name(saved):
    path = saved("distilbert", LABELS)
    tensors = load_file(path / "model.safetensors")
    kernel = "distilbert.transformer.layer.0.ffn.lin2.weight"
    save_file(tensors | {kernel: np.full_like(tensors[kernel], 3e38)}, path / "model.safetensors")
    classify = TextClassification(path)
    refused(lambda: classify("reda goes"), by="models.ranges.check_finite", path=str(path))


def test_logits_near_the_end_of_float32_are_scores_without_a_word(saved, capfd):
    path = saved("distilbert", LABELS)
    tensors = load_file(path / "model.safetensors")
    ends = np.resize(np.array([-3e38, 3e38], np.float32), tensors["classifier.bias"].shape)
    save_file(tensors | {"classifier.bias": ends}, path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (best,) = TextClassification(path)("reda goes")
    assert best == {"label": LABELS[1], "score": 1.0}


@pytest.mark.parametrize("top_k", [0, 4, 2.0, True])
def test_a_number_of_labels_that_are_not_there_is_refused(classify, top_k):
    refused(
        lambda: classify("reda", top_k),
        f"top_k = {top_k}",
        by="pipelines.classification.TextClassification.__call__",
        field="top_k",
    )


def test_a_function_makes_scores_of_logits(classify):
    values = {name: classify("reda goes", None, name) for name in ("none", "sigmoid", "softmax")}
    plain = {one["label"]: one["score"] for one in values["none"]}
    for one in values["sigmoid"]:
        assert one["score"] == pytest.approx(expit(plain[one["label"]]), rel=1e-6)
    assert sum(one["score"] for one in values["softmax"]) == pytest.approx(1.0, rel=1e-6)
    assert values["softmax"] == classify("reda goes", None)  # what the config says of three labels
    refused(lambda: classify("reda", function_to_apply="tanh"), field="function_to_apply")


def test_a_directory_without_a_classifier_is_refused(directory, capfd):
    message = refused(lambda: TextClassification(directory), by="models.hf_format.to_params", path=str(directory))
    assert message.endswith("are missing; train it first")
