"""Each term of the triple loss against loops in float64, and its gradient against finite differences of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.training import losses
from tests.pretraining.examples import quick_jit

TOKENS, VOCAB = 6, 7


def softmax(x):
    powers = [math.exp(value - max(x)) for value in x]
    return [power / sum(powers) for power in powers]


def reference_cross_entropy(logits, labels, weights):
    return sum(-w * math.log(softmax(x)[label]) for x, label, w in zip(logits, labels, weights, strict=True))


def reference_distillation(student, teacher, weights, temperature):
    total = 0.0
    for s, t, w in zip(student, teacher, weights, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        total += w * temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total


def reference_mse(student, teacher, weights):
    return sum(w * sum((s - t) ** 2) for s, t, w in zip(student, teacher, weights, strict=True))


def reference_cosine(student, teacher, weights):
    cosine = lambda a, b: sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))
    return sum(w * (1 - cosine(s, t)) for s, t, w in zip(student, teacher, weights, strict=True))


def slope(function, at, step=1e-5):
    """Central differences of a float64 function."""
    out = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        out[index] = (function(up) - function(down)) / (2 * step)
    return out


@pytest.fixture
def values(rng):
    student, teacher = 3 * rng.normal(size=(2, TOKENS, VOCAB))
    # What a token of weight 0 holds must not matter, however large.
    weights = np.array([1.0, 1.0, 0.0, 0.5, 1.0, 0.0])
    student[2], teacher[2] = 1e4 * rng.normal(size=(2, VOCAB))
    student[5], teacher[5] = 0.0, 1e15
    return student, teacher, rng.integers(0, VOCAB, TOKENS), weights


def terms(values):
    """name → (the term as a function of the student, its reference)."""
    _, teacher, labels, weights = values
    t, y, w = jnp.float32(teacher), jnp.int32(labels), jnp.float32(weights)
    return {
        "cross_entropy": (
            lambda s: losses.cross_entropy(s, y, w),
            lambda s: reference_cross_entropy(s, labels, weights),
        ),
        "distillation": (
            lambda s: losses.distillation(s, t, w, 2.0),
            lambda s: reference_distillation(s, teacher, weights, 2.0),
        ),
        "distillation, temperature 1": (
            lambda s: losses.distillation(s, t, w, 1.0),
            lambda s: reference_distillation(s, teacher, weights, 1.0),
        ),
        "distillation, temperature 5": (
            lambda s: losses.distillation(s, t, w, 5.0),
            lambda s: reference_distillation(s, teacher, weights, 5.0),
        ),
        "logit_mse": (lambda s: losses.logit_mse(s, t, w), lambda s: reference_mse(s, teacher, weights)),
        "cosine_distance": (
            lambda s: losses.cosine_distance(s, t, w),
            lambda s: reference_cosine(s, teacher, weights),
        ),
    }


TERMS = list(terms((np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1))))


def used(values):
    """The values without the tokens of weight 0: the reference never sees them."""
    student, teacher, labels, weights = values
    return tuple(part[weights > 0] for part in (student, teacher, labels, weights))


@pytest.mark.parametrize("name", TERMS)
def test_value_and_gradient_equal_the_formula_in_float64(name, values):
    ours, _ = terms(values)[name]
    _, reference = terms(used(values))[name]
    student, weights = values[0], values[3]
    value, gradient = quick_jit(jax.value_and_grad(ours))(jnp.float32(student))
    np.testing.assert_allclose(value, reference(student[weights > 0]), rtol=2e-6)
    expected = np.zeros_like(student)
    expected[weights > 0] = slope(reference, student[weights > 0])
    assert abs(gradient - expected).max() <= 2e-6 * abs(expected).max()


@pytest.mark.parametrize("name", TERMS)
def test_tokens_of_weight_zero_add_exactly_nothing(name, values):
    student, teacher, labels, weights = values
    ours, _ = terms((student, teacher, labels, np.zeros_like(weights)))[name]
    value, gradient = quick_jit(jax.value_and_grad(ours))(jnp.float32(student))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("term", [losses.distillation, losses.logit_mse, losses.cosine_distance])
def test_no_gradient_reaches_the_teacher(term, values):
    student, teacher, _, weights = (jnp.float32(part) for part in used(values))
    extra = (2.0,) if term is losses.distillation else ()
    np.testing.assert_array_equal(jax.grad(term, argnums=1)(student, teacher, weights, *extra), 0.0)


def test_distillation_is_zero_where_student_and_teacher_agree_up_to_a_constant(values):
    student, _, _, weights = (jnp.float32(part) for part in used(values))
    value, gradient = jax.value_and_grad(losses.distillation)(student, student + 3.0, weights, 2.0)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_distillation_keeps_its_gradient_scale_at_high_temperature(rng):
    # Hinton et al. 2015, equation 4: T² · ∂KL/∂s → (s − t)/V for centred logits.
    student, teacher = rng.normal(size=(2, 4, VOCAB))
    student -= student.mean(-1, keepdims=True)
    teacher -= teacher.mean(-1, keepdims=True)
    gradient = jax.grad(losses.distillation)(jnp.float32(student), jnp.float32(teacher), jnp.ones(4), 100.0)
    np.testing.assert_allclose(gradient, (student - teacher) / VOCAB, atol=0.01)


@pytest.mark.parametrize("name", TERMS)
def test_leading_dimensions_are_summed_over(name, values):
    pairs = lambda part: part.reshape(2, 3, *part.shape[1:])
    ours, _ = terms(values)[name]
    paired, _ = terms(tuple(map(pairs, values)))[name]
    np.testing.assert_allclose(paired(jnp.float32(pairs(values[0]))), ours(jnp.float32(values[0])), rtol=1e-6)


def test_gradients_are_the_formulas_where_temperature_and_weights_are_traced(values):
    student, teacher, _, weights = used(values)
    term = jax.jit(jax.value_and_grad(losses.distillation, argnums=(0, 2, 3)))
    for temperature in (1.0, 2.0, 5.0):
        value, (gradient, to_weights, to_temperature) = term(
            *map(jnp.float32, (student, teacher, weights)), jnp.float32(temperature)
        )
        reference = lambda s, w=weights, temperature=temperature: reference_distillation(s, teacher, w, temperature)
        np.testing.assert_allclose(value, reference(student), rtol=2e-6)
        expected = slope(reference, student)
        assert abs(gradient - expected).max() <= 2e-6 * abs(expected).max()
        each = [reference(student, w) for w in np.eye(len(weights))]
        np.testing.assert_allclose(to_weights, each, rtol=1e-5)
        assert to_temperature == 0.0


def test_terms_on_the_same_logits_compose_under_weights_that_are_traced(values):
    student, teacher, _, weights = used(values)

    def loss(s, share):
        args = jnp.float32(teacher), jnp.float32(weights)
        own = jnp.sum(weights * jnp.abs(s).mean(-1))
        parts = losses.distillation(s, *args, 2.0), losses.logit_mse(s, *args)
        return share * parts[0] + (1.0 - share) * parts[1] + 0.5 * share * own

    def reference(s, share):
        parts = reference_distillation(s, teacher, weights, 2.0), reference_mse(s, teacher, weights)
        return share * parts[0] + (1.0 - share) * parts[1] + 0.5 * share * (weights @ abs(s).mean(-1))

    grad = quick_jit(jax.value_and_grad(loss))
    for share in (0.0, 0.3, 1.0):
        value, gradient = grad(jnp.float32(student), jnp.float32(share))
        np.testing.assert_allclose(value, reference(student, share), rtol=2e-6)
        expected = slope(lambda s, share=share: reference(s, share), student)
        assert abs(gradient - expected).max() <= 2e-6 * abs(expected).max()


@pytest.mark.parametrize("name", TERMS)
def test_bfloat16_inputs_are_computed_with_in_float32(name, values):
    """The value is that of the same numbers in float32, the gradient is rounded once."""
    student, teacher, labels, weights = values
    rounded = [np.float64(jnp.bfloat16(part)) for part in (student, teacher)]
    given = (*rounded, labels, weights)
    ours = {
        "cross_entropy": lambda s, t: losses.cross_entropy(s, jnp.int32(labels), jnp.float32(weights)),
        "logit_mse": lambda s, t: losses.logit_mse(s, t, jnp.float32(weights)),
        "cosine_distance": lambda s, t: losses.cosine_distance(s, t, jnp.float32(weights)),
    }
    temperature = {"distillation, temperature 1": 1.0, "distillation, temperature 5": 5.0}.get(name, 2.0)
    term = ours.get(name, lambda s, t: losses.distillation(s, t, jnp.float32(weights), temperature))
    value, gradient = quick_jit(jax.value_and_grad(term))(*map(jnp.bfloat16, rounded))
    _, reference = terms(used(given))[name]
    assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(value, reference(rounded[0][weights > 0]), rtol=2e-6)
    expected = np.zeros_like(student)
    expected[weights > 0] = slope(reference, rounded[0][weights > 0])
    np.testing.assert_allclose(np.float64(gradient), expected, rtol=2**-8, atol=2e-6 * abs(expected).max())


def test_nothing_as_wide_as_the_vocabulary_is_kept_of_bfloat16_logits_but_themselves():
    kept = jax.eval_shape(
        lambda *logits: jax.vjp(losses.distillation, *logits, jnp.ones((2, TOKENS)), 2.0)[1],
        *[jax.ShapeDtypeStruct((2, TOKENS, VOCAB), jnp.bfloat16)] * 2,
    )
    wide = [leaf.dtype for leaf in jax.tree.leaves(kept) if leaf.shape[-1:] == (VOCAB,)]
    assert wide == [jnp.bfloat16] * 2
