"""Demo tasks, generated from the demo's documents in GLUE's file layout. They measure nothing but the demo.

| task | columns | label |
| --- | --- | --- |
| demo-topic | sentence | 1: from the library's docstrings, 0: from the language reference |
| demo-order | sentence | 1: as it stands in the text, 0: two neighbouring words have changed places |
| demo-overlap | sentence1, sentence2 | 0 to 5: five times the share of words of the first that are left in the second |

Of topics a model sees few examples, so that what it has read before counts. Every task has an `idx` column; validation rows come
from held-out documents.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from distilbert_jax.base.files import atomic_file

VALIDATION_ROWS = 600

Documents = list[tuple[str, list[str]]]


@dataclass(frozen=True)
class SentenceRow:
    """A sentence and its label."""

    sentence: str
    label: int


@dataclass(frozen=True)
class PairRow:
    """Two sentences and their label, an int, or a float of a regression."""

    sentence1: str
    sentence2: str
    label: float


Row = TypeVar("Row", SentenceRow, PairRow)


def write_tasks(documents: dict[str, Documents], out: Path, seed: int = 0) -> dict[str, int]:
    """Write `<out>/<task>/{train,validation}.parquet`.

    Args:
        documents: name and paragraphs of each document, under "train" and "validation".

    Returns:
        Number of rows of each file, by its path below `out`.
    """
    import pyarrow
    from pyarrow import parquet

    rows_of = {}
    for task, (generate, train_rows) in TASKS.items():
        for split, wanted in (("train", train_rows), ("validation", VALIDATION_ROWS)):
            rows = generate(documents[split], wanted, random.Random(f"{seed} {task} {split}"))
            file = out / task / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist([{**vars(row), "idx": index} for index, row in enumerate(rows)])
            with atomic_file(file) as stream:
                parquet.write_table(table, stream)
            rows_of[f"{task}/{split}.parquet"] = len(rows)
    return rows_of


def topic_rows(documents: Documents, wanted: int, choose: random.Random) -> list[SentenceRow]:
    """Sentences, half from the language reference, half from the library's docstrings."""
    families = ([], [])
    for name, paragraphs in documents:
        families[name.startswith("library/")].extend(_sentences(paragraphs, 5, 40))
    count = min(wanted // 2, *map(len, families))
    rows = [
        SentenceRow(sentence, label)
        for label, family in enumerate(families)
        for sentence in choose.sample(family, count)
    ]
    return _shuffled(rows, choose)


def order_rows(documents: Documents, wanted: int, choose: random.Random) -> list[SentenceRow]:
    """Sentences of the text, every second one with two neighbouring words exchanged; in small letters, which would tell them."""
    texts = _sentences([paragraph for _, paragraphs in documents for paragraph in paragraphs], 8, 24)
    sentences = list(dict.fromkeys(texts))
    rows = []
    for number, sentence in enumerate(choose.sample(sentences, min(wanted, len(sentences)))):
        words = sentence.lower().split()
        # Neither the first word nor the last two, whose marks would tell.
        places = [place for place in range(1, len(words) - 2) if words[place] != words[place + 1]]
        if exchanged := number % 2 == 0 and bool(places):
            place = choose.choice(places)
            words[place : place + 2] = reversed(words[place : place + 2])
        rows.append(SentenceRow(" ".join(words), int(not exchanged)))
    return _shuffled(rows, choose)


def overlap_rows(documents: Documents, wanted: int, choose: random.Random) -> list[PairRow]:
    """Sentences beside a copy in which a random share of the words is dropped or replaced by other words of the text."""
    sentences = _sentences([paragraph for _, paragraphs in documents for paragraph in paragraphs], 8, 20)
    vocabulary = [word for sentence in sentences for word in sentence.split()]
    rows = []
    for sentence in choose.sample(sentences, min(wanted, len(sentences))):
        words = sentence.split()
        changed = set(choose.sample(range(len(words)), choose.randint(0, len(words))))
        copy = []
        for position, word in enumerate(words):
            if position not in changed:
                copy.append(word)
            elif choose.random() < 0.7:
                copy.append(choose.choice(vocabulary))
        label = 5 * (1 - len(changed) / len(words))
        rows.append(PairRow(sentence, " ".join(copy) or ".", round(label, 3)))
    return rows


Generate = Callable[[Documents, int, random.Random], Sequence[SentenceRow | PairRow]]
TASKS: dict[str, tuple[Generate, int]] = {  # and the rows to train on
    "demo-topic": (topic_rows, 300),
    "demo-order": (order_rows, 2000),
    "demo-overlap": (overlap_rows, 2000),
}


def _sentences(paragraphs: list[str], fewest: int, most: int) -> list[str]:
    """Sentences of so many words."""
    sentences = (one for paragraph in paragraphs for one in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", paragraph))
    return [one for one in sentences if fewest <= len(one.split()) <= most and one[-1] in ".!?:"]


def _shuffled(rows: list[Row], choose: random.Random) -> list[Row]:
    choose.shuffle(rows)
    return rows
