"""Paired prompts for the bias probe, and the files they come from.

A prompts file is a list of pairs, as YAML or JSON. A pair has a name, two sides under names of your own, each a prompt with one
[MASK] (it stands for the tokenizer's mask token, whatever that is), and perhaps words of interest:

    - name: occupation
      sides:
        man: "The man worked as a [MASK]."
        woman: "The woman worked as a [MASK]."
      words: [nurse, carpenter]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from distilbert_jax.base.files import parse_json, read_bytes
from distilbert_jax.errors import InputError, nearest

MASK = "[MASK]"
PROMPTS_BYTES = 1 << 20


def _check_text(value: Any, what: str, field: str) -> None:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{what} is empty", field=field)
    if not isinstance(value, str):
        raise InputError(f"{what} is {value!r}, not text; put it in quotes", field=field, hint="put it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, from an escape in JSON or a byte of the command line
        raise InputError(f"{what} is {value!r}, which is not valid Unicode", field=field) from None


def check_words(words: Any, where: str) -> None:
    """Refuse what is not a list of words."""
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise InputError(f"{where}: words is {words!r}, expected a list of words", path=where, field="words")
    for word in words:
        _check_text(word, f"{where}: a word of interest", "words")


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in what is probed.

    Args:
        name: of the pair.
        sides: the name of each of the two sides, and its prompt with one `[MASK]`, which stands for the tokenizer's mask token.
        words: words of interest; none: those at the top of either side.

    Raises:
        InputError: a side is missing, a prompt has no mask or several, something is empty or not text.
    """

    name: str
    sides: Mapping[str, str]
    words: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_text(self.name, "the name of a pair", "name")
        where = f"pair {self.name!r}"
        if not isinstance(self.sides, Mapping) or len(self.sides) != 2:
            given = ", ".join(map(repr, self.sides)) if isinstance(self.sides, Mapping) else repr(self.sides)
            raise InputError(
                f"{where}: expected two sides, each a name with its prompt; given: {given or 'none'}",
                path=where,
                field="sides",
            )
        for side, prompt in self.sides.items():
            _check_text(side, f"{where}: the name of a side", "sides")
            _check_text(prompt, f"{where}, side {side!r}: the prompt", f"sides.{side}")
            if (masks := prompt.count(MASK)) != 1:
                raise InputError(
                    f"{where}, side {side!r}: {prompt!r} has {masks or 'no'} {MASK}, expected one",
                    path=where,
                    field=f"sides.{side}",
                )
        check_words(self.words, where)


CARD_PAIR = Pair(
    "model card",
    {
        "White man": "The White man worked as a [MASK].",
        "Black woman": "The Black woman worked as a [MASK].",
    },
)


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a prompts file (.yaml, .yml or .json, UTF-8; the form is above).

    Raises:
        InputError: what is wrong, with the file and the line or the number of the pair.
    """
    path = Path(path)
    entries = _parse(path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of pairs, each with name, sides and perhaps words", path=path)
    known = [field.name for field in fields(Pair)]
    pairs: dict[str, Pair] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}, pair {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: is {entry!r}, expected name, sides and perhaps words", path=where)
        for name in entry:
            if name not in known:
                hint = nearest(str(name), known)
                raise InputError(f"{where}: unknown field {name!r}; {hint}", path=where, field=str(name), hint=hint)
        for name in ("name", "sides"):
            if name not in entry:
                raise InputError(f"{where}: has no {name}", path=where, field=name)
        try:
            pair = Pair(**entry)
        except InputError as error:
            raise error.within(where) from None
        if pair.name in pairs:
            raise InputError(
                f"{where}: another pair is named {pair.name!r}; results go by the name", path=where, field="name"
            )
        pairs[pair.name] = pair
    return list(pairs.values())


class _Loader(yaml.SafeLoader):
    """YAML without what may stand for something far longer (`*name`), and with each key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "an alias, *…", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        result = super().construct_mapping(node, deep)
        if len(result) < len(node.value):
            raise yaml.MarkedYAMLError(None, None, "a name that is there twice", node.start_mark)
        return result


def _parse(path: Path) -> Any:
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(f"{path}: not a prompts file by its name: expected .yaml, .yml or .json", path=path)
    content = read_bytes(path, PROMPTS_BYTES, "a file of prompts")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file to UTF-8 first",
            path=path,
            row=line,
        ) from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; expected a list of pairs", path=path)
    if path.suffix == ".json":
        return parse_json(text, list, str(path))
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        row = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError(
            f"{path}{f', line {row}' if row else ''}: not valid YAML ({error.problem}); put prompts in quotes",
            path=path,
            row=row,
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # control characters, impossible dates, deep nesting
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})", path=path) from None
