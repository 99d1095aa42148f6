"""The table of terms: what a config asks for, what terms are shown, and what of it is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import KLConfig, LossConfig, MSEConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models.attention import QueriesKeysValues
from distilbert_jax.models.params import merge
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.pretraining.objectives import Given, distillation
from distilbert_jax.training import terms
from distilbert_jax.training.terms import TERMS, Term, Weighted, check_terms, register_term, weighted_terms
from tests import runs
from tests.pretraining.examples import MASK, quick_jit
from tests.pretraining.test_objectives import (
    FROZEN,
    PARAMS,
    STUDENT,
    TEACHER,
    TOTALS,
    VOCAB,
    WEIGHTS,
    prepared,
    share,
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(TERMS, "_rows", dict(TERMS._rows))
    monkeypatch.setattr(TERMS, "_files", dict(TERMS._files))


def objective(loss):
    return distillation(Given(STUDENT, TEACHER, WEIGHTS, MASK, PretrainConfig(objective="distillation", loss=loss)))


def alone(**own):
    return runs.loss(0.0, 0.0, 0.0, own=own)


def test_every_term_of_the_package_has_a_weight_in_the_config_and_a_function():
    names = {field.name for field in dataclasses.fields(LossConfig) if field.name not in ("own", "chunk")}
    assert set(TERMS) == names
    asked = weighted_terms(runs.loss(mse=1.0))
    assert [one.term.name for one in asked] == ["kl", "mse", "mlm", "cos"]
    assert all(callable(one.function) for one in asked)
    assert asked[0] == Weighted(TERMS["kl"], "loss.kl.weight", 5.0, "tokens", {"temperature": 2.0})


def test_names_on_disk_are_those_of_earlier_versions():
    assert {term.metric for term in TERMS.values()} >= {"loss_ce", "loss_mlm", "loss_cos", "loss_mse"}


def test_terms_on_logits_may_be_taken_at_different_tokens():
    mixed = LossConfig(kl=KLConfig(tokens="masked"), mse=MSEConfig(0.3, "all"))
    (_, parts) = quick_jit(objective(mixed).loss)(PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS)
    masked, everywhere = (share(f"distillation, {tokens} tokens", [0, 1], 16)[0][1] for tokens in ("masked", "all"))
    np.testing.assert_allclose(parts["loss_ce"], masked["loss_ce"], rtol=1e-5)
    np.testing.assert_allclose(parts["loss_mse"], everywhere["loss_mse"], rtol=1e-5)
    in_pieces = objective(dataclasses.replace(mixed, chunk=4))
    (_, again) = quick_jit(in_pieces.loss)(PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS)
    for name in parts:
        np.testing.assert_allclose(again[name], parts[name], rtol=1e-5, err_msg=name)


def test_a_term_is_shown_what_it_needs_and_nothing_else():
    seen = {}

    def look(name, needs, over):
        @register_term(name, needs=needs, over=over)
        def term(student, teacher, at):
            shown = [{k: v for k, v in vars(view).items() if v is not None} for view in (student, teacher, at)]
            seen[name] = jax.tree.map(jnp.shape, shown)
            return jnp.sum(at.weights)

    look("everything", terms.NEEDS[:1] + terms.NEEDS[3:], "tokens")
    look("at-masked", ("student_logits", "labels", "last_hidden_state", "hidden_states"), "masked")
    look("rows", ("attentions",), "rows")
    given = objective(alone(everything=1.0, rows=1.0, **{"at-masked": 1.0}))
    batch = prepared([[0, 1], [2, 3]], 16)
    counts = {**TOTALS, "rows": jnp.float32(2)}
    _, parts = jax.eval_shape(given.loss, PARAMS, FROZEN, batch, counts)
    assert set(parts) == {"loss_everything", "loss_at-masked", "loss_rows"}
    B, T, M, D, N = 2, 16, 5, 16, 2
    logits = {"logits": (B, T, VOCAB), "last_hidden_state": (B, T, D)}
    whole = {
        "hidden_states": ((B, T, D),) * 2,
        "attentions": ((B, N, T, T),),
        "embeddings": (B, T, D),
        "attention_scores": ((B, N, T, T),),
        "queries_keys_values": (QueriesKeysValues(*((B, T, D),) * 3),),
    }
    at = {"weights": (B, T), "segment_ids": (B, T)}
    assert seen["everything"] == [logits | whole, logits | whole, at]
    hidden = {"last_hidden_state": (B, M, D), "hidden_states": ((B, M, D),) * 2}
    assert seen["at-masked"] == [
        {"logits": (B, M, VOCAB), **hidden},
        hidden,
        {"weights": (B, M), "labels": (B, M), "segment_ids": (B, T)},
    ]
    assert seen["rows"] == [{"attentions": ((B, N, T, T),)}] * 2 + [at]
    assert given.parts["loss_rows"].over == "rows"


def test_a_term_on_all_layers_is_its_formula_over_the_rows():
    @register_term("layers", needs=("hidden_states",), over="rows")
    def layers(student, teacher, at):
        pairs = zip(student.hidden_states, teacher.hidden_states, strict=True)
        return sum(jnp.sum(at.weights * jnp.square(s - t).sum(-1)) for s, t in pairs)

    batch, counts = prepared([[0, 1], [2, 3]], 16), {**TOTALS, "rows": jnp.float32(2)}
    (value, parts), grads = quick_jit(
        jax.value_and_grad(objective(alone(layers=3.0)).loss, argnums=(0, 1), has_aux=True)
    )(PARAMS, FROZEN, batch, counts)
    s, t = (
        merge(graph, values)
        .encoder(
            batch["input_ids"],
            segment_ids=batch["segment_ids"],
            position_ids=batch["position_ids"],
            output_hidden_states=True,
        )
        .hidden_states
        for graph, values in ((STUDENT, PARAMS), (TEACHER, FROZEN))
    )
    expected = sum(
        ((np.float64(a) - b) ** 2).sum(-1)[batch["segment_ids"] > 0].sum() for a, b in zip(s, t, strict=True)
    )
    np.testing.assert_allclose(parts["loss_layers"], expected / 2, rtol=1e-5)
    np.testing.assert_allclose(value, 3 * expected / 2, rtol=1e-5)
    assert any(np.any(gradient) for gradient in grads[0].values())
    assert not any(np.any(gradient) for gradient in grads[1].values())


def test_a_term_on_logits_of_all_tokens_is_the_same_in_pieces():
    @register_term("own", needs=("logits", "last_hidden_state"))
    def own(student, teacher, at):
        norms = jnp.linalg.norm(student.last_hidden_state, axis=-1)
        return jnp.sum(at.weights * norms * jnp.abs(student.logits - teacher.logits).mean(-1))

    results = []
    for chunk in (0, 5):
        grad = quick_jit(
            jax.value_and_grad(objective(dataclasses.replace(alone(own=0.5), chunk=chunk)).loss, has_aux=True)
        )
        results.append(jax.device_get(grad(PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS)))
    (whole, grads), (pieces, grads_of_pieces) = results
    np.testing.assert_allclose(pieces[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(pieces[1]["loss_own"], whole[1]["loss_own"], rtol=1e-5)
    total = np.sqrt(sum((value**2).sum() for value in grads.values()))
    assert all(np.linalg.norm(grads[name] - grads_of_pieces[name]) <= 1e-5 * total for name in grads)


def test_a_term_of_ones_own_adds_its_gradient_to_that_of_the_package_s_on_the_same_logits():
    @register_term("own", needs=("logits",))
    def own(student, teacher, at):
        return jnp.sum(at.weights * jnp.abs(student.logits - teacher.logits).mean(-1))

    def grads(loss):
        grad = quick_jit(jax.grad(objective(loss).loss, has_aux=True))
        return jax.tree.map(np.float64, jax.device_get(grad(PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS)[0]))

    together = grads(runs.loss(5.0, 2.0, 0.0, mse=0.3, own={"own": 0.5}))
    apart = [grads(runs.loss(5.0, 2.0, 0.0)), grads(runs.loss(0.0, 0.0, 0.0, mse=0.3)), grads(alone(own=0.5))]
    summed = {name: sum(one[name] for one in apart) for name in together}
    total = np.sqrt(sum((value**2).sum() for value in summed.values()))
    assert all(np.linalg.norm(together[name] - summed[name]) <= 1e-6 * total for name in together)
    assert np.linalg.norm(apart[2]["head.bias"]) > 0


def test_logits_of_masked_tokens_that_are_computed_again_change_no_sum():
    given = Given(STUDENT, TEACHER, WEIGHTS, MASK, PretrainConfig(objective="distillation", loss=runs.loss(mse=0.3)))
    args, again = (PARAMS, FROZEN, prepared([[0, 1]], 16), TOTALS), dataclasses.replace(given, accelerator=True)
    results = [quick_jit(jax.value_and_grad(distillation(one).loss, has_aux=True))(*args) for one in (given, again)]
    gathers = [
        str(jax.make_jaxpr(distillation(one).loss)(*args)).count(f"1,5,{VOCAB}] = gather") for one in (given, again)
    ]
    assert gathers == [1, 0]
    ((value, parts), grads), ((other, other_parts), other_grads) = jax.tree.map(np.float64, jax.device_get(results))
    np.testing.assert_allclose(other, value, rtol=1e-6)
    assert parts.keys() == other_parts.keys()
    total = np.sqrt(sum((gradient**2).sum() for gradient in grads.values()))
    assert all(np.linalg.norm(grads[name] - other_grads[name]) <= 3e-6 * total for name in grads)


@pytest.mark.parametrize(
    ("needs", "over", "chunk", "refused"),
    [
        (("logits", "attentions"), "tokens", 4, True),
        (("student_logits", "hidden_states"), "tokens", 4, True),
        (("logits",), "rows", 4, True),
        (("logits", "attentions"), "tokens", 0, False),
        (("logits", "hidden_states"), "masked", 4, False),
        (("attentions",), "rows", 4, False),
    ],
)
def test_what_is_not_cut_into_pieces_is_refused_beside_logits_of_all_tokens(needs, over, chunk, refused):
    one = Weighted(Term("own", needs, over, len), "loss.own.own", 1.0, over, {})
    if not refused:
        check_terms((one,), chunk, runs.STUDENT, runs.BERT)
        return
    with pytest.raises(InputError) as caught:
        check_terms((one,), chunk, runs.STUDENT, runs.BERT)
    assert (caught.value.field, caught.value.hint) == ("loss.chunk", "--loss.chunk 0")


def test_sizes_that_a_term_compares_are_checked_and_the_message_says_what_would_do():
    narrow = runs.change(runs.BERT, hidden_size=16)
    with pytest.raises(InputError) as caught:
        check_terms(weighted_terms(LossConfig()), 0, runs.STUDENT, narrow)
    assert (caught.value.field, caught.value.hint) == ("loss.cos.weight", "--loss.cos.weight 0")
    check_terms(weighted_terms(runs.loss(cos=0.0)), 0, runs.STUDENT, narrow)


@pytest.mark.parametrize(("name", "hint"), [("kl", "loss.kl.weight"), ("ghost", f"known: {', '.join(TERMS)}")])
def test_a_name_in_own_that_is_no_own_term_is_answered_with_what_to_do(name, hint):
    with pytest.raises(InputError) as caught:
        weighted_terms(LossConfig(own={name: 1.0}))
    assert (caught.value.field, caught.value.hint) == (f"loss.own.{name}", hint)


def test_flops_follow_from_what_the_terms_need(world, tmp_path):
    register_term("layers", needs=("hidden_states",))(len)
    register_term("teaches", needs=("logits",), over="masked")(len)
    flops = lambda loss: step_flops(runs.distilling(world, tmp_path, loss=loss), runs.BERT)
    assert flops(alone(layers=1.0)) == flops(runs.loss(0.0, 0.0, 1.0)) < flops(runs.loss(0.0, 1.0, 1.0))
    assert flops(runs.loss(0.0, 1.0, 0.0)) == step_flops(runs.pretraining(world, tmp_path), None)
    assert flops(alone(teaches=1.0)) == flops(runs.loss(tokens="masked")) < flops(runs.loss())


@pytest.mark.parametrize("name", ["ce", "nsp", "labels"])
def test_two_parts_of_a_loss_are_not_logged_under_one_name(name):
    with pytest.raises(InputError) as caught:
        register_term(name, needs=("last_hidden_state",))(lambda student, teacher, at: 0.0)
    assert caught.value.field == name
    assert name not in TERMS


def test_a_term_that_nobody_registered_is_answered_with_how_to(monkeypatch):
    with pytest.raises(InputError) as caught:
        weighted_terms(alone(l1=1.0))
    assert caught.value.field == "loss.own.l1"
    assert "register_term" in str(caught.value)
