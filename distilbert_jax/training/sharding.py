"""Sharding over a mesh: where each parameter and each batch row lives, from one table of path rules; none in model code."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distilbert_jax.config import MeshConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models.params import Params

ROWS = ("data", "fsdp")  # the axes that a batch is cut along
# First match wins. A kernel is [in, out]: what enters a layer is cut along `out` on the tensor axis, what leaves it along `in`.
RULES: tuple[tuple[str, P], ...] = (
    (r"(embeddings\.word|head\.decoder)$", P("tensor", "fsdp")),
    (r"embeddings\.(position|token_type)$", P(None, "fsdp")),
    (r"\.(query|key|value|ffn_in)\.kernel$", P("fsdp", "tensor")),
    (r"\.(query|key|value|ffn_in)\.bias$", P("tensor")),
    (r"\.(out|ffn_out)\.kernel$", P("tensor", "fsdp")),
    (r"head\.bias$", P("tensor")),
    (r"\.(transform|dense)\.kernel$", P("fsdp", None)),
    (r"^projection\..*\.kernel$", P("fsdp", None)),
)

_VOCABULARY_MULTIPLE = 128
_VOCABULARY_FILL = ((r"(embeddings\.word|head\.decoder)$", 0.0), (r"head\.bias$", -1e9))


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh (data, fsdp, tensor) over all devices of all processes, or over those given.

    Raises:
        InputError: the axes ask for more devices than there are, or do not use them all.
    """
    available, inner = jax.device_count() if devices is None else len(devices), config.fsdp * config.tensor
    data = available // inner if config.data == -1 else config.data
    if data * inner != available:
        asked = f"--mesh.fsdp {config.fsdp} --mesh.tensor {config.tensor}"
        asked += "" if config.data == -1 else f" --mesh.data {config.data}"
        raise InputError(
            f"mesh: {asked} does not fit {available} device{'s' if available != 1 else ''}: the product of the axes is the "
            "number of devices, and --mesh.data -1 takes those that the others leave",
            field="mesh",
        )
    return jax.make_mesh(
        (data, config.fsdp, config.tensor),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices,
    )


def on_accelerator(mesh: Mesh) -> bool:
    """Whether the devices of a mesh are not CPUs."""
    return mesh.devices.flat[0].platform != "cpu"


def spec(path: str) -> P:
    """The partition of the parameter at `path`; without a rule it is replicated."""
    return next((rule for pattern, rule in RULES if re.search(pattern, path)), P())


def shardings(tree: Any, mesh: Mesh, *, stacked: bool = False) -> Any:
    """Shardings for a tree that holds parameters under their paths (parameters, optimiser state, a whole train state).

    Args:
        stacked: every leaf has an axis of seeds before its own, which is not cut.

    Raises:
        InputError: a dimension is not divisible by its mesh axis.
    """

    def place(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = next((key.key for key in reversed(keys) if isinstance(getattr(key, "key", None), str)), "")
        partition = _partition(path, len(leaf.shape) - stacked)
        partition = P(None, *partition) if stacked else partition
        for size, axis in zip(leaf.shape, partition, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                of_tokens = axis == "tensor" and _vocabulary_fill(path) is not None
                padded = f" (the vocabulary, padded to a multiple of {_VOCABULARY_MULTIPLE})" if of_tokens else ""
                raise InputError(
                    f"{path}: size {size}{padded} is not divisible by mesh.{axis} = {mesh.shape[axis]}",
                    path=path,
                    field=f"mesh.{axis}",
                )
        return NamedSharding(mesh, partition)

    return jax.tree_util.tree_map_with_path(place, tree)


def gather(params: Params, mesh: Mesh) -> Params:
    """`params` as a jitted step computes with them: whole along fsdp, still cut along tensor.

    Said once for each step, because the compiler, left alone, cuts the activations along fsdp as the kernels are cut, and then
    gathers them over all rows instead of the kernels.
    """
    return {
        name: jax.lax.with_sharding_constraint(value, NamedSharding(mesh, _only("tensor", spec(name))))
        for name, value in params.items()
    }


def reduce(summed: tuple[Params, dict[str, jax.Array]], mesh: Mesh) -> tuple[Params, dict[str, jax.Array]]:
    """Gradients [n, ...] and other sums [n], of each of the n devices along the row axes its own, added up over them.

    Each tensor crosses the network once, those that are cut along fsdp only to where they stay. No axis is automatic here: of
    what is cut along tensor the compiler would gather the whole first.

    Returns:
        Gradients, cut as the parameters are, and scalars.
    """
    grads, _ = summed
    cut = {name: _partition(name, value.ndim - 1) for name, value in grads.items()}
    along_tensor = {name: P(ROWS, *(_only("tensor", partition))) for name, partition in cut.items()}

    def along(axes: tuple[str, ...], value: Any) -> Any:
        several = tuple(axis for axis in axes if mesh.shape[axis] > 1)
        return jax.lax.psum(value, several) if several else value

    def add(name: str, value: jax.Array) -> jax.Array:
        if "fsdp" not in cut[name] or mesh.shape["fsdp"] == 1:
            return along(ROWS, value)
        mine = jax.lax.psum_scatter(value, "fsdp", scatter_dimension=cut[name].index("fsdp"), tiled=True)
        return along(("data",), mine)

    def add_all(summed: tuple[Params, dict[str, jax.Array]]) -> tuple[Params, dict[str, jax.Array]]:
        grads, others = jax.tree.map(lambda x: x[0], summed)
        return {name: add(name, value) for name, value in grads.items()}, along(ROWS, others)

    return jax.shard_map(
        add_all, mesh=mesh, in_specs=((along_tensor, P(ROWS)),), out_specs=(cut, P()), check_vma=False
    )(summed)


def _partition(path: str, dimensions: int) -> P:
    """`spec` of a leaf at `path`; one that has other dimensions than the parameter, as an optimiser's, is replicated."""
    return partition if len(partition := spec(path)) == dimensions else P()


def _only(axis: str, partition: P) -> P:
    return P(*(one if one == axis else None for one in partition))


def pad_vocabulary(params: Params) -> Params:
    """`params` with tables of tokens lengthened to a multiple of 128 rows, so that the tensor axis divides them.

    A row that is added has the embedding 0 and the logit −1e9: no softmax, loss or gradient differs. It is the same on every
    mesh, so that a checkpoint of one is restored on another.
    """
    return {
        name: jnp.pad(
            value, [(0, -len(value) % _VOCABULARY_MULTIPLE)] + [(0, 0)] * (value.ndim - 1), constant_values=fill
        )
        if (fill := _vocabulary_fill(name)) is not None
        else value
        for name, value in params.items()
    }


def cut_vocabulary(params: Params, vocab_size: int) -> Params:
    """`params` without the rows that `pad_vocabulary` added."""
    return {name: value if _vocabulary_fill(name) is None else value[:vocab_size] for name, value in params.items()}


def _vocabulary_fill(path: str) -> float | None:
    return next((fill for pattern, fill in _VOCABULARY_FILL if re.search(pattern, path)), None)


def check_heads(num_heads: int, mesh: Mesh) -> None:
    """Raise InputError unless the tensor axis divides the attention heads."""
    if num_heads % mesh.shape["tensor"]:
        raise InputError(
            f"model.num_attention_heads = {num_heads} is not divisible by mesh.tensor = {mesh.shape['tensor']}",
            field="model.num_attention_heads",
        )


def check_batch(batch_size: int, accumulate: int, mesh: Mesh, field: str = "data.batch_size") -> None:
    """Raise InputError unless every micro-batch has the same number of rows on every device of the row axes.

    Args:
        field: the config's name of the batch size.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (accumulate * devices):
        raise InputError(
            f"{field} = {batch_size} is not divisible by optimizer.accumulate × data × fsdp devices = "
            f"{accumulate} × {devices}",
            field=field,
        )


def batch_sharding(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
    """Rows of a batch [B, ...], or of one for each of several seeds [S, B, ...], over the data and fsdp axes."""
    return NamedSharding(mesh, P(None, ROWS) if stacked else P(ROWS))


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this process has to read, ascending, int64 [n]."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in slices]))


def place(batch: Mapping[str, np.ndarray], batch_size: int, mesh: Mesh) -> dict[str, jax.Array]:
    """This process' rows of a global batch as global arrays [batch_size, ...]."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, global_shape=(batch_size, *rows.shape[1:]))
        for name, rows in batch.items()
    }


def put(values: Any, where: Any) -> Any:
    """Arrays that every process has whole, on the mesh. where: their shardings, or one of all."""
    if jax.process_count() == 1:
        return jax.device_put(values, where)
    each = jax.tree.map(lambda _: where, values) if isinstance(where, NamedSharding) else where

    def one(value: Any, sharding: NamedSharding) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(one, values, each)
