"""Answers in contexts: what is learned of each window, the loss in packed rows, decoding, scores, and a toy task of SQuAD 2."""

import json
import random

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.finetuning import identity
from distilbert_jax.finetuning.datasets import check
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.squad import answer_score
from distilbert_jax.finetuning.tasks import Task, register_task
from distilbert_jax.models import QuestionAnswering
from distilbert_jax.models.layers import DROPOUT_BITS
from distilbert_jax.text.tokenizer import load_tokenizer, stack
from tests.finetuning.kinds.common import assert_packed_is_padded, divergence, known, trained
from tests.finetuning.test_objective import build_head
from tests.runs import BERT, STUDENT, change, refused

KIND = KINDS["answers"]
TOY = Task(
    "toy-answers",
    "toy",
    ("question", "context"),
    (),
    ("f1",),
    kind="answers",
    target=("answers",),
    beside=("exact_match",),
)


def questions(rows, seed, longest=45, lacking=0.2):
    """The answer is the one run of red words, which begins with one from a to j and ends with one from k to t; some have none."""
    choose = random.Random(seed)
    table = {"id": [f"q{i}" for i in range(rows)], "question": ["goes to"] * rows, "context": [], "answers": []}
    for _ in range(rows):
        words = [
            choose.choice(("goes", "to", f"blue{choose.choice('abcdeklmno')}"))
            for _ in range(choose.randint(3, longest))
        ]
        entity = f"red{choose.choice('abcdefghij')} red{choose.choice('klmnopqrst')}"
        lacks = choose.random() < lacking
        at = choose.randint(0, len(words))
        before = " ".join(words[:at])
        context = " ".join([*words[:at], *([] if lacks else [entity]), *words[at:]])
        start = len(before) + bool(before)
        table["context"].append(context)
        table["answers"].append({"text": [] if lacks else [entity], "answer_start": [] if lacks else [start]})
    return table


def test_dropout_before_the_head_is_on_record_where_it_is_drawn(tmp_path):
    build_head(QuestionAnswering, STUDENT, 0, ("0", "1")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"qa_dropout": 0.1}))
    patch = known(TOY)
    bits = [identity.bits_of_dropout(FinetuneConfig(str(tmp_path), task)) for task in (TOY.name, "sst2")]
    patch.undo()
    assert bits == [DROPOUT_BITS, ""]


@pytest.fixture(scope="module")
def run(folder):
    patch = known(TOY)
    yield trained(folder, TOY, {"train": questions(150, 0), "validation": questions(40, 1)}, epochs=6)
    patch.undo()


@pytest.mark.slow
def test_answers_are_learned_and_a_student_learns_them_of_its_teacher(run):
    _, result, distilled = run
    assert (result.train_rows, result.dev_rows) == (150, {"validation": 40}), "questions, of more windows"
    assert list(result.scores["validation"]) == ["f1", "exact_match", "score"]
    assert result.score == result.scores["validation"]["f1"] > 80
    assert distilled.score > 10


def test_predictions_are_kept_as_the_official_script_reads_them(run):
    directory, result, _ = run
    given = json.loads((directory / "predictions/validation.json").read_text())
    dev = questions(40, 1)
    assert list(given) == dev["id"]
    right = [
        answer_score(given[i], one["text"], may_lack=True) for i, one in zip(dev["id"], dev["answers"], strict=True)
    ]
    assert result.scores["validation"]["exact_match"] == pytest.approx(
        100 * np.mean([one.exact_match for one in right])
    )
    assert all(text in context for text, context in zip(given.values(), dev["context"], strict=True))
    lacking = json.loads((directory / "predictions/validation-no-answer.json").read_text())
    assert [value > 0 for value in lacking.values()] == [not text for text in given.values()]


@pytest.fixture(scope="module")
def tokenizer(world):
    return load_tokenizer(world.tokenizer)


@pytest.fixture(scope="module")
def examples(tokenizer):
    return KIND.encode(datasets.Dataset.from_dict(questions(60, 2)), TOY, tokenizer, 24)


def test_windows_have_the_answer_where_it_is_whole_and_else_cls(tokenizer, examples):
    rows, places = questions(60, 2), {"whole": 0, "not": 0}
    assert len(examples) > examples.count == 60
    asked = -1
    for row, start, end in zip(examples.rows, examples.starts, examples.ends, strict=True):
        tokens = [tokenizer.id_to_token(i) for i in row.ids]
        context = " ".join(tokens[4:-1])
        if context not in rows["context"][asked]:
            asked += 1
        (entity,) = rows["answers"][asked]["text"] or [None]
        if entity and entity in context:
            assert " ".join(tokens[start : end + 1]) == entity
            places["whole"] += 1
        else:
            assert (start, end) == (0, 0)
            places["not"] += 1
    assert min(places.values()) > 10


def test_an_answer_is_found_in_the_midst_of_words_and_without_its_blanks(tokenizer):
    rows = {"question": ["goes"] * 2, "context": ["to redas!", "to  reda"]}
    rows["answers"] = [{"text": ["red"], "answer_start": [3]}, {"text": ["  reda"], "answer_start": [2]}]
    examples = KIND.encode(datasets.Dataset.from_dict(rows), TOY, tokenizer, 24)
    np.testing.assert_array_equal(np.stack([examples.starts, examples.ends]).T, [[4, 4], [4, 4]])


def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(tokenizer):
    examples = KIND.encode(datasets.Dataset.from_dict(questions(80, 2, longest=12)), TOY, tokenizer, 20)
    model, teacher = (build_head(QuestionAnswering, one, seed, ("0", "1")) for seed, one in enumerate((STUDENT, BERT)))

    def formula(model, teacher, indices):
        batch = stack([examples.rows[index] for index in indices], 0)
        real = batch["attention_mask"] > 0

        def logits(model):
            types = {"token_type_ids": batch["token_type_ids"]} if model.config.type_vocab_size else {}
            output = model(batch["input_ids"], batch["attention_mask"], **types)
            return [jnp.where(real, one, -1e9) for one in (output.start_logits, output.end_logits)]

        ours, theirs, places = logits(model), logits(teacher), np.arange(len(indices))
        truth = examples.starts[indices], examples.ends[indices]
        own = [-jnp.mean(jax.nn.log_softmax(one)[places, at]) for one, at in zip(ours, truth, strict=True)]
        distance = [jnp.mean(divergence(one, other)) for one, other in zip(ours, theirs, strict=True)]
        return sum(own) / 2, sum(distance) / 2

    assert_packed_is_padded(KIND, examples, model, teacher, formula, over=lambda indices: {"examples": len(indices)})


def test_the_best_span_of_any_window_is_the_answer_and_none_where_cls_has_more(tokenizer):
    table = questions(12, 5, lacking=0.5)
    examples = KIND.encode(datasets.Dataset.from_dict(table), TOY, tokenizer, 20)
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(len(row.ids), 2)).astype(np.float32) for row in examples.rows]
    answers = KIND.decoded(outputs, examples)
    words, asked = {}, -1
    for row, logits in zip(examples.rows, outputs, strict=True):
        tokens = [tokenizer.id_to_token(i) for i in row.ids]
        if " ".join(tokens[4:-1]) not in table["context"][asked]:
            asked += 1
        best, absent = words.get(asked, ((-np.inf, ""), np.inf))
        for first in range(4, len(tokens) - 1):
            for last in range(first, min(first + 30, len(tokens) - 1)):
                best = max(best, (float(logits[first, 0]) + float(logits[last, 1]), " ".join(tokens[first : last + 1])))
        words[asked] = best, min(absent, float(logits[0, 0]) + float(logits[0, 1]))
    assert len(words) == len(answers) == 12
    for answer, ((value, text), absent) in zip(answers, words.values(), strict=True):
        assert answer.no_answer == pytest.approx(absent - value)
        assert answer.text == ("" if absent > value else text)


def answers_of(text, start):
    return {"text": [text], "answer_start": [start]}


@pytest.mark.parametrize(
    ("changes", "field", "row"),
    [
        ({"context": None}, "context", None),
        ({"answers": None}, "answers", None),
        ({"context": ["a b", " "]}, "context", 1),
        ({"question": ["", "b"]}, "question", 0),
        ({"question": ["a", None]}, "question", 1),
        ({"answers": [answers_of("b", 2), answers_of("a", 1)]}, "answers", 1),
        ({"answers": [answers_of("b", 2), answers_of("b", -1)]}, "answers", 1),
        ({"answers": [answers_of("b", 2), answers_of("", 0)]}, "answers", 1),
        ({"answers": [answers_of("b", 2), {"text": ["a"], "answer_start": []}]}, "answers", 1),
        ({"answers": ["b", "a"]}, "answers", 0),
        ({"id": ["7", "7"]}, "id", 1),
    ],
)
def test_empty_contexts_and_answers_that_are_not_at_their_offset_are_refused(changes, field, row):
    rows = {"question": ["q", "r"], "context": ["a b", "a b"], "answers": [answers_of("b", 2), answers_of("a", 0)]}
    check(datasets.Dataset.from_dict(rows), TOY, "f.parquet")
    wrong = {name: values for name, values in {**rows, **changes}.items() if values is not None}
    refused(lambda: check(datasets.Dataset.from_dict(wrong), TOY, "f.parquet"), path="f.parquet", field=field, row=row)


@pytest.mark.parametrize("changes", [{"labels": ("X", "Y")}, {"columns": ("a",)}, {"metrics": ("accuracy",)}])
def test_a_task_of_answers_that_cannot_be_is_refused(changes):
    refused(lambda: register_task(change(TOY, **changes)), field="toy-answers")


def test_every_real_question_passes_and_its_own_answers_are_right(squad_dir):
    rows = datasets.Dataset.from_parquet(str(squad_dir / "validation.parquet"))
    check(rows, TOY, "validation")
    assert all(answer_score(one["text"][-1], one["text"]).exact_match == 1 for one in rows["answers"])
    check(datasets.Dataset.from_parquet(str(squad_dir / "train.parquet")), TOY, "train")
