"""What an objective is: sums over a micro-batch, and the counts over the global batch that they are divided by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax

from distilbert_jax.models.params import Params

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
MASKING, DROPOUT = 0, 1  # what a row's key is folded with


@dataclass(frozen=True)
class Part:
    """A part of the loss, or of what is reported beside it.

    over: the count that its sum is divided by. weight: of the mean in the loss, or the name of the step's value that it is; 0:
    reported only.
    """

    over: str
    weight: float | str = 0.0

    def weight_at(self, counts: Metrics) -> jax.Array | float:
        return counts[self.weight] if isinstance(self.weight, str) else self.weight


class Sums(NamedTuple):
    """The sums of an objective's parts, float32 scalars; a dict of them alone does as well.

    loss: weighted and divided already, of the parts that `within` names: their gradient was taken where they were computed.
    """

    parts: Metrics
    loss: jax.Array | float = 0.0
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objective:
    """What a run minimises: Σ weight · sum / count over its parts, added up in their order.

    prepare(rngs [B], batch) → (batch, counts): of the global batch, before it is cut along the rows, the first axis of each of its
    arrays, among devices and into micro-batches; counts are float32 scalars and never 0. sums(params, frozen params, micro-batch,
    counts) → `Sums` or {part: sum}, of the rows of a micro-batch that one device has: their sum over micro-batches and devices is
    the sum over the batch, so that no count may be taken in it.

    values(step int32) → float32 scalars that change over the run, by the names under which they are logged. Where there are some,
    `prepare` takes them as its third argument, and `sums` finds them among the counts.
    """

    prepare: Callable[..., tuple[Batch, Metrics]]
    sums: Callable[[Params, Params, Batch, Metrics], Sums | Metrics]
    parts: Mapping[str, Part]
    values: Callable[[jax.Array], Metrics] = lambda step: {}

    def prepared(self, rngs: jax.Array, batch: Batch, values: Metrics) -> tuple[Batch, Metrics]:
        """`prepare` of a step with these values, which are then among its counts."""
        batch, counts = self.prepare(rngs, batch, values) if values else self.prepare(rngs, batch)
        return batch, {**counts, **values}

    def loss(self, params: Params, frozen: Params, batch: Batch, counts: Metrics) -> tuple[jax.Array | float, Metrics]:
        """A micro-batch's share of the loss, and of its parts."""
        result = self.sums(params, frozen, batch, counts)
        sums, value, within = result if isinstance(result, Sums) else Sums(result)
        means = {name: total / counts[self.parts[name].over] for name, total in sums.items()}
        for name, mean in means.items():
            if name not in within and self.parts[name].weight:
                value = value + self.parts[name].weight_at(counts) * mean
        return value, means


@dataclass(frozen=True)
class Company:
    """Objectives of models that train side by side: on the same batches, which are prepared once and taught once.

    prepare(rngs [B], batch, step) → (batch, the counts of each objective), as `Objective.prepared` gives them. teach(frozen params,
    micro-batch) → the micro-batch, to which is added what all of them take from their teacher.
    """

    objectives: Sequence[Objective]
    prepare: Callable[[jax.Array, Batch, jax.Array], tuple[Batch, tuple[Metrics, ...]]]
    teach: Callable[[Params, Batch], Batch]


def alone(objective: Objective) -> Company:
    """An objective that asks its teacher itself."""

    def prepare(rngs: jax.Array, batch: Batch, step: jax.Array) -> tuple[Batch, tuple[Metrics, ...]]:
        batch, counts = objective.prepared(rngs, batch, objective.values(step))
        return batch, (counts,)

    return Company((objective,), prepare, lambda frozen, batch: batch)
