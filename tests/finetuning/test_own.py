"""Tasks of one's own, from a table and the roles of its columns."""

import csv
import json
import random

import datasets
import pandas as pd
import pytest

from distilbert_jax.finetuning import own
from distilbert_jax.finetuning.own import own_task
from distilbert_jax.finetuning.own_rows import SEVERAL, group_of
from distilbert_jax.finetuning.own_splits import is_held_out
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.text.columns import Layout
from tests import runs
from tests.runs import refused

REVIEWS = Roles(text="review", label=("stars",))


def reviews(rows=100, seed=0, labels=("bad", "good")):
    choose = random.Random(seed)
    sides = [choose.randrange(2) for _ in range(rows)]
    return [
        {"review": f"{runs.sentence(choose, 4 + i % 5, ('red', 'blue')[side])} {i}", "stars": labels[side], "id": i}
        for i, side in enumerate(sides)
    ]


def written(path, rows, name="train.csv"):
    with (path / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path / name)


def test_a_file_becomes_a_task_that_says_what_it_learns(tmp_path, capsys):
    rows = reviews()
    task = own_task(written(tmp_path, rows), roles=REVIEWS)
    said = capsys.readouterr().err
    assert (task.kind, task.columns, task.target, task.labels) == (
        "classification",
        ("review",),
        ("stars",),
        ("bad", "good"),
    )
    assert find_task(task.name) is task
    held = [row for row in rows if is_held_out(row["review"])]
    assert f"{len(held)} of its rows" in said
    train, dev = (task.source.load(name) for name in ("train", "validation"))
    assert sorted(train["review"]) == sorted(row["review"] for row in rows if row not in held)
    assert list(dev["review"]) == [row["review"] for row in held]
    assert [task.labels[label] for label in dev["stars"]] == [row["stars"] for row in held]
    assert not list(tmp_path.glob("*.arrow"))


def test_its_name_and_fingerprints_go_by_content_columns_and_labels(tmp_path):
    rows = reviews()
    task = own_task(written(tmp_path, rows), roles=REVIEWS)
    (tmp_path / "copy").mkdir()
    same = own_task(written(tmp_path / "copy", rows), roles=REVIEWS)
    assert same.name == task.name
    assert own_task(rows, roles=REVIEWS).source.load("train")[:] == task.source.load("train")[:]
    names = {
        task.name,
        own_task(written(tmp_path, rows), written(tmp_path, rows, "dev.csv"), roles=REVIEWS).name,
        own_task(written(tmp_path, rows), roles=Roles(text="review", text_pair="id", label=("stars",))).name,
        own_task(written(tmp_path, rows), roles=REVIEWS, labels=("good", "bad")).name,
        own_task(written(tmp_path, rows[1:]), roles=REVIEWS).name,
    }
    assert len(names) == 5
    splits = {task.source.fingerprint(split) for split in ("train", "validation")}
    assert len(splits) == 2


@pytest.mark.parametrize("named", [("", ""), (":train", ":validation")])
def test_splits_of_one_folder_are_known_by_a_content_each(tmp_path, named):
    dev, tasks = reviews(20, 1), []
    for folder, train in (("a", reviews(60)), ("b", reviews(60, 2)), ("c", reviews(60))):
        splits = {"train": datasets.Dataset.from_list(train), "validation": datasets.Dataset.from_list(dev)}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / folder)
        tasks.append(own_task(*(f"{tmp_path / folder}{name}" for name in named), roles=REVIEWS))
    one, other, same = tasks
    assert one.name == same.name != other.name
    of_train, of_dev = ([task.source.fingerprint(split) for task in tasks] for split in ("train", "validation"))
    assert of_train[0] == of_train[2] != of_train[1]
    assert len(set(of_dev)) == 1
    assert not set(of_train) & set(of_dev)
    assert [table.name for table in (one.source.train, one.source.dev)] == [
        f"{tmp_path}/a:train",
        f"{tmp_path}/a:validation",
    ]


@pytest.mark.parametrize("dev", [None, reviews(20, 1)])
@pytest.mark.parametrize("kind", ["file", "list", "DataFrame"])
def test_rows_that_are_replaced_before_they_are_read_again_are_refused(tmp_path, kind, dev):
    first, then = reviews(), reviews(labels=("good", "bad"))
    if kind == "file":
        train = written(tmp_path, first)
        replace = lambda: written(tmp_path, then)
    elif kind == "list":
        train = list(first)
        replace = lambda: train.__setitem__(slice(None), then)
    else:
        train = pd.DataFrame(first)
        replace = lambda: train.__setitem__("stars", [row["stars"] for row in then])
    task = own_task(train, dev, roles=REVIEWS)
    replace()
    refused(lambda: task.source.load("train"), by="finetuning.own_splits.Pinned.check", path=task.source.train.name)
    assert own_task(train, dev, roles=REVIEWS).source.load("train")["stars"]


def test_rows_that_are_replaced_while_they_are_looked_at_are_refused(tmp_path, monkeypatch):
    train, look = written(tmp_path, reviews()), own.look
    replacing = lambda *given, **how: (look(*given, **how), written(tmp_path, reviews(labels=("good", "bad"))))[0]
    monkeypatch.setattr(own, "look", replacing)
    task = own_task(train, roles=REVIEWS)
    refused(lambda: task.source.load("validation"), path=train)


def test_dev_is_read_by_the_names_that_train_has(tmp_path, capsys):
    train, dev = reviews(), reviews(20, 1, labels=("good", "bad"))
    task = own_task(train, dev, roles=REVIEWS)
    assert [task.labels[label] for label in task.source.load("validation")["stars"]] == [row["stars"] for row in dev]
    assert len(task.source.load("train")) == 100
    dev[7]["stars"] = "goood"
    refused(
        lambda: own_task(train, dev, roles=REVIEWS),
        "good",
        path="dev",
        field="stars",
        row=8,
        hint="--labels bad good goood",
    )
    dev[3]["stars"] = "ugly"
    refused(lambda: own_task(train, dev, roles=REVIEWS), "goood", path="dev", field="stars", row=4, hint="ugly")
    capsys.readouterr()
    own_task(train, dev, roles=REVIEWS, labels=("bad", "good", "goood", "ugly"))
    assert "ugly" in capsys.readouterr().err.splitlines()[-1]


def test_classes_that_differ_in_case_alone_are_said(capsys):
    own_task([*reviews(60), *reviews(40, 1, ("bad", "Good"))], roles=REVIEWS)
    assert "'good' and" in capsys.readouterr().err.replace("'Good' and 'good'", "'good' and")


def test_amounts_pairs_and_several_labels():
    rows = [{**row, "pair": "b", "price": i + 0.5, "funny": i % 2, "sad": i % 3 == 0, "tags": ["x", "y"][: i % 3]} for i, row in
            enumerate(reviews())]  # fmt: skip
    task = own_task(rows, roles=Roles(text="review", text_pair="pair", label=("price",)))
    assert (task.kind, task.columns, task.labels) == ("regression", ("review", "pair"), ())
    assert task.source.load("train")["price"][0] == 0.5
    task = own_task(rows, rows, roles=Roles(text="review", label=("funny", "sad")))
    assert (task.kind, task.target, task.labels) == ("multi_label", (SEVERAL,), ("funny", "sad"))
    assert list(task.source.load("train")[SEVERAL])[:2] == [[0.0, 1.0], [1.0, 0.0]]
    task = own_task(rows, rows, roles=Roles(text="review", label=("tags",)))
    assert (task.kind, task.labels) == ("multi_label", ("x", "y"))
    assert list(task.source.load("train")[SEVERAL])[:3] == [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]


def test_a_label_that_every_row_has_or_none_is_told_and_refused_where_all_are_so(capsys):
    rows = [
        {**row, "no": 0, "yes": True, "two": 2, "half": i / 2, "kinds": ["x", *["y"][: i % 2]]}
        for i, row in enumerate(reviews())
    ]
    told = lambda *label, dev=None: (
        own_task(rows, dev, roles=Roles(text="review", label=label)),
        [line for line in capsys.readouterr().err.splitlines() if "in every row to learn from" in line],
    )[1]
    for row in rows:
        row["id"] = row["id"] % 2
    for dev in (None, rows):
        assert [line.split()[2:5] for line in told("id", "no", "yes", dev=dev)] == [
            ["no", "is", "0"],
            ["yes", "is", "1"],
        ]
        assert [line.split()[2:5] for line in told("half", "two", dev=dev)] == [["two", "is", "2"]]
        assert [line.split()[2:5] for line in told("kinds", dev=dev)] == [["x", "is", "1"]]
        assert not told("id", "half", dev=dev)
        assert not told("stars", dev=dev)
        assert not told("half", dev=dev)
    held = next(row for row in rows if is_held_out(row["review"]))
    held["no"] = 1  # the only one, and it is not learned from
    assert len(told("id", "no")) == 1
    held["no"] = 0
    for label in (("no", "yes"), ("two", "no")):
        refused(lambda label=label: own_task(rows, roles=Roles(text="review", label=label)), field=label[0])


def test_words_and_tags_from_any_form(tmp_path):
    (tmp_path / "a.conll").write_text("EU B-ORG\nrejects O\n\nPeter B-PER\nBlack I-PER\n" * 30)
    roles = Roles(tokens="tokens", tags="tags")
    task = own_task(tmp_path / "a.conll", tmp_path / "a.conll", roles=roles)
    assert (task.kind, task.labels) == ("tokens", ("O", "B-ORG", "B-PER", "I-PER"))
    first = {"tokens": ["EU", "rejects"], "tags": [1, 0]}
    assert task.source.load("train")[0] == first
    rows = [
        {"tokens": "EU rejects", "tags": "B-ORG O"},
        {"tokens": '["Peter", "Black"]', "tags": "['B-PER', 'I-PER']"},
    ] * 30
    task = own_task(written(tmp_path, rows), written(tmp_path, rows), roles=roles)
    assert task.source.load("train")[0] == first
    assert task.source.load("train")[1] == {"tokens": ["Peter", "Black"], "tags": [2, 3]}
    rows[7] = {"tokens": "EU rejects", "tags": "O"}
    refused(lambda: own_task(rows, roles=roles).source.load("train"), field="tags", row=8)


def test_tags_that_are_no_iob2_are_told_with_the_row(tmp_path, monkeypatch):
    text = "EU B-ORG\nrejects O\n\n" * 40 + "Peter I-PER\nBlack B-PER\n"
    (tmp_path / "a.conll").write_text(text)
    task = own_task(tmp_path / "a.conll", tmp_path / "a.conll", roles=Roles(tokens="tokens", tags="tags"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refused(lambda: task.source.load("train"), "I-PER", path="a.conll", field="tags", row=121)
    assert not list(tmp_path.glob("*.arrow"))


def sentences(*pairs, times=40):
    """Rows of words, `EU/B-ORG rejects/O` each, every one so many times."""
    split = lambda pair: zip(*(word.split("/") for word in pair.split()), strict=True)
    return [dict(zip(("tokens", "tags"), map(list, split(pair)), strict=True)) for pair in pairs for _ in range(times)]


TAGGED = Roles(tokens="tokens", tags="tags")


@pytest.mark.parametrize(
    ("wrong", "tag"),
    [("Al/BPER ran/O", "BPER"), ("Al/b-per ran/O", "b-per"), ("Al/I_PER ran/O", "I_PER"), ("Al/B-PER ran/o", "o")],
)
def test_tags_that_are_nearly_iob2_are_told_with_the_row(wrong, tag):
    rows = [*sentences("EU/B-ORG rejects/O"), *sentences(wrong, times=1)]
    refused(lambda: own_task(rows, roles=TAGGED), tag, path="train", field="tags", row=41, hint="--kind classification")
    plain = own_task(rows, rows, roles=TAGGED, kind="classification")
    assert plain.metrics == ("accuracy",)
    assert tag in plain.labels
    small = sentences("al/b-per ran/o", "bo/i-per ran/o")
    refused(lambda: own_task(small, roles=TAGGED), field="tags", row=1)


def test_names_of_tags_that_no_row_has_are_to_be_iob2_too():
    rows = named_rows(["O", "B-A", "BB"], sentences("a/O b/B-A"), "tags")
    refused(lambda: own_task(rows, roles=TAGGED), "BB", field="tags", hint="--kind classification")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("Al/NN ran/VB", "I/II O/UH"), ""),
        (("a/B b/I", "a/O b/O"), ""),
        (("Al/S-PER ran/O", "Al/B-PER Bo/E-PER"), "S-PER"),
        (("Al/B-P Bo/I-P", "Al/B-L Bo/B-P"), "--labels O "),
    ],
)
def test_plain_tags_stay_as_they_are_and_other_schemes_are_told(given, said, capsys):
    task = own_task(sentences(*given), sentences(*given), roles=TAGGED)
    lines = capsys.readouterr().err.splitlines()
    assert task.metrics == (("f1",) if "B" in task.labels else ("accuracy",))
    assert (len(lines) == 2 and said in lines[1]) if said else len(lines) == 1


@pytest.mark.parametrize("given", ["a/O b/O", "a/B-X b/B-X", "a/NN"])
def test_words_of_one_tag_teach_nothing(given):
    refused(lambda: own_task(sentences(given), roles=TAGGED), field="tags", path="train")
    refused(lambda: own_task(sentences(given), roles=TAGGED, labels=("O", "B-X", "NN")), field="tags", path="train")


def test_answers_stand_at_their_offset():
    roles = Roles(question="question", context="context", answers="answers")
    row = {"question": "who?", "context": "Bo ran. Al ran.", "answers": {"text": ["Al"], "answer_start": [8]}}
    rows = [{**row, "context": f"{row['context']} {i}"} for i in range(40)]
    task = own_task(rows, roles=roles)
    assert (task.kind, task.labels, task.target) == ("answers", (), ("answers",))
    assert task.source.load("train")[0]["answers"] == row["answers"]
    as_text = [{**one, "answers": json.dumps(one["answers"])} for one in rows]
    assert own_task(as_text, roles=roles).source.load("train")[:] == task.source.load("train")[:]
    named = [{**one, "answers": "Al"} for one in rows]
    assert own_task(named, roles=roles).source.load("train")[:] == task.source.load("train")[:]
    for wrong in (
        {"text": ["Al"], "answer_start": [7]},
        {"text": ["Al"], "answer_start": [-7]},
        {"text": ["Al"], "answer_start": []},
        {"text": [""], "answer_start": [0]},
        "ran",
        None,
    ):
        rows[5] = {**row, "answers": wrong}
        refused(lambda: own_task(rows, roles=roles), field="answers", row=6)
    rows[5] = {**row, "context": "baaab [1]", "answers": "aa"}  # which stands at 1 and at 2
    refused(lambda: own_task(rows, roles=roles), field="answers", row=6)
    rows[5] = {**row, "context": "see [1]", "answers": "[1]"}
    assert own_task(rows, rows, roles=roles).source.load("train")["answers"][5] == {
        "text": ["[1]"],
        "answer_start": [4],
    }
    rows[5] = {**row, "context": " "}
    refused(lambda: own_task(rows, roles=roles), field="context", row=6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["0", "1"], [0, 1]), ([1, 2], [0, 1]), (["A", "b"], [0, 1]), (["a1", "a2"], [0, 1])],
)
def test_the_right_choice_is_a_place_a_letter_or_a_name(values, expected):
    rows = [{"q": f"q {i}", "a1": "yes", "a2": "no", "right": values[i % 2]} for i in range(60)]
    task = own_task(rows, rows, roles=Roles(text="q", choices=("a1", "a2"), label=("right",)))
    assert (task.kind, task.columns) == ("choices", ("q", "a1", "a2"))
    assert task.source.load("train")["right"][:2] == expected
    three = [{**row, "a3": "none", "right": 1 + i % 2} for i, row in enumerate(rows)]  # from 0, or from 1?
    refused(lambda: own_task(three, roles=Roles(choices=("a1", "a2", "a3"), label=("right",))), field="right", row=1)
    wrong = [*rows[:3], {**rows[3], "right": "C"}, *rows[4:]]
    roles = Roles(text="q", choices=("a1", "a2"), label=("right",))
    refused(lambda: own_task(wrong, roles=roles), field="right", row=4)
    refused(lambda: own_task(rows, wrong, roles=roles), path="dev", field="right", row=4)
    if values[0] in ("A", "a1"):  # a place of dev alone: from 0, or from 1?
        refused(lambda: own_task(rows, [{**row, "right": "1"} for row in rows], roles=roles), path="dev", row=1)


@pytest.mark.parametrize(
    ("choices", "values", "expected"),
    [
        (("1", "2", "3"), [1, 2, 3], [0, 1, 2]),
        (("1", "2", "3"), ["3", "1.0", 2.0], [2, 0, 1]),
        (("3", "2", "1"), [3, 2.0, "1"], [0, 1, 2]),
        (("1", "2", "3"), ["A", "c", "B"], [0, 2, 1]),
        (("1", "2", "3"), [0, 1, 2], None),  # places from 0, or two names?
        (("0", "1", "2"), [1, 2, 3], None),
        (("1", "2", "yes"), [1, 2, 0], None),
        (("b", "a", "c"), ["a", "b", "c"], [1, 0, 2]),
        (("b", "a", "c"), ["A", "B", "C"], None),
    ],
)
def test_choices_that_are_called_by_numbers_or_letters_are_meant_by_their_names(choices, values, expected):
    text = any(isinstance(value, str) for value in values)
    values = list(map(str, values)) if text else values
    rows = [{**{name: f"is {name}" for name in choices}, "right": values[i % 3], "id": i} for i in range(60)]
    asked = lambda dev=rows: own_task(rows, dev, roles=Roles(choices=choices, label=("right",)))
    if expected is None:
        refused(asked, path="train", field="right")
        return
    assert asked().source.load("train")["right"][:3] == expected
    assert asked().source.load("validation")["right"][:3] == expected
    beyond = [{**row, "right": "0" if text else 0} for row in rows]
    refused(lambda: asked(beyond), path="dev", field="right", row=1)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "--text"),
        ({"label": ("a",)}, "--text"),
        ({"tags": "a"}, "--text"),
        ({"text": "a", "tokens": "b"}, "--tokens"),
        ({"text": "a", "tags": "b"}, "--tags"),
        ({"tokens": "a", "label": ("b",)}, "--label"),
        ({"question": "a"}, "--context"),
        ({"choices": ("a",)}, "--choices"),
        ({"text": "a", "label": ("a",)}, "a"),
    ],
)
def test_roles_that_do_not_go_together_are_refused(given, field):
    refused(lambda: Roles(**given), field=field)


@pytest.mark.parametrize(
    ("change", "field", "row"),
    [
        ({"review": "  "}, "review", 8),
        ({"review": None}, "review", 8),
        ({"review": 3}, "review", 8),
        ({"stars": None}, "stars", 8),
        ({"stars": float("nan")}, "stars", 8),
    ],
)
def test_a_row_that_is_wrong_is_told_before_anything_is_trained(change, field, row):
    rows = reviews()
    rows[7] |= change
    refused(lambda: own_task(rows, roles=REVIEWS), path="train", field=field, row=row)
    refused(lambda: own_task(reviews(), rows, roles=REVIEWS), path="dev", field=field, row=row)


@pytest.mark.parametrize("amount", ["1e999", "-1e39", "7" * 320, 3.5e38, 10**400, float("nan"), "na"])
def test_an_amount_that_float32_does_not_hold_is_told_in_train_and_in_dev(amount):
    rows, several = reviews(), Roles(text="review", label=("stars", "length"))
    rows = [{**row, "stars": i + 0.25, "length": i + 0.5} for i, row in enumerate(rows)]
    wrong = [*rows[:7], {**rows[7], "stars": amount}, *rows[8:]]
    for roles in (REVIEWS, several):
        refused(lambda roles=roles: own_task(wrong, roles=roles), path="train", field="stars", row=8)
        refused(lambda roles=roles: own_task(rows, wrong, roles=roles), path="dev", field="stars", row=8)


def test_what_is_not_there_or_not_enough_is_refused(tmp_path):
    file = written(tmp_path, reviews())
    refused(
        lambda: own_task(file, roles=Roles(text="reviw", label=("stars",))),
        "review",
        field="reviw",
        hint="--text review",
    )
    refused(lambda: own_task(file, roles=Roles(text="review")), field="--label")
    refused(lambda: own_task(reviews(3), roles=REVIEWS), field="--dev")
    refused(lambda: own_task([{"review": "a b", "stars": "good"}] * 30, roles=REVIEWS, layout=Layout()), field="stars")


def headless(path, first, labels=("0", "1"), rows=60, name="a.csv"):
    """A file of texts and labels under a first line, and the layout of `--columns text label`."""
    lines = [first, *(f"{row['review']},{row['stars']}" for row in reviews(rows, labels=labels))]
    (path / name).write_text("\n".join(lines))
    return str(path / name), Layout(names=("text", "label"))


HEADLESS = Roles(text="text", label=("label",))


@pytest.mark.parametrize(
    ("first", "labels"),
    [
        ("review,stars", ("0", "1")),
        ("review,stars", ("0.5", "1.25")),
        ("review,spam", ("true", "false")),
        ("review,Label", ("good", "bad")),
        ("Text, label", ("good", "bad")),
    ],
)
def test_a_header_that_is_taken_for_a_row_is_refused(tmp_path, first, labels, capsys):
    file, layout = headless(tmp_path, first, labels)
    hint = "leave --columns out"
    refused(lambda: own_task(file, roles=HEADLESS, layout=layout), path=file, row=1, hint=hint)
    good, _ = headless(tmp_path, f"a good one,{labels[0]}", labels, name="good.csv")
    own_task(good, good, roles=HEADLESS, layout=layout)
    assert len(capsys.readouterr().err.splitlines()) == 1
    refused(lambda: own_task(good, file, roles=HEADLESS, layout=layout), path=file, row=1, hint=hint)


@pytest.mark.parametrize(
    ("first", "labels", "names", "said"),
    [
        ("review,verdict", ("good", "bad"), (), True),
        ("a film that I would not have seen,mixed", ("good", "bad"), (), False),
        ("so so,mixed", ("good", "bad"), ("good", "bad", "mixed"), False),
        ("so so,unknown", ("0", "1"), ("0", "1", "unknown"), False),
        ("so so,2", ("0", "1"), (), False),
        ("so so,0", ("0", "1"), (), False),
    ],
)
def test_a_first_row_that_may_be_a_header_is_told(tmp_path, first, labels, names, said, capsys):
    file, layout = headless(tmp_path, first, labels)
    task = own_task(file, roles=HEADLESS, layout=layout, labels=names)
    assert sum(task.rows.values()) == 61
    assert ("if this row names the columns" in capsys.readouterr().err) == said


def test_a_row_of_its_own_class_is_no_header_where_the_file_names_its_columns(tmp_path, capsys):
    rows = [{"review": "so so", "stars": "unknown"}, *[{"review": f"red {i}", "stars": i % 3} for i in range(60)]]
    assert "unknown" in own_task(written(tmp_path, rows), roles=REVIEWS).labels
    assert "names the columns" not in capsys.readouterr().err


def test_names_of_a_dataset_are_the_labels():
    rows = reviews(labels=(0, 1))
    features = datasets.Features(
        {
            "review": datasets.Value("string"),
            "stars": datasets.ClassLabel(names=["thin", "fat"]),
            "id": datasets.Value("int32"),
        }
    )
    task = own_task(datasets.Dataset.from_list(rows, features=features), roles=REVIEWS)
    assert task.labels == ("thin", "fat")
    assert group_of(REVIEWS, rows[0]) == rows[0]["review"]


def named_rows(names, rows, column="stars"):
    """A data set whose ids have these names."""
    label = datasets.ClassLabel(names=names)
    feature = datasets.Sequence(label) if isinstance(rows[0][column], list) else label
    features = datasets.Dataset.from_list(rows).features | {column: feature}
    ids = [row | {column: label.str2int(row[column])} for row in rows]
    return datasets.Dataset.from_list(ids, features=datasets.Features(features))


def test_ids_have_the_names_of_the_data_set_that_they_are_in():
    rows, dev = reviews(), reviews(20, 1, labels=("good", "bad"))
    given = [row["stars"] for row in dev]
    said = lambda task, column="stars": [task.labels[one] for one in task.source.load("validation")[column]]
    train = named_rows(["bad", "good"], rows)
    same, turned = (
        own_task(train, named_rows(names, dev), roles=REVIEWS) for names in (["bad", "good"], ["good", "bad"])
    )
    assert same.labels == turned.labels == ("bad", "good")
    assert said(same) == said(turned) == given
    assert same.name != turned.name
    assert said(own_task(train, dev, roles=REVIEWS)) == given
    by_id = [row | {"stars": str(["bad", "good"].index(row["stars"]))} for row in dev]
    assert said(own_task(train, by_id, roles=REVIEWS)) == given
    stars = [row | {"stars": str(1 + i % 5)} for i, row in enumerate(rows)]
    written_out = own_task(named_rows(list("12345"), stars), stars[:20], roles=REVIEWS)
    assert said(written_out) == [row["stars"] for row in stars[:20]]
    stars[3]["stars"] = "0"  # no star: of classes that are called by numbers an id cannot be told
    refused(lambda: own_task(named_rows(list("12345"), stars[4:]), stars[:20], roles=REVIEWS), field="stars", row=4)


def test_ids_of_tags_have_the_names_of_the_data_set_that_they_are_in():
    rows = [{"words": ["a", "b", "c"], "tags": ["O", "B-A", "B-Z"]}] * 20
    names = ["O", "B-A", "B-Z"], ["O", "B-Z", "B-A"]
    train, dev = (named_rows(one, rows, "tags") for one in names)
    task = own_task(train, dev, roles=Roles(tokens="words", tags="tags"))
    assert [task.labels[one] for one in task.source.load("validation")[0]["tags"]] == rows[0]["tags"]


def test_answers_go_by_the_ids_of_their_questions():
    roles = Roles(question="question", context="context", answers="answers")
    rows = [{"question": "who?", "context": f"Al ran {i}.", "answers": "Al"} for i in range(40)]
    task = own_task(rows, [row | {"id": f"q{i}"} for i, row in enumerate(rows[:9])], roles=roles)
    assert task.source.load("validation")["id"] == [f"q{i}" for i in range(9)]
    assert "id" not in task.source.load("train").column_names


def test_a_table_is_read_as_a_stream(tmp_path):
    read = 0

    def rows():
        nonlocal read
        for row in reviews(5000):
            read += 1
            yield row

    from distilbert_jax.finetuning.files import Table
    from distilbert_jax.finetuning.own_rows import Reader

    table = Table("counting", ("review", "stars"), lambda columns: enumerate(rows(), 1), lambda columns: "")
    first = next(Reader(REVIEWS, labelled=False).rows(table))
    assert (first[0], read) == (1, 1)
