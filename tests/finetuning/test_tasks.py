import statistics

import pytest

from distilbert_jax.finetuning.tasks import TASKS, Task, find_task, register_task
from distilbert_jax.glue.references import GLUE, REFERENCES
from tests.runs import refused


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("sst-2", "sst2"),
        ("SST2", "sst2"),
        ("mrcp", "mrpc"),
        ("STS-B", "stsb"),
        ("demo-topics", "demo-topic"),
        ("AXX", "ax"),
    ],
)
def test_a_misspelt_task_is_answered_with_the_nearest(name, nearest):
    refused(
        lambda: find_task(name),
        f"task {name!r}",
        f"did you mean {nearest!r}?",
        by="finetuning.tasks.find_task",
        field="task",
    )


def test_a_task_like_no_other_is_answered_with_all():
    refused(lambda: find_task("xyzw"), *TASKS, by="finetuning.tasks.find_task", field="task")


def test_the_references_give_the_means_that_were_reported():
    mean = lambda name, **changes: round(statistics.fmean({**REFERENCES[name], **changes}.values()), 1)
    assert mean("ELMo") == 68.7
    assert mean("DistilBERT") == 77.0
    assert mean("BERT-base", mnli=84.7) == 79.5
    assert mean("BERT-base") != 79.5, "the paper's own 86.7 does not give its mean"
    assert mean("model card", wnli=56.3) == 76.9
    assert mean("model card") == 79.5
    assert all(set(scores) <= set(GLUE) for scores in REFERENCES.values())


def test_the_files_of_a_submission_are_the_eleven_of_the_server():
    files = {name for task in TASKS.values() for name in task.submission.values()}
    names = "CoLA SST-2 MRPC STS-B MNLI-m MNLI-mm QNLI QQP RTE WNLI AX"
    assert files == {f"{name}.tsv" for name in names.split()}
    assert all(split in task.rows for task in TASKS.values() for split in task.submission)


def test_only_ax_is_predicted_by_another_tasks_model():
    assert {task.name: task.trained_by for task in TASKS.values() if task.trained_by} == {"ax": "mnli"}
    assert find_task("ax").labels == find_task("mnli").labels


def test_f1_is_not_taken_for_a_task_of_three_labels():
    task = Task("three", "Three", columns=("text",), labels=("a", "b", "c"), metrics=("accuracy", "f1"))
    refused(lambda: register_task(task), "f1", by="finetuning.tasks.register_task", field="three")
