import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distilbert_jax.config import ModelConfig, student_config
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM
from distilbert_jax.models.params import split
from distilbert_jax.models.student import (
    chosen_layers,
    evenly_spaced_layers,
    student_from_teacher,
)
from tests.models.common import build, call, deviation
from tests.runs import refused


@pytest.mark.parametrize(
    ("teacher", "student", "layers"),
    [
        (12, 6, (0, 2, 4, 7, 9, 11)),
        (6, 3, (0, 2, 5)),
        (12, 12, tuple(range(12))),
        (12, 4, (0, 4, 7, 11)),
        (24, 2, (0, 23)),
        (4, 2, (0, 3)),
        (12, 1, (0,)),
        (1, 1, (0,)),
    ],
)
def test_layers_are_evenly_spaced_with_the_first_and_the_last_kept(teacher, student, layers):
    assert evenly_spaced_layers(teacher, student) == layers


@pytest.mark.parametrize(
    ("choice", "layers"),
    [(None, (0, 2, 5)), ("first", (0, 1, 2)), ("last", (3, 4, 5)), ((5, 0, 0), (5, 0, 0))],
)
def test_layers_are_chosen_by_number_or_by_name(choice, layers):
    assert chosen_layers(choice, 6, 3) == layers


@pytest.mark.parametrize("choice", [None, "first", "last"])
def test_more_layers_than_the_teacher_has_need_names(choice):
    refused(lambda: chosen_layers(choice, 6, 7), by="models.student.chosen_layers", field="model.num_hidden_layers")
    assert chosen_layers((0, 1, 2, 3, 4, 5, 5), 6, 7)[-1] == 5


@pytest.fixture(scope="module")
def teacher(tiny_bert):
    return build(BertForMaskedLM, dataclasses.replace(tiny_bert, num_hidden_layers=4))


def student(teacher, num_hidden_layers, **options):
    return student_from_teacher(teacher, student_config(teacher.config, num_hidden_layers), **options)


def test_a_student_has_the_teachers_sizes_and_distilberts_own_settings(teacher):
    config = student_config(dataclasses.replace(teacher.config, layer_norm_eps=1e-5), 2)
    assert config == ModelConfig.distilbert_base(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
    )


def test_with_all_layers_and_token_types_folded_a_student_is_its_teacher(teacher, rng):
    ids = rng.integers(5, 99, (3, 11)).astype(np.int32)
    mask = (np.arange(11) < np.array((11, 7, 2))[:, None]).astype(np.int32)
    expected = call(teacher, ids, mask).logits
    assert deviation(call(student(teacher, 4), ids, mask).logits, expected) < 1e-5
    for change in ({"fold_token_type": False}, {"copy_transform": False}, {"layers": (0, 1, 3, 2)}):
        assert deviation(call(student(teacher, 4, **change), ids, mask).logits, expected) > 1e-2


@pytest.mark.parametrize(("layers", "chosen"), [(None, (0, 3)), ((1, 2), (1, 2)), ((3, 3), (3, 3))])
@pytest.mark.parametrize("fold", [True, False])
def test_chosen_layers_embeddings_and_head_are_copied_bit_for_bit(layers, chosen, fold, teacher):
    source = split(teacher)[1]
    model = student(teacher, 2, layers=layers, fold_token_type=fold)
    assert isinstance(model, DistilBertForMaskedLM)
    for path, value in split(model)[1].items():
        origin = path
        for to, layer in enumerate(chosen):
            if path.startswith(f"encoder.layers.{to}."):
                origin = path.replace(f"layers.{to}.", f"layers.{layer}.")
        expected = np.asarray(source[origin])
        if fold and path == "encoder.embeddings.position":
            expected = expected + np.asarray(source["encoder.embeddings.token_type"][0])
        np.testing.assert_array_equal(value, expected, err_msg=path)


def test_without_copy_transform_the_transform_is_fresh_and_follows_the_seed(teacher):
    first, other = (split(student(teacher, 2, copy_transform=False, seed=seed))[1] for seed in (1, 2))
    source = split(teacher)[1]
    assert (first["head.transform.kernel"] != other["head.transform.kernel"]).all()
    assert first["head.transform.kernel"].std() == pytest.approx(0.02, rel=0.2)
    assert not first["head.transform.bias"].any()
    assert (first["head.norm.scale"] == 1).all()
    np.testing.assert_array_equal(first["head.bias"], source["head.bias"])


def test_a_distilbert_teaches_a_smaller_one(teacher):
    middle = student(teacher, 3)
    found, source = split(student(middle, 2))[1], split(middle)[1]
    np.testing.assert_array_equal(found["encoder.embeddings.position"], source["encoder.embeddings.position"])
    np.testing.assert_array_equal(found["encoder.layers.1.ffn_in.kernel"], source["encoder.layers.2.ffn_in.kernel"])


def test_a_step_that_donates_the_student_leaves_the_teacher_alive(teacher):
    params = split(student(teacher, 2, layers=(3, 3)))[1]
    jax.block_until_ready(jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(params))
    assert params["encoder.embeddings.word"].is_deleted(), "nothing was donated: this test shows nothing"
    assert not any(value.is_deleted() for value in split(teacher)[1].values())


@pytest.mark.parametrize(
    ("changes", "layers", "field", "given", "expected"),
    [
        ({"vocab_size": 100}, None, "model.vocab_size", "100", "99"),
        ({"hidden_size": 64}, None, "model.hidden_size", "64", "32"),
        ({"num_attention_heads": 2}, None, "model.num_attention_heads", "2", "4"),
        ({"intermediate_size": 64}, None, "model.intermediate_size", "64", "48"),
        ({"max_position_embeddings": 20}, None, "model.max_position_embeddings", "20", "40"),
        (
            {"model_type": "bert", "type_vocab_size": 2, "qa_dropout": 0.0},
            None,
            "model.model_type",
            "'bert'",
            "'distilbert'",
        ),
        ({"hidden_act": "relu"}, None, "model.hidden_act", "'relu'", "'gelu'"),
        ({}, (0, 1, 2), "init.layers", "(0, 1, 2)", "2"),
        ({}, (0, 4), "init.layers", "(0, 4)", "0 … 3"),
        ({}, (-1, 0), "init.layers", "(-1, 0)", "0 … 3"),
    ],
)
def test_a_student_that_cannot_begin_with_this_teacher_is_refused(changes, layers, field, given, expected, teacher):
    config = dataclasses.replace(student_config(teacher.config, 2), **changes)
    refused(lambda: student_from_teacher(teacher, config, layers=layers), given, expected, field=field)


def test_an_epsilon_that_the_teacher_has_and_its_student_not_is_told(teacher, capsys):
    student(teacher, 2)
    assert "layer_norm_eps" not in capsys.readouterr().err
    other = build(BertForMaskedLM, dataclasses.replace(teacher.config, layer_norm_eps=1e-5))
    student(other, 2)
    assert "layer_norm_eps = 1e-12, the teacher's is 1e-05" in capsys.readouterr().err


def test_fresh_weights_are_drawn_as_the_reference_draws_them(tiny):
    cls = {"bert": BertForMaskedLM, "distilbert": DistilBertForMaskedLM}[tiny.model_type]
    for path, value in split(cls(tiny, rngs=nnx.Rngs(3)))[1].items():
        assert value.dtype == jnp.float32
        if path.endswith("norm.scale"):
            assert (value == 1).all(), path
        elif path.endswith("bias"):
            assert not value.any(), path
        else:
            assert value.std() == pytest.approx(0.02, rel=0.25), path
            assert abs(value.mean()) < 0.02 / 5, path
