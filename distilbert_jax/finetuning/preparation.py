"""Preparation of a task for training: its splits as rows and as examples, the model that is trained, and its teacher."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tokenizers import Tokenizer

from distilbert_jax.base.hub import locate
from distilbert_jax.base.progress import progress
from distilbert_jax.config import DistillConfig, FinetuneConfig, ModelConfig
from distilbert_jax.errors import InputError, NotFiniteError, few, warn_once
from distilbert_jax.finetuning import datasets
from distilbert_jax.finetuning.augment import augmented, check_proposer, load_proposer
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.kinds import Kind, kind_of
from distilbert_jax.finetuning.kinds.kind import AT_ONCE
from distilbert_jax.finetuning.labels import label_order
from distilbert_jax.finetuning.predictor import Outputs
from distilbert_jax.finetuning.ragged import Ragged
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models.heads import ModelWithHead, SequenceClassification
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.models.ranges import check_rows
from distilbert_jax.text.tokenizer import check_fit, load_tokenizer, same_ids
from distilbert_jax.text.tokenizer_files import settings_of
from distilbert_jax.training import sharding

_FEW = 1000  # rows, of which a tenth might be none by chance


@dataclasses.dataclass(frozen=True)
class Splits:
    """Rows of a task, checked (`datasets.check`), each a `datasets.Dataset`.

    train: without what is held out; scored: those that have labels, by name; unlabelled: those that are predicted, by the name of
    what is written of them, each with the task that its columns are of; selection: what is held out, where it chooses among epochs.
    """

    train: Any
    scored: Mapping[str, Any]
    unlabelled: Mapping[str, tuple[Task, Any]] = dataclasses.field(default_factory=dict)
    selection: Any = None


@dataclasses.dataclass(frozen=True)
class Data:
    """`Splits` as examples."""

    train: Examples
    scored: Mapping[str, Examples]
    unlabelled: Mapping[str, Examples]
    selection: Examples | None = None

    def every(self) -> Iterator[Examples]:
        chosen_on = () if self.selection is None else (self.selection,)
        yield from (self.train, *chosen_on, *self.scored.values(), *self.unlabelled.values())


def training_rows(config: FinetuneConfig, task: Task) -> tuple[Any, Any]:
    """Rows to train on, and those that are held out of them, None without a selection split.

    Raises:
        InputError: as `datasets.load_split`, or there are too few rows to hold some out.
    """
    if config.select and config.selection_split:
        raise InputError(
            "select = True: with selection_split the rows that choose would be those that are scored", field="select"
        )
    train = datasets.load_split(task, "train", config.data)
    if config.max_train_rows:
        train = train.select(range(min(config.max_train_rows, len(train))))
    if not config.selection_split and not config.select:
        return train, None
    out = datasets.in_selection_split(train, task)
    if out.all() or not out.any():
        raise InputError(
            f"{task.name}: {len(train)} training rows are too few to hold a tenth of them out", field="selection_split"
        )
    return train.select(np.flatnonzero(~out)), train.select(np.flatnonzero(out))


def check_held_out(config: FinetuneConfig, task: Task) -> None:
    """Raise InputError, before anything is trained, where a tenth of a local train would be none of its rows, or all of them. Long
    files are not read for that."""
    rows = datasets.number_of_rows(task, "train", config.data)
    if rows is not None and min(rows, config.max_train_rows or rows) <= _FEW:
        training_rows(config, task)


def read_splits(config: FinetuneConfig, task: Task) -> Splits:
    """The splits that a run trains on, is scored on and predicts; InputError as `training_rows`."""
    train, held_out = training_rows(config, task)
    if held_out is None or not config.selection_split:
        scored = {name: datasets.load_split(task, name, config.data) for name in task.dev}
    else:
        scored = {"selection_split": held_out}
    tests = datasets.test_splits(task, config.data) if config.predict_test else ()
    unlabelled = {file: (of, datasets.load_split(of, name, config.data)) for of, name, file in tests}
    return Splits(train, scored, unlabelled, held_out if config.select else None)


def encode_splits(splits: Splits, task: Task, tokenizer: Tokenizer, length: int) -> Data:
    """Rows as examples of at most `length` tokens."""
    encode = lambda rows, of=task: kind_of(of).encode(rows, of, tokenizer, length)
    scored = {name: encode(rows) for name, rows in splits.scored.items()}
    unlabelled = {name: encode(rows, of) for name, (of, rows) in splits.unlabelled.items()}
    return Data(
        encode(splits.train), scored, unlabelled, None if splits.selection is None else encode(splits.selection)
    )


def weighted(examples: Examples, config: FinetuneConfig) -> Examples:
    """Examples of which, where `config.class_weights` asks for it, a class counts as much as another in the loss: n / (classes ·
    rows of the class) each, so that they are 1 on average."""
    if config.class_weights == "none":
        return examples
    rows = np.bincount(examples.targets)
    weights = len(examples) / ((rows > 0).sum() * np.maximum(rows, 1))
    return dataclasses.replace(examples, importance=weights[examples.targets].astype(np.float32))


def with_copies(examples: Examples, config: FinetuneConfig, tokenizer: Tokenizer) -> Examples:
    """Examples, and copies of them as `config.augment` says."""
    run, asked = config.run, config.augment
    precision = {"dtype": jnp.dtype(run.dtype), "activations": run.activations}
    proposer = load_proposer(asked, tokenizer, int(examples.lengths.max()), **precision)
    return augmented(examples, asked, proposer, tokenizer)


def taught(examples: Examples, kind: Kind, teacher: "Teacher", outputs: Outputs, mesh: Mesh, name: str) -> Examples:
    """Examples with what a teacher's head gives for each.

    Args:
        outputs: of the teacher.
        name: of the teacher.

    Raises:
        NotFiniteError: an answer is not finite.
    """
    params = sharding.put(teacher.params, sharding.shardings(teacher.params, mesh))
    lengths, done, answers = examples.lengths, 0, np.empty(0)
    starts = np.cumsum(lengths) - lengths
    try:
        with progress(f"asking {name}", len(examples)) as say:
            for packing, given in outputs(params, examples, name):
                if not done:  # now the shape is known
                    values = int(lengths.sum()) if kind.of_tokens else len(examples)
                    answers = np.empty((values, *given.shape[2:]), np.float32)
                if kind.of_tokens:
                    for index, one in zip(packing.indices, packing.of_tokens(given, lengths), strict=True):
                        answers[starts[index] : starts[index] + len(one)] = one
                else:
                    answers[packing.indices] = packing.of_examples(given)
                done += len(packing.indices)
                say(done)
    except NotFiniteError as error:
        raise NotFiniteError(f"distill.teacher = {error}", path=name, field="distill.teacher") from None
    return dataclasses.replace(examples, taught=Ragged.cut(answers, lengths) if kind.of_tokens else answers)


def load_model(config: FinetuneConfig, task: Task) -> ModelWithHead:
    """The encoder and head of a directory, its labels in the task's order; a new head where it has none or other labels."""
    kind = kind_of(task)
    given, labels = read_config(locate(config.model)).labels, kind.labels(task)
    others = labels is not None and given != labels
    order = _kept_order(kind.head, config.model, given, labels) if labels is not None and others else None
    # What has no names is known by the class that the directory was saved from: heads of several kinds share the names of tensors.
    anew = (others and not order) if labels is not None else not kind.head.is_named(config.model)
    changes: dict[str, Any] = {} if labels is None else {"labels": labels}
    model = kind.head.from_pretrained(
        config.model,
        dtype=jnp.dtype(config.run.dtype),
        activations=config.run.activations,
        seed=config.run.seed,
        reinitialise=(kind.own,) if anew else (),
        problem_type=kind.problem_type,
        **changes,
    )
    if order:
        graphdef, params = split(model)
        model = merge(graphdef, _in_order(params, order, kind.own))
    return model


def check_sizes(config: FinetuneConfig, model: ModelWithHead, tokenizer: Tokenizer, data: Data) -> None:
    """Raise InputError where the model has too few positions, pieces or token types for its examples."""
    if config.length > model.config.max_length:
        raise InputError(
            f"length = {config.length} is beyond the {model.config.max_length} positions of {config.model}: "
            f"--length {model.config.max_length} is the longest",
            field="length",
        )
    limit = settings_of(tokenizer).max_length
    if limit is not None and config.length > limit:
        raise InputError(
            f"length = {config.length} is beyond the {limit} tokens that the tokenizer of {config.model} takes (model_max_length): "
            f"--length {limit} is the longest",
            field="length",
        )
    check_fit(tokenizer, model.config.vocab_size, config.model)
    check_ids(data, model, config.model)


def check_ids(data: Data, model: ModelWithHead, where: str) -> None:
    """Raise InputError for an id of any split that a model has no row for: a compiled program would not."""
    for examples in data.every():
        for start in range(0, len(examples), AT_ONCE):
            some = examples.rows[start : start + AT_ONCE]
            ids, types = (np.concatenate([row[place] for row in some]) for place in (0, 1))
            check_rows({"input_ids": ids, "token_type_ids": types}, model.config, where)


def _kept_order(
    head: type[ModelWithHead], model: str, given: Sequence[str], wanted: Sequence[str]
) -> tuple[int, ...] | None:
    """Where the labels of a task stand in the trained head of the model that a run starts from; None: it gets a new head, and where
    it has one of other labels a line says so."""
    if not head.is_whole(model):
        return None
    if len(wanted) > 1:
        with contextlib.suppress(InputError):
            return label_order(given, wanted, model)
    warn_once(f"{model}: its labels are {few(given, ', ')}, the task's {few(wanted, ', ')}: the head is new")
    return None


def _in_order(params: Params, order: Sequence[int], own: str) -> Params:
    """A model's parameters, whose outputs come in another order."""
    head = {path: value[..., jnp.array(order)] for path, value in params.items() if path.startswith(own)}
    return params | head


class Teacher(NamedTuple):
    """A model of the task that is distilled from: its graph (None: there is no teacher), parameters on the host, and config."""

    graphdef: nnx.GraphDef | None
    params: Params
    config: ModelConfig | None


NO_TEACHER = Teacher(None, {}, None)


def check_models(config: FinetuneConfig, task: Task, to_come: Collection[Path] = ()) -> None:
    """Raise InputError where the teacher of a run, or the masked LM that proposes words, is not there or cannot be it: what
    `load_teacher` and `load_proposer` say of files of a model without its weights, before any data are read.

    Args:
        to_come: directories of models that are yet to be made, without symlinks.
    """
    if (name := config.teacher) and Path(name).resolve() not in to_come:
        head = kind_of(task).head
        if not head.is_whole(name):
            raise InputError(
                f"distill.teacher = {name}: has no trained head for {task.title} ({head.__name__}): fine-tune it first",
                path=name,
                field="distill.teacher",
            )
        _teachers_order(name, read_config(locate(name)), config, task)
    if config.augment.copies and Path(config.augment.model).resolve() not in to_come:
        check_proposer(config.augment)


def _teachers_order(name: str, teacher: ModelConfig, config: FinetuneConfig, task: Task) -> tuple[int, ...] | None:
    """Where the labels of a task stand in its teacher's head, None: they have no names.

    Raises:
        InputError: the teacher has other labels, is of another problem, or has too few positions.
    """
    kind, where = kind_of(task), f"distill.teacher = {name}"
    try:
        order = None if (labels := kind.labels(task)) is None else label_order(teacher.labels, labels, where)
    except InputError as error:
        raise InputError(str(error), path=name, field="distill.teacher", hint=error.hint) from None
    theirs, ours = teacher.problem, kind.problem_type or "single_label_classification"
    if kind.head is SequenceClassification and theirs != ours:
        raise InputError(
            f"{where}: is a {theirs.replace('_', ' ')}, the task a {ours.replace('_', ' ')} (problem_type in its config.json)",
            path=name,
            field="distill.teacher",
        )
    if config.length > teacher.max_length:
        raise InputError(
            f"length = {config.length} is beyond the {teacher.max_length} positions of {where}", field="length"
        )
    return order


def load_teacher(
    name: str, config: FinetuneConfig, task: Task, tokenizer: Tokenizer, data: Data, mesh: Mesh
) -> Teacher:
    """A teacher, its labels in the task's order.

    Raises:
        InputError: it has no head of the task's kind, other labels or another tokenizer, or too few positions; the mesh does not
            divide it.
    """
    kind, run, where = kind_of(task), config.run, f"distill.teacher = {name}"
    teacher = kind.head.from_pretrained(name, dtype=jnp.dtype(run.dtype), activations=run.activations, new_head=False)
    order = _teachers_order(name, teacher.config, config, task)
    try:
        check_fit(tokenizer, teacher.config.vocab_size, where)
        check_ids(data, teacher, where)
    except InputError as error:
        raise InputError(str(error), path=name, field="distill.teacher", hint=error.hint) from None
    if kind.distance_name == "loss_mse" and config.distill.temperature != DistillConfig().temperature:
        warn_once(
            f"distill.temperature = {config.distill.temperature} changes nothing: of a regression the distance is a squared error"
        )
    if not same_ids(load_tokenizer(name), tokenizer):
        raise InputError(
            f"{where}: its tokenizer is not that of {config.model}; ids would differ", field="distill.teacher"
        )
    graphdef, params = split(teacher)
    params = sharding.pad_vocabulary(params if order is None else _in_order(params, order, kind.own))
    sharding.shardings(params, mesh)
    return Teacher(graphdef, jax.device_get(params), teacher.config)
