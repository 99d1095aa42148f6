"""Record `squad.json`: what the official scripts score predictions for SQuAD's dev set, question by question.

    python -m tests.golden.record_squad squad/validation.parquet evaluate-v1.1.py evaluate-v2.0.py

The two scripts are those of the SQuAD site; nothing of them, nor of the data, is kept: the file has means, and a digest of all
scores, for predictions that `predictions` makes of the right answers.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet

FILE = Path(__file__).with_name("squad.json")
Scores = list[tuple[float, float]]  # exact match and F1 of each question, 0 to 1


def read(file: Path) -> list[dict[str, Any]]:
    return parquet.read_table(file).to_pylist()


def answers(questions: Sequence[dict[str, Any]], *, may_lack: bool) -> list[list[str]]:
    """The right answers of each; every third question has none where they may lack one."""
    return [[] if may_lack and i % 3 == 0 else one["answers"]["text"] for i, one in enumerate(questions)]


def predictions(questions: Sequence[dict[str, Any]]) -> list[str]:
    """Right, partial, wrong, empty and Unicode answers, in turn."""
    made = []
    for i, one in enumerate(questions):
        first, last = one["answers"]["text"][0], one["answers"]["text"][-1]
        words, start = first.split(), one["answers"]["answer_start"][0]
        other = questions[(i + 7) % len(questions)]["answers"]["text"][0]
        given = (
            first,
            f"THE {last.upper()}.",
            " ".join(words[: (len(words) + 1) // 2]),
            "",
            f"{first} an {first}",
            other,
            f"«{first}»\u00a0{last} 😀 e\u0301",
            one["context"][max(start - 12, 0) : start + len(first) + 12],
            "the",
            first.replace(" ", "\u2009").replace("-", "\u2013"),
        )
        made.append(given[i % len(given)])
    return made


def digest(scores: Scores) -> dict[str, Any]:
    """Means × 100, and the SHA-256 of all of them to twelve digits."""
    text = json.dumps([[round(float(value), 12) for value in pair] for pair in scores])
    exact, f1 = (100 * sum(pair[i] for pair in scores) / len(scores) for i in (0, 1))
    return {"exact_match": round(exact, 9), "f1": round(f1, 9), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def main(data: str, *scripts: str) -> None:
    questions, found = read(Path(data)), {"questions": hashlib.sha256(Path(data).read_bytes()).hexdigest()}
    given = predictions(questions)
    first, second = (_module(script) for script in scripts)
    best = lambda score, text, right: first.metric_max_over_ground_truths(score, text, right)
    pairs = zip(given, answers(questions, may_lack=False), strict=True)
    of_first = [tuple(best(score, *one) for score in (first.exact_match_score, first.f1_score)) for one in pairs]
    asked = [
        {"id": str(i), "answers": [{"text": text} for text in right]}
        for i, right in enumerate(answers(questions, may_lack=True))
    ]
    exact, f1 = second.get_raw_scores(
        [{"paragraphs": [{"qas": asked}]}], {str(i): text for i, text in enumerate(given)}
    )
    of_second = [(exact[one["id"]], f1[one["id"]]) for one in asked]
    FILE.write_text(json.dumps({**found, "1.1": digest(of_first), "2.0": digest(of_second)}, indent=1) + "\n")


def _module(script: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(script).stem.replace("-", "_").replace(".", "_"), script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
