"""Labels of two classifiers, matched by their names: the order of ids is each model's own."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from distilbert_jax.errors import InputError

_NUMBERED = re.compile(r"(?:label[_ -]?)?(\d+)")  # "LABEL_1", which is what a config says that names no labels, or "1"


def label_order(given: Sequence[str], wanted: Sequence[str], where: str) -> tuple[int, ...]:
    """For each of the labels `wanted` its id in a classifier that has the labels `given`, whatever their order there.

    Names that are equal are matched first; else case, hyphens and underscores make no difference, and a number stands for itself
    with or without "LABEL_". One label each is a regression, which has no names to compare.

    Args:
        where: what the classifier is called in the error.

    Raises:
        InputError: their numbers differ, or their names: those of "LABEL_0" and "negative" cannot be told to mean the same.
    """
    if len(given) != len(wanted):
        raise InputError(f"{where}: has {len(given)} labels, expected {len(wanted)}", path=where)
    if len(given) == 1:
        return (0,)
    for known in (str, meaning):
        theirs, ours = list(map(known, given)), list(map(known, wanted))
        if len(set(theirs)) == len(theirs) and set(theirs) == set(ours):
            return tuple(map(theirs.index, ours))
    hint = f"name them in its config.json (id2label) as {', '.join(wanted)}, each by the id that it has there"
    raise InputError(
        f"{where}: its labels are {', '.join(given)}, expected {', '.join(wanted)} in any order; if they mean the same, {hint}",
        path=where,
        hint=hint,
    )


def by_meaning(names: Sequence[str]) -> Callable[[str], str]:
    """A function that gives for a name the one of `names` that it stands for: itself, or the only one of the same `meaning`; where
    there is none, or several, the name as it is."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(meaning(name), []).append(name)

    def called(name: str) -> str:
        same = [name] if name in names else alike.get(meaning(name), [])
        return same[0] if len(same) == 1 else name

    return called


def meaning(name: str) -> str:
    """A name without what makes no difference between two models: case, hyphens, underscores, the form of Unicode, "LABEL_" before
    a number."""
    plain = " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFC", name.strip().casefold())))
    number = _NUMBERED.fullmatch(plain)
    return str(int(number[1])) if number else plain
