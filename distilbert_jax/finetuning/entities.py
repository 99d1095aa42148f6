"""Entities in tags: IOB2 (Tjong Kim Sang and Veenstra 1999), spans and types out of it, as conlleval and seqeval read them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"
_TAG = re.compile(r"O|[BI](-.+)?")
_NEARLY = re.compile(r"([BbIi])[-_](.+)")  # a tag of a type, but for its case or its hyphen
_OTHER_SCHEMES = re.compile(r"[ESLUM](-.+)?")  # of BIOES, BILOU and the like, beside those of IOB2


class Entity(NamedTuple):
    """Words `start` to `end` − 1 of a sentence, and what they are ("" where tags have no types)."""

    type: str
    start: int
    end: int


def is_iob2(labels: Sequence[str]) -> bool:
    """Whether these names are tags of entities: `O`, and `B-` and `I-` with types or without."""
    return OUTSIDE in labels and len(labels) > 1 and all(_TAG.fullmatch(label) for label in labels)


def no_iob2(labels: Sequence[str]) -> tuple[str, ...]:
    """Of names that are meant as tags of entities and are not, those that are wrong, such as `BPER` beside `B-LOC` and `O`, or
    `b-per`; none of tags in IOB2, and of plain ones."""
    mended = tuple("O" if one == "o" else _NEARLY.sub(lambda tag: f"{tag[1].upper()}-{tag[2]}", one) for one in labels)
    typed = OUTSIDE in mended and any(tag[:2] in ("B-", "I-") and tag[2:] for tag in mended)
    if not typed and not have_pair(labels):
        return ()
    return tuple(label for label in labels if not _TAG.fullmatch(label))


def have_pair(labels: Sequence[str]) -> bool:
    """Whether names say of one type where it begins and where it goes on: `B-PER` and `I-PER`, however they are written (`b:PER`,
    `PER_B`); without a sign between, as `BPER`, where all names but one are such."""
    places: dict[tuple[str, str], set[str]] = {}
    for label in labels:
        if tag := re.fullmatch(r"([BbIi])[\W_](.+)", label):
            places.setdefault(("before", tag[2]), set()).add(tag[1].upper())
        if tag := re.fullmatch(r"(.+)[\W_]([BbIi])", label):
            places.setdefault(("behind", tag[1]), set()).add(tag[2].upper())
    if any(len(of_type) == 2 for of_type in places.values()):
        return True
    joined = [label.upper() for label in labels if label[:1] in ("B", "b", "I", "i")]
    return len(joined) >= len(labels) - 1 and any(f"I{tag[1:]}" in joined for tag in joined if tag[0] == "B")


def are_of_other_scheme(labels: Sequence[str]) -> bool:
    """Whether these names are of the tags that BIOES, BILOU and the like have and IOB2 has not."""
    return all(_OTHER_SCHEMES.fullmatch(label) for label in labels)


def _parts(tag: str) -> tuple[str, str]:
    """`B`, `I` or `O`, and the type."""
    return tag[0], tag[2:]


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, from left to right.

    One begins with `B`, and with an `I` that goes on with nothing of its type, which IOB2 has not but a model may predict; it ends
    before the next `B`, `O` or other type.
    """
    result: list[Entity] = []
    place, kind, start = OUTSIDE, "", 0
    for at, tag in enumerate((*tags, OUTSIDE)):
        new_place, new_kind = _parts(tag)
        begins = new_place != OUTSIDE and (new_place == "B" or place == OUTSIDE or new_kind != kind)
        if place != OUTSIDE and (begins or new_place == OUTSIDE):
            result.append(Entity(kind, start, at))
        if begins:
            start = at
        place, kind = new_place, new_kind
    return result


def stray(tags: Sequence[str]) -> int | None:
    """The first word whose `I` goes on with nothing of its type; None: the tags are IOB2."""
    before = OUTSIDE
    for at, tag in enumerate(tags):
        place, kind = _parts(tag)
        if place == "I" and (before == OUTSIDE or _parts(before)[1] != kind):
            return at
        before = tag
    return None
