"""Labels inferred from the values of a table."""

import pytest

from distilbert_jax.finetuning.files import open_table
from distilbert_jax.finetuning.inferred import Values, cell, infer
from tests.runs import refused


def values_of(*columns):
    names = [f"label{place}" for place in range(len(columns))] if len(columns) > 1 else ["label"]
    table = open_table(dict(zip(names, columns, strict=True)), what="train")
    several = [Values(table, name) for name in names]
    for number, row in table.rows():
        for one in several:
            one.add(number, row[one.column])
    return several


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["b", "a ", "b"], "classification", ("a", "b")),
        ([10, 9, 2], "classification", ("2", "9", "10")),
        (["5", "1.0", "+3"], "classification", ("1", "3", "5")),
        ([True, False], "classification", ("false", "true")),
        ([0.5, 1.0], "regression", ()),
        (["4.5", "1e2"], "regression", ()),
        (list(range(1900, 2000)), "regression", ()),
        ([*range(77)] * 2, "classification", tuple(map(str, range(77)))),
        ([["x"], [], ["y", "x"]], "multi_label", ("x", "y")),
        (['["x"]', "[]", "['y', 'x']"], "multi_label", ("x", "y")),
        (["010", "10", "1"], "classification", ("010", "1", "10")),
        (["\u0661", "1"], "classification", ("1", "\u0661")),
        (["caf\u00e9", "cafe\u0301", "x"], "classification", ("caf\u00e9", "x")),
        ([True, 1, "1", 0, False], "classification", ("0", "1", "false", "true")),
    ],
)
def test_what_one_column_of_labels_is(values, kind, names):
    result = infer(values_of(values))
    assert (result.kind, result.names) == (kind, names)


def test_several_columns_are_classes_of_a_row_or_amounts():
    truths, amounts = [["0", "1"], [True, False]], [[0.5, 1.0], [1, 0]]
    assert infer(values_of(*truths)).kind == "multi_label"
    assert infer(values_of(["0", "1"], [0, 1]), kind="regression").kind == "regression"
    assert infer(values_of(*amounts)).names == ("label0", "label1")
    assert infer(values_of(*amounts)).kind == "regression"
    assert infer(values_of(["0.0", "1.0"], ["1.0", "0.0"])).kind == "multi_label"
    refused(lambda: infer(values_of(*amounts), kind="multi_label"), field="label0", row=1)


def test_the_user_has_the_last_word():
    assert infer(values_of([1, 2, 3]), kind="regression").kind == "regression"
    assert infer(values_of([0.5, 1.5]), kind="classification").names == ("0.5", "1.5")
    asked = infer(values_of(["good", "bad"]), names=("good", "bad", "ugly"))
    assert (asked.names, asked.called("bad")) == (("good", "bad", "ugly"), "bad")
    by_id = infer(values_of(["0", "1"]), names=("negative", "positive"))
    assert (by_id.names, by_id.called("1"), by_id.called("negative")) == (
        ("negative", "positive"),
        "positive",
        "negative",
    )
    told = infer(values_of([0, 1]), classes=("bad", "good"), names=("good", "bad"))
    assert (told.names, told.called(0)) == (("good", "bad"), "bad")


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (["a", None], 2),
        (["a", "  "], 2),
        ([1.5, float("nan")], 2),
        ([1.5, float("inf")], 2),
        (["1.5", "nan", "2"], 2),
        (["1.5", "1e999", "2"], 2),
        ([1.5, -3.5e38], 2),
        ([1.5, 10**400], 2),
        (["1", "2", "NaN"], 3),
        (["a", {"x": 1}], 2),
        ([["a"], "b"], 2),
        ([["a"], [None]], 2),
    ],
)
def test_a_label_that_is_none_is_told_with_its_row(values, row):
    refused(lambda: infer(values_of(values)), path="train", field="label", row=row)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (["a", "a"], {}),
        ([2.5, 2.5], {}),
        ([f"text {i}" for i in range(300)], {}),
        (["a", "b"], {"kind": "regression"}),
        (["a", "b"], {"kind": "multi_label"}),
        ([["a"], ["b"]], {"kind": "classification"}),
        (["a", "c"], {"names": ("a", "b")}),
        ([0, 2], {"names": ("a", "b")}),
        ([0, -1], {"classes": ("a", "b")}),
        (["a", "b"], {"names": ("a", "b", "a")}),
    ],
)
def test_labels_that_nothing_can_be_learned_from_are_refused(values, options):
    refused(lambda: infer(values_of(values), **options))


def test_a_class_that_train_lacks_is_named_with_the_nearest():
    labels = infer(values_of(["positive", "negative"]))
    (dev,) = values_of(["positive"])
    assert labels.id_of(dev, 1, " positive ") == 1
    refused(lambda: labels.id_of(dev, 7, "positve"), "positive", row=7, hint="--labels negative positive positve")


@pytest.mark.parametrize("text", ["['a' 'b']", "['a'\n 'b']", "['a' ... 'z']", "[3 0 7]", "[0.5 -1.]"])
def test_an_array_as_numpy_shows_it_is_no_list(text):
    refused(lambda: values_of(["['a']", text]), path="train", field="label", row=2)


def test_a_text_in_brackets_is_a_text():
    wrong = lambda said: AssertionError(said)
    for text in ("[see 3 4]", "[1] a [2]", "[", "[a' 'b]", "{x y}"):
        assert cell(text, wrong) == text
    assert [cell(text, wrong) for text in ("['a', ' ']", '["a" , "b"]', "[1, -2]")] == [["a", " "], ["a", "b"], [1, -2]]


def test_numbers_with_commas_are_not_taken_for_classes():
    for values in (["1,5", "2,5", "1,5"], ["1,500", "2,000"]):
        refused(lambda values=values: infer(values_of(values)), field="label", row=1, hint="--kind classification")
    assert infer(values_of(["1,5", "2,5"]), kind="classification").names == ("1,5", "2,5")
    assert infer(values_of(["1,5", "x"])).names == ("1,5", "x")


@pytest.mark.parametrize("value", [[1.0, 0.0], [True, False, True], [0, 0, 1], [1.0], "[0, 1, 1]"])
def test_a_0_or_1_for_each_label_is_no_list_of_ids(value):
    refused(lambda: values_of([value, value]), field="label", row=1, hint="--label")


def test_labels_that_every_row_has_are_refused():
    refused(lambda: infer(values_of([[0, 1], [1, 0]])), field="label")
    assert infer(values_of([[0, 1], [1]])).names == ("0", "1")
