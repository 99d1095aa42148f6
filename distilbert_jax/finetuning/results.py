"""Results of a fine-tuning run, results.json, checked when it is made and read: whatever stands in it goes into tables."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distilbert_jax.base.config_io import LEFT_OUT, read_config
from distilbert_jax.config import require
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.tasks import ERRORS, find_task
from distilbert_jax.training.run_directory import check_output

_MANY = 2**53  # a count that float64 can hold


def require_count(owner: object, name: str, low: int = 0) -> None:
    """Raise InputError unless a field is a whole number from `low` to 2⁵³."""
    require(low <= getattr(owner, name) <= _MANY, owner, name, f"expected a count of {low} or more")


def require_finite(owner: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise InputError unless a field is a finite number from `low` to `high`."""
    value = getattr(owner, name)
    require(math.isfinite(value) and low <= value <= high, owner, name, "expected a finite number that can be")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What fine-tuning one task with one seed came to.

    Raises:
        InputError: a value cannot be, or two contradict each other.
    """

    task: str
    model: str  # that was fine-tuned: HF directory or hub id
    seed: int
    score: float  # × 100: mean of the metrics on the first split that is scored; 0 of a run that diverged
    scores: Mapping[str, Mapping[str, float]]  # {split: {metric, and `score`: value × 100}}
    steps: int | None = None
    train_rows: int
    added_rows: int | None = field(default=None, metadata=LEFT_OUT)  # copies that an augmentation made of them
    dev_rows: Mapping[str, int]  # {split that is scored: rows}
    cut_share: float  # of the rows of train, those that were longer than `length`
    padding_share: float | None = None  # of the places of a batch
    batches: Literal["similar lengths", "random"] = (
        "similar lengths"  # what an example shared its batch with; once the former
    )
    flops: float = 0.0  # of training, with its teacher's forward passes in the steps
    # {file of a submission: fingerprint of the test split that it predicts}
    tested: Mapping[str, str] = field(default_factory=dict)
    diverged: str  # why, or empty
    train_seconds: float  # of all seeds that trained together
    together: int  # how many these were

    def __post_init__(self) -> None:
        try:
            task = find_task(self.task)
        except InputError as error:
            raise InputError(str(error), field="task", hint=error.hint) from None
        metrics = (*task.metrics, *task.beside, "score")
        require_count(self, "seed")
        require_count(self, "train_rows", 1)
        require_count(self, "together", 1)
        if self.added_rows is not None:
            require_count(self, "added_rows")
        require_finite(self, "cut_share", 0.0, 1.0)
        require_finite(self, "train_seconds", 0.0)
        require_finite(self, "flops", 0.0)
        whole = len(self.scores) > 0 and all(values.keys() == set(metrics) for values in self.scores.values())
        require(whole, self, "scores", f"expected {', '.join(metrics)} of one split or more")
        each = [one for of_split in self.scores.values() for one in of_split.items()]
        values = [0.0 if name in ERRORS and value >= 0.0 and math.isfinite(value) else value for name, value in each]
        # A metric × 100 lies between -100 and 100, and rounding is less than 1.
        require(all(-101.0 <= value <= 101.0 for value in values), self, "scores", "expected values from -100 to 100")
        same = self.dev_rows.keys() == self.scores.keys()
        counts = all(1 <= rows <= _MANY for rows in self.dev_rows.values())
        require(same and counts, self, "dev_rows", f"expected rows of {', '.join(self.scores)}")
        first = next(iter(self.scores.values()))["score"]
        require(self.score == first, self, "score", f"expected {first}, which `scores` says")
        require(not self.diverged or self.score == 0.0, self, "diverged", f"expected a score of 0, not {self.score}")


def median_metrics(results: Sequence[RunResult], split: str) -> dict[str, float]:
    """{metric, and `score`: median over runs} of a split. A run that diverged has 0, which of a score is the worst and counts, and
    of an error the best: it does not, and where all runs diverged there is none."""
    counted = {
        name: [one.scores[split][name] for one in results if not (one.diverged and name in ERRORS)]
        for name in results[0].scores[split]
    }
    return {name: statistics.median(values) for name, values in counted.items() if values}


def read_result(file: Path) -> RunResult:
    """The results.json of one run of fine-tuning.

    Raises:
        InputError: it is damaged, or none of such a run (the field that is at fault is named); or not what the run has written.
    """
    result = read_config(RunResult, file, "remove the run's directory and train it again, or name another directory")
    check_output(file.parent, file.name)
    return result
