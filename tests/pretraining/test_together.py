"""Students side by side: each is what it is alone, whoever trains beside it and whenever they are killed."""

import functools
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from distilbert_jax.config import KLConfig, MaskingConfig, MiniLMv2Config, Schedule
from distilbert_jax.errors import DivergedError, Interrupted
from distilbert_jax.pretraining import objectives, together
from distilbert_jax.pretraining.cost import step_flops, step_flops_together
from distilbert_jax.pretraining.run import pretrain_together
from distilbert_jax.pretraining.setup import set_up
from distilbert_jax.pretraining.together import StepTogether, parties, why_apart
from distilbert_jax.training.checkpoint import whole_steps
from distilbert_jax.training.logging import RunLog
from tests import runs
from tests.runs import BERT, change, refused

STEPS = 20


def variants(world, path):
    """Students of other losses, depths, widths and rates, by their names: dropout, held-out text and micro-batches in all."""
    shared = {"steps": STEPS, "data__heldout": world.heldout, "data__batch_size": 16, "optimizer__accumulate": 2}
    of = lambda name, **changes: runs.distilling(world, path / name, **shared, run__eval_every=10, **changes)
    narrow = change(runs.STUDENT, hidden_size=16, num_hidden_layers=2)
    loss = change(
        runs.loss(mse=0.1, cos=0.0, chunk=8),
        kl=KLConfig(1.0, tokens="masked"),
        minilmv2=MiniLMv2Config(1.0, relation_heads=4),
    )
    return {
        "triple": of("triple", loss__kl=KLConfig(Schedule("linear", 5.0, 1.0))),
        "narrow": of(
            "narrow",
            model=narrow,
            init__source="",
            loss=loss,
            optimizer__learning_rate=3e-3,
        ),
    }


def directories(configs):
    return [Path(one.run.directory) for one in configs]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """Trains one of the variants by itself, once; returns its directory."""
    path = tmp_path_factory.mktemp("alone")
    return functools.cache(lambda name: Path(runs.train(variants(world, path)[name]).run.directory))


@pytest.fixture(scope="module")
def side_by_side(world, tmp_path_factory):
    configs = list(variants(world, tmp_path_factory.mktemp("together")).values())
    pretrain_together(configs)
    return configs


def assert_same_losses(ours, theirs):
    for one, other in zip(runs.entries(ours), runs.entries(theirs), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"kind"}:
            # Relations differ by little: of a divergence near 0 the last digits are rounding.
            message = f"step {one['step']}: {name}"
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-8, err_msg=message)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["triple", "narrow"])
def test_each_has_the_losses_and_the_identity_that_it_has_alone(name, side_by_side, alone):
    (beside,) = [one for one in directories(side_by_side) if one.name == name]
    itself = alone(name)
    assert_same_losses(beside, itself)
    assert (beside / "inputs.json").read_text() == (itself / "inputs.json").read_text()
    assert whole_steps(beside / "checkpoints") == whole_steps(itself / "checkpoints")
    mine, its = runs.weights(beside / "model"), runs.weights(itself / "model")
    assert mine.keys() == its.keys()
    taken = [entry["together"] for entry in runs.metrics(beside / "metrics.jsonl") if entry["kind"] == "train"]
    assert taken == [2] * STEPS


@pytest.mark.slow
def test_what_has_ended_is_found(side_by_side, capsys):
    pretrain_together(side_by_side)
    assert capsys.readouterr().out.count("finished before") == 2


def again(configs, path):
    """The configs of copies of these runs, without their models."""
    for one in directories(configs):
        shutil.copytree(one, path / one.name)
        shutil.rmtree(path / one.name / "model")
    return [change(one, run__directory=str(path / Path(one.run.directory).name)) for one in configs]


@pytest.mark.slow
def test_killed_when_one_had_saved_and_the_others_not_and_then_stopped_they_end_with_the_same_bits(
    side_by_side, tmp_path, monkeypatch
):
    configs, write = again(side_by_side, tmp_path), RunLog.write
    for one in directories(configs)[1:]:
        shutil.rmtree(one / "checkpoints" / "20")

    def stop(self, kind, step, values, **more):
        write(self, kind, step, values, **more)
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", stop)
        with pytest.raises(Interrupted) as left:
            pretrain_together(configs)
    assert {whole_steps(one / "checkpoints")[-1] for one in directories(configs)} == {left.value.step} == {14}
    pretrain_together(configs)
    for ours, theirs in zip(directories(configs), directories(side_by_side), strict=True):
        assert runs.weights(ours / "model") == runs.weights(theirs / "model")
        assert runs.entries(ours) == runs.entries(theirs)
        assert runs.events(ours) == runs.events(theirs)


@pytest.mark.slow
def test_each_ends_at_its_own_step_and_the_others_go_on(world, alone, tmp_path, monkeypatch):
    def configs(name):
        long, short = variants(world, tmp_path / name).values()
        return [long, change(short, steps=12, run__eval_every=5)]

    def stop(self, kind, step, values, **more):
        write(self, kind, step, values, **more)
        if step == 14:
            os.kill(os.getpid(), signal.SIGTERM)

    write = RunLog.write
    pretrain_together(configs("whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", stop)
        with pytest.raises(Interrupted) as left:
            pretrain_together(configs("killed"))
    assert left.value.step == 15
    long, short = directories(configs("killed"))
    assert (short / "model" / "model.safetensors").is_file(), "written where it ends"
    assert not (long / "model").exists()
    shutil.rmtree(short / "model")  # as killed before it was written, and before the other one had saved any more
    shutil.rmtree(long / "checkpoints" / "15")
    pretrain_together(configs("killed"), profile=True)
    assert (long / "profile").is_dir(), "of the first steps that are left"
    taken = [entry["together"] for entry in runs.metrics(long / "metrics.jsonl") if entry["kind"] == "train"]
    assert taken == [2] * 12 + [1] * (STEPS - 12)
    for ours, theirs in zip(directories(configs("killed")), directories(configs("whole")), strict=True):
        assert runs.weights(ours / "model") == runs.weights(theirs / "model")
        assert runs.entries(ours) == runs.entries(theirs)
    assert whole_steps(short / "checkpoints") == [10, 12]
    assert_same_losses(long, alone("triple"))
    itself = runs.train(change(configs("itself")[1], run__directory=str(tmp_path / "itself")))
    assert_same_losses(short, Path(itself.run.directory))
    assert [entry["step"] for entry in runs.entries(short) if entry["kind"] == "eval"] == [5, 10, 12]


@pytest.mark.slow
def test_begun_side_by_side_a_run_goes_on_alone(side_by_side, tmp_path):
    one = again(side_by_side, tmp_path)[1]
    directory = Path(one.run.directory)
    shutil.rmtree(directory / "checkpoints" / "20")
    runs.train(one)
    assert_same_losses(directory, Path(side_by_side[1].run.directory))


@pytest.mark.slow
def test_one_that_diverges_leaves_the_others(world, alone, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert_jax.training.cost.utilisation", lambda flops, dtype: flops)
    first, second = variants(world, tmp_path).values()
    # Of the second one's program: the rate is data.
    broken = change(second, run__directory=str(tmp_path / "broken"), optimizer__learning_rate=3e38)
    with pytest.raises(DivergedError) as told:
        pretrain_together([first, broken])
    assert str(tmp_path / "broken") in str(told.value)
    assert not (tmp_path / "broken" / "model").exists()
    assert [entry["step"] for entry in runs.entries(tmp_path / "broken")] == [1, 2]
    assert (tmp_path / "triple" / "model" / "model.safetensors").is_file()
    taken = [entry["together"] for entry in runs.metrics(tmp_path / "triple" / "metrics.jsonl") if "together" in entry]
    assert taken == [2, 2, 2, 2, *[1] * (STEPS - 4)], "known a step later, it is no part of the program then"
    last = runs.metrics(tmp_path / "triple" / "metrics.jsonl")[-2]
    assert last["mfu"] * last["seconds"] == pytest.approx(step_flops(first, BERT), rel=0.01)
    assert_same_losses(tmp_path / "triple", alone("triple"))


@pytest.mark.slow
def test_where_all_that_are_left_diverge_those_that_have_ended_stay(world, tmp_path):
    first, short = variants(world, tmp_path).values()
    broken = change(first, optimizer__learning_rate=3e38)
    with pytest.raises(DivergedError) as told:
        pretrain_together([broken, change(short, steps=1)])
    assert str(told.value).startswith(f"{broken.run.directory}: ")
    with pytest.raises(DivergedError) as told:  # nobody trains beside it now
        pretrain_together([broken, change(short, steps=1)])
    assert str(told.value).startswith(f"{broken.run.directory}: ")
    assert (tmp_path / "narrow" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "triple" / "model").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"run__seed": 1}, "run.seed"),
        ({"teacher": "other"}, "teacher"),
        ({"data__batch_size": 4}, "data.batch_size"),
        ({"masking": MaskingConfig(probability=0.3)}, "masking.probability"),
        ({"run__save_every": 7}, "run.save_every"),
        ({"optimizer__accumulate": 1}, "optimizer.accumulate"),
        ({"objective": "masked_lm", "teacher": ""}, "objective"),
    ],
)
def test_what_cannot_train_side_by_side_is_told_by_the_field(changes, field, world, tmp_path):
    first, second, *_ = variants(world, tmp_path).values()
    other = change(second, **changes)
    assert why_apart(first, second) == ""
    assert why_apart(first, other).startswith(field)
    refused(lambda: pretrain_together([first, other]), field, by="pretraining.run.pretrain_together")
    assert not (tmp_path / "triple").exists()


def test_students_of_other_steps_do_not_share_masking_that_changes_over_the_steps(world, tmp_path):
    masking = MaskingConfig(probability=Schedule("linear", 0.3, 0.15))
    first, second = (change(one, masking=masking) for one in variants(world, tmp_path).values())
    assert why_apart(first, second) == ""
    other = change(second, steps=7)
    refused(
        lambda: pretrain_together([first, other]),
        "steps",
        "masking.probability",
        by="pretraining.run.pretrain_together",
        field="steps",
    )
    assert why_apart(change(first, masking=MaskingConfig()), change(other, masking=MaskingConfig())) == ""


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([[], []], [([0, 1], 0)]),
        ([[10], []], [([0, 1], 0)]),
        ([[10, 20], [10]], [([0, 1], 10)]),
        ([[10, 20], [10, 20]], [([0, 1], 20)]),
        ([[40, 50], []], [([0], 50), ([1], 0)]),
        ([[40, 50], [70, 80], [70, 80]], [([1, 2], 80), ([0], 50)]),
    ],
)
def test_a_run_goes_back_by_one_checkpoint_at_most_to_go_on_with_others(steps, expected, monkeypatch):
    monkeypatch.setattr(together, "whole_steps", lambda directory: steps[int(directory.name)])
    assert parties([Path(str(place)) for place in range(len(steps))]) == expected


@pytest.mark.slow
def test_too_far_apart_for_one_program_they_train_in_turn(side_by_side, world, tmp_path, capsys):
    done, other = again(side_by_side, tmp_path)
    shutil.rmtree(other.run.directory)
    pretrain_together([done, other])
    assert "triple, narrow: " in capsys.readouterr().out
    assert_same_losses(Path(other.run.directory), Path(side_by_side[1].run.directory))


def test_the_teacher_is_asked_once(world, tmp_path, monkeypatch):
    configs = list(variants(world, tmp_path).values())
    setups = [set_up(configs[0])]
    setups += [set_up(config, setups[0]) for config in configs[1:]]
    assert all(setup.teacher is setups[0].teacher for setup in setups)
    asked, read = [], objectives.read

    def counted(model, batch, rngs, reads):
        if rngs is None:
            asked.append(model.config.num_hidden_layers)
        return read(model, batch, rngs, reads)

    monkeypatch.setattr(objectives, "read", counted)
    states = tuple(setup.state for setup in setups)
    step = StepTogether(setups)
    batch = next(setups[0].batches(0, 1))
    program = step.program(dict(enumerate(states)))
    program.lower(states, setups[0].frozen, batch)
    assert set(asked) == {BERT.num_hidden_layers}
    alone = len(asked)
    asked.clear()
    setups[0].train_step.lower(states[0], setups[0].frozen, batch)
    assert alone == len(asked), "as often as for one student: once a trace"


def test_the_cost_has_one_teacher(world, tmp_path):
    configs = list(variants(world, tmp_path).values())
    one = step_flops(configs[0], BERT)
    own = 2 * one - step_flops_together([configs[0]] * 2, BERT)
    assert step_flops_together(configs[:1], BERT) == one
    assert 0 < own < one
    assert step_flops_together(configs, BERT) == pytest.approx(step_flops_together(configs[::-1], BERT), rel=1e-12)
    assert step_flops_together(configs, BERT) < sum(step_flops(config, BERT) for config in configs)
