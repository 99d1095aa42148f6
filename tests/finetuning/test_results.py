"""Results of runs, taken together."""

from distilbert_jax.finetuning.results import median_metrics
from distilbert_jax.finetuning.tasks import Task
from tests.finetuning.kinds.common import known
from tests.glue.examples import result


def test_a_run_that_diverged_counts_in_medians_of_scores_and_not_of_errors():
    task = Task("amounts", "", ("text",), (), ("pearson", "spearman"), kind="regression", beside=("rmse",))
    right = {"pearson": 80.0, "spearman": 80.0, "rmse": 2.0, "score": 80.0}
    none = dict.fromkeys(right, 0.0)
    patch = known(task)
    runs = [result("amounts", scores={"validation": right}, value=80.0)]
    runs += [result("amounts", seed, 0.0, scores={"validation": none}, diverged="step 3") for seed in (1, 2)]
    patch.undo()
    assert median_metrics(runs, "validation") == {"pearson": 0.0, "spearman": 0.0, "rmse": 2.0, "score": 0.0}
    assert "rmse" not in median_metrics(runs[1:], "validation")
