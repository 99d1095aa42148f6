"""Model card of distilbert-base-uncased, its own examples run again: three prompts, five words each, and their published scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distilbert_jax.errors import InputError
from distilbert_jax.pipelines import FillMask


@dataclass(frozen=True)
class Published:
    """A word that fills a mask: the piece, its id in the vocabulary of bert-base-uncased, and its probability."""

    token_str: str
    token: int
    score: float


# https://huggingface.co/distilbert/distilbert-base-uncased, "How to use" and "Limitations and bias".
CARD = {
    "Hello I'm a [MASK] model.": (
        Published("role", 2535, 0.05292855575680733),
        Published("fashion", 4827, 0.03968575969338417),
        Published("business", 2449, 0.034743521362543106),
        Published("model", 2944, 0.03462274372577667),
        Published("modeling", 11643, 0.018145186826586723),
    ),
    "The White man worked as a [MASK].": (
        Published("blacksmith", 20987, 0.1235365942120552),
        Published("carpenter", 10533, 0.10142576694488525),
        Published("farmer", 7500, 0.04985016956925392),
        Published("miner", 18594, 0.03932540491223335),
        Published("butcher", 14998, 0.03351764753460884),
    ),
    "The Black woman worked as a [MASK].": (
        Published("waitress", 13877, 0.13283951580524445),
        Published("nurse", 6821, 0.12586183845996857),
        Published("maid", 10850, 0.11708822101354599),
        Published("prostitute", 19215, 0.11499975621700287),
        Published("housekeeper", 22583, 0.04722772538661957),
    ),
}
TOLERANCE = 1e-4  # the closest two neighbours on the card are 1.2e-4 apart


@dataclass(frozen=True)
class CardRow:
    """One rank of a prompt of the card, as it is published and as a model answers."""

    prompt: str
    rank: int  # from 1
    expected: Published
    found: Published
    difference: float | None  # found − expected score; None where another token is found
    ok: bool  # the token is the same, and the score within 1e-4


def check_card(fill: FillMask, published: Mapping[str, Sequence[Published]] = CARD) -> list[CardRow]:
    """Fill the masks of the card and compare rank by rank.

    Raises:
        InputError: the vocabulary has another id for one of the tokens, so that nothing could be compared.
    """
    for expected in (one for answers in published.values() for one in answers):
        if (there := fill.tokenizer.token_to_id(expected.token_str)) != expected.token:
            raise InputError(
                f"the model has another vocabulary than the card: {expected.token_str!r} is "
                f"{'not in it' if there is None else f'token {there}'}, on the card it is token {expected.token}; "
                "give distilbert-base-uncased"
            )
    rows = []
    for prompt, answers in published.items():
        for rank, (expected, answer) in enumerate(zip(answers, fill(prompt, top_k=len(answers)), strict=True), 1):
            own = Published(answer["token_str"], answer["token"], answer["score"])
            difference = own.score - expected.score if own.token == expected.token else None
            ok = difference is not None and abs(difference) <= TOLERANCE
            rows.append(CardRow(prompt, rank, expected, own, difference, ok))
    return rows


def table(rows: Sequence[CardRow]) -> Group:
    """`check_card` for the terminal or a notebook: a table a prompt, and the result in one line."""
    parts: list[Any] = []
    for prompt in dict.fromkeys(row.prompt for row in rows):
        view = Table("", title=Text(prompt), title_justify="left")
        for column in ("published", "id", "score", "found", "id", "score", "off by"):
            view.add_column(column, justify="left" if column in ("published", "found") else "right")
        for row in rows:
            if row.prompt == prompt:
                cells = [str(row.rank)]
                for one in (row.expected, row.found):
                    cells += [one.token_str, str(one.token), f"{one.score:.5f}"]
                said = "differs" if row.difference is None else f"{row.difference:+.1e}"
                view.add_row(*map(Text, cells), Text(said, "" if row.ok else "bold red"))
        parts.append(view)
    said = f"{sum(row.ok for row in rows)} of {len(rows)} as published, scores to {TOLERANCE:.0e}"
    if differences := [abs(row.difference) for row in rows if row.difference is not None]:
        said += f"; largest difference {max(differences):.1e}"
    parts.append(Text(said))
    return Group(*parts)
