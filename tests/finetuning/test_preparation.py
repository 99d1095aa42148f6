"""Preparation of a task: how much each example counts."""

import numpy as np
import pytest

from distilbert_jax.config import DistillConfig, FinetuneConfig, HiddenConfig
from distilbert_jax.finetuning.batches import PackedShape, packings
from distilbert_jax.finetuning.identity import check_asked
from distilbert_jax.finetuning.kinds.kind import learned
from distilbert_jax.finetuning.kinds.sentences import Classification, SentenceExamples
from distilbert_jax.finetuning.preparation import weighted
from distilbert_jax.finetuning.settings import in_words
from distilbert_jax.text.tokenizer import Row
from tests.runs import change, refused

BALANCED = FinetuneConfig(class_weights="balanced")


def examples(labels):
    row = Row(np.zeros(3, np.int32), np.zeros(3, np.int32))
    return SentenceExamples([row] * len(labels), np.array(labels, np.int32), cut=0)


def test_balanced_classes_count_the_same_and_rows_one_on_average():
    given = examples([0, 0, 0, 1])
    assert weighted(given, FinetuneConfig()) is given
    result = weighted(given, BALANCED)
    np.testing.assert_allclose(result.importance, [2 / 3, 2 / 3, 2 / 3, 2])
    (packing,) = packings(result.lengths, PackedShape(2, 8, 2))
    batch = result.packed(packing, PackedShape(2, 8, 2), 0)
    np.testing.assert_allclose(packing.of_examples(np.asarray(learned(batch))), result.importance)
    # Of equal logits every example has a cross-entropy of log 2, times its importance.
    loss = Classification().loss(np.zeros((2, 2, 2), np.float32), batch)
    assert float(loss) == pytest.approx(4 * np.log(2), rel=1e-6)


def test_weights_of_classes_are_refused_where_labels_have_no_share():
    taught = change(BALANCED, task="sst2", distill__teacher="taught", distill__alpha=1.0)
    refused(lambda: check_asked(taught), field="class_weights", hint="--class-weights none")
    check_asked(change(taught, distill__alpha=0.9))


def test_a_teacher_of_which_nothing_is_learned_is_refused():
    taught = FinetuneConfig(distill=DistillConfig("taught", alpha=0.0))
    refused(lambda: check_asked(taught), field="distill.teacher", hint="--distill.alpha")
    check_asked(change(taught, distill__hidden=HiddenConfig(1.0)))
    check_asked(change(taught, distill__teacher=""))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "rte"}, "distilled from taught (α 0.5, T 2)"),
        ({"task": "stsb"}, "distilled from taught (α 0.5)"),  # of a regression no temperature is read
        ({"task": "rte", "model": "runs/x/mnli-3/model"}, "from the MNLI model of the same seed"),
        ({"task": "rte", "model": "runs/x/mnli-0/model"}, None),
        ({"task": "rte", "model": "mnli-3/model"}, None),
    ],
)
def test_settings_in_words_are_what_a_run_did(changes, said):
    config = change(
        FinetuneConfig(model="bert"),
        **{"run__seed": 3, "run__directory": "runs/x/rte-3", "distill__teacher": "taught", **changes},
    )
    words = in_words(config)
    assert said is None or said in words
    assert ("MNLI" in words) == (said is not None and "MNLI" in said)
