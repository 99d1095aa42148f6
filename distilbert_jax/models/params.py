"""Parameters of a module as a flat dictionary `{"encoder.layers.0.ffn_in.kernel": array}`: what sharding rules, checkpoints,
the optimiser and Hugging Face names all go by."""

import hashlib
from typing import Any

import jax
import numpy as np
from flax import nnx

from distilbert_jax.models.layers import Linear

Params = dict[str, jax.Array]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """A module as (graphdef, parameters by dotted path)."""
    graphdef, state = nnx.split(model)
    return graphdef, {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The module of `graphdef` with `params` as `split` names them; works inside `jax.jit`."""
    nested: dict[Any, Any] = {}
    for name, value in params.items():
        *parents, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nnx.merge(graphdef, nnx.State(nested))


def held_weights(model: nnx.Module, params: Params) -> Params:
    """The parameters of a model, the matrices of its linear layers in the dtype to which every call would cast them."""
    dtypes = {
        ".".join(map(str, (*path, "kernel"))): module.dtype
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    return {name: value.astype(dtypes.get(name, value.dtype)) for name, value in params.items()}


def count(params: Params) -> int:
    """Number of parameters; the tied decoder is one table and counts once."""
    return sum(value.size for value in params.values())


def digest(params: Params) -> str:
    """SHA-256 over names and bytes of all parameters; equal for bit-identical weights."""
    total = hashlib.sha256()
    for name in sorted(params):
        total.update(name.encode())
        total.update(np.ascontiguousarray(jax.device_get(params[name])).tobytes())
    return total.hexdigest()
