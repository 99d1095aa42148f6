"""Where parameters and rows live, and what is refused before anything is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from distilbert_jax.config import MeshConfig, ModelConfig, OptimizerConfig
from distilbert_jax.models import BertForMaskedLM, BertForSequenceClassification, DistilBertForMaskedLM
from distilbert_jax.models.params import split
from distilbert_jax.training import sharding
from distilbert_jax.training.optimizer import adamw
from distilbert_jax.training.step import init_state
from tests.models.common import build
from tests.runs import refused


def mesh_of(data=1, fsdp=1, tensor=1) -> Mesh:
    """A mesh over the first devices only; `make_mesh` takes all."""
    devices = np.array(jax.devices()[: data * fsdp * tensor])
    return Mesh(devices.reshape(data, fsdp, tensor), ("data", "fsdp", "tensor"))


def params_of(kind, config):
    return split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))[1]


def test_a_mesh_takes_all_devices():
    make_mesh = getattr(sharding.make_mesh, "__wrapped__", sharding.make_mesh)  # the package's own: tests/compiling.py
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(sharding.make_mesh(MeshConfig(data=4, tensor=2)).shape) == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
    "axes", [{"fsdp": 3}, {"data": 16}, {"data": 4}, {"tensor": 16}, {"data": 2, "fsdp": 2, "tensor": 4}]
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(axes):
    refused(lambda: sharding.make_mesh(MeshConfig(**axes)), "8", by="training.sharding.make_mesh", field="mesh")


@pytest.mark.parametrize("kind", [BertForMaskedLM, DistilBertForMaskedLM, BertForSequenceClassification])
def test_every_matrix_is_cut_and_nothing_that_has_no_rule(kind, tiny_bert, tiny_distilbert):
    config = tiny_distilbert if kind is DistilBertForMaskedLM else tiny_bert
    for name, value in params_of(kind, config).items():
        partition = sharding.spec(name)
        assert len(partition) <= value.ndim, name
        assert ("fsdp" in partition) == (value.ndim == 2 and name != "classifier.kernel"), name


def test_kernels_are_cut_along_what_enters_and_what_leaves_a_layer():
    layer = "encoder.layers.3."
    assert sharding.spec(layer + "attention.query.kernel") == sharding.spec(layer + "ffn_in.kernel")
    assert sharding.spec(layer + "attention.query.kernel") == P("fsdp", "tensor")
    assert sharding.spec(layer + "attention.value.bias") == sharding.spec(layer + "ffn_in.bias") == P("tensor")
    assert sharding.spec(layer + "attention.out.kernel") == P("tensor", "fsdp")
    assert sharding.spec(layer + "ffn_out.kernel") == P("tensor", "fsdp")
    assert sharding.spec(layer + "attention.out.bias") == sharding.spec(layer + "ffn_out.bias") == P()
    assert sharding.spec(layer + "ffn_norm.scale") == sharding.spec("head.norm.bias") == P()
    assert sharding.spec("encoder.embeddings.word") == P("tensor", "fsdp")


def test_a_vocabulary_is_padded_for_the_tensor_axis_and_cut_again(tiny_distilbert):
    params = split(build(DistilBertForMaskedLM, _with_vocabulary(tiny_distilbert, 90)))[1]
    padded = sharding.pad_vocabulary(params)
    changed = {name for name in params if params[name].shape != padded[name].shape}
    assert changed == {"encoder.embeddings.word", "head.bias"}
    assert {len(padded[name]) for name in changed} == {128}
    assert float(padded["head.bias"][90:].max()) == -1e9
    cut = sharding.cut_vocabulary(padded, 90)
    assert params.keys() == cut.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(cut[name], value)
    assert sharding.pad_vocabulary(padded).keys() == padded.keys()


def test_moments_of_the_optimiser_lie_where_their_parameters_do(tiny_bert):
    params = split(build(BertForMaskedLM, _with_vocabulary(tiny_bert, 96)))[1]
    mesh = mesh_of(2, 2, 2)
    state = init_state(params, adamw(OptimizerConfig(), 10), 0, mesh)
    adam = next(part for part in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(part))
    for name, value in state.params.items():
        expected = jax.sharding.NamedSharding(mesh, sharding.spec(name))
        for array in (value, adam.mu[name], adam.nu[name]):
            assert array.sharding.is_equivalent_to(expected, array.ndim), name
    word = state.params["encoder.embeddings.word"]
    assert word.addressable_shards[0].data.size * 4 == word.size
    assert state.step.sharding.is_fully_replicated


def test_gathered_parameters_are_whole_along_fsdp_and_cut_along_tensor(tiny_bert):
    params = split(build(BertForMaskedLM, _with_vocabulary(tiny_bert, 96)))[1]
    mesh = mesh_of(2, 2, 2)
    placed = jax.device_put(params, sharding.shardings(params, mesh))
    gathered = jax.jit(lambda tree: sharding.gather(tree, mesh))(placed)
    for name, value in gathered.items():
        np.testing.assert_array_equal(value, params[name])
        cut = 2 if "tensor" in sharding.spec(name) else 1
        assert value.addressable_shards[0].data.size * cut == value.size, name


def _is_adam(part):
    return hasattr(part, "mu")


def _with_vocabulary(config: ModelConfig, size: int) -> ModelConfig:
    return type(config)(**{**vars(config), "vocab_size": size})


def test_sizes_that_an_axis_does_not_divide_are_refused(tiny_bert):
    odd = params_of(BertForMaskedLM, tiny_bert)  # a vocabulary of 99
    refused(lambda: sharding.shardings(odd, mesh_of(tensor=2)), "99", field="mesh.tensor")
    even = params_of(BertForMaskedLM, _with_vocabulary(tiny_bert, 96))
    assert sharding.shardings(even, mesh_of(tensor=2)).keys() == even.keys()
    refused(lambda: sharding.shardings(even, mesh_of(fsdp=5)), "32", field="mesh.fsdp")


def test_heads_that_the_tensor_axis_does_not_divide_are_refused():
    sharding.check_heads(12, mesh_of(tensor=4))
    refused(lambda: sharding.check_heads(12, mesh_of(tensor=8)), "12", "8", field="model.num_attention_heads")


def test_batches_that_do_not_divide_evenly_are_refused():
    sharding.check_batch(16, 2, mesh_of(4, 2))
    refused(lambda: sharding.check_batch(12, 1, mesh_of(4, 2)), "12", "1 × 8", field="data.batch_size")
    refused(lambda: sharding.check_batch(8, 2, mesh_of(8)), "2 × 8", field="data.batch_size")
    sharding.check_batch(2, 1, mesh_of(2, 1, 4))  # the tensor axis cuts no rows


def test_rows_are_cut_along_data_and_fsdp_and_copied_along_tensor(rng):
    mesh = mesh_of(2, 2, 2)
    rows = rng.integers(0, 9, (8, 3)).astype(np.int32)
    placed = sharding.place({"input_ids": rows, "weights": rows[:, 0].astype(np.float32)}, 8, mesh)
    np.testing.assert_array_equal(placed["input_ids"], rows)
    assert {shard.data.shape for shard in placed["input_ids"].addressable_shards} == {(2, 3)}
    assert {shard.data.shape for shard in placed["weights"].addressable_shards} == {(2,)}
    np.testing.assert_array_equal(sharding.local_rows(8, mesh), np.arange(8))


def test_of_the_vocabulary_it_is_told_that_it_is_padded():
    params = sharding.pad_vocabulary({"encoder.embeddings.word": jnp.zeros((48, 6))})
    told = refused(lambda: sharding.shardings(params, mesh_of(tensor=3)), path="word", field="mesh.tensor")
    assert told.count("128") == 2
    params = {"encoder.layers.0.attention.query.kernel": jnp.zeros((6, 4))}
    told = refused(lambda: sharding.shardings(params, mesh_of(tensor=3)), path="query.kernel", field="mesh.tensor")
    assert "128" not in told
