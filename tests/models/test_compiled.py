"""A model that is called on its own: the plain call's outputs, from few compiled programs."""

import dataclasses
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distilbert_jax.models import BertForMaskedLM, compiled
from distilbert_jax.models.params import count, merge, split
from tests.models.common import CLASSES, build, call, deviation, masked_lm
from tests.runs import refused

EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


@pytest.fixture(scope="module")
def bert(tiny_bert):
    return masked_lm(tiny_bert)


@pytest.fixture(scope="module")
def distilbert(tiny_distilbert):
    return masked_lm(tiny_distilbert)


def ids_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(5, 99, shape).astype(np.int32)


def masked(ids):
    """Rows of different lengths: the first is whole, each one after it shorter by one token."""
    row = np.arange(ids.shape[0]).reshape(-1, *[1] * (ids.ndim - 1))
    return np.broadcast_to(np.arange(ids.shape[-1]) < ids.shape[-1] - row, ids.shape).astype(np.int32)


def assert_equal(found, expected):
    """The same outputs, of the same shapes and dtypes, to rounding."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == plain.dtype
        assert deviation(ours, plain) < 1e-6


@pytest.fixture
def programs(caplog):
    """A function that empties and returns the names of what XLA was asked to compile."""
    caplog.set_level(logging.WARNING)

    def compiled_now():
        names = re.findall(
            r"^Compiling jit\((.*?)\)", "\n".join(record.getMessage() for record in caplog.records), re.M
        )
        caplog.clear()
        return names

    with jax.log_compiles():
        yield compiled_now


@pytest.fixture
def calls(monkeypatch):
    """The padded shapes of `input_ids` in all calls that are compiled."""
    shapes, jitted = [], compiled._jitted

    def recorded(*given):
        ids = given[4]["input_ids"]
        if isinstance(ids, np.ndarray):  # else only the shapes of outputs are asked for
            shapes.append(ids.shape)
        return jitted(*given)

    monkeypatch.setattr(compiled, "_jitted", recorded)
    return shapes


@pytest.mark.parametrize("name", CLASSES)
def test_every_head_gives_what_the_plain_call_gives(name, request, calls):
    config = request.getfixturevalue("tiny_distilbert" if name.startswith("Distil") else "tiny_bert")
    model = build(CLASSES[name], dataclasses.replace(config, labels=("no", "yes", "maybe")))
    ids = ids_of(3, 2, 11) if name.endswith("MultipleChoice") else ids_of(3, 11)
    given = {"attention_mask": masked(ids), "token_type_ids": (ids % 2).astype(np.int32), **EVERYTHING}
    assert_equal(model(ids, **given), call(model, ids, **given))
    assert calls == [(4, *ids.shape[1:-1], 16)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"attention_mask": masked(ids_of(9, 17)).astype(bool)},
        {"token_type_ids": ids_of(9, 17) % 2},
        {"position_ids": np.arange(17)[::-1]},
        {"segment_ids": np.repeat([1, 2, 3, 0], [4, 5, 6, 2])[None].repeat(9, 0)},
        {"segment_ids": np.repeat([1, 2, 0], [4, 5, 8])[None].repeat(9, 0), "attention_mask": masked(ids_of(9, 17))},
    ],
    ids=["ids alone", "bool mask", "types", "one row of positions", "segments", "segments and mask"],
)
def test_any_arguments_give_what_they_give_plainly(given, bert, calls):
    ids = ids_of(9, 17)
    assert_equal(bert(ids, **given, **EVERYTHING), call(bert, ids, **given, **EVERYTHING))
    assert calls == [(16, 32)]


def test_one_row_may_be_a_list_and_a_mask_of_floats(distilbert, calls):
    ids = ids_of(1, 5)
    expected = call(distilbert, ids, np.array([[1, 1, 1, 0, 0]]))
    for given in (
        (ids[0].tolist(), [1, 1, 1, 0, 0]),
        (jnp.asarray(ids), jnp.asarray([[1.0, 1.0, 1.0, 0.0, 0.0]])),
        (ids.astype(np.int64), np.array([1, 1, 1, 0, 0])),
    ):
        assert_equal(distilbert(*given), expected)
    assert calls == [(1, 16)] * 3


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"attention_mask": [[0.5, 1.0, 1.0]]}, "attention_mask"),  # in the reference next to nothing, here a token
        ({"attention_mask": [[1, 1, -1]]}, "attention_mask"),
        ({"attention_mask": [[1, 1]]}, "attention_mask"),
        ({"token_type_ids": [[[0, 0, 0]]]}, "token_type_ids"),
        ({"input_ids": [[True, False, True]]}, "input_ids"),
        ({"input_ids": np.ma.masked_array([[1, 2, 3]], [[0, 0, 1]])}, "input_ids"),
        ({"input_ids": np.zeros((2, 0), np.int32)}, "input_ids"),
    ],
)
def test_arrays_that_would_be_taken_for_something_else_are_refused(given, field, distilbert):
    refused(lambda: distilbert(**{"input_ids": ids_of(1, 3), **given}), field=field)


def test_ten_texts_of_different_lengths_compile_three_programs(no_cache, tiny_bert, programs):
    model = masked_lm(dataclasses.replace(tiny_bert, intermediate_size=24))
    for length in (16, 32, 40):
        model(ids_of(1, length))
    assert programs().count("_jitted") == 3
    for length in (3, 5, 8, 13, 17, 21, 25, 30, 33, 39):
        assert model(ids_of(1, length)).logits.shape == (1, length, 99)
    assert programs() == []
    for rows in (9, 12, 15):
        assert model(ids_of(rows, 30)).last_hidden_state.shape == (rows, 30, 32)
    assert programs() == ["_jitted"]


def test_changed_parameters_are_read_anew(bert):
    ids = ids_of(1, 7)
    other = merge(split(bert)[0], split(bert)[1])
    before = other(ids).logits
    other.head.bias[...] += 1.0
    assert deviation(other(ids).logits, before + 1.0) < 1e-6


def test_a_transformed_or_random_call_is_the_plain_one(tiny_bert, calls):
    model = masked_lm(dataclasses.replace(tiny_bert, num_hidden_layers=1))  # called operation by operation here
    ids, (graphdef, params) = ids_of(2, 6), split(model)
    loss = lambda params, ids: merge(graphdef, params)(ids).logits.sum()
    jax.jit(lambda: model(ids))()
    jax.eval_shape(lambda params: merge(graphdef, params)(ids), params)
    jax.eval_shape(jax.grad(loss), params, ids)
    jax.vmap(lambda row: model(row[None]).logits)(jnp.asarray(ids))
    with jax.disable_jit():
        model(ids)
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = model(ids, rngs=keys).last_hidden_state
    assert calls == []
    assert deviation(dropped, model(ids).last_hidden_state) > 1e-3
    assert calls == [(2, 16)]


class Counting(BertForMaskedLM):
    """Somebody's own: it counts its calls, which a compiled program would do once."""

    def __call__(self, *arguments, **inputs):
        self.calls = getattr(self, "calls", 0) + 1
        return super().__call__(*arguments, **inputs)


def test_parts_that_are_somebodys_own_are_called_plainly(tiny_bert, calls):
    model = build(Counting, tiny_bert)
    for _ in range(3):
        model(ids_of(1, 4))
    assert model.calls == 3
    model = masked_lm(tiny_bert)
    model.seen = nnx.Variable(jnp.zeros(()))
    model(ids_of(1, 4))
    assert calls == []


def test_a_row_without_a_token_looks_at_no_padding_of_ours(bert, calls):
    ids, mask = ids_of(2, 6), np.array([[1] * 6, [0] * 6])
    assert_equal(bert(ids, mask), call(bert, ids, mask))
    assert calls == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"input_ids": [[5, 99]]}, "input_ids"),
        ({"input_ids": np.array([[5, -1]])}, "input_ids"),
        ({"input_ids": [[5, 6]], "token_type_ids": [[0, 2]]}, "token_type_ids"),
        ({"input_ids": [[5, 6]], "position_ids": [[0, 40]]}, "position_ids"),
        ({"input_ids": ids_of(1, 41)}, "input_ids"),
    ],
)
def test_what_the_plain_call_refuses_is_refused(given, field, bert):
    refused(lambda: bert(**given), field=field)


def test_what_is_no_call_of_a_model_is_told_as_by_python(bert):
    with pytest.raises(TypeError):
        bert(ids_of(1, 4), no_such_argument=1)
    with pytest.raises(TypeError):
        bert()


def test_no_rows_give_no_outputs(bert):
    assert bert(np.zeros((0, 4), np.int32)).logits.shape == (0, 4, 99)


def test_padded_sizes_are_few_and_never_smaller():
    assert [compiled.padded_length(n, 512) for n in (1, 16, 17, 64, 65, 300, 512)] == [
        16, 16, 32, 64, 128, 512, 512,
    ]  # fmt: skip
    assert compiled.padded_length(20, 24) == 24
    assert [compiled.padded_rows(n) for n in (1, 2, 3, 8, 9, 16, 17)] == [1, 2, 4, 8, 16, 16, 24]


def test_an_output_shows_its_shapes_and_a_model_its_size(bert):
    output = bert(ids_of(1, 4), output_hidden_states=True)
    expected = "ModelOutput(last_hidden_state=float32[1, 4, 32], hidden_states=3 × float32[1, 4, 32], logits=float32[1, 4, 99])"
    pretty = pytest.importorskip("IPython.lib.pretty")
    assert repr(output) == pretty.pretty(output) == expected
    assert bert.num_parameters() == count(split(bert)[1])
