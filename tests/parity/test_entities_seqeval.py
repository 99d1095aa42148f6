"""Entity scores beside seqeval's, of tags that are well formed and that are not."""

import random

import numpy as np
import pytest

from distilbert_jax.finetuning.entities import stray
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.tasks import Task

seqeval = pytest.importorskip("seqeval.metrics")
pytestmark = pytest.mark.parity
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAMES = ("f1", "precision", "recall")
TASK = Task("x", "x", ("tokens",), LABELS, NAMES, kind="tokens", target=("tags",))


def test_precision_recall_and_f1_are_those_of_seqeval():
    choose, malformed = random.Random(0), 0
    for _ in range(500):
        true = [[choose.randrange(5) for _ in range(choose.randint(1, 9))] for _ in range(choose.randint(1, 6))]
        wrong = choose.random()
        given = [[choose.randrange(5) if choose.random() < wrong else tag for tag in tags] for tags in true]
        named = [[[LABELS[tag] for tag in tags] for tags in every] for every in (true, given)]
        malformed += any(stray(tags) is not None for tags in named[1])
        scores = KINDS["tokens"].score(TASK, [np.eye(5)[tags] for tags in given], [np.array(tags) for tags in true])
        for name in NAMES:
            expected = getattr(seqeval, f"{name}_score")(*named, zero_division=0)
            assert scores[name] == pytest.approx(100 * expected), (name, named)
    assert 250 < malformed < 500
