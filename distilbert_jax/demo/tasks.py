"""Demo tasks, generated from the demo's documents in GLUE's file layout. They measure nothing but the demo.

| task | columns | label |
| --- | --- | --- |
| demo-topic | sentence | 1: from the library's docstrings, 0: from the language reference |
| demo-next | sentence1, sentence2 | 1: the second goes on where the first stops, 0: it comes from another document |
| demo-overlap | sentence1, sentence2 | 0 to 5: five times the share of words of the first that are left in the second |

Every task has an `idx` column; validation rows come from held-out documents.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from distilbert_jax.base.files import atomic_file

TRAIN_ROWS, VALIDATION_ROWS = 2000, 400

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
    for task, generate in TASKS.items():
        for split, wanted in (("train", TRAIN_ROWS), ("validation", VALIDATION_ROWS)):
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


def next_rows(documents: Documents, wanted: int, choose: random.Random, span: int = 20) -> list[PairRow]:
    """Paragraphs cut in their middle; each first half once with its own second half, once with a stranger's.

    Both labels have the same first and the same second halves: neither half alone says anything.
    """
    halves = []
    for name, paragraphs in documents:
        for words in (paragraph.split() for paragraph in paragraphs):
            middle = len(words) // 2
            if middle >= 12:
                first, second = words[max(0, middle - span) : middle], words[middle : middle + span]
                halves.append((name, " ".join(first), " ".join(second)))
    halves = choose.sample(halves, min(wanted // 2, len(halves)))
    # Sorted by document and turned by more than the largest document, every pair is one of strangers.
    halves.sort()
    names = [name for name, _, _ in halves]
    turn = max(map(names.count, set(names)), default=0)
    strangers = halves[turn:] + halves[:turn]
    rows = []
    for (name, first, second), (stranger, _, other) in zip(halves, strangers, strict=True):
        rows.append(PairRow(first, second, 1))
        if stranger != name:
            rows.append(PairRow(first, other, 0))
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


TASKS: dict[str, Callable[[Documents, int, random.Random], Sequence[SentenceRow | PairRow]]] = {
    "demo-topic": topic_rows,
    "demo-next": next_rows,
    "demo-overlap": overlap_rows,
}


def _sentences(paragraphs: list[str], fewest: int, most: int) -> list[str]:
    """Sentences of so many words."""
    sentences = (one for paragraph in paragraphs for one in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", paragraph))
    return [one for one in sentences if fewest <= len(one.split()) <= most and one[-1] in ".!?:"]


def _shuffled(rows: list[Row], choose: random.Random) -> list[Row]:
    choose.shuffle(rows)
    return rows
