import numpy as np
import pytest

from distilbert_jax.data.files import write_json
from distilbert_jax.data.tasks import find_task
from distilbert_jax.evaluation.glue import score
from distilbert_jax.evaluation.glue_summary import mean_score, medians, read_runs, summary
from tests.evaluation.glue_runs import run
from tests.runs import refused


def test_a_summary_gives_medians_spreads_every_metric_and_the_seeds_that_failed(tmp_path):
    runs = [run(tmp_path, "mrpc", seed, right) for seed, right in enumerate((8, 6, 9, 5, 7))]
    runs += [run(tmp_path, "mnli", 0, 8)]
    found = summary(runs)
    assert list(found) == ["mnli", "mrpc"], "in the paper's order"
    row, scores = found["mrpc"], [one["score"] for one in runs[:5]]
    assert (row["median"], row["min"], row["max"]) == (np.median(scores), min(scores), max(scores))
    assert row["scores"] == {str(seed): value for seed, value in enumerate(scores)}
    assert row["metrics"]["validation"]["accuracy"] == pytest.approx(70.0)
    assert row["majority"] == pytest.approx((100 * 40 / 70 + 0) / 2), "the most frequent label is 0: no F1"
    assert row["failed"] == 0
    assert list(found["mnli"]["metrics"]) == ["validation_matched", "validation_mismatched"]
    assert medians(runs) == {"mrpc": np.median(scores), "mnli": runs[5]["score"]}


def test_a_seed_fails_that_is_no_better_than_the_majority_or_constant_or_diverged(tmp_path):
    runs = [run(tmp_path, "rte", seed, right) for seed, right in enumerate((9, 5, 8))]
    runs.append(run(tmp_path, "rte", 3, 9, diverged="step 4: loss is not finite"))
    assert summary(runs)["rte"]["failed"] == 2
    # A constant answer of the rarer label has an F1 that lifts it above the majority's: no success.
    constant = run(tmp_path, "qqp", 0, 9)
    labels = np.load(tmp_path / "qqp-0/predictions/validation-labels.npy")
    logits = np.tile(np.float32([0, 1]), (len(labels), 1))
    np.save(tmp_path / "qqp-0/predictions/validation.npy", logits)
    constant = {**constant, "score": score(find_task("qqp"), logits, labels)["score"]}
    found = summary([constant])["qqp"]
    assert found["median"] > found["majority"]
    assert found["failed"] == 1
    assert summary([run(tmp_path, "wnli", 0, 2)])["wnli"]["failed"] == 0


def test_the_mean_score_leaves_wnli_out():
    assert mean_score({"rte": 60.0, "wnli": 0.0, "cola": 40.0}) == 50.0
    assert mean_score({"wnli": 56.3}) is None


def test_the_runs_of_a_directory_are_read_back_or_refused(tmp_path):
    run(tmp_path, "rte", 0, 9)
    (found,) = read_runs(str(tmp_path))
    assert (found["task"], found["directory"]) == ("rte", str(tmp_path / "rte-0"))
    assert found["choice"] is None
    (tmp_path / "choice/rte").mkdir(parents=True)
    write_json(tmp_path / "choice/rte/choice.json", {"runs": 3})
    assert read_runs(str(tmp_path))[0]["choice"] == {"runs": 3}
    refused(lambda: read_runs(str(tmp_path / "nowhere")), "nowhere: holds no runs")
    for wrong in ({"step": 3}, [], {**found, "score": "high"}, {k: v for k, v in found.items() if k != "together"}):
        write_json(tmp_path / "rte-0/results.json", wrong)
        refused(lambda: read_runs(str(tmp_path)), "rte-0/results.json", "no result")
    (tmp_path / "rte-0/results.json").write_text("{")
    refused(lambda: read_runs(str(tmp_path)), "rte-0/results.json", "damaged")
