"""Compiled calls of a model: rows of any number and length go through one jitted program for each of few padded shapes.

Called on its own, operation by operation, a model would make XLA compile every operation anew for every length of text. What is
added here is padding that nothing sees: the outputs are cut back to the shapes of the plain call, and equal it to rounding.
"""

import functools
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from distilbert_jax.errors import InputError
from distilbert_jax.models.ranges import check_input, check_rows

SHORTEST = 16  # tokens; a length is padded to this times a power of 2
_ROWS = 8  # up to here rows are padded to a power of 2, beyond to a multiple of it
_ARRAYS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "segment_ids")
_FLAGS = ("output_hidden_states", "output_attentions")
_NOBODY = -(
    2**31
)  # the segment of padding that is added: no other token is in it, the caller's own padding (0) neither

Flags = tuple[tuple[str, Any], ...]


def padded_length(tokens: int, longest: int) -> int:
    """`tokens` rounded up to 16, 32, 64 …, but not beyond the model's positions, `longest`."""
    return min(SHORTEST << max(0, (tokens - 1) // SHORTEST).bit_length(), longest)


def padded_rows(rows: int) -> int:
    """`rows` rounded up to 1, 2, 4, 8, 16, 24, 32 …"""
    return 1 << (rows - 1).bit_length() if rows <= _ROWS else -(-rows // _ROWS) * _ROWS


def compiled(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A model's `__call__` that pads, runs one compiled program and cuts its outputs back, where that changes nothing but rounding.

    `plain` itself runs inside `jax.jit` and other transformations, with dropout (`rngs`) or under `jax.disable_jit()`; for a model
    that is spread over devices, or that has methods which are not this package's or Flax's own (they may keep or print something,
    which a compiled program does once only); for arguments that are no rows of token ids, or more of them than the model has
    positions for; where the mask of a row shows no token.
    """

    taken = tuple(inspect.signature(plain).parameters)[1:]

    @functools.wraps(plain)
    def call(model: Any, *arguments: Any, **inputs: Any) -> Any:
        for name, value in (*zip(taken, arguments, strict=False), *inputs.items()):
            if name in _ARRAYS and (value is not None or name == "input_ids"):
                check_input(name, value)
        rows = _rows_of(model, arguments, inputs)
        prepared = None if rows is None else _own_parts(model)
        if prepared is None or rows is None:
            return plain(model, *arguments, **inputs)
        flags = tuple((name, bool(inputs[name])) for name in _FLAGS if inputs.get(name) is not None)
        return _run(plain, *prepared, rows, flags, model.config)

    return call


def _rows_of(model: Any, arguments: tuple[Any, ...], inputs: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """The arguments as arrays of one shape, int32 [B, T] (a multiple choice: [B, choices, T]); None: they are not such rows.

    Raises:
        InputError: an id without a row, or a mask of other values than 0 and 1, which a compiled program cannot see; the shapes do
            not fit.
    """
    if len(arguments) > 2 or jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]  # JAX adds its options at import
        return None
    named = dict(zip(_ARRAYS, arguments, strict=False))
    if named.keys() & inputs.keys() or not inputs.keys() <= {*_ARRAYS, *_FLAGS, "rngs"}:
        return None
    given = {name: value for name, value in {**named, **inputs}.items() if name in _ARRAYS and value is not None}
    if inputs.get("rngs") is not None or "input_ids" not in given or not all(map(_is_at_hand, given.values())):
        return None
    try:
        rows = {name: np.atleast_2d(np.asarray(value)) for name, value in given.items()}
    except ValueError:  # rows of different lengths
        return None
    shape: tuple[int, ...] = rows["input_ids"].shape
    for name, array in rows.items():
        kinds = "iufb" if name == "attention_mask" else "iu"
        if array.dtype.kind not in kinds:
            return None
        if array.shape not in (shape, (1, *shape[1:])) or not shape[-1]:
            raise InputError(
                f"{name}: an array {list(array.shape)} was given beside input_ids {list(shape)}; expected rows of one length, "
                "of a token at least",
                field=name,
            )
        if name == "attention_mask" and not np.isin(array, (0, 1)).all():
            raise InputError("attention_mask: has other values than 0 and 1, padding and a token", field=name)
    if not rows["input_ids"].size or shape[-1] > model.config.max_length or len(shape) > 3:
        return None
    check_rows(rows, model.config)
    rows = {name: np.broadcast_to(array, shape) for name, array in rows.items()}
    if "segment_ids" in rows:
        rows.pop("attention_mask", None)  # which nothing would read
    else:
        mask = rows.get("attention_mask", np.ones(shape, np.int32)) > 0
        if not mask.any(-1).all():  # such a row looks at all its tokens alike, padding included
            return None
        rows["attention_mask"] = mask
    return {name: array.astype(np.int32) for name, array in rows.items()}


def _is_at_hand(value: Any) -> bool:
    """Whether a value can be read here and now: it is neither traced nor on several devices."""
    if isinstance(value, Tracer):
        return False
    return not isinstance(value, jax.Array) or len(value.sharding.device_set) == 1


def _own_parts(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State] | None:
    """A model taken apart; None: it is traced, spread over devices, or has parts whose calls may do more than compute."""
    if isinstance(jax.lax.full((), 0), Tracer):  # inside a function that is being compiled
        return None
    graphdef, state = nnx.split(model)
    if not all(isinstance(leaf, jax.Array) and _is_at_hand(leaf) for leaf in jax.tree.leaves(state)):
        return None
    try:
        return (graphdef, state) if _is_own(graphdef) else None
    except TypeError:  # an attribute that somebody added cannot be hashed
        return None


@functools.lru_cache(maxsize=64)
def _is_own(graphdef: nnx.GraphDef) -> bool:
    """Whether all that a model is made of is parameters, and modules whose methods are this package's or Flax's; a class that only
    names another family has none of its own."""
    kinds = {kind for node in graphdef.nodes if (kind := getattr(node, "type", None)) is not None}
    own = lambda part: part.__module__.split(".")[0] in {"distilbert_jax", "flax", *sys.stdlib_module_names}
    methods = (types.FunctionType, property, classmethod, staticmethod)
    adds = lambda part: any(isinstance(value, methods) for value in vars(part).values())
    return all(
        issubclass(kind, nnx.Param)
        if issubclass(kind, nnx.Variable)
        else all(own(part) or not adds(part) for part in kind.__mro__)
        for kind in kinds
    )


def _run(
    plain: Callable[..., Any],
    graphdef: nnx.GraphDef,
    state: nnx.State,
    rows: dict[str, np.ndarray],
    flags: Flags,
    config: Any,
) -> Any:
    (B, *_, T) = rows["input_ids"].shape
    padded = padded_rows(B), padded_length(T, config.max_length)
    batch = {name: _pad(array, *padded, _filling(name, config.pad_token_id)) for name, array in rows.items()}
    outputs = _jitted(plain, graphdef, flags, state, batch)
    if padded == (B, T):
        return outputs
    axes = _axes_of(plain, graphdef, flags, state, batch)
    exact = lambda size, axis: {"B": size * B // padded[0], "T": T}.get(axis, size)
    cut = lambda array, names: _cut(array, tuple(map(exact, array.shape, names)))
    return jax.tree.map(cut, outputs, axes)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _jitted(plain: Callable[..., Any], graphdef: nnx.GraphDef, flags: Flags, state: nnx.State, batch: Any) -> Any:
    return plain(nnx.merge(graphdef, state), **batch, **dict(flags))


def _filling(name: str, pad_token_id: int) -> int:
    return {"input_ids": pad_token_id, "segment_ids": _NOBODY}.get(name, 0)


def _pad(array: np.ndarray, rows: int, length: int, filling: int) -> np.ndarray:
    """[B, …, T] → [rows, …, length]: tokens of `filling` behind each row, and the last row again and again."""
    tokens = [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])]
    again = [(0, rows - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
    return np.pad(np.pad(array, tokens, constant_values=filling), again, mode="edge")


_AXES: dict[Any, Any] = {}


def _axes_of(plain: Callable[..., Any], graphdef: nnx.GraphDef, flags: Flags, state: nnx.State, batch: Any) -> Any:
    """For each output a letter an axis: B grows with the rows, T with the tokens, `.` with neither. Seen, not declared: a head
    need not say it."""
    middle = batch["input_ids"].shape[1:-1]
    key = plain, graphdef, flags, middle, tuple(sorted(batch))
    if key not in _AXES:

        def shapes(B: int, T: int) -> Any:
            given = {name: jax.ShapeDtypeStruct((B, *middle, T), np.int32) for name in batch}
            return jax.eval_shape(functools.partial(_jitted, plain, graphdef, flags), state, given)

        letter = lambda small, large: "." if small == large else "B" if large == 2 * small else "T"
        names = lambda small, large: "".join(map(letter, small.shape, large.shape))
        _AXES[key] = jax.tree.map(names, shapes(1, 1), shapes(2, 3))
    return _AXES[key]


def _cut(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The first entries of each axis."""
    if array.shape == shape:
        return array
    if next(iter(array.sharding.device_set)).platform != "cpu":
        return jax.lax.slice(array, (0,) * array.ndim, shape)
    part = np.asarray(array)[tuple(map(slice, shape))].copy()  # XLA would compile a slice for each shape
    return jax.device_put(part, array.sharding if array.committed else None)
