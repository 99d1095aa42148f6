"""Losses of the kinds of task on packed rows, and their distances from a teacher, beside torch's own on the same values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.finetuning.kinds import KINDS

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.parity
ROWS, LENGTH, SEGMENTS, LABELS, T = 3, 11, 2, 4, 1.7
# Rows of two segments, of one, and of none; with padding behind.
SEGMENT_IDS = np.array([[1] * 4 + [2] * 5 + [0] * 2, [1] * 7 + [0] * 4, [0] * 11], np.int32)
WEIGHTS = np.array([[1, 1], [1, 0], [0, 0]], np.float32)


def of_rows(values):
    """What there is an example of, [examples, …]."""
    return values[torch.from_numpy(WEIGHTS) > 0]


def mean_distance(ours, theirs):
    """T² · KL(teacher ‖ student) of classes, the mean over all before the last axis."""
    return T**2 * F.kl_div(
        F.log_softmax(ours / T, -1), F.log_softmax(theirs / T, -1), log_target=True, reduction="batchmean"
    )


def classes(rng):
    batch = {"labels": rng.integers(0, LABELS, WEIGHTS.shape).astype(np.int32)}
    truth = of_rows(torch.from_numpy(batch["labels"])).long()
    shape = (*WEIGHTS.shape, LABELS)
    return (
        "classification",
        shape,
        batch,
        lambda ours: F.cross_entropy(of_rows(ours), truth),
        lambda ours, theirs: mean_distance(of_rows(ours), of_rows(theirs)),
    )


def several_labels(rng):
    shape = (*WEIGHTS.shape, LABELS)
    batch = {"labels": rng.integers(0, 2, shape).astype(np.float32)}
    truth = of_rows(torch.from_numpy(batch["labels"]))

    def distance(ours, theirs):
        p, q = (torch.distributions.Bernoulli(logits=of_rows(one) / T) for one in (theirs, ours))
        return T**2 * torch.distributions.kl_divergence(p, q).mean()

    loss = lambda ours: F.binary_cross_entropy_with_logits(of_rows(ours), truth)
    return "multi_label", shape, batch, loss, distance


def amounts(rng, outputs):
    shape = (*WEIGHTS.shape, outputs)
    labels = rng.normal(size=shape[:2] if outputs == 1 else shape).astype(np.float32)
    truth = of_rows(torch.from_numpy(labels.reshape(shape)))
    loss = lambda ours: F.mse_loss(of_rows(ours), truth)
    return (
        "regression",
        shape,
        {"labels": labels},
        loss,
        lambda ours, theirs: F.mse_loss(of_rows(ours), of_rows(theirs)),
    )


def tags(rng):
    words = ((rng.random(SEGMENT_IDS.shape) < 0.7) & (SEGMENT_IDS > 0)).astype(np.float32)
    labels = rng.integers(0, LABELS, SEGMENT_IDS.shape).astype(np.int32)
    truth = torch.from_numpy(np.where(words > 0, labels, -100)).long().flatten()
    loss = lambda ours: F.cross_entropy(ours.flatten(0, 1), truth)
    distance = lambda ours, theirs: mean_distance(ours.flatten(0, 1)[truth >= 0], theirs.flatten(0, 1)[truth >= 0])
    return "tokens", (*SEGMENT_IDS.shape, LABELS), {"labels": labels, "words": words}, loss, distance


def places(rng):
    """Start and end, each a class among the tokens of its window."""
    windows = [(row, np.flatnonzero(SEGMENT_IDS[row] == segment)) for row, segment in ((0, 1), (0, 2), (1, 1))]
    at = {"starts": np.zeros(WEIGHTS.shape, np.int32), "ends": np.zeros(WEIGHTS.shape, np.int32)}
    for place, (row, columns) in enumerate(windows):
        for values in at.values():
            values[row, place % 2 if row == 0 else 0] = rng.choice(columns)
    chosen = [[int(values[row, p]) for row, p in ((0, 0), (0, 1), (1, 0))] for values in at.values()]

    def each(of_window):
        sums = [
            of_window(row, columns, which, chosen[which][place] - columns[0])
            for place, (row, columns) in enumerate(windows)
            for which in (0, 1)
        ]
        return sum(sums) / len(sums)

    def loss(ours):
        return each(
            lambda row, columns, which, target: F.cross_entropy(ours[row, columns, which], torch.tensor(target))
        )

    def distance(ours, theirs):
        return each(
            lambda row, columns, which, _: mean_distance(
                ours[row, columns, which][None], theirs[row, columns, which][None]
            )
        )

    return "answers", (*SEGMENT_IDS.shape, 2), at, loss, distance


def choices(rng):
    """Of the second example there are fewer."""
    lacks = np.zeros((*WEIGHTS.shape, LABELS), bool)
    lacks[0, 1, 2:] = True
    labels = rng.integers(0, 2, WEIGHTS.shape).astype(np.int32)
    truth, none = of_rows(torch.from_numpy(labels)).long(), of_rows(torch.from_numpy(lacks))
    there = lambda values: of_rows(values).masked_fill(none, -1e30)
    loss = lambda ours: F.cross_entropy(there(ours), truth)
    distance = lambda ours, theirs: mean_distance(there(ours), there(theirs))
    return "choices", lacks.shape, {"labels": labels, "lacks": lacks}, loss, distance


@pytest.mark.parametrize(
    "case",
    [
        classes,
        several_labels,
        functools.partial(amounts, outputs=1),
        functools.partial(amounts, outputs=3),
        tags,
        places,
        choices,
    ],
    ids=["classification", "multi_label", "regression", "several amounts", "tokens", "answers", "choices"],
)
def test_loss_and_distance_and_their_gradients_are_torchs(case):
    rng = np.random.default_rng(0)
    name, shape, batch, loss, distance = case(rng)
    kind, lacks = KINDS[name], batch.pop("lacks", None)
    batch |= {"weights": WEIGHTS, "segment_ids": SEGMENT_IDS}
    count = kind.counts(batch)[kind.over]
    ours, theirs = (rng.normal(size=shape).astype(np.float32) * 3 for _ in range(2))
    seen = lambda values: values if lacks is None else jnp.where(lacks, -1e30, values)
    for formula, expected in (
        (lambda x: kind.loss(seen(x), batch) / count, loss),
        (
            lambda x: kind.distance(seen(x), seen(theirs), batch, T) / count,
            lambda x: distance(x, torch.from_numpy(theirs)),
        ),
    ):
        value, gradient = jax.jit(jax.value_and_grad(formula))(ours)
        given = torch.from_numpy(ours).requires_grad_()
        wanted = expected(given)
        wanted.backward()
        assert float(value) == pytest.approx(wanted.item(), rel=1e-5)
        assert np.abs(gradient - given.grad.numpy()).max() <= 1e-5 * np.abs(given.grad.numpy()).max()
