"""Texts as Python objects: a list, an array or a column of them; what has columns or keys is asked for one of them."""

from collections.abc import ItemsView, Iterable, Mapping
from pathlib import Path
from typing import Any

from distilbert_jax.errors import InputError
from distilbert_jax.text.columns import READERS


def several_texts(given: Any, what: str = "texts") -> Iterable[Any]:
    """Something that gives the texts of `given` one after the other: a list, a tuple, a one-dimensional array, a column of a table
    (of pandas, pyarrow, polars or datasets), or an iterator. That each of them is a text is for the tokenizer to say.

    Args:
        what: the name of the argument, for what errors say.

    Raises:
        InputError: it is one object with columns, fields or keys, whose iteration would give their names or rows; it has no order;
            it has several dimensions; it is no such thing at all.
    """
    refuse_fields(given, what)
    if isinstance(given, list | tuple):
        return given
    kind = type(given).__name__
    if isinstance(given, ItemsView) or getattr(given, "nlevels", 1) > 1:
        raise InputError(f"{what}: a {kind} was given; {_TEXTS_OR_PAIRS}", field=what, hint=_TEXTS_OR_PAIRS)
    if (columns := _columns(given)) is not None:
        shown = f" ({', '.join(map(str, columns[:8]))}{', …' if len(columns) > 8 else ''})" if columns else ""
        hint = f"{what}[{columns[0]!r}]" if columns else f"{what}['NAME']"
        raise InputError(
            f"{what}: a {kind} has columns or keys{shown}: give one of them, such as {hint}, as a list of texts",
            field=what,
            hint=hint,
        )
    if isinstance(given, str | bytes | bytearray | memoryview | set | frozenset) or not isinstance(given, Iterable):
        order = ", in an order of yours" if isinstance(given, set | frozenset) else ""
        raise InputError(
            f"a {kind} was given; expected a text, a list of texts or an iterator of them{order}", field=what
        )
    if (dimensions := getattr(given, "ndim", 1)) != 1:
        raise InputError(f"{what}: a {kind} of {dimensions} dimensions; expected a list of texts", field=what)
    if hasattr(given, "encode") and hasattr(given, "casefold"):  # iterated, it would give its letters
        raise InputError(f"{what}: a {kind} was given; str() makes a text of it", field=what)
    if (name := getattr(given, "name", None)) and hasattr(given, "readline") and Path(str(name)).suffix in READERS:
        raise InputError(f"{what}: the file {name} has columns: read it, and give one of them as a list", field=what)
    to_list = getattr(given, "to_pylist", None)  # pyarrow's iteration gives scalars of its own
    texts: Any = to_list() if callable(to_list) else given
    return texts


_TEXTS_OR_PAIRS = "expected a list of texts or, for pairs of texts, a list of tuples (text, pair)"


def refuse_fields(given: Any, what: str, *, row: int | None = None) -> None:
    """Raise InputError for a tuple of a class of its own, such as a row of `DataFrame.itertuples`: it looks like a pair
    of texts and may be a text and its label.

    Args:
        what: names it; the field of the error where there is no `row`.
    """
    if isinstance(given, tuple) and type(given) is not tuple:
        names = getattr(given, "_fields", ())
        fields = f" with the fields {', '.join(map(str, names[:8]))}{', …' if len(names) > 8 else ''}" if names else ""
        raise InputError(
            f"{what} is a {type(given).__name__}{fields}; {_TEXTS_OR_PAIRS}",
            field=what if row is None else None,
            row=row,
            hint=_TEXTS_OR_PAIRS,
        )


def _columns(given: Any) -> list[Any] | None:
    """The columns or keys of a table or a mapping; None of what has none."""
    if isinstance(given, Mapping):
        return list(given)
    names = getattr(getattr(given, "dtype", None), "names", None)  # of a structured array
    for attribute in ("column_names", "columns", "fieldnames"):  # datasets and pyarrow; pandas and polars; csv
        value = getattr(given, attribute, None)
        if names is None and isinstance(value, Iterable) and not isinstance(value, str):
            names = value
    if names is None and hasattr(given, "__dataframe__"):
        names = ()
    return None if names is None else list(names)
