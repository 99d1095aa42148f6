"""Array shapes: what the annotations of models and losses say is checked at every call in tests; users pay nothing.

`conftest` imports this module before the package, whose modules come with the check from then on. Only shapes and kinds of arrays
are checked, with NumPy's as good as JAX's; the other annotations are a type checker's business. Fields of dataclasses are not: JAX
puts anything into a pytree.
"""

import functools
import inspect
import operator
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

import jaxtyping
import numpy as np
from beartype import beartype

CHECKED = (
    "distilbert_jax.models.layers",
    "distilbert_jax.models.attention",
    "distilbert_jax.models.encoder",
    "distilbert_jax.models.heads",
    "distilbert_jax.training.losses",
    "distilbert_jax.pretraining.masking",
    "distilbert_jax.training.term_functions",
)


def shapes_of(hint: Any) -> list[Any]:
    """The annotations of arrays in a hint."""
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return [hint]
    return [shape for part in get_args(hint) for shape in shapes_of(part)]


def _with_numpy(hint: Any) -> Any:
    if shapes_of(hint) == [hint]:
        return hint.dtype[hint.array_type | np.ndarray, hint.dim_str]
    parts = tuple(map(_with_numpy, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return functools.reduce(operator.or_, parts)
    return get_origin(hint)[parts] if parts else hint


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with those of its annotations checked that have a shape."""
    hints = {name: _with_numpy(hint) for name, hint in function.__annotations__.items() if shapes_of(hint)}
    function.__annotations__ = hints
    return beartype(function) if hints and function.__name__ != "__init__" else function


jaxtyping.install_import_hook(CHECKED, "tests.shapes.typechecked")
