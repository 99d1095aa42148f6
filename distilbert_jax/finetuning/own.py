"""Labelled tasks of one's own: what the columns of a table are, what is learned of them, and the rows as a task's splits."""

import dataclasses
import functools
import hashlib
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from distilbert_jax.base.progress import progress
from distilbert_jax.errors import InputError, few, shortened
from distilbert_jax.finetuning.entities import is_iob2, stray
from distilbert_jax.finetuning.files import Table, check_texts, open_table
from distilbert_jax.finetuning.inferred import (
    LabelKind,
    Labels,
    Values,
    cell,
    infer,
    number_of,
    truth_of,
)
from distilbert_jax.finetuning.tasks import Task, TaskKind, remember, usual_metrics
from distilbert_jax.text.columns import USUAL, Layout

TRAIN, DEV = "train", "validation"
_AT_ONCE = 1000  # rows of a record batch
_FEWEST_STEPS, _MOST_EPOCHS = 600, 20  # of small data, where three epochs are too few steps to learn anything


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which columns of a table are what.

    Attributes:
        text, text_pair: a text, and a second one that is read with it.
        label: of one column the class, the classes (a list) or the amount; several: a class each (0 or 1), or an amount each.
        tokens, tags: words, and the tag of each: lists, or text with blanks between them.
        question, context, answers: as SQuAD has them; answers are {text, answer_start}, lists each.
        choices: texts of which `label` names one, after `text` where it is given.

    Raises:
        InputError: they are of several forms, or one of them lacks a part.
    """

    text: str = ""
    text_pair: str = ""
    label: tuple[str, ...] = ()
    tokens: str = ""
    tags: str = ""
    question: str = ""
    context: str = ""
    answers: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms = [name for name in ("tokens", "question", "choices") if getattr(self, name)]
        if len(forms) > 1 or (self.text and forms not in ([], ["choices"])):
            given = " and ".join(f"--{name}" for name in (*(["text"] if self.text else []), *forms))
            raise InputError(f"{given}: are of different tasks; give one of them", field=f"--{forms[-1]}")
        if not self.text and not forms:
            stray = next(
                (name for name in ("label", "text_pair", "tags", "context", "answers") if getattr(self, name)), ""
            )
            hint = {"tags": "--tokens WORDS", "context": "--question QUESTION", "answers": "--question QUESTION"}.get(
                stray, "--text COLUMN"
            )
            said = f"--{stray.replace('_', '-')} alone" if stray else "no column is named"
            raise InputError(
                f"{said}: name what is read: {hint} (or --tokens, --question with --context, --choices)",
                field="--text",
                hint=hint,
            )
        owners = {"text_pair": "text", "tags": "tokens", "context": "question", "answers": "question"}
        for part, owner in owners.items():
            if getattr(self, part) and not getattr(self, owner):
                raise InputError(
                    f"--{part.replace('_', '-')} {getattr(self, part)}: goes with --{owner}", field=f"--{part}"
                )
        if self.label and (self.tokens or self.question):
            hint = "--tags" if self.tokens else "--answers"
            raise InputError(f"--label {' '.join(self.label)}: here it is {hint}", field="--label", hint=hint)
        if self.question and not self.context:
            raise InputError(f"--question {self.question}: is answered from a --context", field="--context")
        if self.choices and self.text_pair:
            raise InputError(
                "--text-pair: goes with --text and --label; of --choices each is the pair of --text",
                field="--text-pair",
            )
        if len(self.choices) == 1:
            raise InputError(f"--choices {self.choices[0]}: expected two columns or more", field="--choices")
        used = (*self.inputs, *self.targets)
        if twice := next((name for name in used if used.count(name) > 1), None):
            raise InputError(f"column {twice!r} is named twice: a column is one thing", field=twice)

    @property
    def form(self) -> str:
        """sentences, tokens, answers or choices."""
        forms = ((self.tokens, "tokens"), (self.question, "answers"), (self.choices, "choices"))
        return next((name for given, name in forms if given), "sentences")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that are read."""
        given = (self.text, self.text_pair, self.tokens, self.question, self.context, *self.choices)
        return tuple(name for name in given if name)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of what is learned."""
        return tuple(name for name in (*self.label, self.tags, self.answers) if name)

    @property
    def one_label(self) -> str:
        """The column of labels, where there is one."""
        return "" if not self.label else self.label[0]

    def require_targets(self) -> None:
        """Raise InputError where what is learned is not named."""
        if not self.targets:
            hint = "--tags TAGS" if self.tokens else "--answers ANSWERS" if self.question else "--label COLUMN"
            raise InputError(f"what is learned is not named: {hint}", field=hint.split()[0], hint=hint)
        if self.choices and len(self.label) > 1:
            raise InputError(f"--label {' '.join(self.label)}: of --choices one is right", field="--label")


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

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of a table."""
        return (*self.roles.inputs, *(self.roles.targets if self.labelled else ()))

    def rows(self, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every row of a table, converted, as a stream, and its number.

        Raises:
            InputError: a text, a label or an answer is missing or wrong; the row is named.
        """
        for number, row in table.rows(self.columns):
            yield number, self.inputs(table, number, row) | (self.targets(table, number, row) if self.labelled else {})

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
                if value is None or value != value:
                    expected = "0 or 1" if labels.kind == "multi_label" else "a number"
                    raise wrong(name).wrong(number, f"is {row[name]!r}; expected {expected}")
            return {SEVERAL: [float(value) for value in given if value is not None]}
        name = roles.one_label
        value = cell(row[name])
        if labels.kind == "regression":
            amount = number_of(value)
            if amount is None or amount != amount:
                raise wrong(name).wrong(number, f"is {row[name]!r}; expected a number")
            return {name: float(amount)}
        if labels.kind == "multi_label":
            ids = {labels.id_of(wrong(name), number, one) for one in value}
            return {SEVERAL: [float(place in ids) for place in range(len(labels.names))]}
        return {name: labels.id_of(wrong(name), number, value)}


SEVERAL = "labels"  # the column that a task has for several labels, or several amounts, of a row: a number each


def words_of(table: Table, number: int, column: str, row: Mapping[str, Any], *, numbers: bool = False) -> list[Any]:
    """The words, or the tags, of a row: a list, or text with blanks between them.

    Raises:
        InputError: there are none, or one of them is blank or no text.
    """
    value = cell(row[column])
    given = value.split() if isinstance(value, str) else value
    kinds = str | int if numbers else str
    if not isinstance(given, list) or not given:
        what = "has no words" if given == [] else f"is {value!r:.60}"
        raise Values(table, column).wrong(number, f"{what}; expected a list of words, or text with blanks between them")
    bad = next(
        (word for word in given if not isinstance(word, kinds) or not str(word).strip() or "\0" in str(word)), None
    )
    if bad is not None:
        raise Values(table, column).wrong(number, f"has the word {bad!r:.40}; expected text that is not blank")
    return given


def tags_of(table: Table, number: int, row: Mapping[str, Any], roles: Roles) -> list[Any]:
    """The tags of a row, one for each of its words.

    Raises:
        InputError: as `words_of`, or their numbers differ.
    """
    words, tags = words_of(table, number, roles.tokens, row), words_of(table, number, roles.tags, row, numbers=True)
    if len(tags) != len(words):
        raise Values(table, roles.tags).wrong(number, f"has {len(tags)} tags for {len(words)} {roles.tokens}")
    return tags


def answers_of(table: Table, number: int, row: Mapping[str, Any], roles: Roles) -> dict[str, list[Any]]:
    """The answers of a question, {text, answer_start}, each a list; an empty one of a question without an answer.

    Raises:
        InputError: they are not laid out so, or one does not stand at its offset in the context.
    """
    column, context = roles.answers, row[roles.context]
    value, wrong = cell(row[column]), Values(table, column).wrong
    if isinstance(value, str):  # of a table with one answer a row, which says not where it stands
        text, places = value.strip(), context.count(value.strip())
        if not text or places != 1:
            what = "is blank" if not text else f"{value!r:.60} stands {places} times in {roles.context}"
            raise wrong(number, f"{what}; expected {{text, answer_start}}, or a text that stands there once")
        return {"text": [text], "answer_start": [context.index(text)]}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        value = {name: [one.get(name) for one in value] for name in ("text", "answer_start")}
    texts, starts = (value.get(name) for name in ("text", "answer_start")) if isinstance(value, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise wrong(number, f"is {value!r:.60}; expected {{text, answer_start}}, lists of one length")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or type(start) is not int:
            raise wrong(number, f"has {text!r:.40} at {start!r:.20}; expected a text and where it begins")
        if not text or start < 0 or context[start : start + len(text)] != text:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            raise wrong(number, f"{text!r:.60} does not stand at {start} of {roles.context}, where {there!r:.60} is")
    return {"text": texts, "answer_start": starts}


def group_of(roles: Roles, row: Mapping[str, Any]) -> str:
    """What rows share that are held out together: the first text, of answers the context."""
    return str(row[roles.context or roles.inputs[0]])


def is_held_out(text: str) -> bool:
    """Whether a row is of the tenth of train that is held out where no dev is named: by another part of the same hash as the split
    on which settings are chosen, so that this one is a tenth of what is left."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[8:16]) % 10 == 0


def usual_epochs(rows: int, batch_size: int) -> int:
    """Epochs where nobody asks for a number: 3, and of small data more, up to 20, so that there are some hundred steps (Mosbach et
    al. 2021, arXiv 2006.04884)."""
    return min(_MOST_EPOCHS, max(3, math.ceil(_FEWEST_STEPS / math.ceil(rows / batch_size))))


class OwnSplits:
    """The splits of a task that come from tables. They are converted once, when the first of them is asked for, into files of the
    temporary directory that are read as they are used and end with the process: neither has to fit into memory.

    Args:
        reader: of rows.
        train: rows to learn from, and, where `dev` is None, a tenth to score.
        dev: rows to score.
    """

    def __init__(self, reader: Reader, train: Table, dev: Table | None):
        self.reader, self.train, self.dev = reader, train, dev
        self._loaded: dict[str, Any] = {}

    def fingerprint(self, split: str) -> str:
        """SHA-256 of what a split comes from, and of which part it is."""
        table = self.train if split == TRAIN or self.dev is None else self.dev
        part = "" if self.dev else f" {split} by hash"
        return hashlib.sha256(f"{self.digests[table.name]}{part}".encode()).hexdigest()

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        tables = [self.train, *([self.dev] if self.dev else [])]
        return {table.name: table.digest(self.reader.columns) for table in tables}

    def load(self, split: str) -> Any:
        """A split as a `datasets.Dataset`, see `Reader.rows`.

        Raises:
            InputError: a row is wrong, or the source is not what it was.
        """
        if split not in self._loaded:
            if self.dev is None:
                self._loaded |= self._written(self.train, apart=True)
            else:
                self._loaded[split] = self._written(self.train if split == TRAIN else self.dev)[TRAIN]
        return self._loaded[split]

    def _written(self, table: Table, *, apart: bool = False) -> dict[str, Any]:
        files = {name: _ArrowFile(_schema(self.reader)) for name in ((TRAIN, DEV) if apart else (TRAIN,))}
        try:
            with progress(f"reading {table.name}", table.size) as done:
                for read, (_, row) in enumerate(self.reader.rows(table), 1):
                    held_out = apart and is_held_out(group_of(self.reader.roles, row))
                    files[DEV if held_out else TRAIN].write(row)
                    done(read)
            return {name: file.dataset() for name, file in files.items()}
        finally:
            for file in files.values():
                file.path.unlink(missing_ok=True)


def _schema(reader: Reader) -> Any:
    import pyarrow as pa

    roles, labels = reader.roles, reader.labels
    inputs = {name: pa.list_(pa.string()) if name == roles.tokens else pa.string() for name in roles.inputs}
    if not reader.labelled:
        return pa.schema(inputs)
    if roles.answers:
        learned = {roles.answers: pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int64())})}
    elif roles.tags:
        learned = {roles.tags: pa.list_(pa.int64())}
    elif len(roles.label) > 1 or (labels and labels.kind == "multi_label"):
        learned = {SEVERAL: pa.list_(pa.float64())}
    else:
        learned = {roles.one_label: pa.float64() if labels and labels.kind == "regression" else pa.int64()}
    return pa.schema(inputs | learned)


class _ArrowFile:
    """Rows in a file of Arrow record batches, written as they come and then mapped into memory."""

    def __init__(self, schema: Any):
        import pyarrow as pa

        number, name = tempfile.mkstemp(suffix=".arrow")
        os.close(number)
        self.path, self._rows, self._schema = Path(name), [], schema
        self._file = pa.OSFile(name, "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def dataset(self) -> Any:
        """What was written, as a `datasets.Dataset`, which holds the file, also when that has no name any more."""
        import datasets
        import pyarrow as pa

        if self._rows:
            self._flush()
        self._writer.close()
        self._file.close()
        table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        return datasets.Dataset(table)


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
        kind: what the labels are, where it is not to be told from them.
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
    seen, held = look(given, roles, apart=scored is None), None
    learned = _labels_of(seen, roles, kind, labels, given)
    if scored is not None:
        held = look(scored, roles)
        _check_known(held, learned)
    elif not 0 < seen.held_rows < seen.rows:
        raise InputError(
            f"{given.name}: {seen.rows} rows are too few to hold a tenth of them out for the score: name others with --dev",
            path=given.name,
            field="--dev",
            hint="--dev",
        )
    source = OwnSplits(Reader(roles, learned), given, scored)
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
    """What a look at a table has shown: values of its labels, rows, and of those held out the same."""

    table: Table
    values: tuple[Values, ...]
    rows: int = 0
    held: tuple[Values, ...] = ()
    held_rows: int = 0


def look(table: Table, roles: Roles, *, apart: bool = False) -> Seen:
    """Read all rows of a table: texts are checked, labels counted. apart: a tenth is held out."""
    columns = roles.label or ((roles.tags,) if roles.tags else ())
    values = lambda: tuple(Values(table, column) for column in columns)
    seen, reader = Seen(table, values(), held=values()), Reader(roles)
    with progress(f"reading {table.name}", table.size) as done:
        for number, row in table.rows(reader.columns):
            reader.inputs(table, number, row)
            if roles.answers:
                answers_of(table, number, row, roles)
            held_out = apart and is_held_out(group_of(roles, row))
            for one in (*seen.values, *(seen.held if held_out else ())):
                one.add(number, tags_of(table, number, row, roles) if roles.tags else row[one.column])
            seen.rows += 1
            seen.held_rows += held_out
            done(seen.rows)
    return seen


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
    return learned


def right_choice(values: Values, choices: tuple[str, ...]) -> Labels:
    """Which column is right: its name, its letter, or its place from 0, or from 1 where the values say so."""
    numbers, last = {number_of(value) for value in values.counts}, len(choices)
    first = 1 if last in numbers and 0 not in numbers else 0
    places: dict[float, str] = {float(place): name for place, name in enumerate(choices, first)}
    letters = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", choices, strict=False))

    def called(value: Any) -> str:
        text = str(value).strip()
        number = number_of(value)
        return (
            text
            if text in choices
            else places.get(number, text)
            if number is not None
            else letters.get(text.upper(), text)
        )

    wrong = next((value for value in values.counts if called(value) not in choices), None)
    if wrong is not None:
        raise values.wrong(
            values.rows[wrong],
            f"is {wrong!r}; expected the place, the letter or the name of one of {few(choices, ', ')}",
        )
    return Labels("classification", choices, f"places count from {first}" if numbers != {None} else "by name", called)


def _check_known(dev: Seen, labels: Labels | None) -> None:
    """Raise InputError where dev has classes that are unknown; all of them are named."""
    if labels is None or len(dev.values) > 1 or labels.kind == "regression":
        return
    values = next(iter(dev.values))
    unknown = [value for value in values.counts if labels.called(value) not in labels.names]
    if unknown:
        first = min(unknown, key=lambda value: values.rows[value])
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
    title = re.sub(r"[^\w.-]+", "-", Path(name).stem).strip("-.") if Path(name).suffix else "own"
    said = repr((roles, kind, names, source.fingerprint(TRAIN), source.fingerprint(DEV)))
    metrics, beside = usual_metrics(kind, names)
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "own"
    return Task(
        f"{plain}-{hashlib.sha256(said.encode()).hexdigest()[:8]}",
        title or "own",
        roles.inputs,
        names,
        metrics,
        kind=kind,
        target=target,
        beside=beside,
        rows=rows,
        source=source,
    )


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
            f"{table.name}: no --dev: {seen.held_rows:,} of its rows, a tenth by the hash of the text, are held out for the score",
            file=sys.stderr,
        )
    learned = {name: rows - (0 if dev else of_dev[name]) for name, rows in every.items()}
    if lacking := [name for name, rows in learned.items() if not rows and of_dev[name]]:
        print(f"{table.name}: no row to learn from of {few(lacking, ', ')}, which dev has", file=sys.stderr)


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
