"""Fields of Hugging Face's files: one record for each field that the reference reads, and what is done with it here.

The rows stand in the room of what reads the file: `text.tokenizer_fields` for a tokenizer's files, `models.config_fields` for
config.json. Code asks the rows what to refuse, docs/ is made from them, and the parity test flips each one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from distilbert_jax.errors import InputError


class Treatment(Enum):
    """What is done with a field; the value is what a table calls it."""

    OBEYED = "obeyed"
    REFUSED = "refused unless at its value"
    WITHOUT_EFFECT = "without effect"


@dataclass(frozen=True)
class Form:
    """What values the reference takes of a field. words: as in "expected …"."""

    words: str
    holds: Callable[[Any], bool]


_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FileField:
    """One field of a file that the reference reads.

    Attributes:
        file: the file's name, such as "tokenizer_config.json".
        name: the field; a dot stands between the names of nested ones ("model.unk_token").
        treatment: what is done with it.
        reason: why so, a part of a sentence.
        accepted: of a refused field: the values that are not refused. A field that is left out never is.
        flips: values that the parity test gives it in turn, as JSON would hold them; empty: a test of its own has it.
        families: names of the families that have it; empty: all.
        form: of a field without effect: the values that the reference takes, where it does not take all.
    """

    file: str
    name: str
    treatment: Treatment
    reason: str
    accepted: tuple[Any, ...] = ()
    flips: tuple[Any, ...] = ()
    families: frozenset[str] = field(default=_NOTHING)
    form: Form | None = None


def same_value(one: object, other: object) -> bool:
    """Whether two values out of JSON are the same; unlike `==`, which takes true for 1."""
    return type(one) is type(other) and one == other


def refuse_values(content: Mapping[str, Any], fields: Iterable[FileField], path: object) -> None:
    """Raise InputError where a refused field has another value than those accepted, or one without effect none of its form.

    Args:
        content: the file's content; fields of its root only.
        fields: the rows of this file.
        path: the file, for the message.
    """
    for row in fields:
        if row.name not in content:
            continue
        value = content[row.name]
        if row.form and not row.form.holds(value):
            raise InputError(
                f"{path}: {row.name} = {value!r:.60}: expected {row.form.words}", path=path, field=row.name
            )
        if row.treatment is Treatment.REFUSED and not any(same_value(value, accepted) for accepted in row.accepted):
            known = " or ".join(repr(accepted) for accepted in row.accepted)
            raise InputError(
                f"{path}: {row.name} = {value!r:.60}: {row.reason}" + (f"; expected {known}" if known else ""),
                path=path,
                field=row.name,
            )
