"""Array shapes: what the annotations of models and losses say is checked at every call in tests; users pay nothing.

`conftest` imports this module before the package, whose modules come with the check from then on. Only shapes and kinds of arrays
are checked, the other annotations are a type checker's business. Fields of dataclasses are not: JAX puts anything into a pytree.
"""

import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import beartype

CHECKED = (
    "distilbert_jax.models.layers",
    "distilbert_jax.models.attention",
    "distilbert_jax.models.encoder",
    "distilbert_jax.models.heads",
    "distilbert_jax.training.losses",
    "distilbert_jax.pretraining.masking",
    "distilbert_jax.pretraining.term_functions",
)


def _has_shape(hint: Any) -> bool:
    is_array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or any(map(_has_shape, get_args(hint)))


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with those of its annotations checked that have a shape."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function) if function.__annotations__ and function.__name__ != "__init__" else function


jaxtyping.install_import_hook(CHECKED, "tests.shapes.typechecked")
