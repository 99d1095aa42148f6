"""Labelled tasks of one's own: what is learned of the columns of a table, looked at before anything is trained."""

import dataclasses
import hashlib
import itertools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from distilbert_jax.base.files import as_name
from distilbert_jax.base.progress import progress
from distilbert_jax.errors import InputError, few, shortened
from distilbert_jax.finetuning.entities import OUTSIDE, are_of_other_scheme, have_pair, no_iob2
from distilbert_jax.finetuning.files import Table, open_table
from distilbert_jax.finetuning.inferred import LabelKind, Labels, Values, infer, number_of, truth_of
from distilbert_jax.finetuning.labels import meaning
from distilbert_jax.finetuning.own_rows import SEVERAL, Reader, answers_of, group_of, tags_of
from distilbert_jax.finetuning.own_splits import DEV, TRAIN, OwnSplits, Pinned, is_held_out
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.tasks import Task, TaskKind, remember, usual_metrics
from distilbert_jax.text.columns import USUAL, Layout

_COMPARED = 200  # classes whose names are compared with one another
_FEWEST_STEPS, _MOST_EPOCHS = 600, 20  # of small data, where three epochs are too few steps to learn anything


def own_task(
    train: Any,
    dev: Any = None,
    *,
    roles: Roles,
    kind: LabelKind | None = None,
    labels: Sequence[str] = (),
    layout: Layout = USUAL,
) -> Task:
    """The task of tables of one's own, known to `find_task` from then on. What was told of it is said in lines on stderr.

    Both tables are read once here, so that whatever is wrong is told before anything is trained.

    Args:
        train, dev: as `open_table` takes them; dev None: a tenth of train, by the hash of its text.
        roles: of their columns.
        kind: what the labels are, where it is not to be told from them; of tags "classification": plain ones, not of entities.
        labels: names of the classes in their order, where it is not to be told.
        layout: of the files.

    Raises:
        InputError: a column is not there, a row is wrong, there is one class alone, dev has classes that train lacks, or there
            are too few rows.
    """
    roles.require_targets()
    given = open_table(train, layout=layout, what="train", split="train", option="--train")
    scored = None if dev is None else open_table(dev, layout=layout, what="dev", split="validation", option="--dev")
    for table in (given, *((scored,) if scored else ())):
        require_columns(table, roles)
    columns = Reader(roles).columns
    pinned, pinned_dev = Pinned.of(given, columns(given)), scored and Pinned.of(scored, columns(scored))
    seen, held = look(given, roles, apart=scored is None), None
    check_begin = lambda of: _check_begin(of, roles, labels) if layout.names else None
    check_begin(seen)
    learned = _labels_of(seen, roles, kind, labels, given)
    if scored is not None:
        held = look(scored, roles)
        check_begin(held)
        _check_known(held, learned, roles.choices)
    elif not 0 < seen.held_rows < seen.rows:
        raise InputError(
            f"{given.name}: {seen.rows} rows are too few to hold a tenth of them out for the score: name others with --dev",
            path=given.name,
            field="--dev",
            hint="--dev",
        )
    source = OwnSplits(Reader(roles, learned), pinned, pinned_dev)
    rows = {TRAIN: seen.rows - seen.held_rows, DEV: held.rows if held else seen.held_rows}
    task = task_of(source, learned, rows)
    _say(task, roles, seen, held, learned)
    return remember(task)


def require_columns(table: Table, roles: Roles, *, labelled: bool = True) -> None:
    """Raise InputError where a column is not there, with the option that names it."""
    for field in dataclasses.fields(roles):
        if labelled or field.name not in ("label", "tags", "answers"):
            value = getattr(roles, field.name)
            columns = value if isinstance(value, tuple) else (value,) if value else ()
            table.require(columns, f"--{field.name.replace('_', '-')}")


@dataclasses.dataclass
class Seen:
    """What a look at a table has shown: values of its labels, rows, of those held out the same, and which row is the first."""

    table: Table
    values: tuple[Values, ...]
    rows: int = 0
    held: tuple[Values, ...] = ()
    held_rows: int = 0
    first: tuple[int, Mapping[str, Any]] | None = None


def look(table: Table, roles: Roles, *, apart: bool = False) -> Seen:
    """Read all rows of a table: texts are checked, labels counted. apart: a tenth is held out."""
    columns = roles.label or ((roles.tags,) if roles.tags else ())
    values = lambda: tuple(Values(table, column, named=len(columns) == 1, sets=not roles.tags) for column in columns)
    seen, reader = Seen(table, values(), held=values()), Reader(roles)
    with progress(f"reading {table.name}", table.size) as done:
        for number, row in table.rows(reader.columns(table)):
            reader.inputs(table, number, row)
            seen.first = seen.first or (number, row)
            if roles.answers:
                answers_of(table, number, row, roles)
            held_out = apart and is_held_out(group_of(roles, row))
            for one in (*seen.values, *(seen.held if held_out else ())):
                one.add(number, tags_of(table, number, row, roles) if roles.tags else row[one.column])
            seen.rows += 1
            seen.held_rows += held_out
            done(seen.rows)
    return seen


def _check_begin(seen: Seen, roles: Roles, names: Sequence[str]) -> None:
    """Of a file whose columns are named by --columns, raise InputError where its first row names them, too; say so where it may.

    It does where its label alone is none of numbers, or is called as the column. Where it is of a class that no other row has, it
    may: a class is seldom so rare, but it can be.
    """
    assert seen.first is not None
    number, row = seen.first
    for one in seen.values:
        given = [value for value, first in one.rows.items() if first == number]
        if len(given) != 1 or one.counts[given[0]] > 1 or given[0] in names or len(one.counts) < 2:
            continue
        (value,) = given
        is_number = lambda label: number_of(label) is not None or truth_of(label) is not None
        odd = not is_number(value) and all(is_number(other) for other in one.counts if other != value)
        if odd or str(value).casefold() == one.column.casefold():
            others = "a number in all other rows" if odd else "another in all other rows"
            hint = "leave --columns out"
            raise one.wrong(
                number, f"is {value!r}, and {others}: this row names the columns; {hint}, or remove it", hint
            )
        if (
            _are_names([row[name] for name in (*roles.inputs, one.column)])
            and min(rows for other, rows in one.counts.items() if other != value) > 1
        ):
            print(
                f"{one.table.name}, row {number}: no other row has the {one.column} {value!r}: if this row names the columns, "
                "leave --columns out",
                file=sys.stderr,
            )


def _are_names(cells: Sequence[Any]) -> bool:
    """Whether what stands in a row may be the names of columns: a word or a few each, no two the same."""
    short = [cell.strip() for cell in cells if isinstance(cell, str) and len(cell) <= 30 and len(cell.split()) <= 3]
    plain = [text.casefold() for text in short if number_of(text) is None and text[-1:] not in ".!?"]
    return len({*plain}) == len(cells)


def _labels_of(seen: Seen, roles: Roles, kind: LabelKind | None, names: Sequence[str], table: Table) -> Labels | None:
    """What is learned of a table; None of answers."""
    if not seen.values:
        return None
    column = seen.values[0].column
    if roles.choices:
        return right_choice(seen.values[0], roles.choices)
    learned = infer(
        seen.values,
        kind="multi_label" if roles.tags else kind,
        names=names,
        classes=table.classes.get(column, ()) if len(seen.values) == 1 else (),
    )
    if roles.tags and not names and column not in table.classes:
        order = lambda tag: (tag != "O", tag.partition("-")[2], tag)
        learned = dataclasses.replace(learned, names=tuple(sorted(learned.names, key=order)))
    if roles.tags and kind != "classification":
        _check_iob2(seen.values[0], learned)
    return learned


def _check_iob2(tags: Values, labels: Labels) -> None:
    """Raise InputError where some tags are of entities and others are none of IOB2, which would be scored as plain ones."""
    bad = [name for name in no_iob2(labels.names) if not are_of_other_scheme([name])]
    if not bad:
        return
    hint = "--kind classification"
    said = f"of entities are others; in IOB2 they are O, B-TYPE and I-TYPE; if they are plain tags: {hint}"
    value = min((one for one in tags.counts if labels.called(one) in bad), key=lambda one: tags.rows[one], default=None)
    if value is None:  # no row has it, but it is named
        raise InputError(
            f"{tags.table.name}: {tags.column} has the tag {bad[0]!r}, and {said}",
            path=tags.table.name,
            field=tags.column,
            hint=hint,
        )
    raise tags.wrong(tags.rows[value], f"has the tag {labels.called(value)!r}, and {said}", hint)


def right_choice(values: Values, choices: tuple[str, ...]) -> Labels:
    """Which column is right: its name, its letter, or its place from 0, or from 1 where the values say so. Numbers are either all
    of them names of columns, as whole numbers or with a fraction of 0, or all of them places."""
    of_number = {number: name for name in choices if (number := number_of(name)) is not None}

    def named(value: Any) -> str | None:
        text = str(value).strip()
        return text if text in choices else of_number.get(number) if (number := number_of(value)) is not None else None

    in_numbers = [value for value in values.counts if number_of(value) is not None]
    numbers = {number for value in in_numbers if not named(value) and (number := number_of(value)) is not None}
    last = len(choices)
    if numbers and (name := next(filter(named, in_numbers), None)) is not None:
        value = next(value for value in in_numbers if not named(value))
        raise values.wrong(
            values.rows[value],
            f"is {value!r}, the name of none of the columns, and {name!r} of another row is one's: numbers are either names or "
            "places; rename the columns, or write their letters",
        )
    if numbers and not numbers & {0, last} and numbers <= {*range(last)}:
        value = min((value for value in values.counts if number_of(value) in numbers), key=lambda one: values.rows[one])
        hint = f"{choices[0]}, {choices[1]}, …"
        raise values.wrong(
            values.rows[value],
            f"is {value!r}: no row has 0 and none {last}, so places may count from 0 or from 1; write the names of the columns "
            f"({hint}) or their letters",
            hint,
        )
    first = 1 if last in numbers and 0 not in numbers else 0
    # Where no row of train has a place, dev's could count from 0 or from 1.
    places = {float(place): name for place, name in enumerate(choices, first)} if numbers else {}
    letters = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", choices, strict=False))
    if any(len(name) == 1 and name.upper() in letters for name in choices):  # columns b and a: "A" may be either
        letters = {}

    def called(value: Any) -> str:
        text, number = str(value).strip(), number_of(value)
        if (name := named(value)) is not None:
            return name
        return letters.get(text.upper(), text) if number is None else places.get(number, text)

    wrong = next((value for value in values.counts if called(value) not in choices), None)
    if wrong is not None:
        raise values.wrong(
            values.rows[wrong],
            f"is {wrong!r}; expected the place, the letter or the name of one of {few(choices, ', ')}",
        )
    return Labels("classification", choices, f"places count from {first}" if numbers else "by name or letter", called)


def _check_known(dev: Seen, labels: Labels | None, choices: Sequence[str]) -> None:
    """Raise InputError where dev has classes that are unknown, all of them are named, or amounts that are none."""
    if labels is not None and labels.kind == "regression":
        for values in dev.values:
            values.numbers()
        return
    if labels is None or len(dev.values) > 1:
        return
    values = next(iter(dev.values))
    unknown = [value for value in values.counts if labels.called(value) not in labels.names]
    if unknown:
        first = min(unknown, key=lambda value: values.rows[value])
        if choices:  # to which no name can be added
            raise values.wrong(
                values.rows[first],
                f"is {shortened(repr(first), 40)}, which is none of {few(choices, ', ')} as train has them ({labels.why})",
            )
        names = [labels.called(value) for value in unknown]
        if len(names) == 1:
            labels.id_of(values, values.rows[first], first)
        hint = f"--labels {' '.join((*labels.names, *names))}"
        raise values.wrong(
            values.rows[first],
            f"and others are classes that no row of train has: {few(names, ', ')}; named by {hint}",
            hint,
        )


def task_of(source: OwnSplits, labels: Labels | None, rows: Mapping[str, int]) -> Task:
    """The task whose splits these are; its name tells their content. rows: of each split."""
    roles, name = source.reader.roles, source.train.name
    kind = cast(TaskKind, labels.kind if labels and roles.form == "sentences" else roles.form)
    names = () if labels is None else labels.names
    target = roles.targets if len(roles.targets) == 1 and kind != "multi_label" else (SEVERAL,)
    title = as_name(Path(name).stem, "own") if Path(name).suffix else "own"
    said = repr((roles, kind, names, source.fingerprint(TRAIN), source.fingerprint(DEV)))
    told = [source.dev.classes.get(column, names) for column in roles.targets] if source.dev else []
    if any(one != names for one in told):  # other names of the same ids
        said += repr(told)
    metrics, beside = usual_metrics(kind, names)
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "own"
    return Task(
        f"{plain}-{hashlib.sha256(said.encode()).hexdigest()[:8]}",
        title,
        roles.inputs,
        names,
        metrics,
        kind=kind,
        target=target,
        beside=beside,
        rows=rows,
        source=source,
    )


def usual_epochs(rows: int, batch_size: int) -> int:
    """Epochs where nobody asks for a number: 3, and of small data more, up to 20, so that there are some hundred steps (Mosbach et
    al. 2021, arXiv 2006.04884)."""
    return min(_MOST_EPOCHS, max(3, math.ceil(_FEWEST_STEPS / max(1, math.ceil(rows / max(1, batch_size))))))


def _say(task: Task, roles: Roles, seen: Seen, dev: Seen | None, labels: Labels | None) -> None:
    """What was told of the tables, and how to say otherwise, in lines on stderr."""
    table = seen.table
    every = _class_counts(labels, seen.values)
    of_dev = _class_counts(labels, dev.values if dev else seen.held)
    what = task.kind.replace("_", " ")
    if every:
        shown = few([f"{shortened(name, 30)} ({rows:,})" for name, rows in every.items()], ", ", 10)
        what += f" of {len(every)}: {shown}"
    why = f"; {labels.why}" if labels else ""
    print(
        f"{table.name}: {seen.rows:,} rows; {', '.join(task.columns)} → {', '.join(roles.targets)}: {what}{why}",
        file=sys.stderr,
    )
    if dev is None:
        print(
            f"{table.name}: no --dev: {seen.held_rows:,} of its rows, about a tenth of the different texts by their hash, are held "
            "out for the score",
            file=sys.stderr,
        )
    if roles.tags and no_iob2(task.labels) and are_of_other_scheme(no_iob2(task.labels)):
        print(
            f"{table.name}: {few(no_iob2(task.labels), ', ')} are no tags of IOB2: all are learned as plain tags, and scored by "
            "accuracy; for F1 of entities, S- and U- become B-, and E-, L- and M- become I-",
            file=sys.stderr,
        )
    if roles.tags and OUTSIDE not in task.labels and not no_iob2(task.labels) and have_pair(task.labels):
        print(
            f"{table.name}: no word is {OUTSIDE}, outside of all entities: {few(task.labels, ', ')} are learned as plain tags, and "
            f"scored by accuracy; for F1 of entities: --labels {' '.join((OUTSIDE, *task.labels))}",
            file=sys.stderr,
        )
    for one, other in itertools.combinations(every, 2) if len(every) <= _COMPARED else ():
        if meaning(one) == meaning(other):
            print(
                f"{table.name}: the classes {one!r} and {other!r} are learned apart, and differ in case, blanks or hyphens alone",
                file=sys.stderr,
            )
    learned = {name: rows - (0 if dev else of_dev[name]) for name, rows in every.items()}
    constant = _constant(seen, labels) if labels and labels.kind != "classification" and not roles.tags else {}
    for name, value in constant.items():
        print(
            f"{table.name}: {name} is {value:g} in every row to learn from: nothing is learned of it but that",
            file=sys.stderr,
        )
    if lacking := [name for name, rows in learned.items() if not rows and of_dev[name] and name not in constant]:
        print(f"{table.name}: no row to learn from of {few(lacking, ', ')}, which dev has", file=sys.stderr)


def _constant(seen: Seen, labels: Labels) -> dict[str, float]:
    """{class or column: its value} of those of several that have one value alone in the rows to learn from."""
    rows, held = seen.rows - seen.held_rows, {one.column: one.counts for one in seen.held}
    counts = {one.column: one.counts - held[one.column] for one in seen.values}
    if labels.kind == "multi_label" and len(counts) == 1:
        (column,) = counts  # of lists; of a class that is only named there is nothing to say
        return {labels.called(value): 1.0 for value, number in counts[column].items() if number == rows}
    meant = truth_of if labels.kind == "multi_label" else number_of
    values = {column: {meant(value) for value in of} for column, of in counts.items()}
    return {column: float(value) for column, of in values.items() if len(of) == 1 for value in of if value is not None}


def _class_counts(labels: Labels | None, columns: Sequence[Values]) -> dict[str, int]:
    """{class: how many rows have it}; nothing of what has no classes."""
    if labels is None or not labels.names or labels.kind == "regression":
        return {}
    counts = dict.fromkeys(labels.names, 0)
    for one in columns:
        for value, rows in one.counts.items():
            if len(columns) == 1:
                counts[labels.called(value)] += rows
            elif truth_of(value):
                counts[one.column] += rows
    return counts
