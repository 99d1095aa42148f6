"""What the fields of a config must be, told in one line that names the field and its value."""

import typing
from typing import Literal

from distilbert_jax.errors import InputError

SMALLEST, LARGEST = 1.1754944e-38, 3.4028235e38  # that float32 tells from 0 and from infinity
LARGEST_BATCH = 1 << 20  # rows; thirty times those of BERT's largest batches


def require(condition: bool, owner: object, name: str, what: str) -> None:
    """Raise InputError, with the field `name` of `owner` and its value, unless `condition` holds; `what` says what is expected."""
    if not condition:
        raise InputError(f"{type(owner).__name__}.{name} = {getattr(owner, name)!r}: {what}")


def require_share(owner: object, *names: str) -> None:
    for name in names:
        require(0.0 <= getattr(owner, name) < 1.0, owner, name, "expected a share, 0 ≤ value < 1")


def require_positive(owner: object, *names: str) -> None:
    for name in names:
        require(getattr(owner, name) >= SMALLEST, owner, name, "expected a value above 0")
        require(getattr(owner, name) <= LARGEST, owner, name, "expected a finite value (float32)")


def require_weight(owner: object, *names: str) -> None:
    for name in names:
        require(0.0 <= getattr(owner, name) <= LARGEST, owner, name, "expected a finite value of 0 or more")


def require_batch(owner: object, name: str) -> None:
    what = f"expected 1 to {LARGEST_BATCH:,} rows"
    require(1 <= getattr(owner, name) <= LARGEST_BATCH, owner, name, what)


def require_temperature(owner: object, name: str) -> None:
    require(0.01 <= getattr(owner, name) <= 100.0, owner, name, "expected 0.01 to 100: others leave nothing to learn")


def require_choices(owner: object) -> None:
    for name, kind in typing.get_type_hints(type(owner)).items():
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            require(getattr(owner, name) in choices, owner, name, f"expected one of {', '.join(map(repr, choices))}")
