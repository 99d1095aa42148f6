"""Figures of a pre-training run in a report, as its results.json has them: {run's name: `RunFigures`}."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from distilbert_jax.base.config_io import LEFT_OUT
from distilbert_jax.glue.results import Comparison
from distilbert_jax.probes.speed import SpeedBesideTeacher


@dataclass(frozen=True, kw_only=True)
class ComparisonWith(Comparison):
    """A comparison of a run's scores with those of the run of a name."""

    name: str


@dataclass(frozen=True, kw_only=True)
class SeedFigures:
    """What a report says of runs that differ in their seed of pre-training alone, as in seeds.json: {name of the first: this}."""

    runs: tuple[str, ...]
    score: float  # mean over them
    of_teacher: Comparison | None  # with the teacher
    # Named after all runs of the other side; seed by seed where those have the same seeds.
    against: ComparisonWith | None


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What a report says of one run. Scores are × 100, losses in nats."""

    layers: int
    parameters: int  # head included
    steps: int | None  # of pre-training; None, as what it took, without a log of it
    train_seconds: float | None
    train_flops: float | None
    kl_to_teacher: float | None  # 0 for the teacher itself, None without one
    # On held-out text; None without any, or where the model has no masked-LM head.
    mlm_loss: float | None = field(default=None, metadata=LEFT_OUT)
    mlm_accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    perplexity: float | None = field(default=None, metadata=LEFT_OUT)
    heldout_tokens: int | None = field(default=None, metadata=LEFT_OUT)  # that were asked
    # Of the objective on pairs, where the model has the head for it.
    loss_mlm: float | None = field(default=None, metadata=LEFT_OUT)
    loss_nsp: float | None = field(default=None, metadata=LEFT_OUT)
    nsp_accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    # {loss_<term>: its value} on the run's own held-out text after the last step, but for what any model has.
    heldout_parts: Mapping[str, float] = field(default_factory=dict)
    # Of all runs of fine-tuning, those that settings were chosen from included; None without any.
    tuning_seconds: float | None
    tuning_flops: float | None
    tasks: Mapping[str, float]  # {task: median score}
    seeds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # {task: score of each seed}
    majority: Mapping[str, float]  # {task: score of the most frequent label}
    remarks: tuple[str, ...]  # on the tasks
    # Whose scores on the test sets stand beside it, a row of `glue.references.TEST_SCORES`.
    published: str | None = field(default=None, metadata=LEFT_OUT)
    score: float | None = None  # mean over the tasks that all runs have; None without any
    of_teacher: Comparison | None = None  # with the teacher
    against: ComparisonWith | None = None
    speed: SpeedBesideTeacher | None = None  # None without a teacher
    tokens_per_second: int | None = None  # of the encoder at batch 32
