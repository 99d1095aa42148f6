"""Scores and predictions of a model that is fine-tuned already, on rows of one's own: nothing is trained."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from distilbert_jax import models
from distilbert_jax.base.progress import progress
from distilbert_jax.config import Activations, MeshConfig, ModelConfig
from distilbert_jax.errors import InputError, few, nearest
from distilbert_jax.finetuning.batches import PackedShape
from distilbert_jax.finetuning.datasets import load_split
from distilbert_jax.finetuning.entities import OUTSIDE, entities, is_iob2
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.files import Table, open_table
from distilbert_jax.finetuning.inferred import Labels, Values, name_of, number_of
from distilbert_jax.finetuning.kinds import KINDS, Kind, kind_of
from distilbert_jax.finetuning.kinds.answers import in_windows, unanswered
from distilbert_jax.finetuning.labels import by_meaning
from distilbert_jax.finetuning.own import look, require_columns, right_choice, task_of
from distilbert_jax.finetuning.own_rows import Reader
from distilbert_jax.finetuning.own_splits import DEV, OwnSplits, Pinned
from distilbert_jax.finetuning.predictor import predictor
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.finetuning.written import new_names, rows_to
from distilbert_jax.models.params import split
from distilbert_jax.models.ranges import check_rows
from distilbert_jax.pipelines import TextClassification, TokenClassification
from distilbert_jax.text.columns import USUAL, Layout
from distilbert_jax.text.tokenizer import BertTokenizer, announce_cut, check_fit, special_ids
from distilbert_jax.training import sharding

_HEADS = {
    "sentences": models.SequenceClassification,
    "tokens": models.TokenClassification,
    "answers": models.QuestionAnswering,
    "choices": models.MultipleChoice,
}
P = TypeVar("P", TextClassification, TokenClassification)
_ROWS, _MULTIPLE = 8, 8  # of a batch, and of what the length of its rows is one
_WINDOW = 64  # rows that are encoded and packed at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What a model comes to on some rows."""

    model: str
    data: str
    kind: str
    rows: int
    score: float  # × 100: mean of the metrics
    metrics: Mapping[str, float]  # × 100
    labels: tuple[str, ...]  # of the model, by id
    length: int  # tokens that were read of a row, of a question those of a window
    cut_share: float  # of the rows, those longer than `length`; of questions those too long themselves
    remark: str  # on what of the rows was read, or ""


def score_rows(
    model: str,
    data: Any,
    *,
    roles: Roles,
    layout: Layout = USUAL,
    length: int | None = None,
    dtype: Any = jnp.float32,
    activations: Activations = "auto",
) -> Score:
    """The metrics of a fine-tuned model on labelled rows.

    Args:
        model: HF directory or hub id, with the head of the task.
        data: as `open_table` takes it.
        roles: of its columns.
        layout: of the file.
        length: tokens that are read of a row; None: as many as the model takes, by its positions and its tokenizer's limit.
        dtype, activations: as in `from_pretrained`.

    Raises:
        InputError: a row is wrong, a label that the model does not have, or a head that it does not have.
    """
    check_length(length)
    roles.require_targets()
    table = open_table(data, layout=layout)
    require_columns(table, roles)
    pinned = Pinned.of(table, Reader(roles).columns(table))
    seen = look(table, roles)
    head = _HEADS[roles.form].from_pretrained(model, dtype=dtype, activations=activations, new_head=False)
    roles, labels = _of_model(head.config, seen.values, roles, table, model)
    task = task_of(OwnSplits(Reader(roles, labels), pinned, pinned), labels, {DEV: seen.rows})
    kind, reader = kind_of(task), BertTokenizer.from_pretrained(model)
    tokenizer = reader.tokenizer
    check_fit(tokenizer, head.config.vocab_size, model)
    longest = _longest(reader, head.config)
    read = min(length or longest, longest)
    examples = kind.encode(load_split(task, DEV), task, tokenizer, read)
    widest = -(-int(examples.lengths.max()) // _MULTIPLE) * _MULTIPLE
    shape = PackedShape(_ROWS, widest, widest // int(examples.lengths.min()))
    outputs = _outputs_of(head, kind, shape, model, special_ids(tokenizer).pad)(examples)
    values = kind.score(task, kind.decoded(outputs, examples), examples.targets)
    return Score(
        model=model,
        data=table.name,
        kind=task.kind,
        rows=seen.rows,
        score=values["score"],
        metrics={name: value for name, value in values.items() if name != "score"},
        labels=() if labels is None else labels.names,
        length=read,
        cut_share=examples.cut / seen.rows,
        remark=kind.remark(examples),
    )


def _longest(tokenizer: BertTokenizer, config: ModelConfig) -> int:
    """Tokens of a row that a model takes: by its tokenizer's limit and its positions, as in the pipelines."""
    return min(tokenizer.max_length, config.max_length)


def check_length(length: int | None) -> None:
    """Raise InputError for a length of rows in tokens that nothing can be read in."""
    if length is not None and length < 8:
        raise InputError(f"length = {length}: expected at least 8 tokens", field="length")


def _of_model(
    config: ModelConfig, columns: Sequence[Values], roles: Roles, table: Table, model: str
) -> tuple[Roles, Labels | None]:
    """What the labels of a table are to a model: by their names, or where they are numbers that it does not name, by its ids. Of
    several columns also the order that it has.

    Raises:
        InputError: it has no such label; the row is named.
    """
    if roles.answers:
        return roles, None
    if roles.choices:
        return roles, right_choice(columns[0], roles.choices)
    names, problem = config.labels, config.problem
    if roles.label and problem == "regression":
        return _amounts(columns, roles, names, model)
    values, same = columns[0], by_meaning(names)
    several = len(columns) > 1 or (values.lists and not roles.tags)
    if several and problem != "multi_label_classification":
        hint = '"problem_type": "multi_label_classification" in its config.json'
        raise InputError(
            f"{model}: gives one label to a text, and --label {' '.join(roles.label)} has several; if they are what it learned, "
            f"write {hint}",
            path=model,
            field="--label",
            hint=hint,
        )
    if len(columns) > 1:
        return _by_name(columns, roles, names, model), Labels("multi_label", names, "")

    def named(value: Any) -> str:
        """By its name, which of a whole number may be written as 1, "1.0" or "LABEL_1"."""
        number, name = number_of(value), same(name_of(value).strip())
        return name if name in names or number is None else same(name_of(number))

    is_id = lambda value: number_of(value) in range(len(names)) and named(value) not in names
    by_id = values.column not in table.classes and all(map(is_id, values.counts))

    def called(value: Any) -> str:
        number = number_of(value)
        return names[int(number)] if by_id and number in range(len(names)) and number is not None else named(value)

    for value, row in sorted(values.rows.items(), key=lambda one: one[1]):
        if (name := called(value)) not in names:
            raise values.wrong(row, f"is {name!r}, which {model} does not know; {nearest(name, names)}")
    multi = problem == "multi_label_classification" and not roles.tags
    return roles, Labels("multi_label" if multi else "classification", names, "", called)


def _by_name(columns: Sequence[Values], roles: Roles, names: Sequence[str], model: str) -> Roles:
    """The columns in the order that a model has them in.

    Raises:
        InputError: it has not just these.
    """
    same = by_meaning(names)
    of = {same(one.column): one.column for one in columns}
    if of.keys() != set(names):
        said = f"{model}: its labels are {few(names, ', ')}, and --label names {', '.join(roles.label)}"
        raise InputError(said, path=model, field="--label")
    return dataclasses.replace(roles, label=tuple(of[one] for one in names))


def _amounts(columns: Sequence[Values], roles: Roles, names: Sequence[str], model: str) -> tuple[Roles, Labels]:
    """Of several amounts the columns by their names, or in their order where the model names none."""
    if len(columns) != len(names):
        said = f"{model}: gives {len(names)} amounts, and --label names {len(columns)} columns"
        raise InputError(said, path=model, field="--label")
    for one in columns:
        one.numbers()
    if len(names) == 1:
        return roles, Labels("regression", (), "")
    if any(name != f"LABEL_{place}" for place, name in enumerate(names)):
        roles = _by_name(columns, roles, names, model)
    return roles, Labels("regression", roles.label, "")


@dataclasses.dataclass(frozen=True)
class _Asking:
    """How a model is asked; the fields are arguments of `predictions`."""

    dtype: Any
    activations: Activations
    batch_size: int | None
    length: int | None
    no_answer: bool

    @property
    def loading(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "activations": self.activations}

    def tokens(self, longest: int) -> int:
        """That are read of a row, of a model that has so many positions."""
        return min(self.length or longest, longest)

    def pipeline(self, kind: type[P], model: str) -> P:
        """One of texts, which reads so many tokens of each."""
        pipeline = kind(model, batch_size=self.batch_size, **self.loading)
        pipeline.tokenizer.max_length = self.tokens(pipeline.tokenizer.max_length)
        return pipeline


Said = Iterator[tuple[dict[str, Any], dict[str, Any]]]  # a row, and what a model says of it
Asked = Iterator[tuple[dict[str, Any], dict[str, Any]]]  # a row, and what of it is read


def predictions(
    model: str,
    table: Table,
    *,
    roles: Roles,
    dtype: Any = jnp.float32,
    activations: Activations = "auto",
    batch_size: int | None = None,
    length: int | None = None,
    no_answer: bool = False,
) -> Iterator[dict[str, Any]]:
    """Every row of a table with what a fine-tuned model says of it, as a stream: some batches are held, not the table.

    Of texts: `predicted` (the best label; of several at once a list of those above 0.5; of an amount the number), `score` (of the
    best label) and `scores` ({label: score}); of texts that a model of words reads a list of spans, as `TokenClassification` gives
    them. Of words: `predicted`, a tag for each, and `scores`; of words that are beyond what the model reads both are None; where
    its labels are IOB2 also `entities`, a list of `{entity_group, score, word, start, end}`, of `words[start:end]` each. Of
    questions: `predicted`, the answer that `score_rows` scores, `score`, the sum of its two logits, `start` and `end` in the
    context. Of choices: `predicted`, the column of the best, `score` and `scores`. The names have a number where the table has such
    columns.

    Args:
        length: tokens that are read of a row, of a question those of a window; None: as many as the model takes.
        no_answer: of questions: that there is none is an answer, too, `""`, as `score_rows` has it where some have none.

    Raises:
        InputError: a row is wrong, a number is out of range, or the model does not have the head.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: expected 1 or more", field="batch_size")
    check_length(length)
    require_columns(table, roles, labelled=False)
    reader = Reader(roles, labelled=False)
    # Columns that are not read may lack a value, as in JSON lines.
    asked = ((row, reader.inputs(table, number, row)) for number, row in table.read(table.columns))
    said = _SAYS[roles.form](model, asked, roles, _Asking(dtype, activations, batch_size, length, no_answer))
    for row, values in said:
        names = dict(zip(values, new_names(table.columns, tuple(values)), strict=True))
        yield {
            **{column: row.get(column) for column in table.columns},
            **{names[name]: value for name, value in values.items()},
        }


def _of_texts(model: str, asked: Asked, roles: Roles, how: _Asking) -> Said:
    if not models.SequenceClassification.is_whole(model) and models.TokenClassification.is_whole(model):
        yield from _of_entities(model, asked, roles, how)
        return
    pipeline = how.pipeline(TextClassification, model)
    rows, read = itertools.tee(asked)
    texts = ((text[roles.text], text[roles.text_pair]) if roles.text_pair else text[roles.text] for _, text in read)
    config = pipeline.model.config
    is_amount = config.problem == "regression"
    answers_of = pipeline(texts, top_k=None, function_to_apply="none" if is_amount else None)
    for (row, _), answers in zip(rows, answers_of, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        best, score = answers[0]["label"], answers[0]["score"]
        if is_amount:
            yield row, {"predicted": scores if len(scores) > 1 else score}
        elif config.problem == "multi_label_classification":
            yield row, {"predicted": [label for label, value in scores.items() if value > 0.5], "scores": scores}
        else:
            yield row, {"predicted": best, "score": score, "scores": scores}


def _of_words(model: str, asked: Asked, roles: Roles, how: _Asking) -> Said:
    head = models.TokenClassification.from_pretrained(model, new_head=False, **how.loading)
    labels = head.config.labels
    task = Task("words", "words", (roles.tokens,), labels, (), kind="tokens", target=("no tags",))
    reader = BertTokenizer.from_pretrained(model)
    length = how.tokens(_longest(reader, head.config))
    for row, read, logits in _by_chunks(head, task, reader, model, asked, how.batch_size or _ROWS, length, length):
        p, unread = softmax(logits, axis=-1), np.isnan(logits[:, 0])
        best = p.argmax(-1)
        tags = [None if lacks else labels[at] for at, lacks in zip(best, unread, strict=True)]
        scores = [None if lacks else float(of[at]) for of, at, lacks in zip(p, best, unread, strict=True)]
        spans = {"entities": _spans(read[roles.tokens], tags, scores)} if is_iob2(labels) else {}
        yield row, {"predicted": tags, "scores": scores, **spans}


def _spans(
    words: Sequence[str], tags: Sequence[str | None], scores: Sequence[float | None]
) -> list[dict[str, str | float | int]]:
    """The entities of a sentence as `TokenClassification` groups tokens, `start` and `end` in words; none of words that are not
    read."""
    return [
        {
            "entity_group": one.type,
            "score": float(np.mean([score for score in scores[one.start : one.end] if score is not None])),
            "word": " ".join(words[one.start : one.end]),
            "start": one.start,
            "end": one.end,
        }
        for one in entities([tag or OUTSIDE for tag in tags])
    ]


def _of_choices(model: str, asked: Asked, roles: Roles, how: _Asking) -> Said:
    head = models.MultipleChoice.from_pretrained(model, new_head=False, **how.loading)
    names = roles.choices
    task = Task("choices", "choices", roles.inputs, names, (), kind="choices", target=("no label",))
    reader = BertTokenizer.from_pretrained(model)
    length = how.tokens(_longest(reader, head.config))
    whole = length * len(names)  # all choices of an example lie in one row
    rows = how.batch_size or max(1, _ROWS // len(names))
    for row, _, logits in _by_chunks(head, task, reader, model, asked, rows, length, whole):
        p = softmax(logits[: len(names)])
        best = int(p.argmax())
        scores = dict(zip(names, map(float, p), strict=True))
        yield row, {"predicted": names[best], "score": float(p[best]), "scores": scores}


def _by_chunks(
    head: Any,
    task: Task,
    reader: BertTokenizer,
    model: str,
    asked: Asked,
    batch_size: int,
    length: int,
    longest: int,
) -> Iterator[tuple[dict[str, Any], dict[str, Any], np.ndarray]]:
    """Rows, what of each is read, and what a head gives for it, as a kind encodes them. length: tokens that are read of a text;
    longest: of a row."""
    import datasets

    tokenizer, kind = reader.tokenizer, kind_of(task)
    check_fit(tokenizer, head.config.vocab_size, model)
    shape = PackedShape(batch_size, -(-longest // _MULTIPLE) * _MULTIPLE, longest // 3)
    outputs_of = _outputs_of(head, kind, shape, model, special_ids(tokenizer).pad)
    number = cut = 0
    while chunk := list(itertools.islice(asked, _WINDOW)):
        examples = kind.encode(datasets.Dataset.from_list([read for _, read in chunk]), task, tokenizer, length)
        yield from ((*pair, output) for pair, output in zip(chunk, outputs_of(examples), strict=True))
        number, cut = number + len(chunk), cut + examples.cut
    announce_cut(cut, number, length)


def _of_questions(model: str, asked: Asked, roles: Roles, how: _Asking) -> Said:
    head = models.QuestionAnswering.from_pretrained(model, new_head=False, **how.loading)
    kind, reader = KINDS["answers"], BertTokenizer.from_pretrained(model)
    tokenizer, length = reader.tokenizer, how.tokens(_longest(reader, head.config))
    check_fit(tokenizer, head.config.vocab_size, model)
    shape = PackedShape(how.batch_size or _ROWS, -(-length // _MULTIPLE) * _MULTIPLE, length // 3)
    outputs_of = _outputs_of(head, kind, shape, model, special_ids(tokenizer).pad)
    number = cut = windows = 0
    while chunk := list(itertools.islice(asked, _WINDOW)):
        pairs = [(read[roles.question], read[roles.context]) for _, read in chunk]
        examples = unanswered(pairs, tokenizer, length, first=number + 1, may_lack=how.no_answer)
        for (row, _), answer in zip(chunk, kind.decoded(outputs_of(examples), examples), strict=True):
            where = {"start": answer.start, "end": answer.end}
            yield row, {"predicted": answer.text, "score": answer.score, **where}
        number, cut, windows = number + len(chunk), cut + examples.cut, windows + len(examples.rows)
    if said := in_windows(number, windows, length):
        print(said, file=sys.stderr)
    if cut:
        print(f"{cut:,} of {number:,} questions {'is' if cut == 1 else 'are'} too long and cut", file=sys.stderr)


def _of_entities(model: str, asked: Asked, roles: Roles, how: _Asking) -> Said:
    pipeline = how.pipeline(TokenClassification, model)
    rows, read = itertools.tee(asked)
    spans = pipeline((text[roles.text] for _, text in read), aggregation_strategy="first")
    for (row, _), of_text in zip(rows, spans, strict=True):
        yield row, {"predicted": list(of_text)}


_SAYS = {"sentences": _of_texts, "tokens": _of_words, "answers": _of_questions, "choices": _of_choices}


def _outputs_of(
    head: Any, kind: Kind, shape: PackedShape, model: str, pad_id: int
) -> Callable[[Examples], Sequence[np.ndarray]]:
    """What a head gives for examples, compiled once.

    Raises:
        InputError: an id that the model has no row for, or scores that are not finite.
    """
    graphdef, params = split(head)
    mesh = sharding.make_mesh(MeshConfig())
    params = sharding.pad_vocabulary(params)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    predict = predictor(kind, graphdef, shape, pad_id, mesh, model)

    def outputs(examples: Examples) -> Sequence[np.ndarray]:
        for row in examples.rows:
            check_rows({"input_ids": row.ids, "token_type_ids": row.type_ids}, head.config, model)
        return predict(params, examples)

    return outputs


def predict_rows(model: str, data: Any, out: Path, *, roles: Roles, layout: Layout = USUAL, **options: Any) -> int:
    """Write `predictions` to a file, .csv, .jsonl or .parquet, which takes its name when all are written.

    Returns:
        How many rows there were.
    """
    table, written = open_table(data, layout=layout), 0
    with progress(f"predicting {table.name}", table.size) as done, rows_to(out, table) as write:
        for row in predictions(model, table, roles=roles, **options):
            write(row)
            written += 1
            done(written)
        if not written:
            raise InputError(f"{table.name}: has no rows", path=table.name)
    return written
