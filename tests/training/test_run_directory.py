import json

import pytest

from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.training import run_directory
from tests.runs import change, refused

CONFIG = PretrainConfig(objective="distillation", teacher="bert")


@pytest.fixture
def begun(tmp_path):
    """The directory of a run that has taken a step."""
    directory = run_directory.enter(CONFIG, tmp_path / "runs/a")
    (directory / "metrics.jsonl").write_text("")
    return directory


def test_a_new_directory_holds_the_config(tmp_path):
    directory = run_directory.enter(CONFIG, tmp_path / "runs/a")
    assert directory == tmp_path / "runs/a"
    assert json.loads((directory / "config.json").read_text())["teacher"] == "bert"
    assert not run_directory.finished(directory)


def test_the_same_config_enters_again(begun):
    assert run_directory.enter(CONFIG, begun) == begun


def test_another_config_is_refused_and_what_differs_is_named(begun):
    other = change(CONFIG, optimizer__learning_rate=1e-4, model__hidden_dropout=0.2, run__seed=3, teacher="other")
    message = refused(
        lambda: run_directory.enter(other, begun),
        "--run.directory",
        by="training.run_directory.check_config",
        path=str(begun),
        field="model.hidden_dropout",
    )
    assert "optimizer.learning_rate: 0.0005 → 0.0001" in message
    assert "model.hidden_dropout: 0.1 → 0.2" in message
    assert "run.seed: 0 → 3" in message
    assert "teacher: 'bert' → 'other'" in message
    assert run_directory.enter(CONFIG, begun) == begun, "the refused config was recorded"


@pytest.mark.parametrize(
    "change_of", ["run__log_every", "run__eval_every", "run__save_every", "run__keep", "mesh__fsdp"]
)
def test_what_does_not_change_the_result_may_change(begun, change_of):
    run_directory.enter(change(CONFIG, **{change_of: 7}), begun)


def test_where_the_files_of_a_task_lie_may_change_and_nothing_that_begins_like_it(tmp_path):
    config = FinetuneConfig(data="here")
    run_directory.enter(config, tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    run_directory.enter(change(config, data="there", save_model=False), tmp_path)
    with pytest.raises(InputError) as caught:
        run_directory.enter(change(config, run__dtype="bfloat16"), tmp_path)
    assert (caught.value.path, caught.value.field) == (str(tmp_path), "run.dtype")


def test_a_run_may_be_moved(begun, tmp_path):
    moved = begun.rename(tmp_path / "moved")
    run_directory.enter(change(CONFIG, run__directory=str(moved)), moved)


@pytest.mark.parametrize("sign", ["metrics.jsonl", "checkpoints", "model", "results.json"])
def test_a_run_that_was_refused_before_its_first_step_may_be_corrected(tmp_path, sign):
    other = change(CONFIG, data__batch_size=8)
    run_directory.enter(CONFIG, tmp_path)
    run_directory.enter(other, tmp_path)
    (tmp_path / sign).mkdir()
    refused(
        lambda: run_directory.enter(CONFIG, tmp_path),
        "32",
        by="training.run_directory.check_config",
        field="data.batch_size",
    )


def test_a_run_of_another_kind_or_a_damaged_config_is_refused(begun):
    refused(
        lambda: run_directory.enter(FinetuneConfig(), begun),
        by="base.config_io._build",
        path=str(begun / "config.json"),
        field="init",
    )
    (begun / "config.json").write_text('{"model": ')
    refused(lambda: run_directory.enter(CONFIG, begun), by="base.files.parse_json", path=str(begun / "config.json"))


def test_changed_inputs_are_refused_by_name(begun):
    inputs = {"data.corpus": "aaa", "teacher": "bbb"}
    run_directory.check_inputs(begun, inputs)
    run_directory.check_inputs(begun, inputs)
    message = refused(
        lambda: run_directory.check_inputs(begun, {**inputs, "data.corpus": "ccc"}),
        by="training.run_directory.check_inputs",
    )
    assert "teacher" not in message
    run_directory.check_inputs(begun, inputs)
    (begun / "inputs.json").write_text("{")
    refused(
        lambda: run_directory.check_inputs(begun, inputs), by="training.run_directory._recorded", path="inputs.json"
    )


def test_a_run_has_a_digest_of_its_config_and_inputs(tmp_path):
    def digest(name, config, **inputs):
        run_directory.enter(config, tmp_path / name)
        run_directory.check_inputs(tmp_path / name, inputs)
        return run_directory.identity(tmp_path / name)

    usual = digest("a", CONFIG, corpus="x")
    assert digest("b", change(CONFIG, run__directory="elsewhere", run__log_every=7), corpus="x") == usual
    assert digest("c", change(CONFIG, run__seed=7), corpus="x") != usual
    assert digest("d", CONFIG, corpus="y") != usual
    (tmp_path / "a/metrics.jsonl").write_text("")
    run_directory.check_inputs(tmp_path / "a", {"corpus": "x"})
    assert run_directory.identity(tmp_path / "a") == usual, "it stays what it was when the run began"


@pytest.fixture
def trained(tmp_path):
    """The directory of a run whose inputs are recorded, and which has taken a step."""
    directory = run_directory.enter(CONFIG, tmp_path / "a")
    run_directory.check_inputs(directory, {"corpus": "x"})
    (directory / "metrics.jsonl").write_text("")
    return directory


def edit(file, **values):
    """Change fields of a JSON file by hand; None: take one out."""
    left = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in left.items() if value is not None}))


def test_a_config_edited_by_hand_neither_makes_a_run_longer_nor_another_one(trained):
    file = trained / "config.json"
    edit(file, steps=8)
    refused(lambda: run_directory.enter(change(CONFIG, steps=8), trained), path=str(file))
    refused(lambda: run_directory.check_unedited(trained), path=str(file))
    refused(lambda: run_directory.enter(CONFIG, trained), path=str(trained), field="steps")
    edit(file, steps=CONFIG.steps, mesh={"data": 1, "fsdp": 4, "tensor": 1})
    assert run_directory.enter(CONFIG, trained) == trained, "back as it was, but for what changes no bits"


@pytest.mark.parametrize("recorded", [True, False], ids=["now", "before configs had a digest"])
def test_a_config_to_which_a_later_version_adds_fields_goes_on(trained, recorded):
    config, inputs = trained / "config.json", json.loads((trained / "inputs.json").read_text())
    edit(config, objective=None)  # as if this version had brought it
    older = run_directory._config_digest(run_directory._binding(trained)) if recorded else None
    edit(trained / "inputs.json", **inputs | {"config": older})
    for _ in range(2):
        run_directory.enter(CONFIG, trained)
    edit(config, steps=8)
    refused(lambda: run_directory.enter(change(CONFIG, steps=8), trained), path=str(config))


def test_where_inputs_have_moved_to_may_be_edited(trained):
    edit(trained / "config.json", teacher="elsewhere")
    moved = change(CONFIG, teacher="elsewhere")
    run_directory.check_inputs(run_directory.enter(moved, trained), {"corpus": "x"})
    refused(lambda: run_directory.check_inputs(trained, {"corpus": "y"}), path=str(trained))


def test_what_is_written_after_the_record_is_known_by_it(trained):
    run_directory.record_outputs(trained, {}, {"results.json": b"{}"})
    run_directory.check_outputs(trained)
    (trained / "results.json").write_text("{}")
    run_directory.check_outputs(trained, whole=True)
    (trained / "results.json").write_text("{ }")
    refused(lambda: run_directory.check_outputs(trained), path=str(trained / "results.json"))


def test_inputs_that_an_earlier_version_did_not_look_at_are_added(begun):
    (begun / "inputs.json").write_text('{"teacher": "aaa"}')
    run_directory.check_inputs(begun, {"teacher": "aaa", "teacher's config": "bbb"})
    assert run_directory.identity(begun) == ""
    run_directory.check_inputs(begun, {"teacher": "of more files"}, {"teacher": ("of more files", "aaa")})
    refused(lambda: run_directory.check_inputs(begun, {"teacher's config": "ccc"}), "teacher's config", path=str(begun))
    for damaged in ("[]", '{"teacher": 3}'):
        (begun / "inputs.json").write_text(damaged)
        refused(lambda: run_directory.check_inputs(begun, {}), path="inputs.json")


def test_what_a_run_leaves_is_known_again(begun):
    for name in ("model", "model/deep", "predictions"):
        (begun / name).mkdir()
        (begun / name / "file").write_text(name)
    run_directory.check_outputs(begun, whole=True)  # of an earlier version
    run_directory.record_outputs(begun, {name: begun / name for name in ("model", "predictions")})
    run_directory.check_outputs(begun, whole=True)
    (begun / "model/deep/file").write_text("other")
    refused(lambda: run_directory.check_outputs(begun), path=str(begun / "model/deep/file"))
    run_directory.check_outputs(begun, "predictions/")
    (begun / "model/deep/file").unlink()
    run_directory.check_outputs(begun)
    refused(lambda: run_directory.check_outputs(begun, whole=True), path=str(begun / "model/deep/file"))
    (begun / "outputs.json").write_text("[1]")
    refused(lambda: run_directory.check_outputs(begun), path=str(begun / "outputs.json"))


def test_what_a_kill_has_cut_off_is_no_output(begun):
    (begun / "predictions").mkdir()
    for name in ("validation.npy", ".validation.npy.host-12.partial"):
        (begun / "predictions" / name).write_text("1")
    run_directory.record_outputs(begun, {"predictions": begun / "predictions"})
    assert [path.name for path in (begun / "predictions").iterdir()] == ["validation.npy"]
    run_directory.check_outputs(begun, whole=True)


@pytest.fixture
def finished(tmp_path):
    """Two runs that have finished."""
    for name, seed in (("one", 0), ("other", 1)):
        directory = run_directory.enter(change(CONFIG, run__seed=seed), tmp_path / name)
        run_directory.check_inputs(directory, {"corpus": "x"})
        (directory / "metrics.jsonl").write_text(f"{seed}\n")
        (directory / "model").mkdir()
        (directory / "model/model.safetensors").write_text(name)
        run_directory.record_outputs(directory, {"model": directory / "model"})
        run_directory.check_outputs(directory, whole=True)
        run_directory.check_log(directory)
    return tmp_path


def test_what_another_run_has_left_is_no_runs_own(finished):
    for name in ("model/model.safetensors", "outputs.json"):
        (finished / "one" / name).write_bytes((finished / "other" / name).read_bytes())
    refused(lambda: run_directory.check_outputs(finished / "one"), path=str(finished / "one/outputs.json"))


@pytest.mark.parametrize("left", [None, "{}", '{"model/model.safetensors": "0"}'])
def test_a_run_that_has_lost_what_it_recorded_says_so(finished, left):
    file = finished / "one/outputs.json"
    file.unlink() if left is None else file.write_text(left)
    refused(lambda: run_directory.check_outputs(finished / "one", "model/"), path=str(file))


def test_a_run_that_went_by_the_name_of_an_input_goes_on_by_its_digest(begun):
    run_directory.check_inputs(begun, {"data (train)": "glue cola train"})
    (begun / "model").mkdir()
    names = {"data (train)": "glue cola train"}
    run_directory.check_inputs(begun, {"data (train)": "1"}, by_name=names)
    refused(lambda: run_directory.check_inputs(begun, {"data (train)": "2"}, by_name=names), path=str(begun))


@pytest.mark.parametrize("name", ["added_tokens.json", "model.safetensors.index.json", "other.safetensors"])
def test_a_file_that_a_run_has_not_written_is_no_part_of_its_model(finished, name):
    run = finished / "one"
    (run / "model/README.md").write_text("a card, which is not loaded")
    run_directory.check_outputs(run, "model/", whole=True)
    (run / "model" / name).write_text("{}")
    refused(lambda: run_directory.check_outputs(run), path=name)
    refused(lambda: run_directory.check_outputs(run, "model/", whole=True), path=name)
    run_directory.check_outputs(run, run_directory.METRICS)


@pytest.mark.parametrize("left", [None, "", "1\n"])
def test_the_log_of_a_finished_run_is_known_again(finished, left):
    file = finished / "one/metrics.jsonl"
    file.unlink() if left is None else file.write_text(left)
    refused(lambda: run_directory.check_log(finished / "one"), path=str(file))


def test_a_run_of_a_version_that_recorded_nothing_stays_one(begun):
    (begun / "model").mkdir()
    run_directory.check_inputs(begun, {"corpus": "x"})
    assert run_directory.identity(begun) == ""
    run_directory.check_outputs(begun, whole=True)


def test_a_run_has_finished_when_its_model_is_there(begun):
    (begun / "model").mkdir()
    assert not run_directory.finished(begun)
    (begun / "model/model.safetensors").write_bytes(b"")
    assert run_directory.finished(begun)


def test_what_holds_no_run_is_left_alone(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "bert"}')
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("mine")
    for directory in (model, notes):
        refused(
            lambda directory=directory: run_directory.enter(CONFIG, directory),
            by="training.run_directory._check_place",
            path=str(directory),
        )
    assert (model / "config.json").read_text() == '{"model_type": "bert"}'
    assert [path.name for path in notes.iterdir()] == ["mine.txt"]
    refused(
        lambda: run_directory.enter(CONFIG, notes / "mine.txt"),
        by="base.files.check_writable",
        path="mine.txt",
    )
    (tmp_path / "empty").mkdir()
    run_directory.enter(CONFIG, tmp_path / "empty")


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "model", "profile"])
def test_a_file_in_the_place_of_a_folder_is_refused(begun, name):
    (begun / name).write_text("")
    refused(
        lambda: run_directory.enter(CONFIG, begun), by="training.run_directory._check_place", path=f"{begun / name}"
    )
    refused(
        lambda: run_directory.alone(begun).__enter__(), by="training.run_directory._check_place", path=f"{begun / name}"
    )


def test_no_lock_is_left_in_what_is_no_run(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for directory, by in (
        (tmp_path, "training.run_directory._check_place"),
        (tmp_path / "mine.txt", "base.files.check_writable"),
    ):
        refused(
            lambda directory=directory: run_directory.alone(directory).__enter__(),
            by=by,
            path=str(directory),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with run_directory.alone(tmp_path / "new/run"):
        assert (tmp_path / "new/run").is_dir()


def test_a_second_process_is_kept_out(begun):
    with run_directory.alone(begun):
        refused(lambda: run_directory.alone(begun).__enter__(), by="training.run_directory._lock", path=str(begun))
    with run_directory.alone(begun):
        pass


def test_of_a_start_that_fails_nothing_is_left(tmp_path):
    directory = tmp_path / "runs/first"

    def start(*, begun):
        with run_directory.alone(directory):
            run_directory.enter(CONFIG, directory)
            run_directory.check_inputs(directory, {"model": "1"})
            if begun:
                (directory / "metrics.jsonl").touch()
            raise InputError("refused")

    refused(lambda: start(begun=False))
    assert list(tmp_path.iterdir()) == []
    for begun in (True, False):
        refused(lambda begun=begun: start(begun=begun))
        assert (directory / "config.json").is_file()


def test_a_run_that_began_with_other_bits_of_dropout_does_not_go_on(begun):
    for recorded in ({}, {"run": "of an earlier version"}, {"dropout": "other bits"}):
        (begun / "inputs.json").write_text(json.dumps(recorded))
        run_directory.check_dropout(begun, "")  # it has no dropout
        refused(
            lambda: run_directory.check_dropout(begun, "these bits"),
            by="training.run_directory.check_dropout",
            path=str(begun),
            field="dropout",
        )
    (begun / "inputs.json").write_text('{"dropout": "these bits"}')
    run_directory.check_dropout(begun, "these bits")


def test_a_run_that_has_not_begun_may_take_any_bits_of_dropout(tmp_path):
    run_directory.enter(CONFIG, tmp_path)
    run_directory.check_dropout(tmp_path, "these bits")
