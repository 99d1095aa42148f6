"""Tables of strings on the terminal and as Markdown."""

import io

from rich.console import Console

from distilbert_jax.base import tables

LINES = [["", "run [red]", "a|b"], ["loss", "1.5", "–"]]


def test_markdown_has_titles_on_the_left_and_figures_on_the_right():
    assert tables.markdown(LINES) == "|  | run [red] | a\\|b |\n| --- | ---: | ---: |\n| loss | 1.5 | – |\n"


def test_the_terminal_shows_names_as_they_are():
    console = Console(file=io.StringIO(), width=80)
    console.print(tables.terminal(LINES, "title [bold]"))
    shown = console.file.getvalue()
    assert "title [bold]" in shown
    assert "run [red]" in shown
