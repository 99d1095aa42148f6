"""Ranges of indices, checked on the host before arrays enter a compiled program.

Inside `jax.jit` an index that has no row in its table is clamped to the last one, without a word. So every array of indices is
looked at once, where it still lies in the host's memory, in one pass whose cost `benchmarks/ranges.py` shows.
"""

from typing import Any

import numpy as np

from distilbert_jax.errors import InputError


def check_range(name: str, ids: Any, size: int, where: object = "") -> None:
    """Raise InputError unless all `ids` have a row in a table.

    Args:
        name: of the array.
        ids: integers [...], of NumPy or JAX.
        size: rows of the table.
        where: the file or directory that they come from.

    Raises:
        InputError: one is below 0 or above size − 1; with the array (`field`) and the first row that holds such a one (`row`).
    """
    if not ids.size:
        return
    low, high = int(ids.min()), int(ids.max())
    if low >= 0 and high < size:
        return
    wrong = low if low < 0 else high
    raise InputError(
        f"{where}{where and ': '}{name}: {wrong} is outside 0 … {size - 1}, what the model has rows for",
        path=where or None,
        field=name,
        row=int(np.argwhere(np.asarray(ids) == wrong)[0][0]),
    )
