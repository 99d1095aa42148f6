"""GLUE results: the runs of a sweep, the settings that were chosen, what each task comes to, and the table of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distilbert_jax.base.config_io import LEFT_OUT
from distilbert_jax.config import require
from distilbert_jax.finetuning.results import RunResult, require_count
from distilbert_jax.training.cost import RelativeSpeed


@dataclass(frozen=True)
class Setting:
    """Values of the fields that a sweep varies; None: as the config has it."""

    learning_rate: float | None = field(default=None, metadata=LEFT_OUT)
    batch_size: int | None = field(default=None, metadata=LEFT_OUT)
    epochs: int | None = field(default=None, metadata=LEFT_OUT)

    def given(self) -> dict[str, float]:
        """{field: value} of those that are not None."""
        values = {name: getattr(self, name) for name in ("learning_rate", "batch_size", "epochs")}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def name(self) -> str:
        """What directories of runs with these values are called, with a seed behind: `learning-rate-0.0001-epochs-3`."""
        return "-".join(f"{name.replace('_', '-')}-{value}" for name, value in self.given().items())


@dataclass(frozen=True)
class TriedSetting(Setting):
    """A setting and its mean score on the selection split."""

    score: float | None = None  # None: one of its runs diverged

    @property
    def setting(self) -> Setting:
        return Setting(self.learning_rate, self.batch_size, self.epochs)


@dataclass(frozen=True)
class Choice:
    """Which of several settings a task was fine-tuned with, choice.json."""

    runs: int  # how many it was chosen from
    chosen: Setting
    settings: tuple[TriedSetting, ...] = ()
    seeds: tuple[int, ...] | None = field(
        default=None, metadata=LEFT_OUT
    )  # of each setting; None: of an earlier version

    def __post_init__(self) -> None:
        require_count(self, "runs", 1)
        require(bool(self.chosen.given()), self, "chosen", "expected a value of one field or more")


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, its directory, and the choice that its setting comes from."""

    result: RunResult
    directory: Path
    choice: Choice | None = None


def by_task(runs: Sequence[SweepRun]) -> dict[str, list[SweepRun]]:
    """{task: its runs}, in the order in which they come."""
    groups: dict[str, list[SweepRun]] = {}
    for run in runs:
        groups.setdefault(run.result.task, []).append(run)
    return groups


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """What the runs of one task come to. Scores are those of the first dev split × 100."""

    median: float
    min: float
    max: float
    scores: Mapping[str, float]  # {seed: score}
    seeds: int
    # That diverged, answered the same to every row, or were no better than the majority (WNLI, where no model is, aside).
    failed: int
    diverged: Mapping[str, str]  # {seed: why}
    majority: float  # score of always answering the most frequent label
    metrics: Mapping[str, Mapping[str, float]]  # {dev split: {metric: median × 100}}
    train_rows: int
    dev_rows: Mapping[str, int]  # {dev split: rows}
    cut_share: float
    train_seconds: float  # of a seed, median
    choice: Choice | None
    settings: str  # how it was fine-tuned, in words; empty where no config says
    # True: a tenth of train chose among the epochs, or was scored, and is not among `train_rows`
    held_out: bool | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval (percentiles of the resamples)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the tasks that both have, WNLI aside."""

    share: Interval | None  # 100 · mean score / the other's; None unless that is above 0
    difference: Interval  # of the mean scores
    tasks: Mapping[str, Interval]  # {task: difference of the scores}


@dataclass(frozen=True)
class Means:
    """Mean scores of a row of the table; None where a score is missing."""

    all: float | None
    without_wnli: float | None


@dataclass(frozen=True)
class TableRow:
    """A row of the table: a model, the majority class, a reference, or a difference."""

    scores: Mapping[str, float]  # {task: score × 100}
    means: Means


@dataclass(frozen=True, kw_only=True)
class GlueTable:
    """Everything that the table says, glue.json."""

    model: str
    tasks: Mapping[str, TaskSummary]  # in the paper's order
    cost: RelativeSpeed | None  # of the model beside its teacher
    retained: Comparison | None  # with the teacher
    rows: Mapping[str, TableRow]
    remarks: tuple[str, ...]
