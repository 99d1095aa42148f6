"""What a step minimises, against loops over the models' outputs; and each sequence's share of it, however rows are packed."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import MaskingConfig, ModelConfig, PretrainConfig
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.objective import outputs_of, supervised
from distilbert_jax.models import (
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
)
from distilbert_jax.models.params import merge, split
from distilbert_jax.pretraining import objectives
from distilbert_jax.pretraining.chunks import in_chunks
from distilbert_jax.pretraining.masking import log_weights
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.training import losses
from distilbert_jax.training.terms import TERMS
from tests import runs
from tests.models.common import build
from tests.pretraining.examples import MASK, SPECIAL, pack, quick_jit
from tests.training.test_losses import (
    reference_cosine,
    reference_cross_entropy,
    reference_distillation,
    reference_mse,
)

VOCAB = 50
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
ALL_FOUR = runs.loss(mse=0.3)
WEIGHTS = log_weights(np.ones(VOCAB), SPECIAL, MaskingConfig())


def model_pair(**changes):
    """(teacher graph, its parameters), (student graph, its parameters)."""
    teacher = build(BertForMaskedLM, ModelConfig.bert_base(**SIZES | changes), seed=0)
    student = build(DistilBertForMaskedLM, ModelConfig.distilbert_base(**SIZES | changes), seed=1)
    return split(teacher), split(student)


(TEACHER, FROZEN), (STUDENT, PARAMS) = model_pair(**STILL)


def distillation(config=ALL_FOUR, student=STUDENT, teacher=TEACHER):
    run = PretrainConfig(objective="distillation", loss=config)
    return objectives.distillation(Given(student, teacher, WEIGHTS, MASK, run))


OBJECTIVES = {
    "distillation, all tokens": distillation(),
    "distillation, all tokens, 4 at a time": distillation(dataclasses.replace(ALL_FOUR, chunk=4)),
    "distillation, masked tokens": distillation(runs.loss(mse=0.3, tokens="masked")),
    "masked_lm": objectives.masked_lm(
        Given(STUDENT, None, WEIGHTS, MASK, PretrainConfig(masking=MaskingConfig(probability=0.3)))
    ),
}
# Corrupted sequences: (ids, drawn positions, true ids). Of one length, which makes two shapes to compile.
SEQUENCES = [
    ([2, 4, 11, 17, 30, 12, 3], [1], [9]),
    ([2, 21, 22, 4, 24, 4, 3], [3, 4, 5], [23, 26, 28]),
    ([2, 31, 31, 4, 4, 32, 3], [3, 4], [5, 6]),
    ([2, 41, 42, 43, 44, 45, 3], [5], [45]),
]
LENGTH, TOKENS, DRAWN = 7, 28, 7
TOTALS = {"tokens": jnp.float32(TOKENS), "masked": jnp.float32(DRAWN)}


def prepared(rows, length, most=5):
    """Sequences (by number) packed into rows, as `prepare` would hand them to `loss`."""
    batch = pack([[np.array(SEQUENCES[i][0]) for i in row] for row in rows], length)
    for name, dtype in (("positions", np.int32), ("labels", np.int32), ("masked_weights", np.float32)):
        batch[name] = np.zeros((len(rows), most), dtype)
    for r, row in enumerate(rows):
        start = column = 0
        for i in row:
            ids, positions, labels = SEQUENCES[i]
            here = slice(column, column + len(positions))
            batch["positions"][r, here] = np.array(positions) + start
            batch["labels"][r, here] = labels
            batch["masked_weights"][r, here] = 1.0
            start, column = start + len(ids), here.stop
    return {**batch, "rngs": None}


@functools.cache
def loss_and_gradients(name):
    return quick_jit(jax.value_and_grad(OBJECTIVES[name].loss, argnums=(0, 1), has_aux=True))


def share(name, row, length):
    """What one row adds to the loss, in float64: (loss, its parts), gradient in the student, gradient in the teacher."""
    value, (grads, teacher_grads) = loss_and_gradients(name)(PARAMS, FROZEN, prepared([row], length), TOTALS)
    return jax.tree.map(np.float64, jax.device_get((value, grads, teacher_grads)))


def norm(tree):
    return math.sqrt(sum((value**2).sum() for value in tree.values()))


def assert_same(found, expected):
    (loss, parts), grads, _ = found
    (expected_loss, expected_parts), expected_grads, _ = expected
    np.testing.assert_allclose(loss, expected_loss, rtol=3e-6)
    assert parts.keys() == expected_parts.keys()
    for name in parts:
        np.testing.assert_allclose(parts[name], expected_parts[name], rtol=1e-5, err_msg=name)
    total = norm(expected_grads)
    for name in grads:
        assert np.linalg.norm(grads[name] - expected_grads[name]) <= 3e-6 * total, name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_share_of_a_sequence_is_the_same_packed_padded_or_alone(name):
    alone = [share(name, [i], LENGTH) for i in range(4)]
    assert len({round(float(loss), 3) for (loss, _), _, _ in alone}) == 4
    for i in range(4):
        assert_same(share(name, [i], 16), alone[i])
    # In whatever company a sequence comes, the row's share is the sum of what its sequences have alone.
    for row in ([0, 1], [2, 3], [3, 0], [1, 2], [2, 0]):
        assert_same(share(name, row, 16), jax.tree.map(lambda *values: sum(values), *(alone[i] for i in row)))


@quick_jit
def outputs(inputs):
    """(student logits, teacher logits, student hidden, teacher hidden) of inputs as `MaskedLM` takes them."""
    student, teacher = merge(STUDENT, PARAMS)(**inputs), merge(TEACHER, FROZEN)(**inputs)
    return student.logits, teacher.logits, student.last_hidden_state, teacher.last_hidden_state


@functools.cache
def outputs_alone():
    """`outputs` of each sequence on its own, without any mask, [T, ...] in float64."""
    found = [outputs({"input_ids": np.array([ids])}) for ids, *_ in SEQUENCES]
    return [tuple(np.float64(value[0]) for value in values) for values in found]


def test_outputs_of_a_sequence_are_the_same_packed_padded_or_alone():
    rows = [[0, 1], [3, 2, 0], [1], [2], [3]]
    found = outputs(pack([[np.array(SEQUENCES[i][0]) for i in row] for row in rows], 3 * LENGTH + 1))
    for r, row in enumerate(rows):
        for place, i in enumerate(row):
            here = slice(place * LENGTH, (place + 1) * LENGTH)
            for value, alone in zip(found, outputs_alone()[i], strict=True):
                assert abs(value[r, here] - alone).max() <= 2e-6 * abs(alone).max()


@pytest.mark.parametrize("tokens", ["all", "masked"])
def test_triple_loss_is_the_weighted_sum_of_its_terms_at_their_tokens(tokens):
    expected = dict.fromkeys(("loss_ce", "loss_mlm", "loss_cos", "loss_mse"), 0.0)
    for (s, t, s_hidden, t_hidden), (ids, positions, labels) in zip(outputs_alone(), SEQUENCES, strict=True):
        everywhere, drawn = np.ones(len(ids)), np.isin(np.arange(len(ids)), positions) * 1.0
        at, count = (everywhere, TOKENS) if tokens == "all" else (drawn, DRAWN)
        expected["loss_ce"] += reference_distillation(s, t, at, 2.0) / count
        expected["loss_mse"] += reference_mse(s, t, at) / count
        expected["loss_mlm"] += reference_cross_entropy(s[positions], labels, np.ones(len(labels))) / DRAWN
        expected["loss_cos"] += reference_cosine(s_hidden, t_hidden, everywhere) / TOKENS
    rows = [share(f"distillation, {tokens} tokens", row, 16)[0] for row in ([0, 1], [2, 3])]
    loss, parts = jax.tree.map(lambda *values: sum(values), *rows)
    assert parts.keys() == expected.keys()
    for name in parts:
        np.testing.assert_allclose(parts[name], expected[name], rtol=1e-5, err_msg=name)
    total = 5 * expected["loss_ce"] + 2 * expected["loss_mlm"] + expected["loss_cos"] + 0.3 * expected["loss_mse"]
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_masked_lm_is_the_mean_over_the_drawn_tokens():
    expected = 0.0
    for (logits, *_), (_, positions, labels) in zip(outputs_alone(), SEQUENCES, strict=True):
        expected += reference_cross_entropy(logits[positions], labels, np.ones(len(labels))) / DRAWN
    found = [share("masked_lm", row, 16)[0] for row in ([0, 1], [2, 3])]
    loss, parts = jax.tree.map(lambda *values: sum(values), *found)
    assert parts == {"loss_mlm": loss}
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_gradient_reaches_the_teacher(name):
    assert norm(share(name, [0, 1], 16)[2]) == 0.0


def shapes_in(jaxpr):
    """Every shape that is computed in a jaxpr and those within it."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_logits_are_computed_at_drawn_positions_only_unless_all_are_asked_for(name):
    grad = jax.grad(OBJECTIVES[name].loss, has_aux=True)
    shapes = set(shapes_in(jax.make_jaxpr(grad)(PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS).jaxpr))
    assert (1, 5, VOCAB) in shapes
    assert ((1, 16, VOCAB) in shapes) == (name == "distillation, all tokens")
    assert ((1, 4, VOCAB) in shapes) == (name == "distillation, all tokens, 4 at a time")
    assert not any(len(shape) > 3 and shape[-1] == VOCAB for shape in shapes), "logits of several pieces"


@pytest.mark.parametrize("tokens", [5, 1, 100])
def test_pieces_of_the_logits_add_up_to_the_loss_and_gradients_of_all(tokens):
    objective = distillation(dataclasses.replace(ALL_FOUR, chunk=tokens))
    given = PARAMS, FROZEN, prepared([[0, 1], [2, 3]], 16), TOTALS
    found = quick_jit(jax.value_and_grad(objective.loss, argnums=(0, 1), has_aux=True))(*given)
    expected = loss_and_gradients("distillation, all tokens")(*given)
    (value, (grads, teacher_grads)), (other, (expected_grads, _)) = (
        jax.tree.map(np.float64, jax.device_get(one)) for one in (found, expected)
    )
    assert_same((value, grads, teacher_grads), (other, expected_grads, teacher_grads))
    assert norm(teacher_grads) == 0.0
    alone = quick_jit(objective.loss)(*given)  # as held-out text is evaluated, without gradients
    np.testing.assert_allclose(alone[0], found[0][0], rtol=1e-6)


def test_pieces_take_hidden_states_in_bfloat16():
    table, hidden = jnp.ones((5, 4)), jnp.arange(24, dtype=jnp.bfloat16).reshape(1, 6, 4)
    logits = lambda params, hidden: jnp.einsum("btd,vd->btv", hidden, params["table"].astype(hidden.dtype))
    term = lambda params, hidden, beside, whole: (jnp.sum(jnp.float32(logits(params, hidden)) ** 2), {})
    grad = jax.grad(
        lambda params, hidden, tokens: 0.5 * in_chunks(term, tokens, params, hidden, (), ())[0], argnums=(0, 1)
    )
    for tokens in (2, 6):
        to_params, to_hidden = grad({"table": table}, hidden, tokens)
        assert (to_params["table"].dtype, to_hidden.dtype) == (jnp.float32, jnp.bfloat16)
        np.testing.assert_allclose(
            np.float32(to_hidden), 5 * np.float32(hidden).sum(-1, keepdims=True) * np.ones(4), rtol=2**-7
        )


@pytest.mark.parametrize("tokens", [0, 4])
def test_a_decoder_of_its_own_gets_its_part_of_the_gradient_of_a_tied_one(tokens):
    config = ModelConfig.distilbert_base(**SIZES | STILL, tie_word_embeddings=False)
    untied = split(build(DistilBertForMaskedLM, config))[0]
    objective = distillation(dataclasses.replace(ALL_FOUR, chunk=tokens), student=untied)
    batch, word = prepared([[0, 1], [2, 3]], 16), "encoder.embeddings.word"
    params = {**PARAMS, "head.decoder": PARAMS[word]}
    (value, _), grads = quick_jit(jax.value_and_grad(objective.loss, has_aux=True))(params, FROZEN, batch, TOTALS)
    (expected, _), (tied, _) = loss_and_gradients("distillation, all tokens")(PARAMS, FROZEN, batch, TOTALS)
    np.testing.assert_allclose(value, expected, rtol=3e-6)
    own = grads.pop("head.decoder")
    assert norm({word: own}) > 0.1 * norm({word: tied[word]})
    grads[word] += own
    assert norm({name: grads[name] - tied[name] for name in tied}) <= 3e-6 * norm(tied)


def test_the_gradient_of_pieces_scales_with_what_comes_in():
    loss = lambda params, scale: (
        scale
        * OBJECTIVES["distillation, all tokens, 4 at a time"].loss(params, FROZEN, prepared([[0, 1]], 16), TOTALS)[0]
    )
    grad = quick_jit(jax.grad(loss))
    once, thrice = grad(PARAMS, 1.0), grad(PARAMS, 3.0)
    assert norm({name: thrice[name] - 3 * once[name] for name in once}) <= 1e-5 * norm(thrice)


FORMULAS = {"kl": "distillation", "mlm": "cross_entropy", "cos": "cosine_distance", "mse": "logit_mse"}


@pytest.mark.parametrize("tokens", ["all", "masked"])
@pytest.mark.parametrize("left_out", FORMULAS)
def test_a_term_of_weight_zero_is_not_computed(left_out, tokens, monkeypatch):
    monkeypatch.delattr(losses, FORMULAS[left_out])
    objective = distillation(runs.loss(**{"mse": 0.3, left_out: 0.0}, tokens=tokens))
    _, parts = jax.eval_shape(objective.loss, PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS)
    assert parts.keys() == {TERMS[name].metric for name in FORMULAS if name != left_out}


@pytest.mark.parametrize(("only", "tokens"), [("mse", "all"), ("mlm", "all"), ("kl", "masked")])
def test_a_single_term_is_its_weight_times_its_part(only, tokens):
    objective = distillation(runs.loss(**dict.fromkeys(FORMULAS, 0.0) | {only: 3.0}, tokens=tokens))
    loss, parts = quick_jit(objective.loss)(PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS)
    (_, expected), _, _ = share(f"distillation, {tokens} tokens", [0, 1], 16)
    name = TERMS[only].metric
    assert parts.keys() == {name}
    np.testing.assert_allclose(parts[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(loss, 3.0 * expected[name], rtol=1e-5)


def test_prepare_corrupts_rows_and_counts_over_the_whole_batch():
    batch = pack([[np.array(SEQUENCES[i][0]) for i in row] for row in ([0, 1], [3])], 16)
    keys = jax.random.split(jax.random.key(0), 2)
    found, totals = quick_jit(distillation().prepare)(keys, batch)
    assert totals == {"tokens": 21.0, "masked": 5.0}  # ceil(.15 · 14) + ceil(.15 · 7)
    assert found["masked_weights"].sum() == 5.0
    restored = np.array(found["input_ids"])
    for row in range(2):
        here = found["masked_weights"][row] > 0
        restored[row, found["positions"][row][here]] = found["labels"][row][here]
    np.testing.assert_array_equal(restored, batch["input_ids"])
    for name in ("segment_ids", "position_ids"):
        np.testing.assert_array_equal(found[name], batch[name])
    # Dropout must not reuse the bits that chose the masks.
    drawn_with, dropped_with = (jax.random.key_data(rngs) for rngs in (keys, found["rngs"]))
    assert not (drawn_with == dropped_with).all(-1).any()


def test_a_batch_without_a_token_to_draw_has_a_loss_of_zero():
    batch = pack([[np.array([2, 3]), np.array([2, 1, 3])]], 16)
    batch, totals = quick_jit(OBJECTIVES["masked_lm"].prepare)(jax.random.split(jax.random.key(0), 1), batch)
    (loss, _), (grads, _) = loss_and_gradients("masked_lm")(PARAMS, FROZEN, {**batch, "rngs": None}, totals)
    assert totals == {"tokens": 5.0, "masked": 1.0}
    assert loss == 0.0
    assert norm(jax.device_get(grads)) == 0.0


def test_the_student_drops_out_and_the_teacher_does_not():
    (teacher, _), (student, _) = model_pair(hidden_dropout=0.5, attention_dropout=0.5)
    objective = quick_jit(distillation(student=student, teacher=teacher).loss)
    keyed = lambda seed: {**prepared([[0, 1]], 16), "rngs": jax.random.split(jax.random.key(seed), 1)}
    values = [float(objective(PARAMS, FROZEN, keyed(seed), TOTALS)[0]) for seed in (0, 0, 1)]
    assert values[0] == values[1]
    still = share("distillation, all tokens", [0, 1], 16)[0][0]
    assert len({round(value, 3) for value in [*values, still]}) == 3
    objective = quick_jit(distillation(teacher=teacher).loss)
    np.testing.assert_allclose(objective(PARAMS, FROZEN, keyed(1), TOTALS)[0], still, rtol=1e-6)


def logits_of(model, batch):
    """[rows, labels]: an example a row."""
    return quick_jit(lambda batch: outputs_of(KINDS["classification"], model, batch, None))(batch)[:, 0]


def alone(ids, types, lengths):
    """What `outputs_of` reads of examples that have a row each."""
    ids = np.asarray(ids, np.int32)
    places = np.arange(ids.shape[1], dtype=np.int32)
    return {
        "input_ids": ids,
        "token_type_ids": np.asarray(types, np.int32),
        "position_ids": np.tile(places, (len(ids), 1)),
        "segment_ids": (places < np.reshape(lengths, (-1, 1))).astype(np.int32),
        "first": np.zeros((len(ids), 1), np.int32),
    }


def classifier(kind, labels):
    model_config = ModelConfig.bert_base if kind is BertForSequenceClassification else ModelConfig.distilbert_base
    model = build(kind, model_config(**SIZES | STILL, labels=tuple(map(str, range(labels)))))
    objective = supervised(KINDS["regression" if labels == 1 else "classification"], split(model)[0])
    return model, quick_jit(jax.value_and_grad(objective.loss, has_aux=True)), objective.prepare


@pytest.mark.parametrize(
    ("kind", "labels"), [(BertForSequenceClassification, 3), (DistilBertForSequenceClassification, 1)]
)
def test_classification_and_regression_average_over_the_rows_that_count(kind, labels, rng):
    model, grad, prepare = classifier(kind, labels)
    params = split(model)[1]
    types = np.tile(np.int32([0, 0, 0, 1, 1, 1, 1, 1, 1]), (4, 1))
    truth = rng.normal(size=4).astype(np.float32) if labels == 1 else np.int32([2, 0, 1, 1])
    weights = np.float32([1, 1, 1, 0])  # the last row only fills up
    batch = {
        **alone(rng.integers(5, VOCAB, (4, 9)), types, [9, 5, 7, 1]),
        "labels": truth[:, None],
        "weights": weights[:, None],
    }
    keys = jax.random.split(jax.random.key(0), 4)
    ready, totals = prepare(keys, batch)
    assert totals == {"examples": 3.0}
    (loss, parts), grads = grad(params, {}, ready, totals)
    assert parts == {"loss": loss}
    logits = np.float64(logits_of(model, batch))
    expected = weights @ (logits[:, 0] - truth) ** 2 if labels == 1 else reference_cross_entropy(logits, truth, weights)
    np.testing.assert_allclose(loss, expected / 3, rtol=1e-6)

    # Rows one by one under the same totals add up to the gradient; what fills up adds nothing, whatever it holds.
    shares = [
        grad(params, {}, {**ready, "weights": np.eye(4, dtype=np.float32)[row][:, None]}, totals)[1] for row in range(3)
    ]
    added = jax.tree.map(lambda *values: np.float64(sum(values)), *shares)
    total = norm(added)
    assert max(np.linalg.norm(grads[name] - added[name]) for name in grads) <= 2e-6 * total
    other = {name: np.array(value) for name, value in batch.items()}
    for name in ("input_ids", "segment_ids", "token_type_ids", "labels"):
        other[name][3] = 1
    (other_loss, _), other_grads = grad(params, {}, prepare(keys, other)[0], totals)
    assert other_loss == loss
    jax.tree.map(np.testing.assert_array_equal, other_grads, grads)


def test_token_types_reach_bert():
    model, _, _ = classifier(BertForSequenceClassification, 2)
    batch = alone(np.full((1, 4), 9), np.zeros((1, 4)), [4])
    types = np.array([[0, 0, 1, 1]], np.int32)
    expected = quick_jit(lambda: model(batch["input_ids"], np.ones((1, 4)), token_type_ids=types).logits)()
    np.testing.assert_allclose(logits_of(model, {**batch, "token_type_ids": types}), expected, rtol=1e-5)
    assert abs(logits_of(model, batch) - expected).max() > 1e-3


def test_an_epoch_without_a_row_that_counts_is_not_divided_by_zero():
    _, _, prepare = classifier(BertForSequenceClassification, 2)
    batch = {"weights": np.zeros(2, np.float32)}
    assert prepare(jax.random.split(jax.random.key(0), 2), batch)[1] == {"examples": 1.0}
