import pytest

from distilbert_jax.finetuning.labels import label_order
from tests.runs import refused

MNLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("given", "wanted", "order"),
    [
        (("not_entailment", "entailment"), ("entailment", "not_entailment"), (1, 0)),
        (("contradiction", "entailment", "neutral"), MNLI, (1, 2, 0)),
        (("NEGATIVE", "POSITIVE"), ("negative", "positive"), (0, 1)),
        (("Not-Entailment", "ENTAILMENT"), ("entailment", "not_entailment"), (1, 0)),
        (("LABEL_1", "LABEL_0"), ("0", "1"), (1, 0)),
        (("a", "A"), ("A", "a"), (1, 0)),
        (("LABEL_0",), ("score",), (0,)),  # a regression has nothing to tell apart
    ],
)
def test_labels_are_matched_by_their_names(given, wanted, order):
    assert label_order(given, wanted, "teacher") == order


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("LABEL_0", "LABEL_1"), ("negative", "positive")),  # which is which nobody can tell
        (("negative", "positive"), ("entailment", "not_entailment")),
        (("negative", "negative"), ("negative", "positive")),
        (("a", "A"), ("a", "_a")),
        (MNLI, ("entailment", "not_entailment")),
        (("score",), ("negative", "positive")),
    ],
)
def test_labels_that_cannot_be_matched_are_refused(given, wanted):
    refused(lambda: label_order(given, wanted, "teacher"), by="finetuning.labels.label_order", path="teacher")
