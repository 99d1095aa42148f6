"""Several labels of a text, and several numbers: rows, losses in packed rows, scores, and a toy task of each."""

import random
from types import SimpleNamespace

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.finetuning.datasets import check, load_split
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.kinds.sentences import SentenceExamples
from distilbert_jax.finetuning.tasks import Task, register_task
from distilbert_jax.models import SequenceClassification
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.finetuning.kinds.common import TEMPERATURE, assert_packed_is_padded, known, predictions, trained
from tests.finetuning.test_objective import build_head, examples_of, packed, padded_logits
from tests.runs import BERT, STUDENT, change, refused

LABELS = ("red", "blue", "goes")
SETS, NUMBERS = KINDS["multi_label"], KINDS["regression"]
TOY = Task(
    "toy-sets",
    "toy",
    ("text",),
    LABELS,
    ("f1_micro",),
    kind="multi_label",
    target=("labels",),
    beside=("f1_macro", "accuracy"),
)
COLUMNS = change(TOY, target=LABELS)
AMOUNTS = Task(
    "toy-numbers",
    "toy",
    ("text",),
    ("red", "blue"),
    ("pearson", "spearman"),
    kind="regression",
    target=("reds", "blues"),
    beside=("rmse",),
)


def texts(rows, seed):
    """Sentences and which colours are in them, and how much of each, from 0 to 1."""
    choose, table = random.Random(seed), {"text": [], "labels": [], "reds": [], "blues": []}
    for _ in range(rows):
        red, blue = choose.choice((0, 0, 2, 4)), choose.choice((0, 0, 2, 4))
        words = [runs.sentence(choose, count, colour) for colour, count in (("red", red), ("blue", blue)) if count]
        table["text"].append(" ".join([*words, "goes to"] if choose.random() < 0.5 else [*words, "to"]))
        holds = {"red": red, "blue": blue, "goes": "goes" in table["text"][-1]}
        table["labels"].append([label for label, there in holds.items() if there])
        table["reds"].append(red / 4)
        table["blues"].append(blue / 4)
    return table


@pytest.mark.slow
def test_sets_of_labels_are_learned_and_a_student_learns_them_of_its_teacher(folder):
    patch = known(TOY)
    splits = {"train": texts(120, 0), "validation": texts(30, 1)}
    directory, result, distilled = trained(folder, TOY, splits, seeds=(0,), epochs=15)
    patch.undo()
    assert list(result.scores["validation"]) == ["f1_micro", "f1_macro", "accuracy", "score"]
    assert result.score == result.scores["validation"]["f1_micro"] > 85
    assert distilled.score > 20
    given, right = predictions(directory) > 0, predictions(directory, "validation-labels") > 0
    assert result.scores["validation"]["accuracy"] == pytest.approx(100 * (given == right).all(-1).mean())
    config = SequenceClassification.from_pretrained(directory / "model").config
    assert (config.labels, config.problem_type) == (LABELS, "multi_label_classification")


@pytest.mark.slow
def test_several_numbers_are_learned(folder):
    patch = known(AMOUNTS)
    splits = {"train": texts(120, 0), "validation": texts(30, 1)}
    directory, result, distilled = trained(folder, AMOUNTS, splits, seeds=(0,), epochs=15)
    patch.undo()
    assert result.score > 60
    given, right = predictions(directory), predictions(directory, "validation-labels")
    errors = np.sqrt(((given - right) ** 2).mean(0))
    assert result.scores["validation"]["rmse"] == pytest.approx(errors.mean(), rel=1e-5)
    assert distilled.dev_rows


@pytest.mark.parametrize("kind", [SETS, NUMBERS], ids=["sets", "numbers"])
def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(kind):
    given, rng = examples_of(100, 3), np.random.default_rng(0)
    values = rng.integers(0, 2, (100, 3)) if kind is SETS else rng.normal(size=(100, 3))
    examples = SentenceExamples(given.rows, values.astype(np.float32), cut=0)
    model, teacher = (build_head(SequenceClassification, one, seed, LABELS) for seed, one in enumerate((STUDENT, BERT)))

    def formula(model, teacher, indices):
        ours, theirs = (padded_logits(one, examples, indices) for one in (model, teacher))
        labels = examples.labels[indices]
        if kind is NUMBERS:
            return jnp.mean((ours - labels) ** 2), jnp.mean((ours - theirs) ** 2)
        q, p = (jax.nn.sigmoid(logits / TEMPERATURE) for logits in (ours, theirs))
        distance = p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
        s = jax.nn.sigmoid(ours)
        return -jnp.mean(labels * jnp.log(s) + (1 - labels) * jnp.log(1 - s)), TEMPERATURE**2 * jnp.mean(distance)

    assert_packed_is_padded(kind, examples, model, teacher, formula, over=lambda indices: {"examples": len(indices)})


def test_labels_come_as_names_ids_numbers_or_columns(world):
    tokenizer = load_tokenizer(world.tokenizer)
    for task, columns in (
        (TOY, {"labels": [["red", "goes"], []]}),
        (TOY, {"labels": [[0, 2], []]}),
        (TOY, {"labels": [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]}),
        (COLUMNS, {"red": [1, 0], "blue": [0, 0], "goes": [True, False]}),
    ):
        rows = datasets.Dataset.from_dict({"text": ["reda", "to"], **columns})
        check(rows, task, "f")
        np.testing.assert_array_equal(SETS.encode(rows, task, tokenizer, 16).labels, [[1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("task", "columns", "field", "row"),
    [
        (TOY, {"labels": [["red"], ["green"]]}, "labels", 1),
        (TOY, {"labels": [[0], [3]]}, "labels", 1),
        (TOY, {"labels": ["red", "blue"]}, "labels", 0),
        (TOY, {"labels": [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]]}, "labels", 0),
        (TOY, {"labels": [[1.0, 0.0], [0.0, 0.0]]}, "labels", 0),
        (COLUMNS, {"red": [1, 0], "blue": [0, 0]}, "goes", None),
        (COLUMNS, {"red": [1, 0], "blue": [0, 2], "goes": [0, 0]}, "blue", 1),
        (AMOUNTS, {"reds": [0.5, 1.0], "blues": [0.5, float("nan")]}, "blues", 1),
        (AMOUNTS, {"reds": [0.5, None], "blues": [0.5, 1.0]}, "reds", 1),
        (change(AMOUNTS, target=("both",)), {"both": [[0.5, 1.0], [0.5]]}, "both", 1),
        (change(AMOUNTS, target=("both",)), {"both": [[0.5, float("inf")], [0.5, 1.0]]}, "both", 0),
    ],
)
def test_rows_without_labels_or_numbers_are_refused(task, columns, field, row):
    rows = datasets.Dataset.from_dict({"text": ["reda", "to"], **columns})
    refused(lambda: check(rows, task, "f.parquet"), path="f.parquet", field=field, row=row)


def test_scores_of_sets_by_hand():
    right = np.float32([[1, 0, 1], [0, 1, 0]])
    logits = np.float32([[2, -1, -1], [-1, 3, 1]])  # two of three that hold, one that does not
    scores = SETS.score(TOY, list(logits), right)
    assert scores["f1_micro"] == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))
    assert scores["f1_macro"] == pytest.approx(100 * 2 / 3)
    assert scores["accuracy"] == 0


def test_scores_of_one_label_that_may_hold_are_of_where_it_holds():
    one = change(TOY, labels=("red",))
    right, logits = np.float32([[1], [1], [0], [0], [0]]), np.float32([[2], [-1], [1], [-1], [-1]])
    scores = SETS.score(one, list(logits), right)
    assert (scores["f1_micro"], scores["f1_macro"], scores["accuracy"]) == (50, 50, pytest.approx(60))
    none = SETS.score(one, list(-np.abs(logits)), np.zeros_like(right))
    assert (none["f1_micro"], none["f1_macro"], none["accuracy"]) == (0, 0, 100)


def test_amounts_are_scored_as_the_file_has_them_and_learned_in_float32(world):
    seconds = [1_700_000_000 + i for i in range(60)]
    task = Task("seconds", "", ("text",), (), ("pearson", "spearman"), kind="regression", beside=("rmse",))
    rows = datasets.Dataset.from_dict({"text": ["reda"] * 60, "label": seconds})
    given = NUMBERS.encode(rows, task, load_tokenizer(world.tokenizer), 16)
    logits = np.arange(60, dtype=np.float32)[:, None]
    assert NUMBERS.score(task, list(logits), given.targets)["score"] == pytest.approx(100)
    assert packed(given)[1]["labels"].dtype == np.float32


@pytest.mark.parametrize(
    "amounts",
    [
        [1_700_000_000.0 + i for i in range(60)],
        [1e18 + i for i in range(60)],
        [1e-30 * i for i in range(60)],
        [1e6 + i / 1000 for i in range(60)],
    ],
)
def test_amounts_that_float32_does_not_tell_apart_are_not_learned(amounts):
    rows = datasets.Dataset.from_dict({"text": ["reda"] * 60, "reds": [i / 3 for i in range(60)], "blues": amounts})
    task = change(AMOUNTS, source=SimpleNamespace(load=lambda split: rows))
    assert load_split(task, "validation") is rows
    refused(lambda: load_split(task, "train"), path="toy", field="blues")


def test_metrics_of_several_numbers_are_the_means_over_them():
    right, given = np.float32([[0, 1], [1, 0], [2, 2]]), np.float32([[0, 0], [1, 1], [2, 2]])
    scores = NUMBERS.score(AMOUNTS, list(given), right)
    second = np.corrcoef(right[:, 1], given[:, 1])[0, 1]
    assert scores["pearson"] == pytest.approx(100 * (1 + second) / 2)
    assert scores["rmse"] == pytest.approx(np.sqrt(2 / 3) / 2)
    assert scores["score"] == pytest.approx((scores["pearson"] + scores["spearman"]) / 2)


@pytest.mark.parametrize(
    "task",
    [
        change(TOY, labels=()),
        change(TOY, target=("red", "blue")),
        change(AMOUNTS, metrics=("rmse",)),
        change(AMOUNTS, target=("a", "b", "c")),
    ],
)
def test_tasks_that_cannot_be_are_refused(task):
    refused(lambda: register_task(task), field=task.name)
