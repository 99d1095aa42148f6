"""Terms of layers and relations: which layers, what is computed, what is refused; and runs with a teacher of other sizes."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from distilbert_jax import config as c
from distilbert_jax import families
from distilbert_jax.config import Reads
from distilbert_jax.errors import InputError
from distilbert_jax.models import BertModel, DistilBertForMaskedLM, MaskedLM
from distilbert_jax.models.encoder import Encoder, Layer
from distilbert_jax.models.params import split
from distilbert_jax.pretraining.objectives import Given, distillation
from distilbert_jax.pretraining.setup import new_projections, set_up
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training import losses, terms
from distilbert_jax.training.terms import check_terms, layers_of, uniform_layer, weighted_terms
from tests import runs
from tests.models.common import build
from tests.pretraining.examples import MASK, quick_jit
from tests.pretraining.test_objectives import TOTALS, VOCAB, WEIGHTS, prepared, shapes_in

STUDENT = c.ModelConfig.distilbert_base(
    vocab_size=VOCAB,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
TEACHER = c.ModelConfig.bert_base(
    **{name: getattr(STUDENT, name) for name in ("vocab_size", "max_position_embeddings", "num_attention_heads")},
    hidden_size=24,
    num_hidden_layers=4,
    intermediate_size=40,
)


def loss(**terms):
    """These terms alone."""
    return dataclasses.replace(c.LossConfig(), kl=c.KLConfig(0.0), mlm=c.MLMConfig(0.0), cos=c.CosConfig(0.0), **terms)


def only(**terms):
    (one,) = weighted_terms(loss(**terms))
    return one


def objective(config, teacher=TEACHER):
    run = c.PretrainConfig(
        model=STUDENT, objective="distillation", teacher="teacher", loss=config, data=c.DataConfig(length=16)
    )
    (student, params), (taught_by, frozen) = (
        split(build(*one)) for one in ((DistilBertForMaskedLM, STUDENT), (BertModel, teacher))
    )
    given = Given(student, taught_by, WEIGHTS, MASK, run)
    return distillation(given), params | new_projections(run, teacher), frozen


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (6, 12, [1, 3, 5, 7, 9, 11]),
        (3, 6, [1, 3, 5]),
        (5, 12, [2, 4, 7, 9, 11]),
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [0, 0, 1, 1]),
    ],
)
def test_layers_are_compared_uniformly_where_none_are_named(student, teacher, expected):
    assert [uniform_layer(layer, student, teacher) for layer in range(student)] == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"hidden": c.HiddenConfig(1.0)}, ((0, 1), (1, 3))),
        ({"hidden": c.HiddenConfig(1.0, (1,))}, ((1,), (3,))),
        ({"hidden": c.HiddenConfig(1.0, None, (3, 0))}, ((0, 1), (3, 0))),
        ({"minilm": c.MiniLMConfig(1.0)}, ((1,), (3,))),
        ({"minilmv2": c.MiniLMv2Config(1.0, teacher_layer=2)}, ((1,), (2,))),
        ({"embeddings": c.EmbeddingsConfig(1.0)}, None),
    ],
)
def test_the_layers_of_a_term(choice, expected):
    layers = layers_of(only(**choice), STUDENT, TEACHER)
    assert (layers and (layers.student, layers.teacher)) == expected


class Unread(Encoder):
    """Computes otherwise than the shared encoder when it is called, and does not say what lies within."""

    def __call__(self, *inputs, **options):
        return super().__call__(*inputs, **options)


class Readable(Unread):
    def read(self, *inputs, **options):
        return super().read(*inputs, **options)


REFUSED = {
    "a layer that the student has not": (
        {"hidden": c.HiddenConfig(1.0, (2,))},
        {},
        ("loss.hidden.student_layers", "--loss.hidden.student-layers 1"),
    ),
    "a layer that the teacher has not": (
        {"minilm": c.MiniLMConfig(1.0, teacher_layer=4)},
        {},
        ("loss.minilm.teacher_layer", "--loss.minilm.teacher-layer 3"),
    ),
    "a map of another length": ({"hidden": c.HiddenConfig(1.0, None, (1,))}, {}, ("loss.hidden.teacher_layers", None)),
    "relation heads that divide one width only": (
        {"minilmv2": c.MiniLMv2Config(1.0, relation_heads=12)},
        {},
        ("loss.minilmv2.relation_heads", "--loss.minilmv2.relation-heads 8"),
    ),
    **{
        f"{name} of unequal heads": (
            {name: kind(1.0)},
            {"num_attention_heads": 4},
            (f"loss.{name}.weight", f"--loss.{name.replace('_', '-')}.weight 0"),
        )
        for name, kind in {
            "attention_scores": c.AttentionScoresConfig,
            "attention_probabilities": c.AttentionProbabilitiesConfig,
            "minilm": c.MiniLMConfig,
        }.items()
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_two_models_cannot_be_compared_in_is_refused_with_what_would_do(case):
    choice, changes, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        check_terms((only(**choice),), 0, STUDENT, runs.change(TEACHER, **changes))
    assert (caught.value.field, caught.value.hint) == expected
    assert check_terms((only(minilmv2=c.MiniLMv2Config(1.0, relation_heads=8)),), 4, STUDENT, TEACHER) is None


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (c.HiddenConfig, "student_layers", ()),
        (c.HiddenConfig, "teacher_layers", (1, -1)),
        (c.MiniLMConfig, "student_layer", -1),
        (c.MiniLMv2Config, "relation_heads", 0),
        (c.MiniLMv2Config, "keys", -0.5),
        (c.EmbeddingsConfig, "weight", -1.0),
    ],
)
def test_options_out_of_range_are_refused(kind, name, value):
    with pytest.raises(InputError) as caught:
        kind(**{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize(("encoder", "readable"), [(None, True), (Encoder, True), (Unread, False), (Readable, True)])
def test_an_encoder_of_ones_own_has_to_give_what_lies_within_it(encoder, readable, monkeypatch):
    own = dataclasses.replace(families.find("bert"), name="own", encoder=encoder)
    monkeypatch.setattr(families, "_REGISTERED", {**families.known(), "own": own})
    teacher = runs.change(TEACHER, model_type="own")
    asked = weighted_terms(loss(minilmv2=c.MiniLMv2Config(1.0, relation_heads=8)))
    if readable:
        check_terms(asked, 0, STUDENT, teacher)
    else:
        with pytest.raises(InputError) as caught:
            check_terms(asked, 0, STUDENT, teacher)
        assert (caught.value.field, caught.value.hint) == ("loss.minilmv2.weight", "--loss.minilmv2.weight 0")
    check_terms(weighted_terms(loss(hidden=c.HiddenConfig(1.0))), 0, STUDENT, teacher)


def test_an_encoder_that_cannot_be_read_gives_hidden_states_by_being_called(monkeypatch):
    config = loss(hidden=c.HiddenConfig(1.0), embeddings=c.EmbeddingsConfig(1.0))
    values = []
    for encoder in (None, Unread):
        own = dataclasses.replace(families.find("bert"), encoder=encoder)
        monkeypatch.setitem(families._REGISTERED, "bert", own)
        monkeypatch.setattr(BertModel, "family", own)
        ours, params, frozen = objective(config)
        values.append(jax.eval_shape(ours.loss, params, frozen, prepared([[0, 1]], 16), TOTALS))
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("choice", "of_student", "of_teacher"),
    [
        ({"minilmv2": c.MiniLMv2Config(1.0, 8, student_layer=0, teacher_layer=2)}, 1, 3),
        ({"hidden": c.HiddenConfig(1.0, (0,), (1,))}, 1, 2),
        ({"embeddings": c.EmbeddingsConfig(1.0)}, 0, 0),
        ({"attention_scores": c.AttentionScoresConfig(1.0)}, 2, 4),
    ],
)
def test_no_layer_above_the_last_one_that_is_read_is_computed_and_no_logits(
    choice, of_student, of_teacher, monkeypatch
):
    widths, original = [], Layer.__call__

    def counted(self, x, bias, rngs):
        widths.append(x.shape[-1])
        return original(self, x, bias, rngs)

    monkeypatch.setattr(Layer, "__call__", counted)
    ours, params, frozen = objective(loss(**choice))
    made = jax.make_jaxpr(ours.loss)(params, frozen, prepared([[0, 1]], 16), TOTALS)
    assert (widths.count(16), widths.count(24)) == (of_student, of_teacher)
    assert not any(shape[-1:] == (VOCAB,) for shape in shapes_in(made.jaxpr) if len(shape) > 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_relations_one_array_is_kept_between_the_passes_in_the_dtype_of_activations(dtype):
    B, T, R = 2, 8, 4
    queries, weights, segments = (
        jax.ShapeDtypeStruct((B, T, 16), dtype),
        np.ones((B, T), np.float32),
        np.ones((B, T), np.int32),
    )
    divergence = lambda s, t: losses.relation_divergence(s, t, R, weights, segments)
    kept = jax.eval_shape(lambda s, t: jax.vjp(lambda s: divergence(s, t), s)[1], queries, queries)
    assert [leaf.dtype for leaf in jax.tree.leaves(kept) if leaf.size >= B * R * T * T] == [dtype]


@pytest.mark.parametrize("name", ["attention_divergence", "relation_divergence"])
def test_a_divergence_in_bfloat16_is_that_of_float32_to_its_rounding(name, rng):
    T, segments = 8, np.array([[1] * 5 + [2] * 2 + [0]] * 2, np.int32)
    weights = np.float32(segments > 0)
    shape, options = ((2, 4, T, T), ()) if name.startswith("attention") else ((2, T, 16), (4,))
    student, teacher = rng.normal(size=(2, *shape)).astype(np.float32)
    value = lambda s: getattr(losses, name)(s, teacher.astype(s.dtype), *options, weights, segments)
    wide, narrow = (quick_jit(jax.value_and_grad(value))(student.astype(dtype)) for dtype in ("float32", "bfloat16"))
    assert narrow[1].dtype == "bfloat16"
    np.testing.assert_allclose(narrow[0], wide[0], rtol=2e-2)
    assert np.linalg.norm(np.float32(narrow[1]) - wide[1]) <= 2e-2 * np.linalg.norm(wide[1])


@pytest.fixture(scope="module")
def bare(world, tmp_path_factory):
    """A BERT of three layers, wider than the student, without a masked-LM head."""
    directory = tmp_path_factory.mktemp("bare")
    config = runs.change(runs.BERT, hidden_size=48, num_hidden_layers=3)
    BertModel(config, rngs=nnx.Rngs(3)).save_pretrained(directory, load_tokenizer(world.tokenizer))
    return str(directory)


def layers_run(world, directory, teacher, **changes):
    config = loss(
        hidden=c.HiddenConfig(1.0), embeddings=c.EmbeddingsConfig(1.0), minilmv2=c.MiniLMv2Config(1.0, relation_heads=8)
    )
    given = {"teacher": teacher, "init__source": "", "loss": config, "steps": 6, "data__heldout": world.heldout}
    return runs.distilling(world, directory, **given | {"run__save_every": 3, "run__eval_every": 3} | changes)


@pytest.mark.slow
def test_a_bare_encoder_of_other_sizes_teaches_and_projections_are_in_checkpoints_alone(world, bare, tmp_path, capfd):
    config = runs.train(layers_run(world, tmp_path / "run", bare, optimizer__weight_decay=0.1))
    capfd.readouterr()
    model = MaskedLM.from_pretrained(tmp_path / "run/model")
    assert capfd.readouterr().err == "", "every tensor is used, none is missing"
    assert not any("projection" in path for path in split(model)[1])
    logged = runs.metrics(tmp_path / "run/metrics.jsonl")
    held = [entry for entry in logged if entry["kind"] == "eval"][-1]
    assert {"mlm_loss", "loss_hidden", "loss_embeddings", "loss_minilmv2"} <= held.keys()
    assert "kl_to_teacher" not in held
    trained = [entry["loss_hidden"] for entry in logged if entry["kind"] == "train"]
    assert trained[-1] < trained[0]
    weights = runs.weights(tmp_path / "run/model")
    shutil.rmtree(tmp_path / "run/model")
    shutil.rmtree(tmp_path / "run/checkpoints/6")
    runs.train(config)  # goes on from step 3
    assert runs.weights(tmp_path / "run/model") == weights


def test_projections_are_drawn_from_the_seed_and_belong_to_what_a_run_begins_with(world, bare, tmp_path):
    setup, again, other = (
        set_up(layers_run(world, tmp_path, bare, run__seed=seed, data__heldout="")) for seed in (0, 0, 1)
    )
    names = [name for name in setup.state.params if name.startswith("projection.")]
    assert names == ["projection.embeddings.embeddings.kernel", "projection.hidden.0.kernel"]
    for name in names:
        np.testing.assert_array_equal(setup.state.params[name], again.state.params[name])
        assert np.any(setup.state.params[name] != other.state.params[name])
        assert np.std(setup.state.params[name]) == pytest.approx(32**-0.5, rel=0.1)
    plain = set_up(runs.distilling(world, tmp_path, init__source="", data__heldout=""))
    assert setup.parameters == plain.parameters
    assert setup.fingerprints["initial weights"] != plain.fingerprints["initial weights"]


def test_beside_one_that_needs_no_head_a_term_that_does_is_refused_before_any_step(world, bare, tmp_path):
    relations = set_up(layers_run(world, tmp_path, bare, data__heldout=""))
    triple = runs.distilling(world, tmp_path, teacher=bare, init__source="", data__heldout="")
    assert "loss.kl" in runs.refused(lambda: set_up(triple, beside=relations), path=bare, field="teacher")


def test_reads_add_up():
    both = Reads(hidden_states=(1,), attentions=(0,)) | Reads(embeddings=True, hidden_states=(0, 1))
    assert both == Reads(embeddings=True, hidden_states=(0, 1), attentions=(0,))
    assert both.depth == 2
    assert terms.reads_of(only(embeddings=c.EmbeddingsConfig(1.0)), STUDENT, None, teacher=False).depth == 0
