"""Token classification: a tag for every word of a sentence, read at its first piece (Devlin et al. 2019, section 5.3)."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from tokenizers import Tokenizer

from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.entities import OUTSIDE, entities, is_iob2, stray
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.kinds.kind import Kind, in_chunks, learned
from distilbert_jax.finetuning.kinds.sentences import check_names
from distilbert_jax.finetuning.metrics import in_order
from distilbert_jax.finetuning.ragged import Ragged, Rows
from distilbert_jax.finetuning.tasks import OF_ENTITIES, Task
from distilbert_jax.models import TokenClassification
from distilbert_jax.text.tokenizer import BertTokenizer, Row
from distilbert_jax.text.words import word_rows
from distilbert_jax.training import losses
from distilbert_jax.training.objective import Batch, Metrics

_UNREAD = -1  # the column of a word that has no piece in its row


@dataclasses.dataclass(frozen=True)
class TokenExamples(Examples):
    """Sentences. Of each, int32 [words]: the column of every word's first piece, −1 where it has none in the row, and the tags."""

    columns: Sequence[np.ndarray]
    tags: Sequence[np.ndarray]

    @property
    def targets(self) -> Sequence[np.ndarray]:
        return self.tags

    def copied(self, indices: Sequence[int], rows: Sequence[Row]) -> "TokenExamples":
        chosen = lambda values: [values[index] for index in indices]
        return dataclasses.replace(self, rows=rows, columns=chosen(self.columns), tags=chosen(self.tags))

    def packed(self, packing: Packing, shape: PackedShape, pad_id: int) -> dict[str, np.ndarray]:
        """Adds words, float32 [R, T], 1 at the first piece of each, and labels, int32 [R, T], the tags there; what is `labelled` is
        [R, T], too."""
        words, labels = [], []
        for index in packing.indices:
            columns, length = self.columns[index], len(self.rows[index].ids)
            read = columns != _UNREAD
            begins, tags = np.zeros(length, np.int32), np.zeros(length, np.int32)
            begins[columns[read]], tags[columns[read]] = 1, self.tags[index][read]
            words.append(begins)
            labels.append(tags)
        batch = super().packed(packing, shape, pad_id)
        if self.labelled is not None:
            whole = [np.full(len(self.rows[index].ids), self.labelled[index]) for index in packing.indices]
            batch["labelled"] = packing.tokens(whole, shape).astype(np.float32)
        return batch | {
            "words": packing.tokens(words, shape).astype(np.float32),
            "labels": packing.tokens(labels, shape),
        }


class Tokens(Kind):
    """A tag for each word: cross-entropy at its first piece, the mean over all words of a batch."""

    head = TokenClassification
    of_tokens = True
    over = "words"

    def check(self, rows: Any, task: Task, where: str, *, labelled: bool = True) -> None:
        """… words, and as many tags, by id or by name; IOB2 where the task's labels are."""
        (column,), (target,) = task.columns, task.target
        if labelled:
            check_names(rows, target, task, where)
        ids, iob2 = _ids(task), is_iob2(task.labels)
        every = rows[target] if labelled else [None] * len(rows)
        for row, (words, tags) in enumerate(zip(rows[column], every, strict=True)):
            wrong = _wrong_words(words)
            if wrong:
                raise InputError(f"{where}: row {row}: {column} {wrong}", path=where, field=column, row=row)
            if labelled and (wrong := _wrong_tags(words, tags, ids, task.labels, iob2=iob2)):
                raise InputError(f"{where}: row {row}: {target} {wrong}", path=where, field=target, row=row)

    def groups(self, rows: Any, task: Task) -> Iterable[str]:
        """The sentence."""
        return (" ".join(words) for words in rows[task.columns[0]])

    def encode(self, rows: Any, task: Task, tokenizer: Tokenizer, length: int) -> TokenExamples:
        """`[CLS] words [SEP]`; words beyond `length` tokens are cut off, and predicted as nothing."""
        (target,), ids, reader = task.target, _ids(task), BertTokenizer(tokenizer, max_length=length)

        def some(rows: Any, first: int) -> TokenExamples:
            sentences = rows[task.columns[0]][:]
            encoded = word_rows(reader, sentences, first=first)
            columns = [np.full(len(words), _UNREAD, np.int32) for words in sentences]
            for one, places in zip(encoded, columns, strict=True):
                at = np.flatnonzero(one.first)
                places[one.words[at]] = at
            if target in rows.column_names:
                tags = [np.array([ids[tag] for tag in given], np.int32) for given in rows[target][:]]
            else:
                tags = [np.zeros(len(words), np.int32) for words in sentences]
            cut = sum(one.cut > 0 for one in encoded)
            return TokenExamples(Rows.of([one.row for one in encoded]), Ragged.of(columns), Ragged.of(tags), cut=cut)

        return in_chunks(rows, some)

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> TokenExamples:
        place = np.zeros(1, np.int32)
        return TokenExamples([Row(place, place)], [place], [place], cut=0, labelled=labelled)

    def outputs(self, model: Any, hidden: jax.Array, batch: Batch, rngs: jax.Array | None) -> jax.Array:
        """Logits [R, T, labels]."""
        return model.logits(hidden, rngs)

    def counts(self, batch: Batch) -> Metrics:
        return super().counts(batch) | {"words": jnp.maximum(batch["words"].sum(), 1.0)}

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return losses.cross_entropy(outputs, batch["labels"], learned(batch, "words"))

    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        return losses.distillation(outputs, theirs, batch["words"], temperature)

    def of_examples(self, packing: Packing, outputs: np.ndarray, examples: TokenExamples) -> Sequence[np.ndarray]:
        """Logits [words, labels] of each sentence, NaN of a word that has no piece in its row."""
        result = []
        for index, row, column in zip(packing.indices, packing.row, packing.column, strict=True):
            places = examples.columns[index]
            logits = outputs[row, column + places]
            result.append(np.where((places == _UNREAD)[:, None], np.float32(np.nan), logits))
        return result

    def remark(self, examples: TokenExamples) -> str:
        """How many words are not read."""
        unread = sum(int((columns == _UNREAD).sum()) for columns in examples.columns)
        words = sum(map(len, examples.columns))
        return (
            f"{unread:,} of {words:,} words are beyond the length, or have no piece: predicted as nothing"
            if unread
            else ""
        )

    def score(self, task: Task, predicted: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Entities by exact span and type over all sentences, as conlleval and seqeval count them; accuracy and macro F1 (over the
        tags that there are or are predicted) of words. A word that is not read is `O`, or where there is none, wrong."""
        nothing = task.labels.index(OUTSIDE) if OUTSIDE in task.labels else -1
        answers = [_answers(logits, nothing) for logits in predicted]
        given, true = np.concatenate(answers), np.concatenate(targets)
        shown = np.union1d(true, given[given >= 0])
        macro = f1_score(true, given, labels=shown, average="macro", zero_division=0.0)  # pyright: ignore[reportArgumentType]
        values = {"accuracy": accuracy_score(true, given), "f1_macro": macro}
        if is_iob2(task.labels):
            values |= _entity_scores(answers, targets, task.labels)
        return in_order(task, {name: 100.0 * float(value) for name, value in values.items()})

    def files(self, predicted: Sequence[np.ndarray] | None, targets: Any | None) -> Mapping[str, np.ndarray]:
        """Of all words, sentence by sentence, logits float32 [words, labels] and tags [words]; how many each has, int64 [n]."""
        counts = predicted if targets is None else targets
        return {
            **({} if targets is None else {"-labels": np.concatenate(targets)}),
            **({} if predicted is None else {"": np.concatenate(predicted)}),
            **({} if counts is None else {"-words": np.array([len(one) for one in counts], np.int64)}),
        }


def _ids(task: Task) -> dict[Any, int]:
    """The id of each label by its name, and by itself."""
    return {name: index for index, name in enumerate(task.labels)} | {index: index for index in range(len(task.labels))}


def _wrong_words(words: Any) -> str:
    if not isinstance(words, list) or not words:
        return f"is {words!r:.60}: expected the words of a sentence"
    bad = next((word for word in words if not isinstance(word, str)), "")
    return "" if isinstance(bad, str) else f"has {bad!r:.60} among them, expected texts"


def _wrong_tags(words: list[str], tags: Any, ids: Mapping[Any, int], labels: Sequence[str], *, iob2: bool) -> str:
    if not isinstance(tags, list) or len(tags) != len(words):
        number = len(tags) if isinstance(tags, list) else "no"
        return f"has {number} tags for {len(words)} words, of which the first is {words[0]!r:.40}"
    bad = next(
        (
            at
            for at, tag in enumerate(tags)
            if not isinstance(tag, int | str) or isinstance(tag, bool) or tag not in ids
        ),
        None,
    )
    if bad is not None:
        return f"is {tags[bad]!r} of {words[bad]!r:.40}: expected {', '.join(labels)}, or their ids"
    names = [labels[ids[tag]] for tag in tags] if iob2 else []
    at = stray(names)
    if at is None:
        return ""
    before = names[at - 1] if at else "the beginning"
    return f"is {names[at]} of {words[at]!r:.40} after {before}: in IOB2 an entity begins with B{names[at][1:]}"


def _answers(logits: np.ndarray, nothing: int) -> np.ndarray:
    """The label of each word, int64 [words]; `nothing` of one that is not read."""
    unread = np.isnan(logits[:, 0])
    return np.where(unread, nothing, np.where(unread[:, None], 0.0, logits).argmax(-1))


def _entity_scores(
    predicted: Sequence[np.ndarray], true: Sequence[np.ndarray], labels: Sequence[str]
) -> dict[str, float]:
    spans = lambda tags: set(entities([str(labels[tag]) for tag in tags]))
    right, given, there = 0, 0, 0
    for one, other in zip(predicted, true, strict=True):
        ours, theirs = spans(one), spans(other)
        right, given, there = right + len(ours & theirs), given + len(ours), there + len(theirs)
    precision, recall = right / max(given, 1), right / max(there, 1)
    return dict(zip(OF_ENTITIES, (2 * right / max(given + there, 1), precision, recall), strict=True))
