"""Schedule, weight decay and clipping against numbers worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from distilbert_jax.config import OptimizerConfig
from distilbert_jax.models import BertForMaskedLM, BertForSequenceClassification
from distilbert_jax.models.params import split
from distilbert_jax.training.optimizer import adamw, decayed, layer_shares, schedule


def rates(steps, **changes):
    rate = schedule(OptimizerConfig(**changes), steps)
    return np.array([rate(step) for step in range(steps + 2)])


def test_schedule_rises_from_zero_and_falls_to_zero():
    found = rates(10, learning_rate=4.0, warmup=0.2)
    np.testing.assert_allclose(found, [0, 2, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5, 0, 0], atol=1e-6)


def test_warmup_steps_are_rounded_up():
    found = rates(10, learning_rate=6.0, warmup=0.11)  # 1.1 → 2 steps
    np.testing.assert_allclose(found[:4], [0, 3, 6, 5.25], rtol=1e-6)


@pytest.mark.parametrize(("warmup", "steps", "expected"), [(0.07, 100, 7), (0.07, 300, 21), (0.1, 30, 3)])
def test_whole_numbers_of_warmup_steps_are_not_rounded_up(warmup, steps, expected):
    assert rates(steps, learning_rate=1.0, warmup=warmup).argmax() == expected


def test_without_warmup_the_first_step_has_the_full_rate():
    found = rates(5, learning_rate=5.0, warmup=0.0)
    np.testing.assert_allclose(found, [5, 4, 3, 2, 1, 0, 0], atol=1e-6)


def test_warmup_alone_never_falls():
    np.testing.assert_allclose(rates(4, learning_rate=4.0, warmup=1.0)[:5], [0, 1, 2, 3, 4], rtol=1e-6)


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 540), (0.05, 30_000), (0.0, 7), (1.0, 7), (0.5, 1)])
def test_schedule_is_that_of_optax(warmup, steps):
    up = math.ceil(warmup * steps)
    expected = optax.join_schedules(
        [optax.linear_schedule(0.0, 2e-4, max(up, 1)), optax.linear_schedule(2e-4, 0.0, max(steps - up, 1))], [up]
    )
    found = schedule(OptimizerConfig(learning_rate=2e-4, warmup=warmup), steps)
    places = np.unique(np.linspace(0, steps + 2, 50).astype(int))
    np.testing.assert_allclose(
        [found(step) for step in places], [expected(step) for step in places], rtol=1e-6, atol=1e-11
    )


def test_one_program_serves_every_rate_and_number_of_steps():
    params = {"a.kernel": jnp.ones((2, 2)), "a.bias": jnp.ones(2)}
    programs = set()
    for rate, warmup, steps in ((1e-4, 0.1, 100), (2e-4, 0.1, 100), (1e-4, 0.0, 100), (1e-4, 0.1, 37)):
        optimizer = adamw(OptimizerConfig(learning_rate=rate, warmup=warmup), steps)
        programs.add(jax.jit(optimizer.update).lower(params, optimizer.init(params), params).as_text())
    assert len(programs) == 1


def test_steps_follow_the_schedule():
    config, params = OptimizerConfig(learning_rate=0.1, warmup=0.25, eps=1e-12), {"a.bias": jnp.zeros(1)}
    optimizer, rate = adamw(config, 8), schedule(config, 8)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(10):  # of equal gradients Adam makes 1
        updates, state = update({"a.bias": jnp.ones(1)}, state, params)
        np.testing.assert_allclose(updates["a.bias"], -rate(step), rtol=1e-4, atol=1e-9)


def test_biases_and_layer_norms_are_not_decayed(tiny_bert):
    for kind in (BertForMaskedLM, BertForSequenceClassification):
        _, params = split(nnx.eval_shape(lambda kind=kind: kind(tiny_bert, rngs=nnx.Rngs(0))))
        mask = decayed(params)
        assert mask == {name: value.ndim == 2 for name, value in params.items()}
        assert mask["encoder.embeddings.word"]
        assert not mask["encoder.embeddings.norm.scale"]


def step_of(config, params, grads, steps=100):
    optimizer = adamw(config, steps)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return {name: np.asarray(value) for name, value in updates.items()}


def test_first_step_is_the_adamw_formula_and_decay_is_decoupled():
    config = OptimizerConfig(learning_rate=0.01, warmup=0.0, weight_decay=0.1, eps=0.5)
    params = {"a.kernel": jnp.full((2, 2), 3.0), "a.bias": jnp.full(2, 3.0)}
    grads = {"a.kernel": jnp.full((2, 2), 0.5), "a.bias": jnp.full(2, -0.5)}
    updates = step_of(config, params, grads)
    # After bias correction m = g and √v = |g|: g/(|g| + ε), ε outside the root.
    np.testing.assert_allclose(updates["a.kernel"], -0.01 * (0.5 / (0.5 + 0.5) + 0.1 * 3.0), rtol=1e-5)
    np.testing.assert_allclose(updates["a.bias"], 0.01 * 0.5 / (0.5 + 0.5), rtol=1e-5)


def test_clipping_scales_all_gradients_to_the_norm_and_leaves_small_ones():
    # ε so large that the step is proportional to the gradient.
    config = OptimizerConfig(learning_rate=1e4, warmup=0.0, eps=1e4, clip_norm=5.0)
    params = {"a.kernel": jnp.zeros((1, 1)), "b.bias": jnp.zeros(1)}
    found = lambda x, y: step_of(config, params, {"a.kernel": jnp.full((1, 1), x), "b.bias": jnp.full(1, y)})
    large = found(30.0, 40.0)  # norm 50 → 5
    np.testing.assert_allclose(large["a.kernel"], -3.0, rtol=1e-3)
    np.testing.assert_allclose(large["b.bias"], -4.0, rtol=1e-3)
    small = found(3.0, 3.9)  # norm 4.92
    np.testing.assert_allclose(small["a.kernel"], -3.0, rtol=1e-3)
    np.testing.assert_allclose(small["b.bias"], -3.9, rtol=1e-3)


def test_defaults_are_the_original_recipe():
    config = OptimizerConfig()
    assert (config.learning_rate, config.beta1, config.beta2, config.eps) == (5e-4, 0.9, 0.98, 1e-6)
    assert (config.weight_decay, config.clip_norm, config.warmup) == (0.0, 5.0, 0.05)


def test_moments_follow_their_betas():
    config = OptimizerConfig(beta1=0.8, beta2=0.9, clip_norm=1e9)
    params, optimizer = {"a.kernel": jnp.zeros((1, 1))}, adamw(config, 10)
    state = optimizer.init(params)
    for gradient in (1.0, 2.0):
        _, state = optimizer.update({"a.kernel": jnp.full((1, 1), gradient)}, state, params)
    mu, nu = (optax.tree.get(state, name)["a.kernel"].item() for name in ("mu", "nu"))
    np.testing.assert_allclose([mu, nu], [0.8 * 0.2 + 0.2 * 2, 0.9 * 0.1 + 0.1 * 4], rtol=1e-6)


def test_frozen_parameters_stay_to_the_bit_and_do_not_count_in_the_norm():
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.5, clip_norm=1.0)
    params = {"held": jnp.full((2,), 3.0), "free": jnp.ones((2,))}
    gradients = {"held": jnp.full((2,), 1e6), "free": jnp.array([3.0, 4.0])}
    optimizer, alone = adamw(config, 100, ("held",)), adamw(config, 100)
    found, _ = optimizer.update(gradients, optimizer.init(params), params)
    expected, _ = alone.update(
        {"free": gradients["free"]}, alone.init({"free": params["free"]}), {"free": params["free"]}
    )
    np.testing.assert_array_equal(optax.apply_updates(params, found)["held"], params["held"])
    np.testing.assert_array_equal(found["free"], expected["free"])


def test_lower_layers_have_a_share_of_the_rate():
    names = (
        "classifier.kernel",
        "pooler.dense.kernel",
        "encoder.layers.1.a.bias",
        "encoder.layers.0.a.bias",
        "encoder.embeddings.word",
    )
    shares = layer_shares(names, 2, 0.5)
    assert list(shares.values()) == [1.0, 1.0, 0.5, 0.25, 0.125]
    config = OptimizerConfig(learning_rate=0.01, warmup=0.0, weight_decay=0.1)
    params = {name: jnp.full((2, 2), 3.0) for name in names}
    grads = {name: jnp.full((2, 2), 1e-3) for name in names}
    whole, parts = adamw(config, 10), adamw(config, 10, shares=shares)
    expected, _ = whole.update(grads, whole.init(params), params)
    updates, _ = parts.update(grads, parts.init(params), params)
    for name, share in shares.items():
        np.testing.assert_allclose(updates[name], share * expected[name], rtol=1e-6)
