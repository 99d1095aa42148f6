"""Labels of a table inferred: whether they are classes, several at once, or amounts, and what the classes are called."""

import ast
import contextlib
import dataclasses
import functools
import io
import json
import math
import re
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from distilbert_jax.config import MOST_LABELS
from distilbert_jax.errors import InputError, counted, few, nearest, shortened
from distilbert_jax.finetuning.files import Table

LabelKind = Literal["classification", "multi_label", "regression"]

# A zero before other digits is of a code, such as 010, which is no number and keeps its zero.
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WITH_COMMA = re.compile(r"[+-]?[\d.]*\d,\d[\d.,]*", re.ASCII)
_MISSING = {"", "nan", "na", "n/a", "null", "none"}  # in a column of numbers
FEW_NUMBERS = 20  # so many whole numbers are classes, such as stars; more are amounts, such as years
_DISTINCT = 20_000  # values that are told apart while a column is read
LARGEST = 3.4028234663852886e38  # of float32


def cell(value: Any, wrong: Callable[[str], InputError]) -> Any:
    """A list or an object that a file of text holds as JSON, or as Python shows it; anything else as it is.

    Args:
        wrong: makes the error of what is said of the value.

    Raises:
        InputError: it is as NumPy shows an array, without commas: Python would join the texts, and an array may be shown in part.
    """
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if _is_numpys(value):
        raise wrong(
            f"is {shortened(value)}, as NumPy shows an array: write lists as JSON has them, with commas, or the table as .jsonl"
        )
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(value.strip())
    return value


def _is_numpys(text: str) -> bool:
    """Whether a text is values in brackets with nothing but blanks or an ellipsis between two of them."""
    blanks = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    beside, before = False, False
    try:
        for kind, word, *_ in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            is_value = kind in (tokenize.STRING, tokenize.NUMBER)
            if kind == tokenize.NAME or (kind == tokenize.OP and word not in "[],...-+"):
                return False
            beside = beside or (before and (is_value or word == "..."))
            before = is_value if kind not in blanks and word not in ("-", "+") else before
    except (tokenize.TokenError, SyntaxError):
        return False
    return beside


def number_of(value: Any) -> float | None:
    """A value as a number, NaN where it says that there is none; None: it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _MISSING:
            return math.nan
        if not _NUMBER.fullmatch(text):
            return None
        return int(text) if text.lstrip("+-").isdecimal() and len(text) < 300 else float(text)
    if isinstance(value, int) and abs(value) >= 2**1023:  # near what float64 does not hold
        return math.inf if value > 0 else -math.inf
    return value


def is_amount(number: float | None) -> bool:
    """Whether a number can be learned: it is one, and float32 holds it."""
    return number is not None and abs(number) <= LARGEST


class Values:
    """What a column of labels holds, as far as it tells what they are. An id of a table that names its ids is its name.

    Args:
        named: whether it is; of columns that say each of one class whether a row has it, 0 and 1 are no ids.
        sets: whether a list is the classes of a row, not the tags of its words.

    Attributes:
        counts: {value: rows}, text as `_stripped` has it, true and false by name; of lists their elements.
        rows: {value: the first row that has it}.
        lists: whether the values are lists.
    """

    def __init__(self, table: Table, column: str, *, named: bool = True, sets: bool = True):
        self.table, self.column, self.total, self.sets = table, column, 0, sets
        self._named = table.named if named else lambda column, value: value
        self.counts: Counter[Any] = Counter()
        self.rows: dict[Any, int] = {}
        self.lists = False

    def add(self, number: int, given: Any) -> None:
        """Look at the label of a row.

        Raises:
            InputError: there is none, or it is neither text, number, true or false, nor a list of them.
        """
        value = self.read(number, given)
        if self.total and isinstance(value, list) != self.lists:
            raise self.wrong(number, f"is {shortened(repr(given))}: some rows have lists, others have not")
        if self.sets and isinstance(value, list) and _is_multi_hot(value):
            raise self.wrong(
                number,
                f"is {shortened(repr(given))}, a 0 or 1 for each label: write the names of those that a row has, or a column of 0 "
                "and 1 for each of them: --label A B C",
                "--label",
            )
        self.total, self.lists = self.total + 1, isinstance(value, list)
        for one in dict.fromkeys(map(self._one(number), value if self.lists else [value])):
            self.counts[one] += 1
            self.rows.setdefault(one, number)
        if len(self.counts) > _DISTINCT and not self.all_numbers:
            raise self.wrong(number, f"has more than {_DISTINCT:,} different values: is it the column of the labels?")

    def read(self, number: int, given: Any) -> Any:
        """The label of a row as it is meant: a list that is written as text, and an id by its name."""
        return self._named(self.column, cell(given, functools.partial(self.wrong, number)))

    def _one(self, number: int) -> Callable[[Any], Any]:
        def checked(value: Any) -> Any:
            if value is None or (isinstance(value, str) and not value.strip()):
                raise self.wrong(number, "is empty: remove the row, or give it a label")
            if isinstance(value, float) and not math.isfinite(value):
                raise self.wrong(number, f"is {value}: remove the row, or give it a label")
            if not isinstance(value, str | int | float):
                raise self.wrong(number, f"is {shortened(repr(value))}; expected a text or a number")
            # True and 1 are one key of a dict.
            return name_of(value) if isinstance(value, bool) else _stripped(value)

        return checked

    @property
    def all_numbers(self) -> bool:
        return all(number_of(value) is not None for value in self.counts) and any(
            not math.isnan(number_of(value) or 0.0) for value in self.counts
        )

    def numbers(self) -> dict[Any, float]:
        """{value: number}; a missing one is told with its row.

        Raises:
            InputError: a value is none, or not finite.
        """
        numbers = {}
        for value in self.counts:
            number = number_of(value)
            if number is None or not is_amount(number):
                what = "no number" if number is None else "missing, or beyond what float32 holds"
                raise self.wrong(self.rows[value], f"is {value!r}, {what}; a regression learns numbers")
            numbers[value] = number
        return numbers

    def wrong(self, number: int, what: str, hint: str | None = None) -> InputError:
        return InputError(
            f"{self.table.name}, row {number}: {self.column} {what}",
            path=self.table.name,
            field=self.column,
            row=number,
            hint=hint,
        )


@dataclasses.dataclass(frozen=True)
class Labels:
    """What one column of labels, or several, came to.

    Attributes:
        kind: classes, several at once, or amounts.
        names: of the classes by id; of several columns those; empty: one amount.
        called: the name of the class that a value stands for.
        why: how this was told, in words.
    """

    kind: LabelKind
    names: tuple[str, ...]
    why: str
    called: Callable[[Any], str] = str

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def id_of(self, values: Values, number: int, value: Any) -> int:
        """The id of the class of a row of another split than `names` come from.

        Raises:
            InputError: there is no such class; the nearest is named.
        """
        name = self.called(value)
        if name in self._ids:
            return self._ids[name]
        hint = f"--labels {' '.join([*self.names, name])}"
        raise values.wrong(
            number,
            f"is {shortened(name, 40)!r}, which no row of train has ({nearest(name, self.names)}); a class that train lacks is "
            f"named by {hint}",
            hint,
        )


def _is_multi_hot(value: Sequence[Any]) -> bool:
    """Whether a list says of each label whether a row has it: of 0 and 1 that are no ids, or stand there twice."""
    bits = bool(value) and all(isinstance(one, int | float) and one in (0, 1) for one in value)
    return bits and (len(set(value)) < len(value) or any(type(one) is not int for one in value))


def name_of(value: Any) -> str:
    """How a class is called whose label is this value: 1 of 1.0 too, `true` of True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def infer(
    values: Sequence[Values], *, kind: LabelKind | None = None, names: Sequence[str] = (), classes: Sequence[str] = ()
) -> Labels:
    """What the labels of some rows are.

    One column: lists are several classes at once; text, true and false are classes; of numbers those with fractions are amounts,
    and whole ones classes where they are few, or all of 0 to n − 1. Several columns: 0 and 1, or true and false, say which
    classes a row has; other numbers are amounts.

    Args:
        values: of each column, of all rows of train.
        kind: what the user says that they are; None: to be told.
        names: of the classes in their order, as the user gives them.
        classes: names of the ids, which the table says itself; `values` has the names.

    Raises:
        InputError: they cannot be that, or there is one class alone.
    """
    if len(set(names)) < len(names):
        raise InputError(f"--labels {' '.join(names)}: expected each name once", field="--labels")
    if len(values) > 1:
        return _several(values, kind)
    (one,) = values
    if kind == "regression" or (kind is None and not names and not classes and _are_amounts(one)):
        return _amounts(one, kind)
    if kind == "multi_label" and not one.lists:
        raise InputError(
            f"{one.table.name}: {one.column} holds no lists (row {next(iter(one.rows.values()))}: "
            f"{shortened(repr(next(iter(one.counts))))}); several labels are a list, or columns of 0 and 1: --label A B C",
            path=one.table.name,
            field=one.column,
            hint="--label",
        )
    if kind == "classification" and one.lists:
        raise InputError(
            f"{one.table.name}: {one.column} holds lists of labels; --kind multi_label",
            path=one.table.name,
            field=one.column,
            hint="--kind multi_label",
        )
    if kind is None and not names and not classes and one.counts and all(map(_has_comma, one.counts)):
        value, row = next(iter(one.rows.items()))
        raise one.wrong(
            row,
            f"is {value!r}, a number with a comma: write it with a point, and no other sign, or say --kind classification",
            "--kind classification",
        )
    labels = _classes(one, tuple(map(_stripped, names)), classes)
    if kind is None and len(labels.names) > max(100, one.total // 2) and not names and not classes:
        raise InputError(
            f"{one.table.name}: {one.column} has {len(labels.names):,} different values in {one.total:,} rows, such as "
            f"{shortened(repr(labels.names[0]), 40)}: is it the column of the labels? If it is: --kind classification",
            path=one.table.name,
            field=one.column,
            hint="--kind classification",
        )
    return labels


def _are_amounts(values: Values) -> bool:
    if values.lists or not values.all_numbers:
        return False
    numbers = {number_of(value) for value in values.counts}
    every = sorted(number for number in numbers if number is not None and not math.isnan(number))
    if any(number != number // 1 for number in every):
        return True
    return len(every) > FEW_NUMBERS and not (every == list(range(len(every))) and values.total >= 2 * len(every))


def _amounts(values: Values, kind: LabelKind | None) -> Labels:
    if values.lists:
        raise values.wrong(next(iter(values.rows.values())), "holds lists; a regression learns numbers")
    numbers = values.numbers().values()
    low, high = min(numbers), max(numbers)
    if low == high:
        raise InputError(
            f"{values.table.name}: {values.column} is {low:g} in every row: nothing is to be learned",
            path=values.table.name,
            field=values.column,
        )
    why = f"numbers from {low:g} to {high:g}" + ("" if kind else "; --kind classification if they are classes")
    return Labels("regression", (), why)


def _classes(values: Values, given: Sequence[str], told: Sequence[str]) -> Labels:
    kind: LabelKind = "multi_label" if values.lists else "classification"
    whole = all((number := number_of(value)) is not None and number == number // 1 for value in values.counts)
    if values.all_numbers and not given:
        values.numbers()  # tells a missing one

    def plain(value: Any) -> str:
        number = number_of(value) if whole else None
        return name_of(_stripped(value) if number is None else number)

    told = [_stripped(name) for name in told]
    if len(set(told)) < len(told):
        raise InputError(f"{values.table.name}: {values.column} names two classes alike: {', '.join(told)}")
    if told:
        if given and set(given) != set(told):
            raise InputError(
                f"--labels {' '.join(given)}: {values.table.name} itself names them {', '.join(told)}", field="--labels"
            )
        names, called, why = tuple(given or told), _or_by_id(told), "names that the data set has"
    elif given and whole and not {plain(value) for value in values.counts} <= set(given):
        names, called, why = tuple(given), _or_by_id(given), "names as given, by their ids"
    elif given:
        names, called, why = tuple(given), plain, "names as given"
    elif whole:
        names = tuple(map(str, sorted({int(number_of(value) or 0) for value in values.counts})))
        amounts = "; --kind regression if they are amounts" if kind == "classification" else ""
        called, why = plain, f"whole numbers{amounts}"
    else:
        names, called, why = tuple(sorted(set(map(plain, values.counts)))), plain, "in the order of their letters"
    seen = set()
    for value in values.counts:
        if (name := called(value)) not in names:
            raise values.wrong(values.rows[value], f"is {value!r}, no label of these; {nearest(name, names)}")
        seen.add(name)
    if len(names) > MOST_LABELS:
        raise InputError(
            f"{values.table.name}: {counted(len(names), 'label')}, and {MOST_LABELS:,} at most are learned"
        )
    if kind == "classification" and len(seen) < 2:
        raise InputError(
            f"{values.table.name}: every row has the {values.column} {seen.pop()!r}: expected two classes or more",
            path=values.table.name,
            field=values.column,
        )
    if not values.sets and len(seen) < 2:
        raise InputError(
            f"{values.table.name}: every word has the tag {seen.pop()!r}: expected two tags or more",
            path=values.table.name,
            field=values.column,
        )
    if kind == "multi_label" and values.sets and all(rows == values.total for rows in values.counts.values()):
        raise InputError(
            f"{values.table.name}: every row has each of the {values.column} {few(names, ', ')}: nothing is to be learned",
            path=values.table.name,
            field=values.column,
        )
    return Labels(kind, names, why, called)


def _stripped(value: Any) -> Any:
    """A text without blanks at its ends, in the form of Unicode (NFC) in which what looks the same is the same."""
    return unicodedata.normalize("NFC", value.strip()) if isinstance(value, str) else value


def _has_comma(value: Any) -> bool:
    return isinstance(value, str) and _WITH_COMMA.fullmatch(value) is not None


def _or_by_id(names: Sequence[str]) -> Callable[[Any], str]:
    """The name of a class by its name, or by its id where no class is called by a number; anything else as it is."""
    own, ids = set(names), () if any(number_of(name) is not None for name in names) else names

    def called(value: Any) -> str:
        number = number_of(value)
        whole = number is not None and number == number // 1
        name = name_of(_stripped(value) if number is None or not whole else number)
        if name in own or number is None or not whole or not 0 <= number < len(ids):
            return name
        return ids[int(number)]

    return called


_TRUTH = {"0": 0, "1": 1, "false": 0, "true": 1}


def truth_of(value: Any) -> int | None:
    """1 or 0 of a column that says whether a row has a class; None: it says something else."""
    number = number_of(value)
    return _TRUTH.get(name_of(value if number is None else number).strip().lower())


def _several(columns: Sequence[Values], kind: LabelKind | None) -> Labels:
    names = tuple(one.column for one in columns)
    if kind == "classification":
        raise InputError(f"--kind classification: is of one --label, not {' '.join(names)}", field="--kind")
    wrong = next(
        ((one, value) for one in columns for value in one.counts if one.lists or truth_of(value) is None), None
    )
    if kind == "multi_label" or (kind is None and wrong is None):
        if wrong:
            one, value = wrong
            raise one.wrong(one.rows[value], f"is {value!r}; expected 0 or 1 of each class")
        _check_several(columns, truth_of)
        return Labels("multi_label", names, "columns of 0 and 1")
    for one in columns:
        one.numbers()
    _check_several(columns, number_of)
    return Labels("regression", names, "columns of numbers")


def _check_several(columns: Sequence[Values], meant: Callable[[Any], Any]) -> None:
    """Raise InputError where each of several columns has one value alone."""
    if all(len({meant(value) for value in one.counts}) < 2 for one in columns):
        table, names = columns[0].table.name, few([one.column for one in columns], ", ")
        raise InputError(
            f"{table}: each of {names} has the same value in every row: nothing is to be learned",
            path=table,
            field=columns[0].column,
        )
