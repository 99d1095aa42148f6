"""One step is the same step on every mesh and in every number of micro-batches, with masks and dropout drawn in it."""

import dataclasses
import functools
import os
import re
import socket
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distilbert_jax import config as c
from distilbert_jax.config import MaskingConfig, ModelConfig, OptimizerConfig, PretrainConfig
from distilbert_jax.models import BertForMaskedLM, BertForPreTraining, DistilBertForMaskedLM
from distilbert_jax.models.params import split
from distilbert_jax.pretraining import objectives
from distilbert_jax.pretraining.masking import log_weights
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.pretraining.setup import new_projections
from distilbert_jax.training import sharding
from distilbert_jax.training.objective import Objective, Part
from distilbert_jax.training.optimizer import adamw
from distilbert_jax.training.step import init_state, make_train_step, row_keys
from tests import children, compiling, runs
from tests.models.common import build
from tests.pretraining.examples import MASK, QUICK_COMPILE, SPECIAL, quick_jit, random_batch, random_pairs
from tests.training.test_sharding import mesh_of

ROWS, LENGTH, VOCAB = 16, 14, 90  # four devices do not divide the vocabulary
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 20,  # no parameter has the shape of an activation
}


# Terms of layers and relations, from a teacher that is wider and deeper.
OF_LAYERS = {
    "hidden": c.HiddenConfig(1.0),
    "embeddings": c.EmbeddingsConfig(1.0),
    "attention_scores": c.AttentionScoresConfig(1.0),
    "attention_probabilities": c.AttentionProbabilitiesConfig(1.0),
    "minilm": c.MiniLMConfig(1.0),
    "minilmv2": c.MiniLMv2Config(1.0, relation_heads=8),
}
LAYERS = "of layers"


def recorder() -> optax.GradientTransformation:
    """Keeps in its state the gradients that go through it."""
    return optax.GradientTransformation(lambda params: params, lambda grads, state, params: (grads, grads))


class Setting(NamedTuple):
    """One compiled train step, what it starts from, and where."""

    mesh: jax.sharding.Mesh
    step: jax.stages.Compiled
    state: object  # a function that makes a fresh one: a step consumes its state
    frozen: dict
    batches: list


@functools.cache
def setting(
    data: int,
    fsdp: int,
    tensor: int,
    accumulate: int,
    rows: int = ROWS,
    padded: bool = True,
    chunk: int = 0,
    terms: str = "",
) -> Setting:
    mesh = mesh_of(data, fsdp, tensor)
    sizes = SIZES | ({"hidden_size": 24, "num_hidden_layers": 2} if terms else {})
    taught_by = ModelConfig.bert_base(**sizes)
    teacher, frozen = split(build(BertForMaskedLM, taught_by, seed=0))
    config = ModelConfig.distilbert_base(**SIZES)
    student, params = split(build(DistilBertForMaskedLM, config, seed=1))
    if padded:
        frozen, params = sharding.pad_vocabulary(frozen), sharding.pad_vocabulary(params)
    assert config.hidden_dropout > 0
    assert config.attention_dropout > 0
    rng = np.random.default_rng(0)
    weights = log_weights(rng.integers(0, 1000, VOCAB), SPECIAL, MaskingConfig())
    loss = runs.loss(mse=0.1, chunk=chunk)
    if terms:
        loss = dataclasses.replace(runs.loss(0.0, 1.0, 0.0), **OF_LAYERS)
    config = PretrainConfig(
        model=config, objective="distillation", teacher="teacher", loss=loss, data=c.DataConfig(length=LENGTH)
    )
    params |= new_projections(config, taught_by)
    objective = objectives.distillation(Given(student, teacher, weights, MASK, config))
    optimizer = optax.chain(recorder(), adamw(OptimizerConfig(warmup=0.0), 10))
    state = functools.partial(init_state, params, optimizer, 7, mesh)
    mine = sharding.local_rows(rows, mesh)
    whole = [random_batch(rng, rows, LENGTH, VOCAB) for _ in range(2)]
    batches = [sharding.place({name: batch[name][mine] for name in batch}, rows, mesh) for batch in whole]
    frozen = jax.device_put(frozen, sharding.shardings(frozen, mesh))
    step = make_train_step(objective, optimizer, state(), frozen, mesh, accumulate)
    lowered = step.lower(state(), frozen, batches[0])
    return Setting(mesh, lowered.compile(compiler_options=QUICK_COMPILE), state, frozen, batches)


@functools.cache
def two_steps(*shape):
    """Per step: (gradients, metrics, parameters) on the host, in float64, without the rows that pad the vocabulary."""
    _, step, state, frozen, batches = setting(*shape)
    current, found = state(), []
    for batch in batches:
        current, metrics = step(current, frozen, batch)
        gradients, params = (sharding.cut_vocabulary(tree, VOCAB) for tree in (current.opt_state[0], current.params))
        found.append(jax.tree.map(np.float64, jax.device_get((gradients, metrics, params))))
    return found


def one_device():
    """`two_steps` of one device, without micro-batches, with the vocabulary as it is."""
    return two_steps(1, 1, 1, 1, ROWS, False)


def norm(tree) -> float:
    return np.sqrt(sum((value**2).sum() for value in tree.values()))


def minus(a, b):
    return {name: a[name] - b[name] for name in a}


def assert_same_gradients(found, expected, *, seen=False):
    """`seen`: a term is on the keys themselves, so that their biases have gradients."""
    total = norm(expected)
    assert norm(minus(found, expected)) <= 1e-5 * total
    for name in expected:
        if name.endswith("key.bias") and not seen:  # the softmax does not see it: rounding noise is all there is
            assert max(norm({name: found[name]}), norm({name: expected[name]})) <= 1e-7 * total
        else:
            difference = np.linalg.norm(found[name] - expected[name])
            assert difference <= 1e-5 * max(np.linalg.norm(expected[name]), 1e-6 * total), name


def named(shape):
    return "{}-{}-{}-accumulate-{}".format(*shape) + (
        "-of-layers" if LAYERS in shape else "-in-pieces" if len(shape) > 4 else ""
    )


def in_pieces(*shape):
    """Arguments of `setting` where the logits of four tokens are held at a time."""
    return (*shape, ROWS, True, 4)


QUICK = [(8, 1, 1, 2), (2, 2, 2, 2), (1, 1, 1, 1)]
# Each axis alone, the tensor axis in a pair, both row axes in a pair, and all three; with micro-batches and without.
SLOW = [(1, 8, 1, 1), (1, 1, 4, 2), (1, 2, 4, 1), in_pieces(2, 4, 1, 1)]
SHAPES = [*QUICK, in_pieces(2, 2, 2, 2), *(pytest.param(shape, marks=pytest.mark.slow) for shape in SLOW)]


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_gradients_and_loss_do_not_depend_on_mesh_or_micro_batches(shape):
    (expected, metrics, _), _ = one_device()
    (found, found_metrics, _), _ = two_steps(*shape)
    assert_same_gradients(found, expected)
    assert found_metrics.keys() == metrics.keys() >= {"loss", "loss_ce", "loss_mlm", "loss_cos", "loss_mse"}
    for name in metrics:
        np.testing.assert_allclose(found_metrics[name], metrics[name], rtol=1e-5, err_msg=name)
    assert found_metrics["tokens"] == metrics["tokens"]
    assert found_metrics["masked"] == metrics["masked"]


def of_layers(*shape):
    """Arguments of `setting` with the terms of layers."""
    return (*shape, ROWS, True, 0, LAYERS)


@pytest.mark.parametrize("shape", [(2, 2, 2, 2), pytest.param((2, 4, 1, 2), marks=pytest.mark.slow)], ids=named)
def test_terms_of_layers_and_relations_do_not_depend_on_mesh_or_micro_batches(shape):
    (expected, metrics, _), (_, later, _) = two_steps(*of_layers(1, 1, 1, 1))
    (found, found_metrics, _), (_, found_later, _) = two_steps(*of_layers(*shape))
    assert_same_gradients(found, expected, seen=True)
    names = {f"loss_{name}" for name in OF_LAYERS}
    assert found_metrics.keys() == metrics.keys() >= names
    assert len([name for name in expected if name.startswith("projection.")]) == 2
    for name in metrics:
        np.testing.assert_allclose(found_metrics[name], metrics[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(found_later[name], later[name], rtol=1e-5, err_msg=name)


def test_masks_drawn_over_the_batch_are_the_same_bits_on_every_mesh():
    config = MaskingConfig(per="batch")
    weights = log_weights(np.arange(VOCAB), SPECIAL, config)
    prepare = Given(None, None, weights, MASK, PretrainConfig(masking=config)).prepare
    batch = random_batch(np.random.default_rng(0), ROWS, LENGTH, VOCAB)
    found = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        mesh = mesh_of(*shape)
        mine = {name: values[sharding.local_rows(ROWS, mesh)] for name, values in batch.items()}
        keys = jax.device_put(row_keys(jax.random.key(0), 3, ROWS), sharding.batch_sharding(mesh))
        prepared, totals = quick_jit(prepare)(keys, sharding.place(mine, ROWS, mesh))
        del prepared["rngs"]
        found.append(jax.device_get((prepared, totals)))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert found[0][1]["masked"] > 0.15 * found[0][1]["tokens"]


def take_a_step(coordinator: str, count: int, index: int, out: str) -> None:
    """In a child: one step on a mesh over all processes, reading only the rows that are this one's own; the gradients that it
    sees whole go into `out`, npz."""
    jax.config.update("jax_num_cpu_devices", 8 // count)
    jax.distributed.initialize(coordinator, count, index)
    assert jax.device_count() == 8
    mesh, step, state, frozen, (batch, _) = setting(2, 2, 2, 2)
    assert len(sharding.local_rows(ROWS, mesh)) == ROWS // count
    after, metrics = step(state(), frozen, batch)
    whole = jax.jit(lambda tree: tree, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    gradients = sharding.cut_vocabulary(jax.device_get(whole(after.opt_state[0])), VOCAB)
    np.savez(out, loss=jax.device_get(metrics["loss"]), **gradients)


@pytest.mark.slow
def test_gradients_and_loss_do_not_depend_on_the_number_of_processes(tmp_path):
    count = 4  # of two devices each, along the tensor axis: both row axes lie across processes
    (expected, metrics, _), _ = one_device()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    outputs = [tmp_path / f"{index}.npz" for index in range(count)]
    environment = {**os.environ, "XLA_FLAGS": compiling.quick_flags()}
    processes = (
        children.Child(take_a_step, coordinator, count, index, str(output), environment=environment)
        for index, output in enumerate(outputs)
    )
    with children.together(processes) as started:
        for process in started:
            _, said = process.communicate()
            assert process.returncode == 0, said
    for output in outputs:
        found = {name: np.float64(value) for name, value in np.load(output).items()}
        np.testing.assert_allclose(found.pop("loss"), metrics["loss"], rtol=1e-5)
        assert_same_gradients(found, expected)


@pytest.mark.parametrize("shape", QUICK, ids=named)
def test_two_steps_on_a_mesh_equal_two_on_one_device(shape):
    start = jax.tree.map(np.float64, jax.device_get(setting(1, 1, 1, 1, ROWS, False).state().params))
    for (_, metrics, params), (_, found_metrics, found) in zip(one_device(), two_steps(*shape), strict=True):
        np.testing.assert_allclose(found_metrics["loss"], metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(found_metrics["grad_norm"], metrics["grad_norm"], rtol=1e-5)
        for name in params:
            if not name.endswith("key.bias"):  # Adam turns the rounding noise that is its gradient into steps
                assert abs(params[name] - start[name]).max() > 1e-4, name
                assert abs(found[name] - params[name]).max() <= 1e-6, name


def test_rows_that_pad_the_vocabulary_learn_nothing():
    _, step, state, frozen, batches = setting(1, 1, 1, 1)
    after, _ = step(state(), frozen, batches[0])
    before, gradients = state().params, after.opt_state[0]
    for name in ("encoder.embeddings.word", "head.bias"):
        assert not gradients[name][VOCAB:].any()
        np.testing.assert_array_equal(after.params[name][VOCAB:], before[name][VOCAB:])


def step_of_pairs(data: int, tensor: int, accumulate: int):
    """(gradients, metrics) of a step on pairs of sentences, on the host, in float64."""
    mesh = mesh_of(data, 1, tensor)
    model, params = split(build(BertForPreTraining, ModelConfig.bert_base(**SIZES), seed=2))
    weights = log_weights(np.arange(VOCAB), SPECIAL, MaskingConfig())
    objective = objectives.masked_lm_nsp(Given(model, None, weights, MASK, PretrainConfig()))
    batch = random_pairs(np.random.default_rng(1), ROWS, LENGTH, VOCAB)
    optimizer = optax.chain(recorder(), adamw(OptimizerConfig(warmup=0.0), 10))
    state = init_state(sharding.pad_vocabulary(params), optimizer, 7, mesh)
    step = make_train_step(objective, optimizer, state, {}, mesh, accumulate)
    state, metrics = step(state, {}, sharding.place(batch, ROWS, mesh))
    gradients = sharding.cut_vocabulary(state.opt_state[0], VOCAB)
    return jax.tree.map(np.float64, jax.device_get((gradients, metrics)))


def test_loss_and_gradients_of_pairs_do_not_depend_on_mesh_or_micro_batches():
    expected, metrics = step_of_pairs(1, 1, 1)
    gradients, found_metrics = step_of_pairs(2, 2, 4)
    assert_same_gradients(gradients, expected)
    assert found_metrics.keys() == metrics.keys() >= {"loss_mlm", "loss_nsp", "nsp_accuracy", "rows"}
    np.testing.assert_allclose(metrics["loss"], metrics["loss_mlm"] + metrics["loss_nsp"], rtol=1e-6)
    for name in metrics:
        np.testing.assert_allclose(found_metrics[name], metrics[name], rtol=1e-5, err_msg=name)


def test_masks_and_dropout_are_drawn_anew_each_step():
    _, step, state, frozen, batches = setting(1, 1, 1, 1)
    first, later = state(), state()
    later = dataclasses.replace(later, step=later.step + 5)
    (_, one), (_, other) = (step(begun, frozen, batches[0]) for begun in (first, later))
    assert one["masked"] == other["masked"]
    assert abs(one["loss"] - other["loss"]) > 1e-3


def test_every_row_of_every_step_has_a_key_of_its_own():
    keys = jnp.concatenate([row_keys(jax.random.key(0), step, 6) for step in (0, 1)])
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 12


def test_same_step_twice_gives_the_same_bits():
    _, step, state, frozen, batches = setting(2, 2, 2, 2)
    (first, one), (second, other) = (step(state(), frozen, batches[0]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get((first, one)), jax.device_get((second, other)))


def test_a_step_consumes_its_state_and_nothing_else():
    _, step, state, frozen, batches = setting(8, 1, 1, 2)
    given = state()
    params = state().params
    taken, _ = step(given, frozen, batches[0])
    moments = [leaf for leaf in jax.tree.leaves(given.opt_state[1]) if leaf.ndim]
    assert len(moments) == 2 * len(given.params)
    assert all(leaf.is_deleted() for leaf in [*given.params.values(), *moments])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batches[0], taken, params)))
    assert taken.step == 1


ROWS_CUT = [(8, 1, 1, 2), pytest.param((1, 8, 1, 1), marks=pytest.mark.slow)]
BOTH_CUT = [pytest.param(shape, marks=pytest.mark.slow) for shape in (in_pieces(2, 4, 1, 1), of_layers(2, 4, 1, 2))]


class Exchange(NamedTuple):
    """A collective of a compiled step: the shapes that it leaves on each device, and whether it stands in a loop."""

    kind: str
    shapes: list[tuple[int, ...]]
    in_loop: bool


def exchanges(step) -> list[Exchange]:
    pattern = r"= (.*?) (all-[a-z-]+?|collective-[a-z]+|reduce-scatter)(?:-start)?\(.*?op_name=\"(.*?)\""
    calls = re.findall(pattern, step.as_text())
    shapes = lambda result: [
        tuple(map(int, filter(None, one.split(",")))) for one in re.findall(r"\w\d+\[([\d,]*)\]", result)
    ]
    return [Exchange(kind, shapes(result), "/while/" in name) for result, kind, name in calls]


@pytest.mark.parametrize("shape", [*ROWS_CUT, *BOTH_CUT], ids=named)
def test_devices_exchange_each_parameter_and_gradient_once_and_no_activations(shape):
    """Tied or not, in one micro-batch or several."""
    mesh, step, state, frozen, _ = setting(*shape)
    made = exchanges(step)
    assert not any(one.in_loop for one in made)
    assert not {one.kind for one in made} - {"all-reduce", "all-gather", "reduce-scatter"}
    moved = lambda *kinds: sorted(size for one in made if one.kind in kinds for size in one.shapes if size)
    params = state().params
    in_shards = {name: value.sharding.shard_shape(value.shape) for name, value in params.items()}
    read = [(name, value) for name, value in frozen.items() if LAYERS not in shape or not name.startswith("head.")]
    gathered = [value.shape for name, value in (*params.items(), *read) if "fsdp" in sharding.spec(name)]
    assert moved("all-gather") == (sorted(gathered) if mesh.shape["fsdp"] > 1 else [])
    several_times = 1 + (
        mesh.shape["data"] > 1 and mesh.shape["fsdp"] > 1
    )  # among those of a shard, then among the shards
    of_gradients = [
        size for name, size in in_shards.items() for _ in range(several_times if "fsdp" in sharding.spec(name) else 1)
    ]
    assert moved("all-reduce", "reduce-scatter") == sorted(of_gradients)


def test_along_the_tensor_axis_gradients_stay_cut():
    _, step, state, _, _ = setting(2, 2, 2, 2)
    whole = {value.shape for name, value in state().params.items() if "tensor" in sharding.spec(name)}
    alone = {value.shape for name, value in state().params.items() if "tensor" not in sharding.spec(name)}
    summed = [
        one for one in exchanges(step) if one.kind == "reduce-scatter" or (one.kind == "all-reduce" and not one.in_loop)
    ]
    assert len(summed) > 1
    assert not {size for one in summed for size in one.shapes} & (whole - alone)
    gathered = {size for one in exchanges(step) if one.kind == "all-gather" for size in one.shapes}
    assert not gathered & (whole - alone)


@pytest.mark.parametrize("shape", ROWS_CUT, ids=named)
def test_each_device_does_its_share_of_the_work_and_no_more(shape):
    # Eight devices with two rows each do what one device does with two rows, but for the optimiser, which is small beside it.
    flops = setting(*shape).step.cost_analysis()["flops"]
    alone = setting(1, 1, 1, shape[-1], ROWS // 8).step.cost_analysis()["flops"]
    np.testing.assert_allclose(flops, alone, rtol=0.15)


def test_the_norm_in_the_log_is_of_what_is_trained():
    """Of two numbers with gradients of 3 and 4, where the first is left as it is."""
    sums = lambda params, frozen, batch, counts: {"loss": 3 * params["encoder.a"] + 4 * params["head.b"]}
    prepare = lambda rngs, batch: (batch, {"one": jnp.float32(1.0)})
    objective, mesh, norms = Objective(prepare, sums, {"loss": Part("one", 1.0)}), mesh_of(1, 1, 1), {}
    for held in ((), ("encoder.a",)):
        optimizer = adamw(OptimizerConfig(warmup=0.0), 10, held)
        state = init_state({"encoder.a": jnp.zeros(()), "head.b": jnp.zeros(())}, optimizer, 0, mesh)
        batch = sharding.place({"input_ids": np.zeros((1, 2), np.int32)}, 1, mesh)
        after, metrics = make_train_step(objective, optimizer, state, {}, mesh, held=held)(state, {}, batch)
        norms[held] = float(metrics["grad_norm"])
        assert (after.params["encoder.a"] == 0) == bool(held)
    assert list(norms.values()) == [5.0, 4.0]
