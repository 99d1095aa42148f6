import datasets
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from distilbert_jax.finetuning.batches import PackedShape
from distilbert_jax.finetuning.kinds import KINDS, kind_of
from distilbert_jax.finetuning.kinds.sentences import majority
from distilbert_jax.finetuning.predictor import predictor
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import BertForSequenceClassification, DistilBertForSequenceClassification
from distilbert_jax.models.params import split
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import build, call
from tests.runs import BERT, STUDENT, change

PREDICTED = np.array([1, 1, 0, 0, 1, 0, 1, 1])
TRUE = np.array([1, 0, 0, 1, 1, 0, 1, 0])  # 3 true positives, 2 false ones, 1 missed, 2 true negatives


def score(task, logits, labels):
    return kind_of(task).score(task, logits, labels)


def logits_of(predictions):
    return np.eye(2, dtype=np.float32)[predictions]


def test_accuracy_f1_and_their_mean_by_hand():
    found = score(find_task("mrpc"), logits_of(PREDICTED), TRUE)
    accuracy, f1 = 100 * 5 / 8, 100 * 2 * 3 / (2 * 3 + 2 + 1)
    assert found == pytest.approx({"accuracy": accuracy, "f1": f1, "score": (accuracy + f1) / 2})


def test_matthews_by_hand():
    expected = 100 * (3 * 2 - 2 * 1) / np.sqrt((3 + 2) * (3 + 1) * (2 + 2) * (2 + 1))
    assert score(find_task("cola"), logits_of(PREDICTED), TRUE) == pytest.approx(
        {"matthews": expected, "score": expected}
    )


def test_accuracy_of_three_labels_by_hand():
    logits = np.array([[0.1, 0.3, 0.2], [9, 1, 1], [0, 0, 1], [1, 0, 0]], np.float32)
    assert score(find_task("mnli"), logits, np.array([1, 0, 2, 2])) == {"accuracy": 75.0, "score": 75.0}


def test_correlations_are_those_of_numpy():
    rng = np.random.default_rng(0)
    labels, predictions = rng.uniform(0, 5, 50), rng.normal(size=50)
    predictions += labels
    ranks = [np.argsort(np.argsort(values)) for values in (predictions, labels)]
    found = score(find_task("stsb"), predictions[:, None].astype(np.float32), labels.astype(np.float32))
    pearson, spearman = (100 * np.corrcoef(*pair)[0, 1] for pair in ((predictions, labels), ranks))
    assert found == pytest.approx(
        {"pearson": pearson, "spearman": spearman, "score": (pearson + spearman) / 2}, rel=1e-5
    )


@pytest.mark.parametrize(
    ("task", "labels"), [("cola", TRUE), ("cola", np.ones(8, int)), ("stsb", np.linspace(0, 5, 8, dtype=np.float32))]
)
def test_predictions_that_are_all_equal_score_zero(task, labels):
    width = 1 if task == "stsb" else 2
    assert set(score(find_task(task), np.ones((8, width), np.float32), labels).values()) == {0.0}


def test_without_a_positive_prediction_f1_is_zero():
    assert score(find_task("mrpc"), logits_of(np.zeros(8, int)), TRUE) == {"accuracy": 50.0, "f1": 0.0, "score": 25.0}


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        ("wnli", [0] * 40 + [1] * 31, {"accuracy": 100 * 40 / 71}),
        ("mrpc", [1, 1, 0, 1], {"accuracy": 75.0, "f1": 100 * 6 / 7}),
        ("qqp", [0, 0, 0, 1], {"accuracy": 75.0, "f1": 0.0}),
        ("cola", [1, 1, 0], {"matthews": 0.0}),
        ("mnli", [2, 2, 0, 1], {"accuracy": 50.0}),
        ("stsb", [1.5, 3.0, 5.0], {"pearson": 0.0, "spearman": 0.0}),
    ],
)
def test_the_majority_class_is_scored_as_a_model_that_knows_nothing_else(task, labels, expected):
    labels = np.array(labels, np.float32 if task == "stsb" else np.int32)
    assert majority(find_task(task), labels) == pytest.approx({**expected, "score": np.mean(list(expected.values()))})


@pytest.fixture(scope="module")
def examples(world):
    """Twenty-one pairs of three lengths, in no order."""
    sizes = np.random.default_rng(0).permutation([1, 2, 9] * 7)
    rows = {
        "sentence1": ["reda " * n for n in sizes],
        "sentence2": ["goes blueb"] * len(sizes),
        "label": [0] * len(sizes),
    }
    rows["sentence1"] = [f"red{chr(97 + i % 20)} {text}" for i, text in enumerate(rows["sentence1"])]
    task = find_task("mrpc")
    return kind_of(task).encode(datasets.Dataset.from_dict(rows), task, load_tokenizer(world.tokenizer), 32)


@pytest.fixture(
    scope="module", params=[(BertForSequenceClassification, BERT), (DistilBertForSequenceClassification, STUDENT)]
)
def model(request):
    family, config = request.param
    return build(family, change(config, labels=("a", "b", "c")))


def predict(graphdef, params, examples, shape, mesh):
    return np.stack(predictor(KINDS["classification"], graphdef, shape, 0, mesh, "model")(params, examples))


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]).reshape(-1, 1, 1), ("data", "fsdp", "tensor"))


def test_logits_are_in_the_order_of_the_rows_and_equal_to_those_of_each_row_alone(model, examples):
    found = predict(*split(model), examples, PackedShape(6, 16, 5), mesh(1))
    assert (found.shape, found.dtype) == ((21, 3), np.float32)
    for i, (ids, types) in enumerate(examples.rows):
        given = {"token_type_ids": types[None]} if model.config.type_vocab_size else {}
        alone = call(model, ids[None], None, **given).logits
        np.testing.assert_allclose(found[i], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "devices"), [(PackedShape(100, 24, 8), 1), (PackedShape(5, 16, 5), 8)])
def test_logits_depend_on_neither_shape_nor_mesh(examples, shape, devices):
    model = build(DistilBertForSequenceClassification, STUDENT)
    expected = predict(*split(model), examples, PackedShape(6, 16, 5), mesh(1))
    found = predict(*split(model), examples, shape, mesh(devices))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
