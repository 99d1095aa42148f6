"""Tags of words: what is read of a sentence, its loss in packed rows, its scores, and a toy task of entities."""

import random

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.finetuning.datasets import check
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.tasks import Task, register_task, usual_metrics
from distilbert_jax.models import TokenClassification
from distilbert_jax.text.tokenizer import load_tokenizer, stack
from tests import runs
from tests.finetuning.kinds.common import assert_packed_is_padded, divergence, known, predictions, trained
from tests.finetuning.test_objective import build_head
from tests.runs import BERT, STUDENT, refused

LABELS = ("O", "B-RED", "I-RED", "B-BLUE", "I-BLUE")
KIND = KINDS["tokens"]
TAGGED = {"columns": ("tokens",), "target": ("tags",), "kind": "tokens"}
TOY = Task("toy-tokens", "toy", labels=LABELS, metrics=("f1",), beside=("precision", "recall", "accuracy"), **TAGGED)
PLAIN = Task("toy-plain", "toy", labels=("X", "Y"), metrics=("accuracy", "f1_macro"), **TAGGED)


def sentences(rows, seed, longest=8):
    """Entities of a colour, begun by a word from a to j and gone on with by words from k to t; some words have two pieces."""
    choose, tokens, tags = random.Random(seed), [], []
    for _ in range(rows):
        words, names = [], []
        while len(words) < choose.randint(2, longest):
            colour = choose.choice(("red", "blue", ""))
            for i in range(choose.randint(1, 3) if colour else 1):
                letter = choose.choice("abcdefghij" if i == 0 else "klmnopqrst")
                words.append(colour + letter + choose.choice(("", "s")) if colour else choose.choice(("goes", "to")))
                names.append(f"{'BI'[i > 0]}-{colour.upper()}" if colour else "O")
        tokens.append(words)
        tags.append([LABELS.index(name) for name in names])
    return {"tokens": tokens, "tags": tags}


@pytest.fixture(scope="module")
def run(folder):
    patch = known(TOY)
    splits = {"train": sentences(150, 0), "validation": sentences(40, 1)}
    splits["validation"]["tokens"].append(["reda"] * 40)  # more than the model has positions for
    splits["validation"]["tags"].append([LABELS.index("B-RED")] * 40)
    for split in splits.values():  # words that the tokenizer reads nothing of
        split["tokens"].insert(0, ["\u200b", "\x01"])
        split["tags"].insert(0, [0, LABELS.index("B-RED")])
    yield trained(folder, TOY, splits, epochs=6)
    patch.undo()


@pytest.mark.slow
def test_entities_are_learned_and_a_student_learns_them_of_its_teacher(run):
    _, result, distilled = run
    assert list(result.scores["validation"]) == ["f1", "precision", "recall", "accuracy", "score"]
    assert result.score == result.scores["validation"]["f1"]
    assert result.scores["validation"]["precision"] > 95
    assert distilled.train_rows + distilled.dev_rows["selection_split"] == 151
    assert distilled.score > 5


def test_every_word_is_kept_and_one_beyond_the_length_is_predicted_as_nothing(run):
    directory, result, _ = run
    dev = sentences(40, 1)
    logits, labels, counts = (predictions(directory, f"validation{end}") for end in ("", "-labels", "-words"))
    np.testing.assert_array_equal(counts, [2, *map(len, dev["tokens"]), 40])
    np.testing.assert_array_equal(labels[2:-40], np.concatenate(dev["tags"]))
    assert np.isnan(logits[[0, 1, *range(-10, 0)]]).all()
    assert np.isfinite(logits[2:-10]).all()
    answers = np.where(np.isnan(logits[:, 0]), 0, np.nan_to_num(logits).argmax(-1))
    assert result.scores["validation"]["accuracy"] == pytest.approx(100 * (answers == labels).mean())


@pytest.fixture(scope="module")
def examples(world):
    rows = datasets.Dataset.from_dict(sentences(100, 2, longest=12))
    return KIND.encode(rows, TOY, load_tokenizer(world.tokenizer), 16)


def test_the_tag_of_a_word_stands_at_its_first_piece(world):
    tokenizer = load_tokenizer(world.tokenizer)
    rows = datasets.Dataset.from_dict(
        {"tokens": [["redas", "goes", "reda"], ["to"]], "tags": [["B-RED", "O", "B-RED"], ["O"]]}
    )
    examples = KIND.encode(rows, TOY, tokenizer, 6)
    assert [tokenizer.id_to_token(i) for i in examples.rows[0].ids] == ["[CLS]", "reda", "##s", "goes", "reda", "[SEP]"]
    np.testing.assert_array_equal(examples.columns[0], [1, 3, 4])
    np.testing.assert_array_equal(examples.tags[0], [1, 0, 1])
    short = KIND.encode(rows, TOY, tokenizer, 5)
    np.testing.assert_array_equal(short.columns[0], [1, 3, -1])
    assert (short.cut, KIND.remark(short)[:6]) == (1, "1 of 4")


def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(examples):
    model, teacher = (build_head(TokenClassification, one, seed, LABELS) for seed, one in enumerate((STUDENT, BERT)))

    def formula(model, teacher, indices):
        batch = stack([examples.rows[index] for index in indices], 0)
        row = np.repeat(np.arange(len(indices)), [len(examples.tags[index]) for index in indices])
        column = np.concatenate([examples.columns[index] for index in indices])
        tags = np.concatenate([examples.tags[index] for index in indices])
        read = column >= 0

        def logits(model):
            types = {"token_type_ids": batch["token_type_ids"]} if model.config.type_vocab_size else {}
            every = model(batch["input_ids"], batch["attention_mask"], **types).logits
            return every[row[read], column[read]]

        ours, theirs = logits(model), logits(teacher)
        own = -jnp.mean(jax.nn.log_softmax(ours)[jnp.arange(read.sum()), tags[read]])
        return own, jnp.mean(divergence(ours, theirs))

    over = lambda indices: {"examples": len(indices), "words": sum((examples.columns[i] >= 0).sum() for i in indices)}
    assert_packed_is_padded(KIND, examples, model, teacher, formula, over=over)


def logits_of(tags):
    return [np.eye(len(LABELS), dtype=np.float32)[tag] for tag in tags]


def test_entities_count_by_exact_span_and_type_and_words_alone_beside_them():
    true = [np.array([1, 2, 0, 3]), np.array([0, 1])]
    predicted = [np.array([1, 0, 0, 3]), np.array([2, 1])]  # one of two spans right; two, of which one is right
    scores = KIND.score(TOY, logits_of(predicted), true)
    assert scores["precision"] == pytest.approx(100 * 2 / 4)
    assert scores["recall"] == pytest.approx(100 * 2 / 3)
    assert scores["score"] == scores["f1"] == pytest.approx(100 * 4 / 7)
    assert scores["accuracy"] == pytest.approx(100 * 4 / 6)
    unread = [np.full((4, 5), np.nan, np.float32), logits_of(predicted)[1]]
    assert KIND.score(TOY, unread, true)["accuracy"] == pytest.approx(100 * 2 / 6), "O is right once"


def test_what_nobody_names_is_scored_by_entities_where_the_labels_are_of_them():
    assert usual_metrics("tokens", LABELS) == (("f1",), ("precision", "recall", "accuracy"))
    assert usual_metrics("tokens", ("X", "Y")) == (("accuracy",), ("f1_macro",))


def test_plain_tags_have_accuracy_and_macro_f1_and_what_is_not_read_is_wrong():
    true = [np.array([0, 0, 1])]
    logits = [np.array([[1, 0], [0, 1], [np.nan, np.nan]], np.float32)]
    scores = KIND.score(PLAIN, logits, true)
    assert scores["accuracy"] == pytest.approx(100 / 3)
    assert scores["f1_macro"] == pytest.approx(100 * (2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("rows", "field", "row"),
    [
        ({"tags": [[0, 0], [0]]}, "tokens", None),
        ({"tokens": [["a", "b"], ["c"]]}, "tags", None),
        ({"tokens": [["a", "b"], ["c"]], "tags": [[0, 0], [0, 0]]}, "tags", 1),
        ({"tokens": [["a", "b"], []], "tags": [[0, 0], []]}, "tokens", 1),
        ({"tokens": ["a b", "c"], "tags": [[0, 0], [0]]}, "tokens", 0),
        ({"tokens": [["a", None], ["c"]], "tags": [[0, 0], [0]]}, "tokens", 0),
        ({"tokens": [["a", "b"], ["c"]], "tags": [[0, 5], [0]]}, "tags", 0),
        ({"tokens": [["a", "b"], ["c"]], "tags": [["O", "PER"], ["O"]]}, "tags", 0),
        ({"tokens": [["a", "b"], ["c"]], "tags": [[1, 4], [0]]}, "tags", 0),
        ({"tokens": [["a", "b"], ["c"]], "tags": [["O", "O"], ["I-RED"]]}, "tags", 1),
    ],
)
def test_rows_without_as_many_tags_as_words_or_with_tags_that_are_not_iob2_are_refused(rows, field, row):
    refused(lambda: check(datasets.Dataset.from_dict(rows), TOY, "f.parquet"), path="f.parquet", field=field, row=row)


def test_the_names_that_a_file_has_for_tags_are_those_of_the_task():
    names = lambda *labels: datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "tags": datasets.Sequence(datasets.ClassLabel(names=labels)),
        }
    )
    rows = {"tokens": [["a"]], "tags": [[1]]}
    check(datasets.Dataset.from_dict(rows, features=names("x", "y")), PLAIN, "f")
    refused(lambda: check(datasets.Dataset.from_dict(rows, features=names("y", "x")), PLAIN, "f"), field="tags")


@pytest.mark.parametrize(
    "changes", [{"labels": ("X", "Y")}, {"columns": ("a", "b")}, {"metrics": ("matthews",)}, {"target": ()}]
)
def test_a_task_of_tags_that_cannot_be_is_refused(changes):
    refused(lambda: register_task(runs.change(TOY, **changes)), field="toy-tokens")


def test_the_real_entities_pass_every_check(conll_dir):
    names = ("O", *(f"{place}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for place in "BI"))
    task = Task("conll", "CoNLL-2003", ("tokens",), names, ("f1",), kind="tokens", target=("ner_tags",))
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_parquet(str(conll_dir / f"{split}.parquet"))
        check(rows, task, split)
