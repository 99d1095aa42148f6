"""Extractive question answering, SQuAD 1.1 and 2: where an answer starts and ends (Devlin et al. 2019, sections 4.2 and 4.3)."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.kinds import kind
from distilbert_jax.finetuning.kinds.kind import Kind, check_texts, learned
from distilbert_jax.finetuning.metrics import in_order
from distilbert_jax.finetuning.ragged import Rows
from distilbert_jax.finetuning.squad import answer_score, wrong_answers
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models import QuestionAnswering
from distilbert_jax.pipelines.answers import squad_spans
from distilbert_jax.text.tokenizer import BertTokenizer, Row
from distilbert_jax.text.windows import Window, context_windows
from distilbert_jax.training.objective import Batch

_LOWEST = -1e30  # finite: a segment that nobody has a token of has no gradient


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions as they were asked. questions, contexts: columns, or lists, of which some are read at a time; answers: the texts
    that are right, none where there is no answer; ids: of each; may_lack: whether some have no answer, as in SQuAD 2: then that
    there is none is an answer, too."""

    ids: Sequence[str]
    questions: Sequence[str]
    contexts: Sequence[str]
    answers: Sequence[Sequence[str]]
    may_lack: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """A part of a context, `context[start:end]`, and the sum of its two logits; of no answer the text is "". no_answer: how much
    the sum of [CLS] is above that of the best span."""

    id: str
    text: str
    start: int
    end: int
    score: float
    no_answer: float


@dataclasses.dataclass(frozen=True)
class AnswerExamples(Examples):
    """Windows of contexts, those of a question one after the other.

    starts, ends: int32 [windows], first and last token of the answer in a window, 0 ([CLS]) where it is not whole there. questions:
    what they are windows of, for `tokenizer`, of at most `length` tokens.
    """

    starts: np.ndarray
    ends: np.ndarray
    questions: Questions
    tokenizer: BertTokenizer | None = None

    @property
    def count(self) -> int:
        """Questions."""
        return len(self.questions.ids)

    @property
    def targets(self) -> Questions:
        return self.questions

    def copied(self, indices: Sequence[int], rows: Sequence[Row]) -> "AnswerExamples":
        at = np.asarray(indices)
        return dataclasses.replace(self, rows=rows, starts=self.starts[at], ends=self.ends[at])

    def packed(self, packing: Packing, shape: PackedShape, pad_id: int) -> dict[str, np.ndarray]:
        """Adds starts and ends, int32 [R, S], as columns of the row."""
        columns = lambda values: packing.examples((values[packing.indices] + packing.column).astype(np.int32), shape)
        return super().packed(packing, shape, pad_id) | {"starts": columns(self.starts), "ends": columns(self.ends)}


class Answers(Kind):
    """Start and end of an answer: the mean of two cross-entropies over the tokens of a window, the mean over windows."""

    head = QuestionAnswering
    own = "qa_outputs."
    of_tokens = True

    def check(self, rows: Any, task: Task, where: str, *, labelled: bool = True) -> None:
        """… a question, a context, and answers that stand where they say; none of a question that has no answer."""
        check_texts(rows, task.columns, where)
        (target,) = task.target
        for name in task.columns:
            if (blank := next((row for row, text in enumerate(rows[name]) if not text.strip()), None)) is not None:
                raise InputError(f"{where}: row {blank}: {name} is empty", path=where, field=name, row=blank)
        seen: set[str] = set()
        for row, one in enumerate(map(str, rows["id"] if "id" in rows.column_names else ())):
            if one in seen:
                raise InputError(
                    f"{where}: row {row}: id is {one!r} once more; answers go by it", path=where, field="id", row=row
                )
            seen.add(one)
        for row, (context, answers) in enumerate(
            zip(rows[task.columns[1]], rows[target] if labelled else (), strict=False)
        ):
            if said := wrong_answers(context, answers):
                raise InputError(f"{where}: row {row}: {target} {said}", path=where, field=target, row=row)

    def groups(self, rows: Any, task: Task) -> Iterable[str]:
        """The context: others would be answered from what was read while training."""
        return rows[task.columns[1]]

    def labels(self, task: Task) -> None:
        """Start and end have no names of a task."""

    def encode(self, rows: Any, task: Task, tokenizer: Tokenizer, length: int) -> AnswerExamples:
        """`[CLS] question [SEP] part of the context [SEP]`, of at most `length` tokens, as many as cover the context; neighbours
        have 128 tokens in common, or half the length."""
        (asked, read), (target,) = task.columns, task.target
        empty = [{"text": [], "answer_start": []}] * len(rows)
        answers = rows[target] if target in rows.column_names else empty
        ids = list(map(str, rows["id"])) if "id" in rows.column_names else list(map(str, range(len(rows))))
        texts = [one["text"] for one in answers]
        questions = Questions(ids, rows[asked], rows[read], texts, may_lack=not all(texts))
        return _examples(questions, answers, BertTokenizer(tokenizer, max_length=length))

    def blank(self, config: ModelConfig, *, labelled: np.ndarray | None = None) -> AnswerExamples:
        place = np.zeros(1, np.int32)
        return AnswerExamples(
            [Row(place, place)],
            place,
            place,
            Questions([""], [""], [""], [[""]], may_lack=False),
            cut=0,
            labelled=labelled,
        )

    def outputs(self, model: Any, hidden: jax.Array, batch: Batch, rngs: jax.Array | None) -> jax.Array:
        """Logits of start and end, [R, T, 2]."""
        return model.logits(hidden, rngs)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        log_p = _log_softmax(outputs, batch)
        at = [jnp.take_along_axis(log_p[..., i], batch[name], axis=1) for i, name in enumerate(("starts", "ends"))]
        return -jnp.sum(learned(batch) * (at[0] + at[1])) / 2

    def distance(
        self, outputs: jax.Array, theirs: jax.Array, batch: Batch, temperature: jax.Array | float
    ) -> jax.Array:
        """T² · KL(teacher ‖ student) over the tokens of a window, mean of start and end."""
        log_q, log_p = (
            _log_softmax(logits / temperature, batch) for logits in (outputs, jax.lax.stop_gradient(theirs))
        )
        return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q)) / 2

    def of_examples(self, packing: Packing, outputs: np.ndarray, examples: AnswerExamples) -> Sequence[np.ndarray]:
        """Logits of the tokens of each window, [tokens, 2]."""
        lengths = examples.lengths[packing.indices]
        places = zip(packing.row, packing.column, lengths, strict=True)
        return [outputs[row, column : column + length].copy() for row, column, length in places]

    def decoded(self, outputs: Sequence[np.ndarray], examples: AnswerExamples) -> list[Answer]:
        """The best answer of each question: the span with the largest sum of logits in any window; none, where questions may lack
        one, if [CLS] has more in every window."""
        assert examples.tokenizer is not None
        answers, done = [], 0
        for windows, contexts, first, _ in _windows(examples.tokenizer, examples.questions):
            logits = outputs[done : done + len(windows)]
            done += len(windows)
            places: dict[int, list[int]] = {}
            for place, window in enumerate(windows):
                places.setdefault(window.example, []).append(place)
            for number, at in sorted(places.items()):
                of, ours = [windows[place] for place in at], [logits[place] for place in at]
                answers.append(_answer(examples.questions, first + number, contexts[number], of, ours))
        return answers

    def remark(self, examples: AnswerExamples) -> str:
        """How many windows the contexts are read in, where these are more than one a question."""
        length = examples.tokenizer.max_length if examples.tokenizer else 0
        return in_windows(examples.count, len(examples.rows), length)

    def score(self, task: Task, predicted: Sequence[Answer], targets: Questions) -> dict[str, float]:
        """Exact match and F1 of the official script, the mean over questions."""
        each = zip(predicted, targets.answers, strict=True)
        scores = [answer_score(answer.text, right, may_lack=targets.may_lack) for answer, right in each]
        means = np.mean(np.array(scores, np.float64), axis=0)
        return in_order(task, {"exact_match": 100.0 * float(means[0]), "f1": 100.0 * float(means[1])})

    def files(self, predicted: Sequence[Answer] | None, targets: Questions | None) -> Mapping[str, Mapping[str, Any]]:
        """{id: text}, which the official scripts read, and where some have no answer, {id: `Answer.no_answer`}."""
        if predicted is None:
            return {}
        lacking = {"-no-answer": {answer.id: answer.no_answer for answer in predicted}}
        return {
            "": {answer.id: answer.text for answer in predicted},
            **(lacking if targets is not None and targets.may_lack else {}),
        }


def in_windows(questions: int, windows: int, length: int) -> str:
    """How so many questions are read, "" where each context is whole in a window."""
    return f"{questions:,} questions are read in {windows:,} windows of {length} tokens" if windows > questions else ""


def unanswered(
    rows: Sequence[tuple[str, str]], tokenizer: Tokenizer, length: int, *, first: int = 1, may_lack: bool = False
) -> AnswerExamples:
    """Questions with their contexts, which nobody has answered, as `Answers.encode` reads them; for `Answers.decoded`.

    Args:
        first: the number of the first, for what errors say.
        may_lack: that there is no answer is one, too.

    Raises:
        InputError: as `context_windows`.
    """
    questions, contexts = map(list, zip(*rows, strict=True))
    ids = [str(number) for number in range(first, first + len(rows))]
    asked = Questions(ids, questions, contexts, [[]] * len(rows), may_lack)
    nothing = [{"text": [], "answer_start": []}] * len(rows)
    return _examples(asked, nothing, BertTokenizer(tokenizer, max_length=length), first)


def _examples(
    questions: Questions, answers: Sequence[Mapping[str, Any]], reader: BertTokenizer, number: int = 0
) -> AnswerExamples:
    """number: of the first question, for what errors say."""
    made, spans, cut = [], [], 0
    for windows, contexts, of, more in _windows(reader, questions, number):
        cut += more
        right = answers[of : of + len(contexts)]
        made.append(Rows.of([window.row for window in windows]))
        spans.append(np.array([_tokens_of(window, right[window.example]) for window in windows], np.int32))
    starts, ends = np.concatenate(spans).T
    return AnswerExamples(Rows.joined(made), starts, ends, questions, reader, cut=cut)


def _windows(
    tokenizer: BertTokenizer, questions: Questions, number: int = 0
) -> Iterator[tuple[list[Window], Sequence[str], int, int]]:
    """Windows of some questions, the contexts of these, the place of the first, and how many were cut."""
    for first in range(0, len(questions.ids), kind.AT_ONCE):
        some = slice(first, first + kind.AT_ONCE)
        asked, contexts = questions.questions[some], questions.contexts[some]
        windows, cut = context_windows(tokenizer, asked, contexts, length=tokenizer.max_length, first=number + first)
        yield windows, contexts, first, cut


def _tokens_of(window: Window, answers: Mapping[str, Any]) -> tuple[int, int]:
    """First and last token of the first answer, 0 and 0 where a window has not the whole of it."""
    if not answers["text"]:
        return 0, 0
    text = answers["text"][0]
    start = answers["answer_start"][0] + len(text) - len(text.lstrip())
    end = start + len(text.strip())
    tokens = np.flatnonzero(window.context)
    offsets = window.offsets[tokens]
    if not len(tokens) or offsets[0, 0] > start or offsets[-1, 1] < end:
        return 0, 0
    first = np.searchsorted(offsets[:, 0], start, side="right") - 1
    last = max(first, np.searchsorted(offsets[:, 1], end, side="left"))
    return int(tokens[first]), int(tokens[last])


def _log_softmax(logits: jax.Array, batch: Batch) -> jax.Array:
    """Of [R, T, 2] over the tokens of each segment, float32; 0 of padding."""
    logits, segments = logits.astype(jnp.float32), batch["segment_ids"]
    own = segments[..., None] == jnp.arange(1, batch["weights"].shape[1] + 1)  # [R, T, S]
    every = jnp.where(own[..., None], logits[:, :, None], _LOWEST)  # [R, T, S, 2]
    norms = jax.nn.logsumexp(every, axis=1)
    norms = jnp.take_along_axis(norms, jnp.maximum(segments - 1, 0)[..., None], axis=1)
    return jnp.where(segments[..., None] > 0, logits - norms, 0.0)


def _answer(
    questions: Questions, number: int, context: str, windows: Sequence[Window], logits: Sequence[np.ndarray]
) -> Answer:
    starts, ends = ([values[:, place] for values in logits] for place in (0, 1))
    spans, absent = squad_spans(windows, starts, ends, context, n_best=1)
    best = spans[0]
    lacks = questions.may_lack and absent > best.score
    text, start, end, score = ("", 0, 0, absent) if lacks else best
    return Answer(questions.ids[number], text, start, end, float(score), float(absent - best.score))
