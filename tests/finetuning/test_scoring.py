"""Labels of rows beside those of a model that is fine-tuned already."""

import dataclasses
import json

import pytest

from distilbert_jax.finetuning.files import open_table
from distilbert_jax.finetuning.inferred import Values
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.scoring import _of_model, _spans, predict_rows, predictions, score_rows
from distilbert_jax.models import MultipleChoice, QuestionAnswering, SequenceClassification, TokenClassification
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.finetuning.kinds.test_answers import questions
from tests.finetuning.test_objective import build_head
from tests.runs import BERT, STUDENT, change, refused

SEVERAL = "multi_label_classification"


def ids_of(labels, *columns, problem=None, names=("label",)):
    """The ids of values, as a model of these labels has them."""
    table = open_table(dict(zip(names, columns, strict=True)))
    values = [Values(table, name) for name in names]
    for number, row in table.rows():
        for one in values:
            one.add(number, row[one.column])
    config = change(BERT, labels=labels, problem_type=problem)
    roles, result = _of_model(config, values, Roles(text="text", label=names), table, "model")
    if len(names) > 1:
        return roles.label
    return [result.id_of(values[0], 1, value) for value in columns[0]]


@pytest.mark.parametrize(
    ("labels", "values", "ids"),
    [
        (("US", "us", "Us"), ["us", "US", "Us"], [1, 0, 2]),
        (("bad film", "good"), ["Bad_Film", "GOOD"], [0, 1]),
        (("1", "2", "3"), ["1.0", "2.0"], [0, 1]),
        (("1", "2", "3"), ["1", 2, 3.0], [0, 1, 2]),
        (("LABEL_0", "LABEL_1"), ["1.0", "0"], [1, 0]),
        (("bad", "good"), ["1.0", 0], [1, 0]),
        (("false", "true"), [True, "False"], [1, 0]),
    ],
)
def test_a_label_is_meant_by_its_name_first(labels, values, ids):
    assert ids_of(labels, values) == ids


def test_a_label_that_may_be_one_of_two_is_refused():
    refused(lambda: ids_of(("US", "us"), ["US", "uS"]), field="label", row=2)


def test_a_model_of_several_labels_may_be_asked_for_one():
    assert ids_of(("a", "b"), ["b", "a"], problem=SEVERAL) == [1, 0]
    assert ids_of(("x", "X"), [0, 1], [1, 0], problem=SEVERAL, names=("X", "x")) == ("x", "X")


def test_several_amounts_go_by_their_names():
    amounts = lambda labels, *names: ids_of(labels, [0.5, 1.5], [3.0, 4.0], problem="regression", names=names)
    assert amounts(("a", "b"), "b", "a") == ("a", "b")
    assert amounts(("LABEL_0", "LABEL_1"), "b", "a") == ("b", "a")
    refused(lambda: amounts(("a", "b"), "a", "c"), path="model", field="--label")


def test_as_many_tokens_are_scored_as_are_predicted(world, tmp_path):
    labels, model = ("bad", "good"), str(tmp_path)
    build_head(SequenceClassification, STUDENT, 0, labels).save_pretrained(model, load_tokenizer(world.tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"model_max_length": 8})
    )
    texts = [" ".join(["reda", "lorim", "teso"][i % 3 :] * (1 + i)) for i in range(9)]
    rows = list(predictions(model, open_table([{"text": text} for text in texts]), roles=Roles(text="text")))
    result = score_rows(model, rows, roles=Roles(text="text", label=("predicted",)))
    assert (result.score, result.cut_share, result.length) == (100.0, pytest.approx(5 / 9), 8)


def test_one_label_of_no_said_kind_is_an_amount_scored_or_predicted(world, tmp_path):
    model = str(tmp_path)
    build_head(SequenceClassification, STUDENT, 0, ("price",)).save_pretrained(model, load_tokenizer(world.tokenizer))
    config = json.loads((tmp_path / "config.json").read_text())
    config["problem_type"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    texts = [{"text": "reda " * (1 + i)} for i in range(5)]
    rows = list(predictions(model, open_table(texts), roles=Roles(text="text")))
    result = score_rows(model, rows, roles=Roles(text="text", label=("predicted",)))
    assert result.metrics["rmse"] == pytest.approx(0.0, abs=1e-5)


def test_a_model_of_one_label_is_not_scored_on_several():
    refused(lambda: ids_of(("a", "b"), [["a"], ["a", "b"]]), path="model", field="--label")
    refused(lambda: ids_of(("a", "b"), [0, 1], [1, 0], names=("a", "b")), path="model", field="--label")


def test_the_entities_of_words_are_those_of_their_tags():
    tags = ["B-PER", "I-PER", "O", "I-LOC", "B-LOC", None]
    said = _spans(["Ada", "Lovelace", "in", "Great", "Britain", "now"], tags, [0.5, 1.0, 0.9, 0.75, 0.25, None])
    assert said == [
        {"entity_group": "PER", "score": 0.75, "word": "Ada Lovelace", "start": 0, "end": 2},
        {"entity_group": "LOC", "score": 0.75, "word": "Great", "start": 3, "end": 4},
        {"entity_group": "LOC", "score": 0.25, "word": "Britain", "start": 4, "end": 5},
    ]
    assert _spans(["Ada"], [None], [None]) == []


@pytest.mark.parametrize(("labels", "whether"), [(("O", "B-X", "I-X"), True), (("O", "B-X", "E-X"), False)])
def test_entities_are_predicted_where_the_labels_are_iob2(world, tmp_path, labels, whether, monkeypatch):
    model, rows = str(tmp_path), [{"words": ["reda", "lorim"] * (1 + 20 * (i == 99))} for i in range(130)]
    build_head(TokenClassification, STUDENT, 0, labels).save_pretrained(model, load_tokenizer(world.tokenizer))
    monkeypatch.setattr("distilbert_jax.finetuning.written._AT_ONCE", 50)
    only = lambda words, tags, scores: [{"start": 1, "end": 2}] if len(words) > 2 else []  # in one group of rows alone
    monkeypatch.setattr("distilbert_jax.finetuning.scoring._spans", only)
    for name in ("a.jsonl", "a.parquet"):
        assert predict_rows(model, rows, tmp_path / name, roles=Roles(tokens="words"), length=16) == 130
        said = [row for _, row in open_table(tmp_path / name).rows()]
        assert all(("entities" in row) is whether for row in said)
        assert not whether or [len(row["entities"]) for row in said] == [int(i == 99) for i in range(130)]


def test_a_row_whose_words_have_no_piece_is_predicted_and_scored_as_nothing(world, tmp_path):
    labels, model = ("O", "B-X", "I-X"), str(tmp_path)
    build_head(TokenClassification, STUDENT, 0, labels).save_pretrained(model, load_tokenizer(world.tokenizer))
    rows = [{"words": ["reda"], "tags": ["O"]}, {"words": ["\u200b", "\x01"], "tags": ["O", "B-X"]}]
    one, other = predictions(model, open_table(rows), roles=Roles(tokens="words"))
    assert one["predicted"] != [None]
    assert (other["predicted"], other["scores"], other["entities"]) == ([None, None], [None, None], [])
    (alone,) = predictions(model, open_table(rows[1:]), roles=Roles(tokens="words"))
    assert alone == other
    assert score_rows(model, rows[1:], roles=Roles(tokens="words", tags="tags")).metrics["accuracy"] == 50.0


def test_the_length_at_which_rows_are_cut_is_told(world, tmp_path, capsys):
    for head, roles, labels in (
        (TokenClassification, Roles(tokens="text"), ("x", "y")),
        (MultipleChoice, Roles(text="text", choices=("a", "b")), ("x",)),
    ):
        build_head(head, STUDENT, 0, labels).save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
        rows = [{"text": "reda " * (1 + 20 * (i < 3)), "a": "lorim", "b": "teso"} for i in range(70)]
        for some, said in ((rows, "3 of 70 texts are longer than 16 tokens"), (rows[3:], "")):
            assert len(list(predictions(str(tmp_path), open_table(some), roles=roles, length=16))) == len(some)
            lines = capsys.readouterr().err
            assert said in lines if said else not lines


def test_a_length_of_nothing_is_refused():
    rows = [{"text": "a", "label": "x"}]
    refused(lambda: score_rows("model", rows, roles=Roles(text="text", label=("label",)), length=0), field="length")


def test_the_answers_that_are_predicted_are_those_that_are_scored(world, tmp_path, capsys):
    model = str(tmp_path)
    build_head(QuestionAnswering, STUDENT, 0, ("0", "1")).save_pretrained(model, load_tokenizer(world.tokenizer))
    table = questions(9, 0, longest=60)
    asked = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    roles = Roles(question="question", context="context")
    for no_answer in (False, True):
        said = list(predictions(model, open_table(asked), roles=roles, length=64, no_answer=no_answer))
        assert any(not row["predicted"] for row in said) == no_answer
        right = [{"text": [row["predicted"]], "answer_start": [row["start"]]} for row in said]
        nothing = {"text": [], "answer_start": []}
        rows = [row | {"answers": one if one["text"][0] else nothing} for row, one in zip(asked, right, strict=True)]
        result = score_rows(model, rows, roles=dataclasses.replace(roles, answers="answers"))
        assert result.metrics == {"f1": 100.0, "exact_match": 100.0}
        windows = f"windows of {result.length} tokens"
        assert windows in result.remark
        assert windows in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "labels", "row", "roles"),
    [
        (SequenceClassification, ("x", "y"), {"text": "reda", "label": "x"}, Roles(text="text", label=("label",))),
        (SequenceClassification, ("price",), {"text": "reda", "label": 0.5}, Roles(text="text", label=("label",))),
        (
            TokenClassification,
            ("x", "y"),
            # The last words are beyond what is read, which is no fault of the model.
            {"words": ["reda", "lorim"] * 20, "tags": ["x", "y"] * 20},
            Roles(tokens="words", tags="tags"),
        ),
        (
            QuestionAnswering,
            ("0", "1"),
            {"q": "reda", "c": "lorim reda", "a": {"text": ["reda"], "answer_start": [6]}},
            Roles(question="q", context="c", answers="a"),
        ),
        (
            MultipleChoice,
            ("x",),
            {"text": "reda", "x": "lorim", "y": "teso", "label": "x"},
            Roles(text="text", choices=("x", "y"), label=("label",)),
        ),
    ],
)
def test_scores_that_are_not_finite_are_refused(world, tmp_path, head, labels, row, roles):
    model, rows = build_head(head, STUDENT, 0, labels), [dict(row) for _ in range(3)]
    asked = lambda: list(predictions(str(tmp_path), open_table(rows), roles=roles, length=16))
    model.save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
    assert len(asked()) == 3
    assert score_rows(str(tmp_path), rows, roles=roles, length=16).rows == 3
    last = model.qa_outputs if head is QuestionAnswering else model.classifier
    last.kernel[...] = 3e38  # finite, as what is loaded has to be, but what it gives is not
    model.save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
    refused(asked, by="models.ranges.check_finite", path=str(tmp_path))
    refused(lambda: score_rows(str(tmp_path), rows, roles=roles, length=16), by="models.ranges.check_finite")
