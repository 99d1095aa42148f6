"""Tables of strings, the first line the head and the first column the titles, for the terminal and as Markdown."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text


def terminal(lines: Sequence[Sequence[str]], title: str) -> Table:
    """For rich; names are shown as they are, brackets too."""
    head, *rest = lines
    view = Table(title=Text(title), title_justify="left")
    for place, name in enumerate(head):
        view.add_column(Text(name), justify="right" if place else "left")
    for line in rest:
        view.add_row(*map(Text, line))
    return view


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A line each, every column but the first flush right."""
    head, *rest = lines
    ruled = (head, ["---", *["---:"] * (len(head) - 1)], *rest)
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in ruled)
