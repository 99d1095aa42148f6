import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import ModelCard

from distilbert_jax.base import runtime
from distilbert_jax.base.config_io import to_json, to_values
from distilbert_jax.config import FinetuneConfig, MeshConfig, OptimizerConfig, RunConfig
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.finetuning import identity
from distilbert_jax.finetuning import tuning as module
from distilbert_jax.finetuning.batches import packed_shape
from distilbert_jax.finetuning.kinds.sentences import Classification
from distilbert_jax.finetuning.model_card import card_of
from distilbert_jax.finetuning.predictions import read_predictions
from distilbert_jax.finetuning.results import read_result
from distilbert_jax.finetuning.runs import directory_of, finetune, finetune_seeds
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM, SequenceClassification
from distilbert_jax.models.params import merge, split
from distilbert_jax.text.tokenizer import load_tokenizer, save_tokenizer
from distilbert_jax.training import cost, run_directory, step
from distilbert_jax.training.model_card import card_text, number, plain
from tests import runs
from tests.models.common import call
from tests.runs import BERT, STUDENT, change, metrics, refused

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
        for seed, (name, rows) in enumerate({"train": TRAIN, "validation": DEV}.items()):
            runs.write_split(path, task, name, make(rows, seed))
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
        batch_size=16,
        epochs=3,
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup=0.1),
        run=RunConfig(directory=str(directory), log_every=10),
    )
    return change(base, **changes)


def tune(config):
    return finetune(config)


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    config = tuning(folder, tmp_path_factory.mktemp("runs") / "tuned")
    return config, tune(config)


def test_a_separable_task_is_learned(tuned):
    assert tuned[1].score > 95


@pytest.mark.slow
def test_runs_of_other_rates_lengths_seeds_and_weights_compile_their_step_once(folder, tmp_path, no_cache):
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(4)).save_pretrained(
        tmp_path / "model", load_tokenizer(folder / "student")
    )
    settings = (
        {},
        {"optimizer__learning_rate": 1e-4},
        {"epochs": 2},
        {"model": str(tmp_path / "model"), "run__seed": 4},
    )
    with runtime.compiling_once() as compiled:
        for i, setting in enumerate(settings):
            tune(tuning(folder, tmp_path / str(i), save_model=False, **setting))
            assert len(list(compiled.glob("jit_step-*-cache"))) == 1


def test_a_regression_is_learned_and_has_no_temperature(folder, tmp_path, capsys):
    found = tune(tuning(folder, tmp_path, task="stsb", model=str(folder / "bert"), epochs=8))
    assert found.scores["validation"]["pearson"] > 90
    assert found.scores["validation"]["spearman"] > 90
    config = SequenceClassification.from_pretrained(tmp_path / "model").config
    assert (config.labels, config.problem_type) == (("score",), "regression")
    taught = {"distill__teacher": str(tmp_path / "model"), "distill__temperature": 4.0, "epochs": 1}
    tune(tuning(folder, tmp_path / "taught", task="stsb", model=str(folder / "bert"), **taught))
    assert "distill.temperature = 4.0 changes nothing" in capsys.readouterr().err


def test_results_say_what_was_done_and_what_came_out(tuned):
    config, result = tuned
    assert read_result(Path(config.run.directory) / "results.json") == result
    accuracy, lengths = result.score, [len(sentence.split()) + 2 for sentence in topics(TRAIN, 0)["sentence"]]
    shape = packed_shape(np.array(lengths), 16)
    rows, length = shape.for_mesh(1).rows, shape.length
    assert result.train_seconds > 0
    assert to_values(result) == {
        "task": "sst2",
        "model": config.model,
        "seed": 0,
        "score": accuracy,
        "scores": {"validation": {"accuracy": accuracy, "score": accuracy}},
        "steps": 30,
        "train_rows": TRAIN,
        "dev_rows": {"validation": DEV},
        "cut_share": 0.0,
        "padding_share": pytest.approx(1 - sum(lengths) / (10 * rows * length)),
        "batches": "random",
        "flops": pytest.approx(30 * cost.tuning_flops(STUDENT, rows, length)),
        "tested": {},
        "diverged": "",
        "train_seconds": result.train_seconds,
        "together": 1,
    }


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
    assert found.score == pytest.approx(100 * right.mean())


def test_every_row_counts_once_an_epoch_and_the_rows_that_fill_up_a_batch_do_not(tuned):
    config, found = tuned
    entries = metrics(Path(config.run.directory) / "metrics.jsonl")
    examples = [entry["examples"] for entry in entries if entry["kind"] == "train"]
    for epoch in np.reshape(examples, (3, -1)):
        assert epoch.sum() == TRAIN
        assert (np.cumsum(epoch) <= 16 * np.arange(1, 11)).all()
    assert entries[-1] == {
        "kind": "eval",
        "step": 30,
        **{f"validation/{name}": value for name, value in found.scores["validation"].items()},
    }


def test_a_finished_run_is_found(tuned, monkeypatch, capsys):
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("it trains again"))
    assert tune(tuned[0]) == tuned[1]
    assert "finished before" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model/model.safetensors", "predictions/validation.npy"])
def test_a_finished_run_with_a_flipped_bit_says_so(tuned, name):
    file = Path(tuned[0].run.directory) / name
    kept = file.read_bytes()
    try:
        file.write_bytes(kept[:-3] + bytes([kept[-3] ^ 1]) + kept[-2:])
        refused(lambda: tune(tuned[0]), path=str(file), by="training.run_directory.check_output")
        if name.startswith("predictions"):
            task = find_task("sst2")
            refused(lambda: read_predictions(Path(tuned[0].run.directory), "validation", task), path=str(file))
    finally:
        file.write_bytes(kept)


class StoppedError(Exception):
    """Raised in place of training; holds the number of steps and the first batch."""


@pytest.fixture
def no_training(monkeypatch):
    def fit(state, step, frozen, batches, run, steps, schedule, **options):
        raise StoppedError(steps, next(batches(0, steps)))

    monkeypatch.setattr(module, "fit", fit)


@pytest.mark.parametrize("value", [10**6, -1])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_id_that_the_model_has_no_row_for_is_refused(split, value, folder, tmp_path, no_training, monkeypatch):
    encode = Classification.encode

    def wrong(self, rows, *given):
        examples = encode(self, rows, *given)
        if len(rows) == {"train": TRAIN, "validation": DEV}[split]:
            examples.rows[3].ids[1] = value
        return examples

    monkeypatch.setattr(Classification, "encode", wrong)
    refused(lambda: tune(tuning(folder, tmp_path / "run")), by="base.ranges.check_range", field="input_ids")


def test_of_a_large_task_the_first_rows_can_be_taken(folder, tmp_path, no_training, capsys):
    with pytest.raises(StoppedError) as stopped:
        tune(tuning(folder, tmp_path / "run", max_train_rows=20, epochs=2))
    assert stopped.value.args[0] == 4
    assert ": sst2, seed 0: 20 rows, 4 steps of 16; 0.0% of the rows cut at 16 tokens" in capsys.readouterr().err


def test_the_share_of_rows_that_are_cut_is_told(folder, tmp_path, no_training, capsys):
    with pytest.raises(StoppedError) as stopped:
        tune(tuning(folder, tmp_path / "run", length=10, mesh=MeshConfig(data=8)))
    rows = topics(TRAIN, 0)["sentence"]
    cut = sum(len(row.split()) + 2 > 10 for row in rows) / TRAIN
    assert f"{cut:.1%} of the rows cut at 10 tokens" in capsys.readouterr().err
    batch = stopped.value.args[1]
    assert batch["position_ids"].max() == 9
    assert batch["input_ids"].shape[0] % 8 == batch["input_ids"].shape[1] % 8 == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "sst-2"}, {"field": "task", "hint": "'sst2'"}),
        ({"model": ""}, {"field": "model", "hint": "--model"}),
        ({"model": "nowhere"}, {"path": "nowhere"}),
        ({"data": "nowhere"}, {"by": "finetuning.datasets._file", "path": "nowhere"}),
        ({"length": 64}, {"by": "finetuning.preparation.check_sizes", "field": "length"}),
        (
            {"batch_size": 13, "mesh": MeshConfig(data=8)},
            {"by": "training.sharding.check_batch", "field": "batch_size"},
        ),
        ({"mesh": MeshConfig(data=3)}, {"by": "training.sharding.make_mesh", "field": "mesh"}),
        ({"model": "few"}, {"by": "text.tokenizer.check_fit", "path": "few"}),
    ],
)
def test_refused_in_one_line_before_any_step(folder, tmp_path, no_training, changes, told):
    if changes.get("model") == "few":
        changes = {"model": str(folder / "few")}
    refused(lambda: tune(tuning(folder, tmp_path / "run", **changes)), **told)
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
    assert directory_of(config) == Path(expected)
    assert directory_of(change(config, run__directory="here")) == Path("here")


def seeds_of(folder, directory, seeds, **changes):
    return [tuning(folder, directory / str(seed), run__seed=seed, save_model=False, **changes) for seed in seeds]


def losses_of(config):
    entries = metrics(Path(config.run.directory) / "metrics.jsonl")
    return np.array([entry["loss"] for entry in entries if entry["kind"] == "train"])


@pytest.mark.slow
def test_seeds_that_train_together_have_the_losses_of_the_same_seeds_in_turn(folder, tmp_path):
    """With dropout, in batches that are not of one size."""
    given = {"epochs": 2, "optimizer__learning_rate": 1e-3}
    turn = seeds_of(folder, tmp_path / "turn", (0, 3, 4), **given)
    together = seeds_of(folder, tmp_path / "together", (0, 3, 4), **given)
    apart, side_by_side = finetune_seeds(turn), finetune_seeds(together, together=True)
    all_losses = [(losses_of(a), losses_of(b)) for a, b in zip(turn, together, strict=True)]
    for alone, with_others in all_losses:
        np.testing.assert_allclose(with_others[:20], alone[:20], rtol=1e-5)
    assert len({tuple(alone) for alone, _ in all_losses}) == 3, "seeds differ"
    for a, b in zip(apart, side_by_side, strict=True):
        assert (a.seed, a.steps, a.together, b.together) == (b.seed, b.steps, 1, 3)
        assert b.score == pytest.approx(a.score, abs=3)


def test_seeds_in_turn_share_one_compiled_step_and_give_what_each_gives_alone(folder, tuned, tmp_path, capsys):
    configs = [tuning(folder, tmp_path / str(seed), run__seed=seed) for seed in (5, 0)]
    capsys.readouterr()
    found = finetune_seeds(configs)
    assert found[1].scores == tuned[1].scores
    assert runs.weights(tmp_path / "0/model") == runs.weights(Path(tuned[0].run.directory) / "model")
    assert capsys.readouterr().err.count("newly initialised") == 1, "what is said of a directory is said once"
    own, alone = (ModelCard.load(run / "model/README.md") for run in (tmp_path / "0", Path(tuned[0].run.directory)))
    scores = [number(result.score) for result in found]
    assert (
        f"| {scores[1]} | {number(np.median([one.score for one in found]))} | {min(scores)} to {max(scores)} |"
        in own.text
    )
    assert "Of one seed" in alone.text
    assert own.data.eval_results == alone.data.eval_results
    assert own.data.eval_results[0].metric_value == round(found[1].scores["validation"]["accuracy"] / 100, 4)
    for digest in identity.inputs_of(configs[1]).values():
        assert digest in own.text
    assert str(tmp_path) not in own.text
    rare = change(configs[1], freeze="encoder", max_train_rows=8, optimizer__accumulate=2)
    text = card_text(card_of(rare, tmp_path / "0", {0: found[1]}), tmp_path / "0/model")
    assert "| besides | the first 8 rows of train; 2 micro-batches a step; the head alone trained |" in text
    assert "besides" not in own.text
    digest = identity.inputs_of(configs[1])["data (train)"]
    held_out = card_text(card_of(change(configs[1], select=True), tmp_path / "0", {0: found[1]}), tmp_path / "0/model")
    assert f"`{digest}` |" in own.text
    assert f"`{digest}`, of the file with" in held_out
    (tmp_path / "0/model/README.md").write_text("mine")
    finetune_seeds(configs)
    assert (tmp_path / "0/model/README.md").read_text() == "mine"


@pytest.mark.slow
def test_of_seeds_together_those_that_have_ended_are_left_out(folder, tmp_path, capsys):
    configs = seeds_of(folder, tmp_path, (0, 1, 2), epochs=1)
    (first,) = finetune_seeds(configs[1:2])
    capsys.readouterr()
    found = finetune_seeds(configs, together=True)
    assert found[1] == first
    assert [result.together for result in found] == [2, 1, 2]
    assert f"{tmp_path / '1'}: finished before" in capsys.readouterr().err


def test_a_run_that_another_process_is_at_is_left_as_it_is(folder, tmp_path):
    config, other = seeds_of(folder, tmp_path, (0, 1))
    with run_directory.alone(Path(config.run.directory)):
        run_directory.enter(config, Path(config.run.directory))
        refused(
            lambda: tune(change(config, epochs=7)), by="training.run_directory._lock", path=str(config.run.directory)
        )
    recorded = json.loads((tmp_path / "0/config.json").read_text())
    assert recorded["epochs"] == config.epochs
    refused(
        lambda: finetune_seeds([other, change(other, run__directory=str(folder))]),
        by="training.run_directory._check_place",
    )


def test_a_run_that_diverges_is_kept_as_one_that_failed(folder, tmp_path):
    (config,) = seeds_of(folder, tmp_path, (0,), optimizer__learning_rate=1e38, optimizer__warmup=0.0)
    (found,) = finetune_seeds([config])
    assert "is not finite" in found.diverged
    assert found.scores == {"validation": {"accuracy": 0.0, "score": 0.0}}
    assert finetune_seeds([config]) == [found]
    with pytest.raises(DivergedError) as refusal:
        tune(config)
    assert refusal.value.path == config.run.directory


@pytest.mark.parametrize("select", [False, True])
def test_a_run_whose_weights_are_finite_and_whose_scores_are_not_has_diverged(folder, tmp_path, select):
    one_step = {"epochs": 1, "batch_size": 256, "optimizer__learning_rate": 1e37, "optimizer__warmup": 0.0}
    (config,) = seeds_of(folder, tmp_path, (0,), **one_step, select=select)
    (found,) = finetune_seeds([config])
    assert found.diverged.startswith("what it predicts")
    assert found.scores == {"validation": {"accuracy": 0.0, "score": 0.0}}
    assert not (tmp_path / "0/model").exists()
    assert finetune_seeds([config]) == [found]


@pytest.mark.slow
def test_a_seed_that_diverges_leaves_those_beside_it_alone(folder, tmp_path):
    good = SequenceClassification.from_pretrained(folder / "student", labels=("negative", "positive"))
    good.classifier.kernel[...] = 3e38  # finite, as what is loaded has to be, but no logit of it is
    good.save_pretrained(tmp_path / "broken", load_tokenizer(folder / "student"))
    configs = seeds_of(folder, tmp_path / "runs", (0, 1), epochs=1)
    configs[0] = change(configs[0], model=str(tmp_path / "broken"))
    broken, sound = finetune_seeds(configs, together=True)
    assert (broken.score, sound.diverged) == (0.0, "")
    assert "not finite" in broken.diverged
    alone = change(configs[1], run__directory=str(tmp_path / "alone"))
    tune(alone)
    np.testing.assert_allclose(losses_of(configs[1]), losses_of(alone), rtol=1e-5)


@pytest.mark.slow
def test_a_seed_whose_gradient_overflows_once_has_diverged_beside_others_too(folder, tmp_path, monkeypatch):
    """Clipped by an infinite norm the step is 0 and the weights stay finite."""
    its_key = jax.random.key_data(step.row_keys(jax.random.key(1), jnp.int32(3), 1))[0][
        0
    ]  # of seed 1 in its fourth step
    gradients = step.gradients

    def overflowing(company, params, frozen, batch, rngs, *arguments, **options):
        ((found, metrics),) = gradients(company, params, frozen, batch, rngs, *arguments, **options)
        now = jax.random.key_data(rngs[0])[0] == its_key
        return ((jax.tree.map(lambda one: jnp.where(now, jnp.full_like(one, 1e20), one), found), metrics),)

    monkeypatch.setattr(step, "gradients", overflowing)
    configs = seeds_of(folder, tmp_path, (0, 1), epochs=1)
    sound, broken = finetune_seeds(configs, together=True)
    assert (sound.diverged, broken.score) == ("", 0.0)
    assert broken.diverged.startswith("step 4: grad_norm is not finite")
    assert [entry["step"] for entry in runs.entries(Path(configs[1].run.directory))] == [1, 2, 3]


def test_a_tenth_of_train_is_scored_in_the_place_of_dev(folder, tmp_path):
    found = tune(tuning(folder, tmp_path / "run", selection_split=True, epochs=1, save_model=False))
    assert list(found.scores) == ["selection_split"]
    assert found.score == found.scores["selection_split"]["score"]
    assert found.train_rows + found.dev_rows["selection_split"] == TRAIN
    assert 0 < found.dev_rows["selection_split"] < TRAIN / 4
    few = tuning(folder, tmp_path / "few", selection_split=True, max_train_rows=1)
    refused(lambda: tune(few), "sst2", by="finetuning.preparation.training_rows")


def test_logits_and_labels_of_dev_are_kept(tuned):
    config, found = tuned
    where = Path(config.run.directory) / "predictions"
    labels = np.load(where / "validation-labels.npy")
    np.testing.assert_array_equal(labels, topics(DEV, 1)["label"])
    assert 100 * (np.load(where / "validation.npy").argmax(-1) == labels).mean() == pytest.approx(found.score)


def test_test_splits_are_predicted_when_they_are_asked_for(folder, tmp_path, capsys):
    for name in ("train", "validation"):
        runs.write_split(folder, "wnli", name, {**shares(40, 3), "label": [0, 1] * 20})
    given = {"task": "wnli", "save_model": False, "epochs": 1}
    config = tuning(folder, tmp_path / "run", **given)
    without = tune(config)
    runs.write_split(folder, "wnli", "test", {**shares(146, 4), "label": [-1] * 146})
    assert tune(config) == without
    asked = change(config, predict_test=True)
    found = tune(asked)
    assert list(found.tested) == ["WNLI.tsv"], "a run that ended without them is done again"
    assert found.scores == without.scores
    assert np.load(tmp_path / "run/predictions/WNLI.tsv.npy").shape == (146, 2)
    assert tune(config) == found
    runs.write_split(folder, "wnli", "test", {**shares(146, 5), "label": [-1] * 146})
    assert tune(asked).tested != found.tested, "another test split is predicted anew"
    (tmp_path / "run/predictions/WNLI.tsv.npy").unlink()
    tune(asked)
    assert (tmp_path / "run/predictions/WNLI.tsv.npy").is_file()


def test_a_run_goes_by_what_it_began_with(folder, tmp_path):
    """Other weights or rows under the same names are another run: medians must not mix the two."""
    for name in ("train", "validation"):
        runs.write_split(tmp_path / "data", "sst2", name, topics(40, 3))
    tokenizer = load_tokenizer(folder / "student")
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(tmp_path / "model", tokenizer)
    given = {"model": str(tmp_path / "model"), "data": str(tmp_path / "data"), "save_model": False, "epochs": 1}
    config = tuning(folder, tmp_path / "run", **given)
    found = tune(config)
    runs.write_split(tmp_path / "data", "sst2", "validation", topics(40, 4))
    refused(lambda: tune(config), by="training.run_directory.check_inputs", path=str(tmp_path / "run"))
    elsewhere = change(config, data=os.path.relpath(tmp_path / "data"))
    refused(lambda: tune(elsewhere), by="training.run_directory.check_inputs", path=str(tmp_path / "run"))
    runs.write_split(tmp_path / "data", "sst2", "validation", topics(40, 3))
    tune(elsewhere)  # the same data by another path
    assert tune(config) == found
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(4)).save_pretrained(tmp_path / "model", tokenizer)
    refused(lambda: tune(config), by="training.run_directory.check_inputs")


def as_by_an_earlier_version(directory):
    """A run that drew its batches otherwise, and had a number of lengths to pad to."""
    for name, lost in (("results.json", "batches"), ("inputs.json", "batches")):
        values = json.loads((directory / name).read_text())
        del values[lost]
        (directory / name).write_text(json.dumps(values))
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, "shapes": 4}))
    forget(directory / "inputs.json", "config")
    forget(directory / "outputs.json", "results.json")


def forget(file, name):
    """Take out of a record what an earlier version did not write there."""
    values = json.loads(file.read_text())
    del values[name]
    file.write_text(json.dumps(values))


def test_a_run_on_other_batches_is_read_and_not_mixed_with_those_of_now(folder, tmp_path):
    config, other = seeds_of(folder, tmp_path, (0, 1), epochs=1)
    result = tune(config)
    as_by_an_earlier_version(tmp_path / "0")
    old = tune(config)
    assert old == dataclasses.replace(result, batches="similar lengths")
    for configs in ([config, other], [change(config, save_model=True)], None, None):
        if configs is None:  # begun, not ended: asked twice, refused twice
            (tmp_path / "0/results.json").unlink(missing_ok=True)
        with pytest.raises(InputError) as caught:
            finetune_seeds(configs or [config])
        assert (caught.value.path, caught.value.field) == (str(tmp_path / "0"), "batches")
    assert not (tmp_path / "1/metrics.jsonl").exists()


def test_a_run_with_other_bits_of_dropout_is_read_and_not_trained_again(folder, tmp_path):
    (config,) = seeds_of(folder, tmp_path, (0,), epochs=1)
    result, inputs = tune(config), tmp_path / "0/inputs.json"
    recorded = json.loads(inputs.read_text())
    assert recorded.pop("dropout")
    inputs.write_text(json.dumps(recorded))
    assert tune(config) == result
    refused(lambda: tune(change(config, save_model=True)), field="dropout", path=str(tmp_path / "0"))
    (tmp_path / "0/results.json").unlink()
    for _ in range(2):
        refused(lambda: tune(config), field="dropout", path=str(tmp_path / "0"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "stsb"}, "scores"),
        ({"task": "rte"}, "task"),
        ({"task": "colla"}, "task"),
        ({"seed": 3}, "seed"),
        ({"model": "another"}, "model"),
        ({"score": 99.0}, "score"),
        ({"together": 0}, "together"),
        ({"together": 10**400}, "together"),
        ({"train_seconds": 10**400}, "train_seconds"),
        ({"train_seconds": float("inf")}, "train_seconds"),
        ({"diverged": "step 3"}, "diverged"),
        ({"scores": {}}, "scores"),
        ({"scores": {"validation": {"accuracy": 200.0, "score": 200.0}}}, "scores"),
        ({"cut_share": None}, "cut_share"),
        ({"cut_share": 1.5}, "cut_share"),
        ({"flops": "x"}, "flops"),
        ({"dev_rows": {"test": 3}}, "dev_rows"),
        ({"dev_rows": {"validation": 0}}, "dev_rows"),
        ({"dev_rows": {"validation": True}}, "dev_rows.validation"),
        (None, None),
    ],
)
def test_damaged_results_are_not_those_of_a_finished_run(tuned, change, field):
    config, result = tuned
    file, outputs = (Path(config.run.directory) / name for name in ("results.json", "outputs.json"))
    kept = [(one, one.read_bytes()) for one in (file, outputs)]
    forget(outputs, "results.json")
    try:
        file.write_text(json.dumps({**to_values(result), **change} if change else []))
        with pytest.raises(InputError) as caught:
            tune(config)
        assert caught.value.path.startswith(config.run.directory)
        assert caught.value.field == field
        assert len(str(caught.value).splitlines()) == 1
    finally:
        for one, content in kept:
            one.write_bytes(content)


def test_results_edited_by_hand_are_read_nowhere(tuned):
    config, result = tuned
    file = Path(config.run.directory) / "results.json"
    kept = file.read_bytes()
    try:
        file.write_text(to_json(dataclasses.replace(result, train_seconds=1.0)))
        for read in (lambda: tune(config), lambda: read_result(file)):
            refused(read, by="training.run_directory.check_output", path=str(file))
    finally:
        file.write_bytes(kept)


def test_results_of_earlier_versions_are_read(tmp_path):
    """As they were written before results had a class of their own; steps, flops and tested came later still."""
    (tmp_path / "results.json").write_text(
        """{
 "task": "stsb",
 "model": "runs/demo/student/model",
 "seed": 2,
 "score": 81.5,
 "scores": {"validation": {"pearson": 82, "spearman": 81.0, "score": 81.5}},
 "train_rows": 5749,
 "dev_rows": {"validation": 1500},
 "cut_share": 0.0,
 "train_seconds": 12.75,
 "together": 3,
 "diverged": ""
}
"""
    )
    result = read_result(tmp_path / "results.json")
    assert (result.score, result.steps, result.flops, result.tested) == (81.5, None, 0.0, {})
    assert result.scores["validation"]["pearson"] == 82.0


@pytest.mark.slow
def test_the_model_of_mnli_predicts_ax_too(folder, tmp_path, capsys):
    texts = lambda rows: {"premise": shares(rows, 5)["sentence2"], "hypothesis": ["goes to"] * rows}
    for name in ("train", "validation_matched"):
        runs.write_split(folder, "mnli", name, {**texts(40), "label": [0, 1, 2, 1] * 10})
    runs.write_split(folder, "mnli", "validation_mismatched", {**texts(32), "label": [2, 2, 2, 1] * 8})
    runs.write_split(folder, "ax", "test", texts(1104))
    config = tuning(folder, tmp_path / "run", task="mnli", epochs=1, predict_test=True)
    found = tune(config)
    assert set(found.scores) == {"validation_matched", "validation_mismatched"}
    assert [path.name for path in (tmp_path / "run/predictions").glob("*.tsv.npy")] == ["AX.tsv.npy"]
    assert "has no mnli/test_matched.parquet: not predicted" in capsys.readouterr().err
    card = " ".join((tmp_path / "run/model/README.md").read_text().split())
    for name, rows, floor in (("validation_matched", 40, 50), ("validation_mismatched", 32, 75)):
        assert f"{number(floor)} on {plain(name)}" in card
        assert f"on {plain(name)} is of {rows} rows: one of them is worth about {number(100 / rows)} points" in card
    scores = {name: {"accuracy": score, "score": score} for name, score in zip(found.scores, (60.0, 60.0), strict=True)}
    told = card_of(config, tmp_path / "run", {0: dataclasses.replace(found, score=60.0, scores=scores)})
    assert (
        f"most frequent answer on {plain('validation_mismatched')}: it has not" in told.sections["Limits and bias"][0]
    )
    # RTE starts from it with a head of its own, and again from itself with the head it has.
    runs.write_split(folder, "rte", "train", {**shares(40, 3), "label": [0, 1] * 20})
    runs.write_split(folder, "rte", "validation", {**shares(40, 6), "label": [0, 1] * 20})
    capsys.readouterr()
    tune(tuning(folder, tmp_path / "rte", task="rte", model=str(tmp_path / "run/model"), epochs=1))
    assert "newly initialised: classifier.bias, classifier.weight\n" in capsys.readouterr().err
    again = tuning(folder, tmp_path / "again", task="rte", model=str(tmp_path / "rte/model"), epochs=1)
    tune(again)
    assert "newly initialised" not in capsys.readouterr().err


def test_a_task_without_training_data_is_refused(folder, tmp_path):
    refused(lambda: tune(tuning(folder, tmp_path / "run", task="ax")), "'ax'", by="finetuning.tuning.Tuning.__init__")


@pytest.mark.slow
def test_a_teacher_of_the_task_teachers_its_student(folder, tuned, tmp_path):
    teacher = str(Path(tuned[0].run.directory) / "model")
    given = {"distill__teacher": teacher, "distill__alpha": 1.0, "epochs": 6}
    config = tuning(folder, tmp_path / "run", **given)
    assert tune(config).score > 90, "from the teacher alone"
    entries = [entry for entry in metrics(tmp_path / "run/metrics.jsonl") if entry["kind"] == "train"]
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["loss_ce"])
    assert entries[-1]["loss_ce"] < entries[0]["loss_ce"]
    half = tuning(folder, tmp_path / "half", **{**given, "distill__alpha": 0.25, "epochs": 1})
    tune(half)
    entry = metrics(tmp_path / "half/metrics.jsonl")[0]
    assert entry["loss"] == pytest.approx(0.75 * entry["loss_labels"] + 0.25 * entry["loss_ce"], rel=1e-5)


@pytest.mark.slow
def test_each_seed_may_have_a_teacher_of_its_own(folder, tmp_path):
    for seed in (0, 1):
        tune(tuning(folder, tmp_path / f"sst2-{seed}", run__seed=seed, epochs=1 + 2 * seed))
    given = {"distill__teacher": str(tmp_path / "{task}-{seed}/model"), "epochs": 1}
    configs = seeds_of(folder, tmp_path / "guided", (0, 1), **given)
    finetune_seeds(configs)
    one = change(configs[1], run__directory=str(tmp_path / "alone"))
    tune(one)
    np.testing.assert_array_equal(losses_of(configs[1]), losses_of(one))
    other = seeds_of(folder, tmp_path / "together", (0, 1), **given)
    refused(
        lambda: finetune_seeds(other, together=True), by="finetuning.tuning.shared_teacher", field="distill.teacher"
    )


@pytest.mark.slow
def test_a_teacher_is_asked_once_for_all_epochs_and_seeds(folder, tuned, tmp_path, monkeypatch):
    """With the losses of a teacher that every step asks, also on a mesh."""
    teacher = str(Path(tuned[0].run.directory) / "model")
    given = {"distill__teacher": teacher, "epochs": 2}
    asked, frozen = [], []
    taught, fit = module.preparation.taught, module.fit
    monkeypatch.setattr(module.preparation, "taught", lambda *all: asked.append(all[-1]) or taught(*all))
    monkeypatch.setattr(module, "fit", lambda *all, **more: frozen.append(all[2]) or fit(*all, **more))
    once = seeds_of(folder, tmp_path / "once", (0, 1), **given)
    found = finetune_seeds(once)
    assert asked == [teacher]
    assert frozen == [{}, {}]
    cut = change(once[0], mesh=MeshConfig(2, 2, 2), optimizer__accumulate=2, run__directory=str(tmp_path / "cut"))
    tune(cut)
    np.testing.assert_allclose(losses_of(cut), losses_of(once[0]), rtol=1e-4)
    monkeypatch.setattr(module.objective, "asks_once", lambda *_: False)
    always = seeds_of(folder, tmp_path / "always", (0, 1), **given)
    results = finetune_seeds(always)
    assert len(asked) == 2
    assert all(frozen[3:])
    for one, other in zip(once, always, strict=True):
        np.testing.assert_allclose(losses_of(one), losses_of(other), rtol=1e-5)
    assert found[0].flops < results[0].flops


def test_a_teacher_whose_answers_are_not_finite_is_refused(folder, tuned, tmp_path):
    model = SequenceClassification.from_pretrained(Path(tuned[0].run.directory) / "model")
    model.classifier.kernel[...] = 3e38 * jnp.sign(model.classifier.kernel[...])
    model.save_pretrained(tmp_path / "teacher", load_tokenizer(folder / "student"))
    config = tuning(folder, tmp_path / "run", distill__teacher=str(tmp_path / "teacher"), epochs=1)
    refused(lambda: tune(config), by="finetuning.preparation.taught", path="teacher", field="distill.teacher")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def relabelled(source, directory, labels, order=(0, 1)):
    """A classifier with other names, each at another id: the same function where the names go along."""
    model = SequenceClassification.from_pretrained(source)
    graphdef, params = split(model)
    params |= {name: params[name][..., list(order)] for name in params if name.startswith("classifier.")}
    swapped = merge(graphdef, params)
    swapped.config = dataclasses.replace(model.config, labels=labels)
    swapped.save_pretrained(directory, load_tokenizer(source))
    return str(directory)


def test_a_teacher_is_understood_by_the_names_of_its_labels(folder, tuned, tmp_path):
    right = str(Path(tuned[0].run.directory) / "model")
    swapped = relabelled(right, tmp_path / "swapped", ("POSITIVE", "NEGATIVE"), (1, 0))
    for name, teacher in (("right", right), ("swapped_run", swapped)):
        tune(tuning(folder, tmp_path / name, distill__teacher=teacher, distill__alpha=1.0, epochs=1, save_model=False))
    losses = [
        [entry["loss_ce"] for entry in metrics(tmp_path / name / "metrics.jsonl") if entry["kind"] == "train"]
        for name in ("right", "swapped_run")
    ]
    assert losses[0] == losses[1]
    unnamed = relabelled(right, tmp_path / "unnamed", ("LABEL_0", "LABEL_1"))
    given = {"distill__teacher": unnamed, "epochs": 1}
    refused(lambda: tune(tuning(folder, tmp_path / "x", **given)), "negative", field="distill.teacher", path=unnamed)


def test_a_trained_head_is_gone_on_with_by_the_names_of_its_labels(folder, tuned, tmp_path, capsys):
    right = str(Path(tuned[0].run.directory) / "model")
    swapped = relabelled(right, tmp_path / "swapped", ("POSITIVE", "NEGATIVE"), (1, 0))
    for name, model in (("right", right), ("swapped_run", swapped)):
        tune(tuning(folder, tmp_path / name, model=model, epochs=1))
    weights = [runs.weights(tmp_path / name / "model") for name in ("right", "swapped_run")]
    assert weights[0] == weights[1]
    assert "the head is new" not in capsys.readouterr().err
    other = relabelled(right, tmp_path / "other", ("a", "b"))
    tune(tuning(folder, tmp_path / "other_run", model=other, epochs=1, save_model=False))
    assert f"{other}: its labels are a, b" in capsys.readouterr().err


def test_a_teacher_of_fewer_positions_is_refused(folder, tuned, tmp_path):
    model = SequenceClassification.from_pretrained(Path(tuned[0].run.directory) / "model")
    graphdef, params = split(model)
    params["encoder.embeddings.position"] = params["encoder.embeddings.position"][:12]
    short = merge(graphdef, params)
    short.config = dataclasses.replace(model.config, max_position_embeddings=12)
    short.save_pretrained(tmp_path / "short", load_tokenizer(folder / "student"))
    config = tuning(folder, tmp_path / "run", distill__teacher=str(tmp_path / "short"))
    refused(lambda: tune(config), "16", "12", field="length")


def test_more_tokens_than_a_tokenizer_takes_are_refused(folder, tmp_path):
    model = tmp_path / "student"
    shutil.copytree(folder / "student", model)
    save_tokenizer(load_tokenizer(model), model, model_max_length=12)
    refused(lambda: tune(tuning(folder, tmp_path / "run", model=str(model))), "16", "12", field="length")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"distill__teacher": "nowhere/{task}-{seed}"}, {"path": "nowhere/sst2-0"}),
        ({"distill__teacher": "student"}, {"by": "models.hf_format.to_params", "path": "student"}),
        (
            {"distill__teacher": "tuned", "task": "stsb"},
            {"by": "finetuning.preparation._teachers_order", "field": "distill.teacher"},
        ),
        ({"distill__teacher": "other"}, {"by": "finetuning.preparation.load_teacher", "field": "distill.teacher"}),
        ({"distill__teacher": "several"}, {"by": "finetuning.preparation._teachers_order", "field": "distill.teacher"}),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_in_one_line(folder, tuned, tmp_path, changes, told):
    model = Path(tuned[0].run.directory) / "model"
    if changes["distill__teacher"] == "tuned":
        changes = {**changes, "distill__teacher": str(model)}
    elif changes["distill__teacher"] == "student":
        changes = {**changes, "distill__teacher": str(folder / "student")}
    elif changes["distill__teacher"] == "other":
        words_of = [word for word in runs.WORDS if word != "reda"]
        other = load_tokenizer(runs.write_tokenizer(tmp_path / "tokenizer", ["other", *words_of]))
        SequenceClassification.from_pretrained(model).save_pretrained(tmp_path / "other", other)
        changes = {**changes, "distill__teacher": str(tmp_path / "other")}
    elif changes["distill__teacher"] == "several":
        several = SequenceClassification.from_pretrained(model)
        several.config = dataclasses.replace(several.config, problem_type="multi_label_classification")
        several.save_pretrained(tmp_path / "several", load_tokenizer(model))
        changes = {**changes, "distill__teacher": str(tmp_path / "several")}
    refused(lambda: tune(tuning(folder, tmp_path / "run", **changes)), **told)
    assert not (tmp_path / "run/metrics.jsonl").exists()
