"""Students side by side: distillation runs that share teacher, corpus, masking and seed, in one program that asks the teacher once.

Each keeps its own directory, log, checkpoints and identity; its losses are those it has alone, but for rounding.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from distilbert_jax.base.config_io import differences
from distilbert_jax.config import PretrainConfig, Schedule
from distilbert_jax.pretraining import cost, objectives
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.pretraining.setup import Setup, held_of, optimizer_of
from distilbert_jax.training.checkpoint import whole_steps
from distilbert_jax.training.objective import Batch, Company, Metrics
from distilbert_jax.training.step import TrainState, make_step_together

# What has to be the same, by the fields' names; with a dot at the end: all below. The rest may differ.
_SHARED = (
    "objective",
    "teacher",
    "model.vocab_size",
    "data.",
    "masking.",
    "mesh.",
    "optimizer.accumulate",
    "run.seed",
    "run.dtype",
    "run.activations",
    "run.deterministic",
    "run.save_every",
)


def why_apart(first: PretrainConfig, other: PretrainConfig) -> str:
    """Why two runs cannot train side by side, in a few words; "": they can."""
    for config in (first, other):
        if config.objective != "distillation":
            return f"objective {config.objective} asks no teacher"
    if first.run.directory == other.run.directory:
        return f"both train in {first.run.directory}"
    for one in differences(first, other):
        if any(one.field.startswith(name) if name.endswith(".") else one.field == name for name in _SHARED):
            return str(one)
        if one.field == "steps" and isinstance(first.masking.probability, Schedule):
            return f"{one}, over which masking.probability changes"
    return ""


def company(givens: Sequence[Given]) -> Company:
    """The objectives of students side by side: masked once, taught once."""
    members, first = [objectives.distillation(given) for given in givens], givens[0]
    counted = [{"tokens", "masked", *(part.over for part in one.parts.values())} for one in members]

    def prepare(rngs: jax.Array, batch: Batch, step: jax.Array) -> tuple[Batch, tuple[Metrics, ...]]:
        values = [one.values(step) for one in members]
        batch, counts = first.prepare(rngs, batch, values[0])
        of = lambda names: {name: value for name, value in counts.items() if name in names}
        return batch, tuple({**of(names), **own} for names, own in zip(counted, values, strict=True))

    def teach(frozen: dict[str, jax.Array], batch: Batch) -> Batch:
        return objectives.teach(givens, frozen, batch)

    return Company(members, prepare, teach)


class StepTogether:
    """The train step of students side by side: (states, frozen, batch) → (states, metrics), tuples with None for a student that
    has left. Of those that are there a program is compiled once."""

    def __init__(self, setups: Sequence[Setup]):
        self._setups = setups
        self._programs: dict[tuple[int, ...], Any] = {}

    def __call__(
        self, states: tuple[TrainState | None, ...], frozen: dict[str, jax.Array], batch: Batch
    ) -> tuple[tuple[TrainState | None, ...], tuple[Metrics | None, ...]]:
        there = {place: one for place, one in enumerate(states) if one is not None}
        new, metrics = self.program(there)(tuple(there.values()), frozen, batch)
        at = lambda values: tuple(dict(zip(there, values, strict=True)).get(place) for place in range(len(states)))
        return at(new), at(metrics)

    def program(self, there: dict[int, TrainState]) -> Any:
        """The jitted step of the students at these places."""
        places = tuple(there)
        if places not in self._programs:
            setups = [self._setups[place] for place in places]
            first = setups[0]
            self._programs[places] = make_step_together(
                company([one.given for one in setups]),
                [optimizer_of(one.config) for one in setups],
                tuple(there.values()),
                first.frozen,
                first.mesh,
                first.config.optimizer.accumulate,
                [held_of(one.config) for one in setups],
            )
        return self._programs[places]

    @functools.cache  # noqa: B019 (both end with the runs)
    def flops(self, places: tuple[int, ...]) -> float:
        """Of a step of the students at these places, over all devices."""
        teacher = self._setups[0].teacher
        assert teacher is not None, "students side by side have one"
        return cost.step_flops_together([self._setups[place].config for place in places], teacher.config)


def parties(directories: Sequence[Path]) -> list[tuple[list[int], int]]:
    """Which runs can go on in one program, as far as they have come: (their places, the step from which they go on).

    A kill leaves one of them a checkpoint ahead of the others at most. It goes back by that one, so that all take the steps that
    they would have taken; more of a run is not given up.

    Args:
        directories: of the runs' checkpoints.
    """
    left = {place: {0, *whole_steps(one)} for place, one in enumerate(directories)}
    left = {place: set(sorted(steps)[-2:]) for place, steps in left.items()}
    result = []
    while left:
        steps = set.union(*left.values())
        step = max(steps, key=lambda step: (sum(step in mine for mine in left.values()), step))
        places = [place for place, mine in left.items() if step in mine]
        result.append((places, step))
        left = {place: mine for place, mine in left.items() if place not in places}
    return result
