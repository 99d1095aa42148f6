"""Weights, temperature and share of masked tokens that change over the steps: the same program, the same bits on resume."""

import functools
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distilbert_jax.config import KLConfig, LossConfig, MaskingConfig, MLMConfig, PretrainConfig, Schedule
from distilbert_jax.errors import Interrupted
from distilbert_jax.models.layers import fold_rows
from distilbert_jax.pretraining import objectives
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.pretraining.evaluate import mlm_evaluation
from distilbert_jax.pretraining.masking import corrupt, masked_count, most_masked
from distilbert_jax.pretraining.objective_table import schedules
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.pretraining.setup import set_up
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.objective import MASKING, alone
from distilbert_jax.training.schedules import value_at
from distilbert_jax.training.step import gradients, init_state, make_train_step, row_keys
from distilbert_jax.training.terms import weighted_terms
from tests import runs
from tests.pretraining.examples import MASK, quick_jit, random_batch
from tests.pretraining.test_objectives import FROZEN, PARAMS, STUDENT, TEACHER, VOCAB, WEIGHTS
from tests.training.test_sharding import mesh_of

STEPS = 5
LOSS = LossConfig(kl=KLConfig(Schedule("linear", 4.0, 0.0), Schedule("cosine", 4.0, 1.0)), mlm=MLMConfig(1.0))
RUN = PretrainConfig(
    objective="distillation",
    teacher="teacher",
    steps=STEPS,
    loss=LOSS,
    masking=MaskingConfig(probability=Schedule("linear", 0.5, 0.15), weighting="uniform"),
)


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", [5.0, 4.0, 3.0, 2.0, 1.0]), ("cosine", [5.0, 4.414214, 3.0, 1.585786, 1.0])]
)
def test_a_schedule_begins_and_ends_where_it_says(kind, expected):
    values = [float(value_at(Schedule(kind, 5.0, 1.0), jnp.int32(step), STEPS)) for step in range(STEPS)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert (values[0], values[-1]) == (5.0, 1.0)
    assert float(value_at(Schedule(kind, 5.0, 1.0), jnp.int32(2**31 - 1), STEPS)) == 1.0
    assert float(value_at(Schedule(kind, 5.0, 1.0), jnp.int32(0), 1)) == 5.0


def test_a_term_whose_weight_begins_or_ends_at_0_is_asked_for():
    for weight, asked in ((Schedule("linear", 0.0, 2.0), True), (Schedule("linear", 0.0, 0.0), False)):
        names = [one.term.name for one in weighted_terms(LossConfig(kl=KLConfig(weight)))]
        assert ("kl" in names) is asked
    assert set(schedules(RUN)) == {"kl_weight", "kl_temperature", "masking_probability"}


@pytest.mark.parametrize("per", ["row", "batch"])
def test_of_each_row_as_many_tokens_are_masked_as_the_share_of_the_step_says(per):
    config = MaskingConfig(probability=Schedule("linear", 0.15, 0.5), weighting="uniform", per=per)
    batch = random_batch(np.random.default_rng(0), 6, 20, VOCAB)
    tokens = batch["segment_ids"] > 0
    keys = fold_rows(row_keys(jax.random.key(0), jnp.int32(0), 6), MASKING)
    draw = quick_jit(
        lambda share: corrupt(keys, batch["input_ids"], tokens, jnp.asarray(WEIGHTS), MASK, config, share).weights
    )
    for share in (0.15, 0.3, 0.5):
        weights = draw(jnp.float32(share))
        fixed = MaskingConfig(probability=share, weighting="uniform", per=per)
        constant = corrupt(keys, batch["input_ids"], tokens, jnp.asarray(WEIGHTS), MASK, fixed).weights
        np.testing.assert_array_equal(weights.sum(1), constant.sum(1))
        assert weights.shape[1] == (most_masked(20, config.probability) if per == "row" else 20)
    exact = [masked_count(n, 0.15) for n in range(2049)]
    np.testing.assert_array_equal(masked_count(jnp.arange(2049), jnp.float32(0.15)), exact)


def test_the_cost_is_that_of_the_largest_share():
    whole, constant = (
        step_flops(runs.change(RUN, loss=runs.loss(tokens="masked"), masking__probability=p), RUN.model)
        for p in (RUN.masking.probability, 0.5)
    )
    assert whole == constant


def step_of(config, accumulate=1):
    """Loss, its parts and values of a step: a function of its number."""
    objective = objectives.distillation(Given(STUDENT, TEACHER, WEIGHTS, MASK, config))
    batch = random_batch(np.random.default_rng(1), 4, 14, VOCAB)

    def run(step):
        keys = row_keys(jax.random.key(0), step, 4)
        given = alone(objective), (PARAMS,), FROZEN, batch, keys, mesh_of(1, 1, 1)
        return gradients(*given, accumulate, step=step)[0][1]

    return quick_jit(run)


@functools.cache
def constant():
    """The first step of a run whose weights, temperature and share stay what they are at it."""
    loss = LossConfig(kl=KLConfig(4.0, 4.0), mlm=MLMConfig(1.0))
    return step_of(runs.change(RUN, loss=loss, masking__probability=0.5))(jnp.int32(0))


@pytest.mark.parametrize(("chunk", "accumulate"), [(0, 1), (4, 1), (0, 2)])
def test_the_loss_of_a_step_has_the_weights_of_that_step(chunk, accumulate):
    scheduled = step_of(runs.change(RUN, loss__chunk=chunk), accumulate)
    for step, weight, temperature, share in ((0, 4.0, 4.0, 0.5), (2, 2.0, 2.5, 0.325), (4, 0.0, 1.0, 0.15)):
        values = scheduled(jnp.int32(step))
        assert values["kl_weight"] == weight
        np.testing.assert_allclose(
            [values["kl_temperature"], values["masking_probability"]], [temperature, share], 1e-6
        )
        np.testing.assert_allclose(
            values["loss"], weight * values["loss_ce"] + values["loss_mlm"] + values["loss_cos"], rtol=1e-5
        )
        for name, value in (constant() if step == 0 else {}).items():
            np.testing.assert_allclose(values[name], value, rtol=1e-5, err_msg=name)


def test_all_steps_are_one_program():
    objective = objectives.distillation(Given(STUDENT, TEACHER, WEIGHTS, MASK, RUN))
    mesh, optimizer = mesh_of(1, 1, 1), optax.sgd(0.1)
    state = init_state(PARAMS, optimizer, 0, mesh)
    step = make_train_step(objective, optimizer, state, FROZEN, mesh)
    batch, weights = random_batch(np.random.default_rng(1), 4, 14, VOCAB), []
    for _ in range(3):
        state, metrics = step(state, FROZEN, batch)
        weights.append(float(metrics["kl_weight"]))
    assert weights == [4.0, 3.0, 2.0]
    assert step._cache_size() == 1


@pytest.fixture
def config(world, tmp_path):
    return runs.distilling(
        world,
        tmp_path / "run",
        steps=STEPS,
        loss=LOSS,
        masking=RUN.masking,
        run__save_every=2,
        run__log_every=1,
        data__heldout=world.heldout,
    )


@pytest.mark.slow
def test_stopped_and_gone_on_with_a_run_has_the_values_of_its_steps_and_the_same_bits(config, tmp_path, monkeypatch):
    whole = runs.train(runs.change(config, run__directory=str(tmp_path / "whole")))
    write = RunLog.write

    def stop(self, kind, step, values, **more):
        write(self, kind, step, values, **more)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", stop)
        with pytest.raises(Interrupted):
            runs.train(config)
    runs.train(config)
    ours, theirs = Path(config.run.directory), Path(whole.run.directory)
    assert runs.weights(ours / "model") == runs.weights(theirs / "model")
    assert runs.entries(ours) == runs.entries(theirs)
    steps = [entry for entry in runs.entries(ours) if entry["kind"] == "train"]
    assert [entry["kl_weight"] for entry in steps] == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert (4, "train/kl_weight", 1.0) in runs.events(ours)
    (held,) = [entry for entry in runs.entries(ours) if entry["kind"] == "eval"]
    assert not any(name in held for name in ("kl_weight", "masking_probability"))


def test_held_out_text_is_masked_at_15_percent_whatever_the_run_does(config):
    def masked(config):
        setup = set_up(config)
        asked = mlm_evaluation(
            setup.graphdef,
            setup.rows,
            setup.rows.corpus.specials,
            8,
            setup.mesh,
            teacher=(setup.teacher.graphdef, setup.frozen),
            objective=setup.objective,
            prepares=True,
            max_rows=8,
        )
        return asked(setup.state.params)

    at_last = runs.change(config, loss=runs.loss(0.0, 1.0, 1.0, temperature=1.0), masking__probability=0.15)
    ours, theirs = masked(runs.change(config, masking__probability=Schedule("linear", 0.05, 0.1))), masked(at_last)
    assert ours["tokens"] == theirs["tokens"]
    np.testing.assert_allclose(ours["loss_mlm"], theirs["loss_mlm"], rtol=1e-5)


def test_an_objective_that_hands_no_values_on_is_told_so():
    batch = random_batch(np.random.default_rng(1), 2, 14, VOCAB)
    given = Given(STUDENT, None, WEIGHTS, MASK, RUN)
    runs.refused(
        lambda: given.prepare(row_keys(jax.random.key(0), jnp.int32(0), 2), batch),
        field="masking.probability",
        hint="values=given.values",
    )
