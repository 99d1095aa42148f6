import numpy as np
import pytest

from distilbert_jax.finetuning.predictions import Predictions, read_predictions
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.bootstrap import compare, compare_pretrained, scores
from tests.glue.examples import score
from tests.runs import refused

ROWS = 60


def predictions(task, seed=0, rows=ROWS, skill=1.0):
    """Predictions that are right more often than not."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99)
    task = find_task(task)
    if task.kind == "regression":
        labels = truth.integers(0, 11, rows).astype(np.float32) / 2
        return Predictions((skill * labels + rng.normal(size=rows)).round(1).astype(np.float32)[:, None], labels)
    labels = truth.integers(0, len(task.labels), rows).astype(np.int32)
    logits = rng.normal(size=(rows, len(task.labels))).astype(np.float32)
    logits[np.arange(rows), labels] += skill
    return Predictions(logits, labels)


@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb", "mnli", "rte"])
def test_the_score_of_a_resample_is_that_of_the_rows_it_drew(task):
    one, rng = predictions(task), np.random.default_rng(1)
    drawn = [np.arange(ROWS), *(rng.integers(ROWS, size=ROWS) for _ in range(5))]
    weights = np.stack([np.bincount(rows, minlength=ROWS) for rows in drawn])
    expected = [score(find_task(task), one.logits[rows], one.labels[rows])["score"] for rows in drawn]
    np.testing.assert_allclose(scores(find_task(task), one, weights), expected, rtol=1e-6)


@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb"])
def test_predictions_that_are_all_equal_score_what_they_score_elsewhere(task):
    labels = predictions(task).labels
    constant = Predictions(np.zeros((ROWS, 1 if task == "stsb" else 2), np.float32), labels)
    expected = score(find_task(task), constant.logits, labels)["score"]
    assert scores(find_task(task), constant, np.ones((1, ROWS)))[0] == pytest.approx(expected)


def test_a_run_that_diverged_scores_nothing():
    assert scores(find_task("rte"), Predictions(None, np.zeros(4, int)), np.ones((3, 4))).tolist() == [0.0] * 3


def test_a_model_compared_with_itself_keeps_all_of_its_score():
    runs = {"rte": [predictions("rte")], "stsb": [predictions("stsb")]}
    compared = compare(runs, runs)
    assert bounds(compared.share) == pytest.approx((100.0, 100.0, 100.0))
    assert bounds(compared.difference) == pytest.approx((0.0, 0.0, 0.0))
    assert set(compared.tasks) == {"rte", "stsb"}


def test_the_interval_holds_the_figure_and_narrows_with_the_rows():
    width = {}
    for rows in (60, 4000):
        weak = {"rte": [predictions("rte", seed, rows, skill=0.5) for seed in range(3)]}
        strong = {"rte": [predictions("rte", seed, rows, skill=2.0) for seed in range(10, 13)]}
        compared = compare(weak, strong)
        value, low, high = bounds(compared.difference)
        assert low < value < high < 0
        assert compared.tasks["rte"] == compared.difference
        assert compared.share.value == pytest.approx(100 * _median(weak) / _median(strong))
        width[rows] = high - low
    assert width[4000] < width[60] / 4


def bounds(interval):
    return interval.value, interval.low, interval.high


def _median(runs):
    return np.median([score(find_task("rte"), *run)["score"] for run in runs["rte"]])


def test_the_interval_is_as_wide_as_theory_says():
    """Two constant answers on n rows with right share p: the standard error of accuracy is √(p(1−p)/n)."""
    rows = 1000
    labels = (np.arange(rows) < 700).astype(np.int32)
    always, never = (Predictions(np.tile(np.float32(row), (rows, 1)), labels) for row in ([0, 1], [1, 0]))
    compared = compare({"rte": [always]}, {"rte": [never]})
    error = 2 * 100 * np.sqrt(0.7 * 0.3 / rows)  # the two are right on complementary rows
    value, low, high = bounds(compared.difference)
    assert value == pytest.approx(40.0)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_the_interval_knows_that_seeds_differ():
    """On so many rows that they do not matter, the median of three drawn seeds is any of the three."""
    rows = 20_000
    of_skill = lambda skills: {"rte": [predictions("rte", seed, rows, skill) for seed, skill in enumerate(skills)]}
    compared = compare(of_skill((0.0, 1.0, 3.0)), of_skill((1.0,)))
    scored = [score(find_task("rte"), *run)["score"] for run in of_skill((0.0, 1.0, 3.0))["rte"]]
    assert compared.difference.low == pytest.approx(scored[0] - scored[1], abs=1.5)
    assert compared.difference.high == pytest.approx(scored[2] - scored[1], abs=1.5)


def test_seeds_of_pretraining_are_drawn_for_all_tasks_at_once_and_together_on_both_sides():
    """On so many rows that they do not matter: the mean of three drawn seeds is that of one seed in a ninth of the resamples."""
    rows = 20_000
    model = lambda seed, skill: {name: [predictions(name, seed, rows, skill)] for name in ("rte", "mrpc")}
    ours, theirs = (
        [model(seed + i, skill) for i, skill in enumerate(skills)]
        for seed, skills in ((0, (0.0, 1.0, 3.0)), (5, (0.1, 1.1, 3.1)))
    )
    scored = [
        [np.mean([score(find_task(name), *one[0])["score"] for name, one in side.items()]) for side in sides]
        for sides in (ours, theirs)
    ]
    together, apart = (
        compare_pretrained(ours, theirs, paired=True).difference,
        compare_pretrained(ours, theirs[:2]).difference,
    )
    apart_by_seed = np.subtract(*scored)
    assert together.value == pytest.approx(apart_by_seed.mean())
    assert together.low == pytest.approx(apart_by_seed.min(), abs=1.0)
    assert together.high == pytest.approx(apart_by_seed.max(), abs=1.0)
    assert apart.value == pytest.approx(np.mean(scored[0]) - np.mean(scored[1][:2]))
    assert apart.high - apart.low > 5 * (together.high - together.low)


def test_seeds_of_fine_tuning_come_to_a_median_and_those_of_pretraining_to_a_mean():
    skills = ((0.1, 0.2, 3.0), (1.0, 1.1, 1.2))
    ours = [{"rte": [predictions("rte", i, 400, skill) for i, skill in enumerate(of_one)]} for of_one in skills]
    other = {"rte": [predictions("rte", 9, 400)]}
    medians = [np.median([score(find_task("rte"), *run)["score"] for run in one["rte"]]) for one in ours]
    assert compare_pretrained(ours, [other]).difference.value == pytest.approx(
        np.mean(medians) - score(find_task("rte"), *other["rte"][0])["score"]
    )
    assert compare_pretrained(ours[:1], [other]) == compare(ours[0], other)


def test_of_a_score_that_is_not_above_zero_there_is_no_share():
    labels = np.array([0, 1] * 20)
    right, constant = (Predictions(np.eye(2, dtype=np.float32)[answers], labels) for answers in (labels, 0 * labels))
    compared = compare({"cola": [right]}, {"cola": [constant]})
    assert compared.share is None
    assert compared.difference.value == 100.0
    # Of the resamples of a teacher that is right a little more often than not, some have nothing to take a share of.
    close = Predictions(np.eye(2, dtype=np.float32)[np.where(np.arange(40) < 22, labels, 1 - labels)], labels)
    share = compare({"cola": [right]}, {"cola": [close]}).share
    assert share.value == pytest.approx(1000.0)
    assert 0 < share.low < share.high < np.inf


def test_wnli_does_not_count_and_what_cannot_be_compared_is_refused():
    wnli, rte = {"wnli": [predictions("wnli")]}, {"rte": [predictions("rte")]}
    assert set(compare({**wnli, **rte}, {**wnli, **rte}).tasks) == {"rte"}
    refused(lambda: compare(wnli, wnli), by="glue.bootstrap.compare_pretrained")
    refused(lambda: compare(rte, wnli), by="glue.bootstrap.compare_pretrained")
    refused(lambda: compare(rte, {"rte": [predictions("rte", rows=50)]}), by="glue.bootstrap.compare_pretrained")


def test_predictions_that_cannot_be_read_name_their_run(tmp_path):
    refused(
        lambda: read_predictions(tmp_path / "rte-0", "validation", find_task("rte")),
        by="finetuning.predictions._load",
        path=str(tmp_path / "rte-0"),
    )
    folder = tmp_path / "rte-0/predictions"
    folder.mkdir(parents=True)
    one = predictions("rte")
    np.save(folder / "validation-labels.npy", one.labels)
    (folder / "validation.npy").write_bytes(b"\x93NUMPY")
    refused(
        lambda: read_predictions(tmp_path / "rte-0", "validation", find_task("rte")),
        by="finetuning.predictions._load",
        path=str(tmp_path / "rte-0"),
    )
    assert read_predictions(tmp_path / "rte-0", "validation", find_task("rte"), diverged=True).logits is None
    np.save(folder / "validation.npy", one.logits)
    np.testing.assert_array_equal(
        read_predictions(tmp_path / "rte-0", "validation", find_task("rte")).logits, one.logits
    )
