import dataclasses
import json

import numpy as np
import pytest

from distilbert_jax.base.config_io import to_json, write_config
from distilbert_jax.base.files import sha256_of, write_json
from distilbert_jax.config import AugmentConfig, DistillConfig, FinetuneConfig, HiddenConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.settings import in_words
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.bootstrap import compare_runs
from distilbert_jax.glue.results import Choice, Setting, SweepRun
from distilbert_jax.glue.summary import (
    check_dev,
    mean_score,
    medians,
    model_of,
    read_runs,
    remarks,
    settings,
    summary,
)
from distilbert_jax.models.hf_format import fingerprint
from tests.glue.examples import result, run, score
from tests.runs import change, refused, write_split


def test_a_summary_gives_medians_spreads_every_metric_and_the_seeds_that_failed(tmp_path):
    runs = [run(tmp_path, "mrpc", seed, right) for seed, right in enumerate((8, 6, 9, 5, 7))]
    runs += [run(tmp_path, "mnli", 0, 8)]
    tasks = summary(runs)
    assert list(tasks) == ["mnli", "mrpc"], "in the paper's order"
    row, scores = tasks["mrpc"], [one.result.score for one in runs[:5]]
    assert (row.median, row.min, row.max) == (np.median(scores), min(scores), max(scores))
    assert row.scores == {str(seed): value for seed, value in enumerate(scores)}
    assert row.metrics["validation"]["accuracy"] == pytest.approx(70.0)
    assert row.majority == pytest.approx((100 * 40 / 70 + 0) / 2), "the most frequent label is 0: no F1"
    assert row.failed == 0
    assert list(tasks["mnli"].metrics) == ["validation_matched", "validation_mismatched"]
    assert medians(runs) == {"mrpc": np.median(scores), "mnli": runs[5].result.score}


def test_a_seed_fails_that_is_no_better_than_the_majority_or_constant_or_diverged(tmp_path):
    runs = [run(tmp_path, "rte", seed, right) for seed, right in enumerate((9, 5, 8))]
    runs.append(run(tmp_path, "rte", 3, 9, diverged="step 4: loss is not finite"))
    assert summary(runs)["rte"].failed == 2
    # A constant answer of the rarer label has an F1 that lifts it above the majority's: no success.
    constant = run(tmp_path, "qqp", 0, 9)
    labels = np.load(tmp_path / "qqp-0/predictions/validation-labels.npy")
    logits = np.tile(np.float32([0, 1]), (len(labels), 1))
    np.save(tmp_path / "qqp-0/predictions/validation.npy", logits)
    scores = score(find_task("qqp"), logits, labels)
    constant = SweepRun(result("qqp", 0, scores["score"], scores={"validation": scores}), constant.directory)
    of_task = summary([constant])["qqp"]
    assert of_task.median > of_task.majority
    assert of_task.failed == 1
    wnli = [run(tmp_path, "wnli", 0, 2), run(tmp_path, "wnli", 1, 9, diverged="step 4: loss is not finite")]
    of_task = summary(wnli)["wnli"]
    assert (of_task.failed, of_task.diverged) == (1, {"1": "step 4: loss is not finite"})
    assert "WNLI: seed 1 diverged and counts as 0: step 4: loss is not finite." in remarks({"wnli": of_task})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("validation", np.zeros((70, 3), np.float32)),
        ("validation", np.zeros(70, np.float32)),
        ("validation", np.zeros((69, 2), np.float32)),
        ("validation", np.full((70, 2), np.nan, np.float32)),
        ("validation", np.full((70, 2), "a")),
        ("validation-labels", np.full(70, 5)),
        ("validation-labels", np.full(70, -1)),
        ("validation-labels", np.full(70, 0.5)),
        ("validation-labels", np.zeros(0, np.int32)),
    ],
)
def test_predictions_that_cannot_be_are_refused(tmp_path, name, wrong):
    runs = [run(tmp_path, "rte", 0, 9)]
    np.save(tmp_path / f"rte-0/predictions/{name}.npy", wrong)
    refused(lambda: summary(runs), path="rte-0/predictions")


def test_a_score_is_that_of_its_predictions(tmp_path):
    runs = [run(tmp_path, "rte", 0, 9)]
    file = tmp_path / "rte-0/predictions/validation.npy"
    np.save(file, np.load(file)[:, ::-1])
    refused(
        lambda: summary(runs), "10.00", "results.json", "90.00", by="glue.summary.read", path="rte-0", field="score"
    )


def test_a_table_says_how_its_runs_were_fine_tuned(tmp_path):
    runs = [run(tmp_path, name, 0, 9) for name in ("rte", "cola", "mrpc", "sst2")]
    runs[3] = dataclasses.replace(runs[3], result=dataclasses.replace(runs[3].result, added_rows=1200))
    old = dataclasses.replace(runs[2].result, batches="similar lengths")
    runs[2] = dataclasses.replace(runs[2], result=old)
    for one, changes in zip(
        runs,
        (
            {"model": "runs/x/mnli-0/model", "epochs": 10, "run__directory": "runs/x/rte-0"},
            {"epochs": 3, "distill__teacher": "runs/t", "distill__alpha": 0.3},
            {"epochs": 3},
            {
                "epochs": 3,
                "distill": DistillConfig("runs/t", 1.0, hidden=HiddenConfig(0.5), layer_epochs=2),
                "augment": AugmentConfig(4, 0.2, "bert"),
            },
        ),
        strict=True,
    ):
        config = change(FinetuneConfig(model="bert", task=one.result.task), **changes)
        (one.directory / "config.json").write_text(to_json(config))
    assert settings(summary(runs)) == [
        "CoLA: learning rate 5e-05, 3 epochs, batch 32, length 128, float32, distilled from runs/t (α 0.3, T 2).",
        "MRPC: learning rate 5e-05, 3 epochs, batch 32, length 128, float32, batches of similar lengths (of an earlier version).",
        "RTE: learning rate 5e-05, 10 epochs, batch 32, length 128, float32, from the MNLI model of the same seed.",
        "SST-2: learning rate 5e-05, 3 epochs, batch 32, length 128, float32, distilled from runs/t (α 1, T 2, hidden 0.5; 2 "
        "epochs of layers first), with 1,200 copies of rows, 4 of each, in which bert replaced 20% of the words.",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"freeze": "encoder"}, "the head alone trained"),
        ({"layer_decay": 0.9}, "0.9 of a layer's learning rate for the layer below"),
        ({"class_weights": "balanced"}, "classes weighted (balanced)"),
        ({"max_train_rows": 1000}, "the first 1,000 rows of train"),
        ({"optimizer__weight_decay": 0.0}, "weight decay 0"),
        ({"optimizer__warmup": 0.0}, "warm-up 0 % of the steps"),
        ({"run__activations": "float32"}, "float32 between layers"),
        ({"run__deterministic": True}, "run.deterministic True"),
        ({"distill": DistillConfig("t", hidden=HiddenConfig(0.5, (0,), (1,)))}, "distill.hidden.teacher_layers (1,)"),
        ({"mesh__fsdp": 2, "save_model": False, "distill__alpha": 0.1, "augment__share": 0.5}, "length 128, float32"),
    ],
)
def test_every_setting_is_said_that_changes_a_run_and_is_no_default(changes, said):
    assert in_words(change(FinetuneConfig(model="bert", epochs=3), **changes)).endswith(f", {said}")


def test_a_table_says_that_rows_are_held_out_of_train(tmp_path):
    one = run(tmp_path, "rte", 0, 9)
    one = dataclasses.replace(one, result=dataclasses.replace(one.result, train_rows=2241))
    config = FinetuneConfig(model="bert", task="rte", epochs=3, select=True)
    (one.directory / "config.json").write_text(to_json(config))
    table = summary([one])
    assert table["rte"].settings.endswith("of its epochs the best on a tenth of train that is held out")
    (subset,) = (line for line in remarks(table) if "RTE: train" in line)
    assert "held out" in subset


def test_the_mean_score_leaves_wnli_out():
    assert mean_score({"rte": 60.0, "wnli": 0.0, "cola": 40.0}) == 50.0
    assert mean_score({"wnli": 56.3}) is None


def test_the_runs_of_a_directory_are_read_back_or_refused(tmp_path):
    made = run(tmp_path, "rte", 0, 9)
    assert read_runs(str(tmp_path)) == [made]
    (tmp_path / "choice/rte").mkdir(parents=True)
    file = tmp_path / "choice/rte/choice.json"
    choice = {"runs": 3, "chosen": {"epochs": 3}}
    write_json(file, choice)
    assert read_runs(str(tmp_path))[0].choice == Choice(3, Setting(epochs=3))
    for wrong, field in ({"chosen": None}, "chosen"), ({"chosen": {}}, "chosen"), ({"runs": 0}, "runs"):
        write_json(file, choice | wrong)
        assert damaged(lambda: read_runs(str(tmp_path)), file) == field
    write_json(file, choice)
    refused(lambda: read_runs(str(tmp_path / "nowhere")), by="glue.summary.read_runs", path="nowhere")
    file = tmp_path / "rte-0/results.json"
    good = json.loads(file.read_text())
    for wrong, field in (
        ({"step": 3}, "step"),
        ([], None),
        ({name: value for name, value in good.items() if name != "together"}, "together"),
        ({**good, "score": "high"}, "score"),
    ):
        write_json(file, wrong)
        assert damaged(lambda: read_runs(str(tmp_path)), file) == field
    write_json(file, good)
    run(tmp_path, "rte", 1, 9)
    write_json(tmp_path / "rte-1/results.json", good)
    refused(lambda: read_runs(str(tmp_path)), "rte-0", "rte-1", by="glue.summary.read_runs")
    file.write_text("{")
    assert damaged(lambda: read_runs(str(tmp_path)), file) is None


def test_a_sweep_is_of_one_model_and_of_that_as_it_is_now(tmp_path):
    model, other, sweep = tmp_path / "model", tmp_path / "other", tmp_path / "sweep"
    for place in (model, other, sweep / "mnli-0/model"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    begun = {"model": fingerprint(model)}
    runs = [run(sweep, "rte", seed, 8, model=str(model)) for seed in (0, 1)]
    for one in runs:
        write_json(one.directory / "inputs.json", begun)
    runs.append(run(sweep, "mrpc", 0, 8, model=str(sweep / "mnli-0/model")))  # --from-mnli
    assert model_of(runs) == str(model)
    runs.append(run(sweep, "cola", 0, 8, model=str(other)))
    refused(lambda: model_of(runs), str(other), by="glue.summary.model_of", path=str(sweep))
    (model / "config.json").write_text("[]")
    refused(lambda: model_of(runs[:3]), by="glue.summary.model_of", path=str(runs[0].directory))
    refused(lambda: model_of([run(sweep, "wnli", 0, 8, model=str(tmp_path / "gone"))]), path=str(tmp_path / "gone"))


def recorded(one, config=None, **inputs):
    """A run with the config and the inputs that fine-tuning leaves."""
    config = config or FinetuneConfig(model="bert", task=one.result.task, data="glue", epochs=3)
    config = change(config, run__seed=one.result.seed, run__directory=str(one.directory))
    (one.directory / "config.json").write_text(to_json(config))
    write_json(one.directory / "inputs.json", {"model": "0" * 64, "run": "1" * 64, **inputs})
    return one


def digest(letter):
    return letter * 64


def write_result(one, **changes):
    write_config(dataclasses.replace(one.result, **changes), one.directory / "results.json")


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("epochs", {"epochs": 10}),
        ("length", {"length": 64}),
        ("optimizer.learning_rate", {"optimizer__learning_rate": 1e-4}),
        ("run.dtype", {"run__dtype": "bfloat16"}),
        ("max_train_rows", {"max_train_rows": 20}),
        ("train_rows", {}),
        ("cut_share", {}),
        ("batches", {}),
        ("data (train)", {}),
        ("data (validation)", {}),
        ("model", {}),
    ],
)
def test_seeds_that_differ_in_more_are_not_of_one_median(field, other, tmp_path):
    config = FinetuneConfig(model="bert", task="rte", data="glue", epochs=3)
    splits = {"data (train)": digest("a"), "data (validation)": digest("b")}
    recorded(run(tmp_path, "rte", 0, 9), config, **splits)
    elsewhere = change(config, data="moved", save_model=False)
    second = recorded(run(tmp_path, "rte", 1, 8), elsewhere, **splits)
    assert len(read_runs(str(tmp_path))) == 2, "where files lie changes nothing"
    recorded(
        second, change(config, **other), **{name: digest("c") if name == field else splits[name] for name in splits}
    )
    wrong = {"train_rows": 7, "cut_share": 0.5, "batches": "similar lengths", "model": f"{tmp_path}/mnli-1/model"}
    if field in wrong:
        write_result(second, **{field: wrong[field]})
    refused(lambda: read_runs(str(tmp_path)), by="glue.summary._check_alike", path=str(tmp_path), field=field)
    assert [one.result.seed for one in read_runs(str(tmp_path), [("rte", 1), ("cola", 0)])] == [1]


def test_runs_that_are_not_asked_for_are_told_of(tmp_path, capsys):
    for name, seed in (("rte", 0), ("rte", 1), ("cola", 0)):
        run(tmp_path, name, seed, 9)
    assert [one.directory.name for one in read_runs(str(tmp_path), [("rte", 1)])] == ["rte-1"]
    assert capsys.readouterr().err == f"{tmp_path}: not asked for, and left out: cola-0, rte-0\n"


def test_teachers_and_starts_of_their_own_do_not_tell_seeds_apart(tmp_path):
    config = FinetuneConfig(model="bert", task="rte", data="glue", epochs=3)
    for seed in (0, 1):
        distilled = change(config, model=f"{tmp_path}/mnli-{seed}/model", distill__teacher="t/{task}-{seed}/model")
        one = recorded(run(tmp_path, "rte", seed, 9), distilled, **{"distill.teacher": digest(str(seed))})
        write_result(one, model=distilled.model)
    assert len(read_runs(str(tmp_path))) == 2
    for seed in (0, 1):
        config = change(config, distill__teacher="t")
        recorded(
            SweepRun(result("rte", seed), tmp_path / f"rte-{seed}"), config, **{"distill.teacher": digest(str(seed))}
        )
    refused(lambda: read_runs(str(tmp_path)), path=str(tmp_path), field="distill.teacher")


def test_runs_that_began_at_the_mnli_model_of_one_seed_do_not_say_that_it_is_of_theirs(tmp_path):
    runs_of = [run(tmp_path, "rte", seed, 9) for seed in range(3)]

    def sweep(*starts):
        for one, start in zip(runs_of, starts, strict=True):
            config = FinetuneConfig(model=f"{tmp_path}/mnli-{start}/model", task="rte", data="glue", epochs=3)
            write_result(recorded(one, config), model=config.model)
        return read_runs(str(tmp_path))

    said = lambda runs: "MNLI model of the same seed" in summary(runs)["rte"].settings
    assert said(sweep(0, 1, 2))
    for start in (0, 2):
        runs = sweep(start, start, start)
        assert not said(runs)
        assert not said(runs[::-1])
    for starts in ((0, 1, 0), (0, 0, 1), (1, 0, 2)):
        refused(lambda starts=starts: sweep(*starts), path=str(tmp_path), field="model")


def test_a_choice_counts_for_runs_of_its_setting_alone(tmp_path):
    config = FinetuneConfig(model="bert", task="rte", data="glue", epochs=3)
    one, place = recorded(run(tmp_path, "rte", 0, 9), config), tmp_path / "choice/rte"
    (place / "epochs-3-0").mkdir(parents=True)
    write_json(place / "choice.json", {"runs": 2, "chosen": {"epochs": 3}})
    choice = lambda: read_runs(str(tmp_path))[0].choice
    tried = change(config, selection_split=True, run__seed=4, save_model=False)
    (place / "epochs-3-0/config.json").write_text(to_json(tried))
    assert choice() == Choice(2, Setting(epochs=3))
    (place / "epochs-3-0/config.json").write_text(to_json(change(tried, length=16)))
    assert choice() is None, "it was made for another length"
    (place / "epochs-3-0/config.json").unlink()
    assert choice() == Choice(2, Setting(epochs=3)), "its runs may be gone"
    recorded(one, change(config, epochs=10))
    assert choice() is None


def test_pairs_are_of_the_same_dev_rows_in_the_same_order(tmp_path):
    folder = tmp_path / "glue"
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}
    file = write_split(folder, "rte", "validation", rows)
    ours, theirs = (recorded(run(tmp_path / name, "rte", 0, 9)) for name in ("ours", "theirs"))
    inputs = {"data (validation)": sha256_of(file)}
    config = FinetuneConfig(data=str(folder))
    for one in (ours, theirs):
        recorded(one, **inputs)
    assert compare_runs([[ours]], [[theirs]], ["rte"]).difference.value == 0.0
    check_dev([theirs], config)
    recorded(theirs, change(FinetuneConfig(task="rte"), data=""), **{"data (validation)": digest("c")})
    # Of the hub's rows the digest is of another kind, and the labels are the same.
    compare_runs([[ours]], [[theirs]], ["rte"])
    kept = theirs.directory / "predictions/validation-labels.npy"
    labels = np.load(kept)
    np.save(kept, 1 - labels)
    refused(lambda: compare_runs([[ours]], [[theirs]], ["rte"]), path="rte-0", field="data (validation)")
    np.save(kept, labels)
    turned = write_split(folder, "rte", "validation", {name: values[::-1] for name, values in rows.items()})
    recorded(theirs, **{"data (validation)": sha256_of(turned)})
    refused(lambda: compare_runs([[ours]], [[theirs]], ["rte"]), path="rte-0", field="data (validation)")
    refused(
        lambda: check_dev([ours], config), by="glue.summary.check_dev", path="ours/rte-0", field="data (validation)"
    )
    check_dev([theirs], config)


def test_a_median_is_of_scores_that_predictions_have(tmp_path):
    one = run(tmp_path, "rte", 0, 9)
    scores = {"validation": {"accuracy": 99.0, "score": 99.0}}
    better = SweepRun(dataclasses.replace(one.result, score=99.0, scores=scores), one.directory)
    refused(lambda: medians([better]), by="glue.summary.read", path="rte-0", field="score")


def damaged(call, file):
    """The field for which a file is refused."""
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.path == str(file)
    return caught.value.field
