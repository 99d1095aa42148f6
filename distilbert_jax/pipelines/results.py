"""Results that are plain lists, and tables where people look at them."""

import html
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


class Answers(list):
    """A list of dictionaries with the same keys, or of such lists; a table on a terminal (rich) and in a notebook.

    Attributes:
        title: the text that was asked about, over the table.
    """

    def __init__(self, answers: Iterable[Any] = (), title: str = ""):
        super().__init__(answers)
        self.title = title

    def _tables(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        if self and not isinstance(self[0], dict):
            for answers in self:
                yield from answers._tables()
        else:
            yield self.title, self

    def __rich__(self) -> Group:
        return Group(*(_rich(title, rows) for title, rows in self._tables()))

    def _repr_html_(self) -> str:
        return "\n".join(_html(title, rows) for title, rows in self._tables())


def _rich(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=Text(title) if title else None, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row.values()))  # Text: no brackets are read as markup
    return table


def _html(title: str, rows: list[dict[str, Any]]) -> str:
    cells = lambda tag, values: "".join(f"<{tag}>{html.escape(shown(value))}</{tag}>" for value in values)
    lines = [cells("th", rows[0]), *(cells("td", row.values()) for row in rows)] if rows else []
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    return f"<table>{caption}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def shown(value: Any) -> str:
    """A value as a cell of a table: four digits of a float, a list with spaces between."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)
