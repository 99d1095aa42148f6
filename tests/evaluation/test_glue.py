import datasets
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.data.glue import encode, find_task
from distilbert_jax.data.tokenizer import load_tokenizer
from distilbert_jax.evaluation import glue as module
from distilbert_jax.evaluation.glue import predict, run_grid, score, summary, table
from distilbert_jax.models import BertForSequenceClassification, DistilBertForSequenceClassification
from distilbert_jax.models.params import split
from tests.models.common import build, call
from tests.runs import BERT, STUDENT, change, refused

PREDICTED = np.array([1, 1, 0, 0, 1, 0, 1, 1])
TRUE = np.array([1, 0, 0, 1, 1, 0, 1, 0])  # 3 true positives, 2 false ones, 1 missed, 2 true negatives


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


@pytest.mark.parametrize(("task", "labels"), [("cola", TRUE), ("stsb", np.linspace(0, 5, 8, dtype=np.float32))])
def test_predictions_that_are_all_equal_score_zero(task, labels):
    width = 1 if task == "stsb" else 2
    assert set(score(find_task(task), np.ones((8, width), np.float32), labels).values()) == {0.0}


def test_without_a_positive_prediction_f1_is_zero():
    assert score(find_task("mrpc"), logits_of(np.zeros(8, int)), TRUE) == {"accuracy": 50.0, "f1": 0.0, "score": 25.0}


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
    return encode(datasets.Dataset.from_dict(rows), find_task("mrpc"), load_tokenizer(world.tokenizer), 32)


@pytest.fixture(
    scope="module", params=[(BertForSequenceClassification, BERT), (DistilBertForSequenceClassification, STUDENT)]
)
def model(request):
    family, config = request.param
    return build(family, change(config, labels=("a", "b", "c")))


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]).reshape(-1, 1, 1), ("data", "fsdp", "tensor"))


def test_logits_are_in_the_order_of_the_rows_and_equal_to_those_of_each_row_alone(model, examples):
    found = predict(*split(model), examples, (8, 16), 6, 0, mesh(1))
    assert (found.shape, found.dtype) == ((21, 3), np.float32)
    for i, (ids, types) in enumerate(examples.rows):
        given = {"token_type_ids": types[None]} if model.config.type_vocab_size else {}
        alone = call(model, ids[None], None, **given).logits
        np.testing.assert_allclose(found[i], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "devices"), [(100, 1), (5, 8)])
def test_logits_depend_on_neither_batch_size_nor_mesh(examples, batch_size, devices):
    model = build(DistilBertForSequenceClassification, STUDENT)
    expected = predict(*split(model), examples, (8, 16), 6, 0, mesh(1))
    found = predict(*split(model), examples, (8, 16), batch_size, 0, mesh(devices))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def result(task, seed, value, **metrics):
    splits = {name: {**metrics, "score": value} for name in find_task(task).dev}
    rows = dict.fromkeys(splits, 7)
    return {"task": task, "seed": seed, "score": value, "scores": splits, "train_rows": 90, "dev_rows": rows}


def test_a_table_gives_the_median_and_the_spread_over_seeds():
    scores = {0: 50.0, 1: 90.0, 2: 60.0, 3: 55.0}
    results = [result("mrpc", seed, value, accuracy=value + 5, f1=value - 5) for seed, value in scores.items()]
    results.append(result("mnli", 0, 80.0, accuracy=80.0))
    found = summary(results)
    assert list(found) == ["mrpc", "mnli"]
    assert found["mrpc"] == {
        "median": 57.5,
        "min": 50.0,
        "max": 90.0,
        "seeds": 4,
        "metrics": {"validation": {"accuracy": 62.5, "f1": 52.5, "score": 57.5}},
        "train_rows": 90,
        "dev_rows": {"validation": 7},
    }
    assert list(found["mnli"]["metrics"]) == ["validation_matched", "validation_mismatched"]
    cells = {column.header: list(column.cells) for column in table("bert", found).columns}
    assert cells["median"] == ["57.5", "80.0"]
    assert cells["metrics"] == ["accuracy 62.5  f1 52.5", "accuracy 80.0  accuracy 80.0"]
    assert cells["rows train / dev"] == ["90 / 7", "90 / 7 + 7"]


@pytest.fixture
def asked(monkeypatch):
    """The configs that fine-tuning was asked for; each scores its seed."""
    configs = []

    def finetune(config, predict, score):
        configs.append(config)
        return result(config.task, config.run.seed, float(config.run.seed))

    monkeypatch.setattr(module, "finetune", finetune)
    return configs


def test_the_grid_runs_every_task_with_every_seed_in_a_directory_of_its_own(asked):
    config = change(FinetuneConfig(model="bert"), run__directory="runs/x")
    found = run_grid(config, ("rte", "cola"), (0, 3))
    assert [(run["task"], run["seed"]) for run in found] == [("rte", 0), ("rte", 3), ("cola", 0), ("cola", 3)]
    assert [run["directory"] for run in found] == ["runs/x/rte-0", "runs/x/rte-3", "runs/x/cola-0", "runs/x/cola-3"]
    assert [config.run.directory for config in asked] == [run["directory"] for run in found]
    assert run_grid(FinetuneConfig(model="a/bert"), ["rte"], [1])[0]["directory"] == "runs/glue/a-bert/rte-1"


def test_a_misspelt_task_is_refused_before_the_first_run(asked):
    refused(lambda: run_grid(FinetuneConfig(model="bert"), ("rte", "colla"), (0,)), "'colla'", "'cola'")
    assert asked == []


def test_tasks_that_a_folder_lacks_are_told_of_and_left_out(asked, tmp_path, capsys):
    (tmp_path / "rte").mkdir()
    config = FinetuneConfig(model="bert", data=str(tmp_path))
    assert [run["task"] for run in run_grid(config, ("qnli", "rte", "cola"), (0,))] == ["rte"]
    assert capsys.readouterr().err == f"{tmp_path}: has no qnli, cola: left out\n"
    refused(lambda: run_grid(config, ("qnli",), (0,)), f"{tmp_path}: has no folder qnli", "--data")
    assert len(asked) == 1
