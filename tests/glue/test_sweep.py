from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from distilbert_jax.base.config_io import read_config
from distilbert_jax.config import FinetuneConfig, SweepConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue import sweep as module
from distilbert_jax.glue.results import Choice, Setting
from distilbert_jax.glue.sweep import check_ahead, choose, run_sweep
from distilbert_jax.models import DistilBertForMaskedLM, DistilBertForSequenceClassification
from tests.glue.examples import result
from tests.runs import STUDENT, change, refused, write_split


def write_task(folder, name, number=1):
    """Every split that fine-tuning reads, of one row or so many."""
    task = find_task(name)
    rows = {column: [f"a {i}" for i in range(number)] for column in task.columns} | {"label": [0] * number}
    for split in ("train", *task.dev):
        write_split(folder, name, split, rows)


@pytest.fixture
def asked(monkeypatch):
    """Lists of the configs that fine-tuning was asked for; a run scores 100 000 times its learning rate plus its epochs."""
    calls = []

    def finetune_seeds(configs, *, together=False):
        calls.append((list(configs), together))
        score = lambda config: 1e5 * config.optimizer.learning_rate + (config.epochs or 0)
        return [result(config.task, config.run.seed, score(config)) for config in configs]

    monkeypatch.setattr(module, "finetune_seeds", finetune_seeds)
    return calls


def test_every_task_is_run_with_every_seed_in_a_directory_of_its_own(asked):
    config = change(FinetuneConfig(model="bert"), run__directory="runs/x")
    runs = run_sweep(config, ("rte", "cola"), (0, 3))
    assert [(run.result.task, run.result.seed) for run in runs] == [("rte", 0), ("rte", 3), ("cola", 0), ("cola", 3)]
    assert [str(run.directory) for run in runs] == ["runs/x/rte-0", "runs/x/rte-3", "runs/x/cola-0", "runs/x/cola-3"]
    assert [one.run.directory for configs, _ in asked for one in configs] == [str(run.directory) for run in runs]
    assert [together for _, together in asked] == [False, False]
    assert run_sweep(FinetuneConfig(model="a/bert"), ["rte"], [1])[0].directory == Path("runs/glue/a-bert/rte-1")
    run_sweep(config, ("rte",), (0, 3), together=True)
    assert asked[-1][1]


def test_a_misspelt_task_is_refused_before_the_first_run(asked):
    refused(
        lambda: run_sweep(FinetuneConfig(model="bert"), ("rte", "colla"), (0,)),
        "'colla'",
        by="finetuning.tasks.find_task",
        hint="'cola'",
        field="task",
    )
    refused(lambda: run_sweep(FinetuneConfig(model="bert"), ("rte", "ax"), (0,)), "'ax'", by="glue.sweep.available")
    refused(lambda: run_sweep(FinetuneConfig(model="bert"), ("rte", "rte"), (0,)), "--tasks", by="glue.sweep.run_sweep")
    refused(lambda: run_sweep(FinetuneConfig(model="bert"), ("rte",), ()), "--seeds", by="glue.sweep.run_sweep")
    assert asked == []


def test_tasks_that_a_folder_lacks_are_told_of_and_left_out(asked, tmp_path, capsys):
    write_task(tmp_path, "rte")
    config = FinetuneConfig(model="bert", data=str(tmp_path))
    assert [run.result.task for run in run_sweep(config, ("qnli", "rte", "cola"), (0,))] == ["rte"]
    assert capsys.readouterr().err == f"{tmp_path}: has no qnli, cola: left out\n"
    refused(lambda: run_sweep(config, ("qnli",), (0,)), "--data", by="glue.sweep.available", path=f"{tmp_path}")
    assert len(asked) == 1


def test_settings_are_chosen_on_held_out_rows_and_then_all_seeds_run_with_the_best(
    asked, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = change(FinetuneConfig(model="bert", predict_test=True), run__directory="runs/x")
    grid = SweepConfig(learning_rate=(1e-5, 3e-5), epochs=(3, 10), seeds=(0, 7))
    runs = run_sweep(config, ("rte",), (0, 1, 2), sweep=grid)
    choosing, final = [configs for configs, _ in asked[:-1]], asked[-1][0]
    assert len(choosing) == 4
    assert all(
        one.selection_split and not one.predict_test and not one.save_model for configs in choosing for one in configs
    )
    assert [[one.run.seed for one in configs] for configs in choosing] == [[0, 7]] * 4
    directories = [one.run.directory for configs in choosing for one in configs]
    assert directories[0] == "runs/x/choice/rte/learning-rate-1e-05-epochs-3-0"
    assert len(set(directories)) == 8
    assert [(one.optimizer.learning_rate, one.epochs, one.selection_split) for one in final] == [(3e-5, 10, False)] * 3
    assert [one.run.directory for one in final] == ["runs/x/rte-0", "runs/x/rte-1", "runs/x/rte-2"]
    assert all(one.predict_test for one in final)
    choice = runs[0].choice
    assert (choice.runs, choice.chosen) == (8, Setting(learning_rate=3e-5, epochs=10))
    assert [row.score for row in choice.settings] == pytest.approx([4, 11, 6, 13])
    assert read_config(Choice, tmp_path / "runs/x/choice/rte/choice.json") == choice
    assert (
        "rte: chosen from 8 runs on a selection split, a tenth of train: learning_rate 3e-05, epochs 10"
        in capsys.readouterr().err
    )


def test_without_settings_nothing_is_chosen(asked):
    assert run_sweep(FinetuneConfig(model="bert"), ("rte",), (0,), sweep=SweepConfig())[0].choice is None
    assert len(asked) == 1


def test_of_equal_settings_the_first_is_taken(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "finetune_seeds", lambda configs: [result() for _ in configs])
    config, choice = choose(FinetuneConfig(task="rte"), SweepConfig(batch_size=(16, 32)))
    assert (config.batch_size, choice.chosen) == (16, Setting(batch_size=16))


def test_what_is_wrong_with_a_later_task_or_seed_is_told_before_the_first_run(asked, tmp_path):
    for task in ("rte", "cola", "wnli"):
        write_task(tmp_path, task)
    config = FinetuneConfig(model="bert", data=str(tmp_path))
    refused(lambda: run_sweep(config, ("rte",), (0, -1)), by="config.require", field="seed")
    refused(
        lambda: run_sweep(config, ("rte",), (0,), sweep=SweepConfig(seeds=(3,))),
        by="glue.sweep.run_sweep",
        field="--sweep.seeds",
    )
    file = write_split(tmp_path, "wnli", "test", {"sentence1": ["a"], "sentence2": ["b"]})
    run_sweep(config, ("rte", "wnli"), (0,))
    tested = change(config, predict_test=True)
    refused(
        lambda: run_sweep(tested, ("rte", "wnli"), (0,)), "146", by="finetuning.datasets._check_rows", path=str(file)
    )
    (tmp_path / "cola/validation.parquet").unlink()
    refused(
        lambda: run_sweep(config, ("rte", "cola"), (0,)), by="finetuning.datasets._file", path="cola/validation.parquet"
    )
    write_split(tmp_path, "cola", "validation", {"text": ["a"], "label": [0]})
    refused(
        lambda: run_sweep(config, ("rte", "cola"), (0,)),
        by="finetuning.kinds.kind.check_columns",
        path="cola/validation.parquet",
    )
    (tmp_path / "cola/validation.parquet").write_bytes(b"PAR1")
    refused(
        lambda: run_sweep(config, ("rte", "cola"), (0,)),
        by="finetuning.datasets.check_file",
        path="cola/validation.parquet",
    )
    assert len(asked) == 2


def test_what_is_not_of_a_later_task_or_seed_is_told_before_the_first_run(asked, tmp_path):
    tasks, seeds = ("rte", "cola"), (0, 1)
    for task in (*tasks, "stsb"):
        write_task(tmp_path, task, 200)
    config = FinetuneConfig(model="bert", data=str(tmp_path), length=16)
    grid = SweepConfig(learning_rate=(1e-5, 2e-5), seeds=(7,))
    balanced, selects = change(config, class_weights="balanced"), change(config, select=True)
    taught = change(config, distill__teacher=str(tmp_path / "{task}-{seed}"))
    copies = change(taught, augment__copies=1, augment__model=str(tmp_path / "masked"))

    def refused_by_both(config, tasks=tasks, sweep=None, **told):
        for check in (run_sweep, check_ahead):
            refused(lambda: check(config, tasks, seeds, sweep=sweep), **told)  # noqa: B023 - called at once

    refused_by_both(balanced, ("rte", "stsb"), field="class_weights")
    refused_by_both(selects, sweep=grid, field="select")
    check_ahead(selects, tasks, seeds, sweep=SweepConfig())
    heads = {
        task: DistilBertForSequenceClassification(change(STUDENT, labels=find_task(task).labels), rngs=nnx.Rngs(0))
        for task in tasks
    }
    for task, seed in (("rte", 0), ("rte", 1), ("cola", 0)):
        heads[task].save_pretrained(tmp_path / f"{task}-{seed}")
    refused_by_both(taught, path="cola-1")
    heads["rte"].save_pretrained(tmp_path / "cola-1")
    refused_by_both(taught, field="distill.teacher", path="cola-1")
    heads["cola"].save_pretrained(tmp_path / "cola-1")
    check_ahead(taught, tasks, seeds)
    for check in (run_sweep, check_ahead):  # not after settings were chosen with one seed
        told = {"by": "finetuning.tuning.shared_teacher", "field": "distill.teacher"}
        refused(lambda: check(taught, tasks, seeds, together=True), **told)  # noqa: B023 - called at once
    check_ahead(change(taught, distill__teacher=str(tmp_path / "{task}-0")), tasks, seeds, together=True)
    refused_by_both(taught, sweep=grid, path="rte-7")
    refused_by_both(copies, path="masked")
    check_ahead(copies, tasks, seeds, to_come=[tmp_path / "x/../masked"])
    heads["rte"].save_pretrained(tmp_path / "masked")
    refused_by_both(copies, field="augment.model", path="masked")
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "rte-0")
    refused_by_both(taught, field="distill.teacher", path="rte-0")
    assert asked == []


def test_a_setting_that_diverged_is_not_chosen(monkeypatch, tmp_path, capsys):
    """A diverged run counts as 0, which a Matthews correlation below 0 is not better than."""

    def ended(diverging):
        def finetune_seeds(configs):
            broken = [config.optimizer.learning_rate >= diverging for config in configs]
            return [result("cola", value=0.0 if bad else -3.0, diverged="step 1" if bad else "") for bad in broken]

        return finetune_seeds

    grid = SweepConfig(learning_rate=(1.0, 1e-4))
    monkeypatch.setattr(module, "finetune_seeds", ended(1.0))
    config, choice = choose(FinetuneConfig(task="cola"), grid)
    assert config.optimizer.learning_rate == 1e-4
    assert [row.score for row in choice.settings] == [None, -3.0]
    assert "1 of 2 settings diverged" in capsys.readouterr().err
    monkeypatch.setattr(module, "finetune_seeds", ended(0.0))
    refused(lambda: choose(FinetuneConfig(task="cola"), grid), by="glue.sweep.choose")


def test_rows_that_are_too_few_to_choose_on_are_told_of_before_the_first_run(asked, tmp_path):
    write_task(tmp_path, "rte", 200)
    write_task(tmp_path, "wnli")
    config = FinetuneConfig(model="bert", data=str(tmp_path))
    for few, sweep in ((change(config, select=True), None), (config, SweepConfig(learning_rate=(1e-5, 3e-5)))):
        refused(
            lambda few=few, sweep=sweep: run_sweep(few, ("rte", "wnli"), (0,), sweep=sweep),
            "wnli",
            by="finetuning.preparation.training_rows",
            field="selection_split",
        )
    assert asked == []


def test_settings_are_written_when_the_runs_have_them(asked, monkeypatch, tmp_path):
    config = change(FinetuneConfig(model="bert"), run__directory=str(tmp_path))

    def refuse(configs, *, together=False):
        if not configs[0].selection_split:
            raise InputError("holds a run of another config")
        return [result() for _ in configs]

    run_sweep(config, ("rte",), (0,), sweep=SweepConfig(learning_rate=(1e-5,)))
    kept = (tmp_path / "choice/rte/choice.json").read_text()
    monkeypatch.setattr(module, "finetune_seeds", refuse)
    refused(
        lambda: run_sweep(config, ("rte",), (0,), sweep=SweepConfig(learning_rate=(1e-3,))), by="glue.sweep.run_sweep"
    )
    assert (tmp_path / "choice/rte/choice.json").read_text() == kept


def test_no_task_starts_at_an_mnli_model_that_diverged(asked, monkeypatch, tmp_path):
    for task in ("rte", "mnli"):
        write_task(tmp_path, task)
    config = change(FinetuneConfig(model="bert", data=str(tmp_path)), run__directory="runs/x")
    ended = lambda configs, together: [result(one.task, value=0.0, diverged="step 4") for one in configs]
    monkeypatch.setattr(module, "finetune_seeds", ended)
    refused(
        lambda: run_sweep(config, ("rte",), (0,), from_mnli=True),
        "runs/x/mnli-0",
        by="glue.sweep._check_start",
        field="--from-mnli",
    )


def test_small_tasks_start_at_the_mnli_model_of_their_seed(asked, tmp_path):
    for task in ("rte", "cola", "stsb"):
        write_task(tmp_path, task)
    config = change(FinetuneConfig(model="bert", data=str(tmp_path), save_model=False), run__directory="runs/x")
    refused(
        lambda: run_sweep(config, ("cola", "rte"), (0,), from_mnli=True),
        str(tmp_path),
        by="glue.sweep.run_sweep",
        field="--from-mnli",
    )
    refused(
        lambda: run_sweep(config, ("cola",), (0,), from_mnli=True),
        "cola",
        by="glue.sweep.run_sweep",
        field="--from-mnli",
    )
    write_task(tmp_path, "mnli")
    assert asked == []
    run_sweep(config, ("cola", "rte", "stsb"), (0, 1), from_mnli=True)
    by_task = {configs[0].task: configs for configs, _ in asked}
    assert list(by_task) == ["mnli", "cola", "rte", "stsb"]
    assert [one.save_model for one in by_task["mnli"]] == [True, True]
    assert not by_task["rte"][0].save_model
    assert [one.model for one in by_task["rte"]] == ["runs/x/mnli-0/model", "runs/x/mnli-1/model"]
    assert [one.model for one in by_task["stsb"]] == ["runs/x/mnli-0/model", "runs/x/mnli-1/model"]
    assert [one.model for one in by_task["cola"]] == ["bert", "bert"]
    assert np.all([one.model == "bert" for one in by_task["mnli"]])
