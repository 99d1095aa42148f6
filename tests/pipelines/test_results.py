import json
import pickle

from rich.console import Console

from distilbert_jax.pipelines.results import Answers

ROWS = [{"score": 0.25, "token_str": "[b]<i>&", "tokens": [3, 4]}, {"score": 1e-9, "token_str": "[/b]", "tokens": []}]


def rendered(answers):
    console = Console(width=100)
    with console.capture() as shown:
        console.print(answers)
    return shown.get()


def test_answers_are_lists_of_dictionaries():
    answers = Answers(ROWS, "a title")
    assert answers == ROWS
    assert isinstance(answers, list)
    assert json.loads(json.dumps(Answers([answers, answers]))) == [ROWS, ROWS]
    again = pickle.loads(pickle.dumps(answers))
    assert (again, again.title) == (ROWS, "a title")


def test_a_terminal_shows_a_table_in_which_brackets_are_text():
    shown = rendered(Answers(ROWS, "the [b] title"))
    for word in ("the [b] title", "score", "0.25", "1e-09", "[b]<i>&", "[/b]", "3 4"):
        assert word in shown


def test_a_notebook_shows_a_table_in_which_nothing_is_markup():
    shown = Answers(ROWS, "<script>title")._repr_html_()
    assert "<caption>&lt;script&gt;title</caption>" in shown
    assert "<th>score</th><th>token_str</th>" in shown
    assert "<td>0.25</td><td>[b]&lt;i&gt;&amp;</td><td>3 4</td>" in shown
    assert "<script>" not in shown
    assert shown.count("<tr>") == 3


def test_several_masks_and_texts_are_tables_one_after_the_other():
    masks = Answers([Answers(ROWS, "first (mask 1)"), Answers(ROWS, "first (mask 2)")], "first")
    texts = Answers([masks, Answers(ROWS, "second")])
    assert texts._repr_html_().count("<table>") == 3
    shown = rendered(texts)
    assert shown.count("token_str") == 3
    assert shown.index("first (mask 1)") < shown.index("first (mask 2)") < shown.index("second")


def test_nothing_is_shown_of_no_answers():
    assert Answers()._repr_html_() == "<table></table>"
    assert rendered(Answers()).strip() == ""
