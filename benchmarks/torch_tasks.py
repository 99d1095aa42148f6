"""The plain PyTorch loop that `distilbert-jax finetune` and `paper --table 2` are compared with: same weights, rows and settings.

    python benchmarks/torch_tasks.py tokens --model DIR --train conll2003/train.parquet --dev conll2003/validation.parquet
    python benchmarks/torch_tasks.py answers --model DIR --train squad/train.parquet --dev squad/validation.parquet
    python benchmarks/torch_tasks.py texts --model DIR --train imdb/train.parquet --dev imdb/test.parquet \\
        --length 512 --learning-rate 2e-5
    python benchmarks/torch_tasks.py texts --model DIR --train train.csv --dev dev.csv --text text --label person place

Nothing of this project is used but the loop of `torch_finetune`, beside this file: transformers tokenises and computes the model;
seqeval, scikit-learn and, for SQuAD, a dozen lines of its own score it. Defaults are those of the two commands.
"""

import functools
import itertools
import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqeval.metrics
import torch
import transformers
import tyro
from pyarrow import csv, parquet
from sklearn.metrics import accuracy_score, f1_score
from torch_finetune import Rows, take_steps

_APART = -100  # label of a token that has none
_NAMES = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
_N_BEST, _MOST_TOKENS = 20, 30  # of an answer


def tokens(
    model: Path,
    train: Path,
    dev: Path,
    seed: int = 0,
    epochs: int = 3,
    batch_size: int = 32,
    length: int = 128,
    learning_rate: float = 5e-5,
    max_train_rows: int | None = None,
) -> None:
    """Tags of words, as CoNLL-2003 has them: entity precision, recall and F1."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tagger = transformers.AutoModelForTokenClassification.from_pretrained(model, num_labels=len(_NAMES))

    def encoded(file: Path) -> tuple[Rows, list[list[int]]]:
        table = parquet.read_table(file).to_pydict()
        rows: Rows = []
        for words, tags in zip(table["tokens"], table["ner_tags"], strict=True):
            row = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length)
            of_word = row.word_ids()
            first = [word is not None and word not in of_word[:place] for place, word in enumerate(of_word)]
            labels = [tags[word] if is_first else _APART for word, is_first in zip(of_word, first, strict=True)]
            rows.append(
                {**row, "labels": labels, "words": [word for word, one in zip(of_word, first, strict=True) if one]}
            )
        return rows, table["ner_tags"]

    (rows, _), (scored, truth) = encoded(train), encoded(dev)
    batch_of = functools.partial(_padded, pad=tokenizer.pad_token_id)
    steps, seconds = take_steps(tagger, rows[:max_train_rows], batch_of, epochs, batch_size, learning_rate)

    predicted = [["O"] * len(tags) for tags in truth]
    for places, logits in _outputs(tagger, scored, batch_of, batch_size):
        for at, best in zip(places, logits[0].argmax(-1), strict=True):
            found = [tag for tag, label in zip(best, scored[at]["labels"], strict=False) if label != _APART]
            for word, tag in zip(scored[at]["words"], found, strict=True):
                predicted[at][word] = _NAMES[tag]
    right = [[_NAMES[tag] for tag in tags] for tags in truth]
    metrics = {name: getattr(seqeval.metrics, f"{name}_score") for name in ("f1", "precision", "recall")}
    _say("tokens", seed, {name: score(right, predicted) for name, score in metrics.items()}, steps, seconds)


def texts(
    model: Path,
    train: Path,
    dev: Path,
    text: str = "text",
    label: tuple[str, ...] = ("label",),
    seed: int = 0,
    epochs: int = 3,
    batch_size: int = 32,
    length: int = 128,
    learning_rate: float = 5e-5,
    max_train_rows: int | None = None,
) -> None:
    """Texts of a .csv or .parquet with one class (a whole number) in one column, or 0 and 1 in several: accuracy and F1."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, model_max_length=length)
    several = len(label) > 1

    def encoded(file: Path) -> Rows:
        table = (csv.read_csv if file.suffix == ".csv" else parquet.read_table)(file).to_pydict()
        rows = tokenizer(table[text], truncation=True, max_length=length)["input_ids"]
        of_row = zip(*(table[name] for name in label), strict=True)
        labels = [list(map(float, values)) if several else values[0] for values in of_row]
        return [{"input_ids": ids, "labels": value} for ids, value in zip(rows, labels, strict=True)]

    rows, scored = encoded(train), encoded(dev)
    kind = {"problem_type": "multi_label_classification"} if several else {}
    number = len(label) if several else 1 + max(row["labels"] for row in rows)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=number, **kind)
    batch_of = functools.partial(_padded, pad=tokenizer.pad_token_id)
    steps, seconds = take_steps(classifier, rows[:max_train_rows], batch_of, epochs, batch_size, learning_rate)

    truth = np.array([row["labels"] for row in scored])
    predicted = np.zeros_like(truth)
    for places, (logits,) in _outputs(classifier, scored, batch_of, batch_size):
        predicted[places] = logits > 0 if several else logits.argmax(-1)
    scores = {"accuracy": accuracy_score(truth, predicted), "f1_macro": f1_score(truth, predicted, average="macro")}
    if several:
        scores["f1_micro"] = f1_score(truth, predicted, average="micro")
    _say("texts", seed, scores, steps, seconds)


def answers(
    model: Path,
    train: Path,
    dev: Path,
    seed: int = 0,
    epochs: int = 2,
    batch_size: int = 12,
    length: int = 384,
    stride: int = 128,
    learning_rate: float = 3e-5,
    max_train_rows: int | None = None,
) -> None:
    """SQuAD 1.1: exact match and F1, the window and the span with the highest sum of logits."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, model_max_length=length)
    answerer = transformers.AutoModelForQuestionAnswering.from_pretrained(model)

    def windows(file: Path, most: int | None) -> tuple[Rows, list[dict[str, Any]]]:
        questions = parquet.read_table(file).to_pylist()[:most]
        rows: Rows = []
        for number, one in enumerate(questions):
            (start, text), *_ = zip(one["answers"]["answer_start"], one["answers"]["text"], strict=True)
            many = tokenizer(
                one["question"].lstrip(),
                one["context"],
                truncation="only_second",
                max_length=length,
                stride=stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            for ids, types, offsets, encoding in zip(
                many["input_ids"], many["token_type_ids"], many["offset_mapping"], many.encodings, strict=True
            ):
                inside = [place for place, part in enumerate(encoding.sequence_ids) if part == 1]
                first = [at for at in inside if offsets[at][0] <= start < offsets[at][1]]
                last = [at for at in inside if offsets[at][0] < start + len(text) <= offsets[at][1]]
                span = (first[0], last[-1]) if first and last else (0, 0)
                rows.append(
                    {
                        "input_ids": ids,
                        "token_type_ids": types,
                        "start_positions": span[0],
                        "end_positions": span[1],
                        "offsets": offsets,
                        "inside": inside,
                        "question": number,
                    }
                )
        return rows, questions

    (rows, _), (scored, questions) = windows(train, max_train_rows), windows(dev, None)
    batch_of = functools.partial(_padded, pad=tokenizer.pad_token_id)
    steps, seconds = take_steps(answerer, rows, batch_of, epochs, batch_size, learning_rate)

    best: dict[int, tuple[float, str]] = {}
    for places, (starts, ends) in _outputs(answerer, scored, batch_of, batch_size):
        for at, start, end in zip(places, starts, ends, strict=True):
            found = _span(start, end, scored[at]["inside"])
            if found and found[0] > best.get(scored[at]["question"], (-np.inf, ""))[0]:
                value, first, last = found
                context, offsets = questions[scored[at]["question"]]["context"], scored[at]["offsets"]
                best[scored[at]["question"]] = (float(value), context[offsets[first][0] : offsets[last][1]])
    each = [_squad(best.get(number, (0, ""))[1], one["answers"]["text"]) for number, one in enumerate(questions)]
    exact, f1 = np.mean(each, axis=0)
    _say("answers", seed, {"exact_match": exact, "f1": f1}, steps, seconds)


def _span(start: np.ndarray, end: np.ndarray, inside: Sequence[int]) -> tuple[float, int, int] | None:
    """The pair of the best starts and ends with the largest sum, in order, inside the context and not too long."""
    allowed = set(inside)
    highest = lambda logits: [int(at) for at in np.argsort(-logits)[:_N_BEST] if int(at) in allowed]
    pairs = itertools.product(highest(start), highest(end))
    return max(((start[a] + end[b], a, b) for a, b in pairs if a <= b < a + _MOST_TOKENS), default=None)


def _squad(given: str, right: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of an answer, the best over those that are right."""

    def words(answer: str) -> list[str]:
        plain = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", plain).split()

    def f1(one: list[str], other: list[str]) -> float:
        return 2 * sum((Counter(one) & Counter(other)).values()) / max(len(one) + len(other), 1)

    ours, theirs = words(given), [words(answer) for answer in right]
    return float(ours in theirs), max(f1(ours, one) for one in theirs)


def _padded(rows: Rows, pad: int) -> Mapping[str, torch.Tensor]:
    """A batch, each array as long as its longest row."""
    longest = max(len(row["input_ids"]) for row in rows)
    of_tokens = {"input_ids": pad, "token_type_ids": 0, **({"labels": _APART} if "words" in rows[0] else {})}
    batch: dict[str, torch.Tensor] = {}
    for name in ("input_ids", "token_type_ids", "labels", "start_positions", "end_positions"):
        if name in rows[0]:
            values = [row[name] for row in rows]
            if name in of_tokens:
                values = [value + [of_tokens[name]] * (longest - len(value)) for value in values]
            batch[name] = torch.tensor(values)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {**batch, "attention_mask": (torch.arange(longest) < lengths[:, None]).long()}


@torch.inference_mode()
def _outputs(model: Any, rows: Rows, batch_of: Any, batch_size: int) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Places of rows, and the model's logits of them, rows of similar length together."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]["input_ids"]))
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        found = model(**batch_of([rows[at] for at in places]))
        logits = [found.logits] if "logits" in found else [found.start_logits, found.end_logits]
        yield places, [one.float().numpy() for one in logits]


def _say(kind: str, seed: int, scores: Mapping[str, float], steps: int, seconds: float) -> None:
    rounded = {name: round(100 * float(value), 2) for name, value in scores.items()}
    print(
        json.dumps({"kind": kind, "seed": seed, "scores": rounded, "steps": steps, "train_seconds": round(seconds, 1)})
    )


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"tokens": tokens, "texts": texts, "answers": answers})
