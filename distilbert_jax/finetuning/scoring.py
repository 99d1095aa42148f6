"""Scores and predictions of a model that is fine-tuned already, on rows of one's own: nothing is trained."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from distilbert_jax import models
from distilbert_jax.base.progress import progress
from distilbert_jax.config import Activations, MeshConfig, ModelConfig
from distilbert_jax.errors import InputError, few, nearest
from distilbert_jax.finetuning.batches import PackedShape
from distilbert_jax.finetuning.datasets import load_split
from distilbert_jax.finetuning.files import Table, open_table
from distilbert_jax.finetuning.inferred import Labels, Values, name_of, number_of
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.labels import meaning
from distilbert_jax.finetuning.own import DEV, OwnSplits, Reader, Roles, look, require_columns, right_choice, task_of
from distilbert_jax.finetuning.predictor import predictor
from distilbert_jax.finetuning.written import new_names, rows_to
from distilbert_jax.models.params import split
from distilbert_jax.models.ranges import check_rows
from distilbert_jax.pipelines import TextClassification
from distilbert_jax.text.columns import USUAL, Layout
from distilbert_jax.text.tokenizer import check_fit, load_tokenizer, special_ids
from distilbert_jax.training import sharding

_HEADS = {
    "sentences": models.SequenceClassification,
    "tokens": models.TokenClassification,
    "answers": models.QuestionAnswering,
    "choices": models.MultipleChoice,
}
_ROWS, _MULTIPLE = 8, 8  # of a batch, and of what the length of its rows is one


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
    cut_share: float  # of the rows, those that are longer than `length`


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
        length: tokens that are read of a row; None: all that the model has positions for.
        dtype, activations: as in `from_pretrained`.

    Raises:
        InputError: a row is wrong, a label that the model does not have, or a head that it does not have.
    """
    roles.require_targets()
    table = open_table(data, layout=layout)
    require_columns(table, roles)
    seen = look(table, roles)
    head = _HEADS[roles.form].from_pretrained(model, dtype=dtype, activations=activations, new_head=False)
    roles, labels = _of_model(head.config, seen.values, roles, table, model)
    task = task_of(OwnSplits(Reader(roles, labels), table, table), labels, {DEV: seen.rows})
    kind, tokenizer = kind_of(task), load_tokenizer(model)
    check_fit(tokenizer, head.config.vocab_size, model)
    examples = kind.encode(
        load_split(task, DEV), task, tokenizer, min(length or head.config.max_length, head.config.max_length)
    )
    for row in examples.rows:
        check_rows({"input_ids": row.ids, "token_type_ids": row.type_ids}, head.config, model)
    graphdef, params = split(head)
    mesh = sharding.make_mesh(MeshConfig())
    longest = -(-int(examples.lengths.max()) // _MULTIPLE) * _MULTIPLE
    shape = PackedShape(_ROWS, longest, longest // int(examples.lengths.min()))
    params = sharding.pad_vocabulary(params)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    outputs = predictor(kind, graphdef, shape, special_ids(tokenizer).pad, mesh)(params, examples)
    values = kind.score(task, outputs, examples.targets)
    return Score(
        model=model,
        data=table.name,
        kind=task.kind,
        rows=seen.rows,
        score=values["score"],
        metrics={name: value for name, value in values.items() if name != "score"},
        labels=() if labels is None else labels.names,
        cut_share=examples.cut / seen.rows,
    )


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
    names, problem = config.labels, config.problem_type
    ours = {meaning(name): name for name in names}
    if roles.label and (problem == "regression" or (len(names) == 1 and problem is None)):
        return roles, _amounts(columns, names, model)
    if len(columns) > 1:
        of = {meaning(one.column): one.column for one in columns}
        if of.keys() != ours.keys():
            raise InputError(
                f"{model}: its labels are {few(names, ', ')}, and --label names {', '.join(roles.label)}",
                path=model,
                field="--label",
            )
        return dataclasses.replace(roles, label=tuple(of[one] for one in ours)), Labels("multi_label", names, "")
    values = columns[0]
    several = problem == "multi_label_classification" or (values.lists and not roles.tags)
    told = table.classes.get(values.column, ())
    is_id = lambda value: number_of(value) in range(len(names)) and meaning(name_of(value)) not in ours
    by_id = not told and all(map(is_id, values.counts))

    def called(value: Any) -> str:
        number = number_of(value)
        if told and isinstance(value, int) and 0 <= value < len(told):
            return ours.get(meaning(told[value]), told[value])
        if by_id and number is not None and number in range(len(names)):
            return names[int(number)]
        return ours.get(meaning(name_of(value)), name_of(value))

    for value, row in sorted(values.rows.items(), key=lambda one: one[1]):
        if (name := called(value)) not in names:
            raise values.wrong(row, f"is {name!r}, which {model} does not know; {nearest(name, names)}")
    return roles, Labels("multi_label" if several else "classification", names, "", called)


def _amounts(columns: Sequence[Values], names: Sequence[str], model: str) -> Labels:
    if len(columns) != len(names):
        said = f"{model}: gives {len(names)} amounts, and --label names {len(columns)} columns"
        raise InputError(said, path=model, field="--label")
    for one in columns:
        one.numbers()
    return Labels("regression", tuple(one.column for one in columns) if len(names) > 1 else (), "")


def predictions(
    model: str,
    table: Table,
    *,
    roles: Roles,
    dtype: Any = jnp.float32,
    activations: Activations = "auto",
    batch_size: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Every row of a table with what a fine-tuned model says of it, as a stream: some batches are held, not the table.

    Of texts: `predicted` (the best label; of several at once a list of those above 0.5; of an amount the number), `score` (of the
    best label) and `scores` ({label: score}). The names have a number where the table has such columns.

    Raises:
        InputError: a row is wrong, or the model does not have the head.
    """
    require_columns(table, roles, labelled=False)
    pipeline = TextClassification(model, dtype=dtype, activations=activations, batch_size=batch_size)
    reader = Reader(dataclasses.replace(roles, label=()), labelled=False)
    # Columns that are not read may lack a value, as in JSON lines.
    checked = ((row, reader.inputs(table, number, row)) for number, row in table.read(table.columns))
    rows, asked = itertools.tee(checked)
    texts = (tuple(text.values()) if roles.text_pair else text[roles.text] for _, text in asked)
    config = pipeline.model.config
    amounts = config.problem_type == "regression"
    several = config.problem_type == "multi_label_classification"
    names = new_names(table.columns, ("predicted", "score", "scores"))
    for (row, _), answers in zip(rows, pipeline(texts, top_k=None), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        values: list[Any] = [answers[0]["label"], answers[0]["score"], scores]
        if amounts:
            values = [scores if len(scores) > 1 else answers[0]["score"]]
        elif several:
            values = [[label for label, score in scores.items() if score > 0.5], None, scores]
        said = {name: value for name, value in zip(names, values, strict=False) if value is not None}
        yield {**{column: row.get(column) for column in table.columns}, **said}


def predict_rows(model: str, data: Any, out: Path, *, roles: Roles, layout: Layout = USUAL, **options: Any) -> int:
    """Write `predictions` to a file, .csv, .jsonl or .parquet, which takes its name when all are written.

    Returns:
        How many rows there were.
    """
    table, written = open_table(data, layout=layout), 0
    with progress(f"predicting {table.name}", table.size) as done, rows_to(out) as write:
        for row in predictions(model, table, roles=roles, **options):
            write(row)
            written += 1
            done(written)
        if not written:
            raise InputError(f"{table.name}: has no rows", path=table.name)
    return written
