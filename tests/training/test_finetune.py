import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from distilbert_jax.config import FinetuneConfig, MeshConfig, OptimizerConfig, RunConfig
from distilbert_jax.data.tokenizer import load_tokenizer
from distilbert_jax.errors import Interrupted
from distilbert_jax.evaluation import glue
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM, SequenceClassification
from distilbert_jax.training import finetune as module
from distilbert_jax.training.finetune import finetune, run_directory
from distilbert_jax.training.logging import RunLog, read_metrics
from tests import runs
from tests.models.common import call
from tests.runs import BERT, STUDENT, change, refused

TRAIN, DEV = 150, 45


def topics(rows, seed):
    """Sentences of one colour, blue is 1: separable."""
    choose = random.Random(seed)
    labels = [choose.randrange(2) for _ in range(rows)]
    sentences = [runs.sentence(choose, choose.randint(4, 12), ("red", "blue")[label]) for label in labels]
    return {"sentence": sentences, "label": labels}


def shares(rows, seed):
    """Pairs whose label is how red the second sentence is, from 0 to 5."""
    choose = random.Random(seed)
    red = [choose.randrange(9) for _ in range(rows)]
    second = [f"{runs.sentence(choose, n, 'red')} {runs.sentence(choose, 8 - n, 'blue')}".strip() for n in red]
    return {"sentence1": ["goes to"] * rows, "sentence2": second, "label": [5.0 * n / 8 for n in red]}


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A folder of two tasks, and the encoders to fine-tune beside them."""
    path = tmp_path_factory.mktemp("glue")
    for task, make in (("sst2", topics), ("stsb", shares)):
        for seed, (split, rows) in enumerate({"train": TRAIN, "validation": DEV}.items()):
            runs.write_split(path, task, split, make(rows, seed))
    tokenizer = load_tokenizer(world.tokenizer)
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(path / "student", tokenizer)
    BertForMaskedLM(change(BERT, num_hidden_layers=1), rngs=nnx.Rngs(3)).save_pretrained(path / "bert", tokenizer)
    BertForMaskedLM(change(BERT, vocab_size=40), rngs=nnx.Rngs(3)).save_pretrained(path / "few", tokenizer)
    return path


def tuning(folder, directory, **changes):
    base = FinetuneConfig(
        model=str(folder / "student"),
        task="sst2",
        data=str(folder),
        length=16,
        shapes=1,
        batch_size=16,
        epochs=3,
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup=0.1),
        run=RunConfig(directory=str(directory), log_every=10),
    )
    return change(base, **changes)


def tune(config):
    return finetune(config, glue)


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    config = tuning(folder, tmp_path_factory.mktemp("runs") / "tuned")
    return config, tune(config)


def test_a_separable_task_is_learned(tuned):
    assert tuned[1]["score"] > 95


def test_a_regression_is_learned(folder, tmp_path):
    found = tune(tuning(folder, tmp_path, task="stsb", model=str(folder / "bert"), epochs=6))
    assert found["scores"]["validation"]["pearson"] > 90
    assert found["scores"]["validation"]["spearman"] > 90
    assert SequenceClassification.from_pretrained(tmp_path / "model").config.labels == ("score",)


def test_results_say_what_was_done_and_what_came_out(tuned):
    config, found = tuned[0], dict(tuned[1])
    assert json.loads((Path(config.run.directory) / "results.json").read_text()) == found
    assert found.pop("train_seconds") > 0
    accuracy = found["scores"]["validation"]["accuracy"]
    assert found == {
        "task": "sst2",
        "model": config.model,
        "seed": 0,
        "score": accuracy,
        "scores": {"validation": {"accuracy": accuracy, "score": accuracy}},
        "steps": 30,
        "train_rows": TRAIN,
        "dev_rows": {"validation": DEV},
        "cut_share": 0.0,
        "padding_share": found["padding_share"],
        "together": 1,
        "tested": False,
        "diverged": "",
    }
    lengths = [len(sentence.split()) + 2 for sentence in topics(TRAIN, 0)["sentence"]]
    assert found["padding_share"] == pytest.approx(1 - sum(lengths) / (16 * TRAIN))


def test_the_score_is_that_of_the_saved_model(tuned):
    config, found = tuned
    model = SequenceClassification.from_pretrained(Path(config.run.directory) / "model")
    assert model.config.labels == ("negative", "positive")
    tokenizer = load_tokenizer(Path(config.run.directory) / "model")
    rows = topics(DEV, 1)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(rows["sentence"])
    ids, mask = (np.array([getattr(e, name) for e in encoded], np.int32) for name in ("ids", "attention_mask"))
    right = np.asarray(call(model, ids, mask).logits).argmax(-1) == rows["label"]
    assert found["score"] == pytest.approx(100 * right.mean())


def test_every_row_counts_once_an_epoch_and_the_rows_that_fill_up_a_batch_do_not(tuned):
    config, found = tuned
    entries = read_metrics(Path(config.run.directory) / "metrics.jsonl")
    examples = [entry["examples"] for entry in entries if entry["kind"] == "train"]
    for epoch in np.reshape(examples, (3, -1)):
        assert sorted(epoch) == [TRAIN % 16] + [16] * (TRAIN // 16)
    assert entries[-1] == {
        "kind": "eval",
        "step": 30,
        **{f"validation/{name}": value for name, value in found["scores"]["validation"].items()},
    }


def test_a_finished_run_is_found(tuned, monkeypatch, capsys):
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("it trains again"))
    assert tune(tuned[0]) == tuned[1]
    assert "finished before" in capsys.readouterr().out


def test_an_interrupted_run_begins_anew_and_gives_the_same_bits(folder, tuned, tmp_path, monkeypatch):
    write = RunLog.write

    def stop(self, kind, step, values):
        write(self, kind, step, values)
        if step == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "write", stop)
    config = tuning(folder, tmp_path / "run")
    with pytest.raises(Interrupted, match="stopped after step 12 of 30; the same command begins anew"):
        tune(config)
    assert not (tmp_path / "run/results.json").exists()
    monkeypatch.undo()
    assert tune(config)["scores"] == tuned[1]["scores"]
    assert runs.weights(tmp_path / "run/model") == runs.weights(Path(tuned[0].run.directory) / "model")
    assert runs.entries(tmp_path / "run") == runs.entries(Path(tuned[0].run.directory))


class StoppedError(Exception):
    """Raised in place of training; holds the number of steps and the first batch."""


@pytest.fixture
def no_training(monkeypatch):
    def fit(state, step, frozen, batches, run, steps, schedule, **options):
        raise StoppedError(steps, next(batches(0, steps)))

    monkeypatch.setattr(module, "fit", fit)


def test_of_a_large_task_the_first_rows_can_be_taken(folder, tmp_path, no_training, capsys):
    with pytest.raises(StoppedError) as stopped:
        tune(tuning(folder, tmp_path / "run", max_train_rows=20, epochs=2))
    assert stopped.value.args[0] == 4
    assert ": sst2, seed 0: 20 rows, 4 steps of 16; 0.0% of the rows cut at 16 tokens" in capsys.readouterr().out


def test_the_share_of_rows_that_are_cut_is_told(folder, tmp_path, no_training, capsys):
    with pytest.raises(StoppedError) as stopped:
        tune(tuning(folder, tmp_path / "run", length=10, shapes=2))
    rows = topics(TRAIN, 0)["sentence"]
    cut = sum(len(row.split()) + 2 > 10 for row in rows) / TRAIN
    assert f"{cut:.1%} of the rows cut at 10 tokens" in capsys.readouterr().out
    assert stopped.value.args[1]["input_ids"].shape[1] in (8, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "sst-2"}, ["task 'sst-2'", "did you mean 'sst2'"]),
        ({"model": ""}, ["model is not set", "--model"]),
        ({"model": "nowhere"}, ["nowhere"]),
        ({"data": "nowhere"}, ["nowhere/sst2/train.parquet", "--data"]),
        ({"length": 64}, ["length = 64", "32 positions"]),
        ({"batch_size": 12}, ["batch_size = 12", "8"]),
        ({"mesh": MeshConfig(data=3)}, ["3 × 1 × 1", "8 devices"]),
        ({"model": "few"}, ["48 pieces", "40 rows"]),
    ],
)
def test_refused_in_one_line_before_any_step(folder, tmp_path, no_training, changes, words):
    if changes.get("model") == "few":
        changes = {"model": str(folder / "few")}
    refused(lambda: tune(tuning(folder, tmp_path / "run", **changes)), *words)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    with pytest.raises(StoppedError):
        tune(tuning(folder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("runs/demo/student/model", "runs/glue/student/rte-7"),
        ("runs/student", "runs/glue/runs-student/rte-7"),
        ("/bert", "runs/glue/bert/rte-7"),
        ("../bert", "runs/glue/bert/rte-7"),
    ],
)
def test_a_run_without_a_directory_is_named_after_model_task_and_seed(model, expected):
    config = FinetuneConfig(model=model, task="rte", run=RunConfig(directory="", seed=7))
    assert run_directory(config) == Path(expected)
    assert run_directory(change(config, run__directory="here")) == Path("here")
