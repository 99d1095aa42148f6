"""Choices: examples of several segments, their loss in packed rows, scores, and a toy task."""

import random

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.finetuning.datasets import check
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.preparation import load_model
from distilbert_jax.finetuning.tasks import Task, register_task
from distilbert_jax.models import MultipleChoice, SequenceClassification
from distilbert_jax.text.tokenizer import load_tokenizer, stack
from tests import runs
from tests.finetuning.kinds.common import assert_packed_is_padded, divergence, known, predictions, settings, trained
from tests.finetuning.test_objective import build_head
from tests.runs import BERT, STUDENT, change, refused

KIND = KINDS["choices"]
TOY = Task("toy-choices", "toy", ("context", "choices"), (), ("accuracy",), kind="choices", target=("label",))
ENDS = ("a", "b", "c")
COLUMNS = change(TOY, columns=("context", "question", *ENDS), labels=ENDS)


def endings(rows, seed):
    """Two to four choices; the right one has blue in it, the others red."""
    choose, table = random.Random(seed), {"context": [], "choices": [], "label": []}
    for _ in range(rows):
        number = choose.randint(2, 4)
        label = choose.randrange(number)
        colours = ["blue" if place == label else "red" for place in range(number)]
        table["context"].append(f"goes to red{choose.choice('abcdefghijklmnopqrst')}")
        table["choices"].append([runs.sentence(choose, choose.randint(1, 4), colour) for colour in colours])
        table["label"].append(label)
    return table


@pytest.mark.slow
def test_choices_are_learned_and_a_student_learns_them_of_its_teacher(folder):
    patch = known(TOY)
    splits = {"train": endings(120, 0), "validation": endings(30, 1)}
    directory, result, distilled = trained(folder, TOY, splits, epochs=5, length=16)
    patch.undo()
    assert result.score > 90
    assert distilled.score > 20
    given, right = predictions(directory), predictions(directory, "validation-labels")
    assert result.score == pytest.approx(100 * (np.nan_to_num(given, nan=-np.inf).argmax(-1) == right).mean())
    np.testing.assert_array_equal((~np.isnan(given)).sum(-1), [len(one) for one in splits["validation"]["choices"]])


@pytest.fixture(scope="module")
def tokenizer(world):
    return load_tokenizer(world.tokenizer)


def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(tokenizer):
    examples = KIND.encode(datasets.Dataset.from_dict(endings(60, 2)), TOY, tokenizer, 16)
    # With weights as they are drawn, choices hardly differ, and what they have in common rounds away their gradients.
    wide = lambda one: change(one, initializer_range=0.3)
    model, teacher = (build_head(MultipleChoice, wide(one), seed, ("0",)) for seed, one in enumerate((STUDENT, BERT)))

    def formula(model, teacher, indices):
        sizes = [len(examples.sizes[index]) for index in indices]
        alone = [
            type(examples.rows[0])(*(values[end - size : end] for values in examples.rows[index]))
            for index in indices
            for size, end in zip(examples.sizes[index], np.cumsum(examples.sizes[index]), strict=True)
        ]
        batch = stack(alone, 0)

        def logits(model):
            types = {"token_type_ids": batch["token_type_ids"][:, None]} if model.config.type_vocab_size else {}
            one = lambda name: batch[name][:, None]
            every = model(one("input_ids"), one("attention_mask"), **types).logits[:, 0]
            return [every[end - size : end] for size, end in zip(sizes, np.cumsum(sizes), strict=True)]

        ours, theirs = logits(model), logits(teacher)
        labels = examples.labels[indices]
        own = sum(-jax.nn.log_softmax(one)[label] for one, label in zip(ours, labels, strict=True))
        distance = sum(divergence(one, other) for one, other in zip(ours, theirs, strict=True))
        return own / len(indices), jnp.sum(distance) / len(indices)

    assert_packed_is_padded(KIND, examples, model, teacher, formula, over=lambda indices: {"examples": len(indices)})


def test_a_question_stands_before_each_choice_and_choices_may_be_columns(tokenizer):
    rows = {
        "context": ["goes to"],
        "question": ["reda"],
        "a": ["redb"],
        "b": ["redc bluea"],
        "c": ["blueb"],
        "label": [1],
    }
    table = datasets.Dataset.from_dict(rows)
    check(table, COLUMNS, "f")
    examples = KIND.encode(table, COLUMNS, tokenizer, 16)
    tokens = [tokenizer.id_to_token(i) for i in examples.rows[0].ids]
    assert " ".join(tokens) == (
        "[CLS] goes to [SEP] reda redb [SEP] [CLS] goes to [SEP] reda redc bluea [SEP] [CLS] goes to [SEP] reda blueb [SEP]"
    )
    np.testing.assert_array_equal(examples.sizes[0], [7, 8, 7])
    np.testing.assert_array_equal(examples.labels, [1])
    alone = change(COLUMNS, columns=ENDS)
    examples = KIND.encode(table, alone, tokenizer, 4)
    np.testing.assert_array_equal(examples.sizes[0], [3, 4, 3])
    assert examples.cut == 0
    assert KIND.encode(table, alone, tokenizer, 3).cut == 1


def test_a_head_of_another_kind_is_no_start_for_choices(folder, tmp_path):
    tokenizer = load_tokenizer(folder / "student")
    build_head(SequenceClassification, STUDENT, 0, ("a", "b", "c")).save_pretrained(tmp_path / "other", tokenizer)
    build_head(MultipleChoice, STUDENT, 0, ("0", "1")).save_pretrained(tmp_path / "same", tokenizer)
    load = lambda name: load_model(change(settings(folder, TOY), model=str(tmp_path / name)), TOY)
    assert load("other").classifier.kernel.shape == (32, 1)
    kept = MultipleChoice.from_pretrained(tmp_path / "same")
    np.testing.assert_array_equal(load("same").classifier.kernel[...], kept.classifier.kernel[...])


@pytest.mark.parametrize(
    ("task", "columns", "field", "row"),
    [
        (TOY, {"choices": [["a", "b"], ["c"]], "label": [0, 0]}, "choices", 1),
        (TOY, {"choices": [["a", "b"], ["c", None]], "label": [0, 0]}, "choices", 1),
        (TOY, {"choices": [["a", "b"], ["c", "d"]], "label": [0, 2]}, "label", 1),
        (TOY, {"choices": [["a", "b"], ["c", "d"]], "label": [-1, 0]}, "label", 0),
        (TOY, {"choices": [["a", "b"], ["c", "d"]], "label": ["a", "c"]}, "label", 0),
        (COLUMNS, {"question": ["q", "q"], "a": ["x", "x"], "b": ["y", "y"], "label": [0, 1]}, "c", None),
        (
            COLUMNS,
            {"question": ["q", "q"], "a": ["x", "x"], "b": ["y", None], "c": ["z", "z"], "label": [0, 1]},
            "b",
            1,
        ),
        (
            COLUMNS,
            {"question": ["q", "q"], "a": ["x", "x"], "b": ["y", "y"], "c": ["z", "z"], "label": [0, 3]},
            "label",
            1,
        ),
    ],
)
def test_fewer_choices_than_labels_are_refused(task, columns, field, row):
    rows = datasets.Dataset.from_dict({"context": ["to", "to"], **columns})
    refused(lambda: check(rows, task, "f.parquet"), path="f.parquet", field=field, row=row)


@pytest.mark.parametrize("changes", [{"columns": ()}, {"labels": ("a",)}, {"target": ()}, {"metrics": ("f1",)}])
def test_a_task_of_choices_that_cannot_be_is_refused(changes):
    refused(lambda: register_task(change(TOY, **changes)), field="toy-choices")
