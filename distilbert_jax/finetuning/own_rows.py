"""Rows of a table as a task has them: texts checked, labels as ids or numbers, answers where they stand."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from distilbert_jax.errors import shortened
from distilbert_jax.finetuning.entities import is_iob2, stray
from distilbert_jax.finetuning.files import Table, check_texts
from distilbert_jax.finetuning.inferred import Labels, Values, cell, is_amount, number_of, truth_of
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.squad import wrong_answers
from distilbert_jax.text.columns import absent_column

ID = "id"  # of a question
SEVERAL = "labels"  # the column that a task has for several labels, or several amounts, of a row: a number each


@dataclasses.dataclass(frozen=True)
class Reader:
    """Rows of a table as a task has them: texts checked, labels as ids or numbers.

    Attributes:
        roles: of the table's columns.
        labels: what is learned; None: of answers, which have no labels, and of rows that are to be predicted.
        labelled: whether what is learned is read.
    """

    roles: Roles
    labels: Labels | None = None
    labelled: bool = True

    def columns(self, table: Table) -> tuple[str, ...]:
        """What is read of a table: of questions also their `id`, by which answers are predicted, where there is one."""
        ids = (ID,) if self.roles.answers and self.labelled and ID in table.columns else ()
        return (*self.roles.inputs, *(self.roles.targets if self.labelled else ()), *ids)

    def rows(self, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every row of a table, converted, as a stream, and its number.

        Raises:
            InputError: a text, a label or an answer is missing or wrong; the row is named.
        """
        columns = self.columns(table)
        for number, row in table.rows(columns):
            targets = self.targets(table, number, row) if self.labelled else {}
            yield number, self.inputs(table, number, row) | targets | ({ID: str(row[ID])} if ID in columns else {})

    def inputs(self, table: Table, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a model reads of a row."""
        if self.roles.tokens:
            return {self.roles.tokens: words_of(table, number, self.roles.tokens, row)}
        check_texts(table, number, row, self.roles.inputs)
        return {name: row[name] for name in self.roles.inputs}

    def targets(self, table: Table, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """What is learned of a row, under the names of `targets_of`."""
        roles, labels = self.roles, self.labels
        if roles.answers:
            return {roles.answers: answers_of(table, number, row, roles)}
        assert labels is not None
        wrong = lambda column: Values(table, column)  # which knows how to tell what is wrong
        if roles.tags:
            tags = tags_of(table, number, row, roles)
            ids = [labels.id_of(wrong(roles.tags), number, tag) for tag in tags]
            if is_iob2(labels.names) and (at := stray(names := [labels.names[place] for place in ids])) is not None:
                before = names[at - 1] if at else "the beginning"
                raise wrong(roles.tags).wrong(
                    number,
                    f"is {names[at]} at word {at + 1} after {before}: in IOB2 an entity begins with B{names[at][1:]}",
                )
            return {roles.tags: ids}
        if len(roles.label) > 1:
            of = truth_of if labels.kind == "multi_label" else number_of
            given = [of(row[name]) for name in roles.label]
            for name, value in zip(roles.label, given, strict=True):
                if not is_amount(value):
                    expected = "0 or 1" if labels.kind == "multi_label" else "a number that float32 holds"
                    raise wrong(name).wrong(number, f"is {shortened(repr(row[name]))}; expected {expected}")
            return {SEVERAL: [float(value) for value in given if value is not None]}
        name = roles.one_label
        value = wrong(name).read(number, row[name])
        if labels.kind == "regression":
            amount = number_of(value)
            if amount is None or not is_amount(amount):
                raise wrong(name).wrong(
                    number, f"is {shortened(repr(row[name]))}; expected a number that float32 holds"
                )
            return {name: float(amount)}
        if labels.kind == "multi_label":
            given = value if isinstance(value, list) else [value]  # of a model of several a row may name one
            ids = {labels.id_of(wrong(name), number, one) for one in given}
            return {SEVERAL: [float(place in ids) for place in range(len(labels.names))]}
        return {name: labels.id_of(wrong(name), number, value)}


def words_of(table: Table, number: int, column: str, row: Mapping[str, Any], *, numbers: bool = False) -> list[Any]:
    """The words, or the tags, of a row: a list, or text with blanks between them.

    Raises:
        InputError: there are none, or one of them is blank or no text.
    """
    if column not in row:
        raise absent_column(table.name, [column], tuple(row), row=number)
    value = cell(row[column], functools.partial(Values(table, column).wrong, number))
    given = value.split() if isinstance(value, str) else value
    kinds = str | int if numbers else str
    if not isinstance(given, list) or not given:
        what = "has no words" if given == [] else f"is {value!r:.60}"
        raise Values(table, column).wrong(number, f"{what}; expected a list of words, or text with blanks between them")
    for word in given:
        if not isinstance(word, kinds) or not str(word).strip() or "\0" in str(word):
            raise Values(table, column).wrong(number, f"has the word {word!r:.40}; expected text that is not blank")
    return given


def tags_of(table: Table, number: int, row: Mapping[str, Any], roles: Roles) -> list[Any]:
    """The tags of a row, one for each of its words.

    Raises:
        InputError: as `words_of`, or their numbers differ.
    """
    words, tags = words_of(table, number, roles.tokens, row), words_of(table, number, roles.tags, row, numbers=True)
    if len(tags) != len(words):
        raise Values(table, roles.tags).wrong(number, f"has {len(tags)} tags for {len(words)} {roles.tokens}")
    return table.named(roles.tags, tags)


def answers_of(table: Table, number: int, row: Mapping[str, Any], roles: Roles) -> dict[str, list[Any]]:
    """The answers of a question, {text, answer_start}, each a list; an empty one of a question without an answer.

    Raises:
        InputError: they are not laid out so, or one does not stand at its offset in the context.
    """
    column, context = roles.answers, row[roles.context]
    given, wrong = row[column], Values(table, column).wrong
    value = cell(given, functools.partial(wrong, number))
    # A text is of a table with one answer a row, which says not where it stands.
    if isinstance(given, str) and not _is_laid_out(value):
        text = given.strip()
        places = len(re.findall(f"(?={re.escape(text)})", context))
        if not text or places != 1:
            what = "is blank" if not text else f"{value!r:.60} stands {places} times in {roles.context}"
            raise wrong(number, f"{what}; expected {{text, answer_start}}, or a text that stands there once")
        return {"text": [text], "answer_start": [context.index(text)]}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        value = {name: [one.get(name) for one in value] for name in ("text", "answer_start")}
    if said := wrong_answers(context, value):
        raise wrong(number, said)
    laid_out = cast(Mapping[str, list[Any]], value)
    return {name: laid_out[name] for name in ("text", "answer_start")}


def _is_laid_out(value: Any) -> bool:
    """Whether what a text holds is answers; a text of brackets may be one itself, such as [1]."""
    return (isinstance(value, dict) and bool(value)) or (
        isinstance(value, list) and all(isinstance(one, dict) for one in value)
    )


def group_of(roles: Roles, row: Mapping[str, Any]) -> str:
    """What rows share that are held out together: the first text, of answers the context."""
    return str(row[roles.context or roles.inputs[0]])
