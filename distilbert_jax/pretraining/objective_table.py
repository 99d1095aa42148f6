"""Pre-training objectives by name, as a table that imports without JAX; `config.objective` names one."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Literal

from distilbert_jax.base.registry import Registry, calling_file, file_of, load, source_digest
from distilbert_jax.config import PretrainConfig, Schedule
from distilbert_jax.errors import InputError
from distilbert_jax.training import terms


@dataclasses.dataclass(frozen=True)
class NamedObjective:
    """A row of the table: function(`objectives.Given`) → `training.objective.Objective`.

    Attributes:
        function: the function, or "module:name", which is imported when it is used.
        teacher: whether it takes one.
        logits: where the model computes logits, for the FLOPs of a step; of distillation its terms say it.
    """

    name: str
    function: str | Callable[..., Any]
    teacher: bool = False
    logits: Literal["none", "masked", "all"] = "masked"


_FUNCTIONS = "distilbert_jax.pretraining.objectives"
OBJECTIVES: Registry[NamedObjective] = Registry(
    "objective",
    (
        NamedObjective("masked_lm", f"{_FUNCTIONS}:masked_lm"),
        NamedObjective("masked_lm_nsp", f"{_FUNCTIONS}:masked_lm_nsp"),
        NamedObjective("distillation", f"{_FUNCTIONS}:distillation", teacher=True),
    ),
)


def register_objective(
    name: str, *, teacher: bool = False, logits: Literal["none", "masked", "all"] = "masked"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: make a function an objective that `config.objective` can name. Arguments as in `NamedObjective`.

    Raises:
        InputError: the name is taken.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OBJECTIVES.register(NamedObjective(name, function, teacher, logits), calling_file())
        return function

    return register


def check_objective(config: PretrainConfig) -> NamedObjective:
    """The objective of a run.

    Raises:
        InputError: it is unknown, lacks its teacher or has none to take one for, or its loss names an unknown term.
    """
    row = OBJECTIVES.find(config.objective, "objective")
    if row.teacher and not config.teacher:
        raise InputError(
            f"objective = {row.name!r} needs a teacher: name an HF directory or hub id with --teacher",
            field="teacher",
            hint="--teacher",
        )
    if config.teacher and not row.teacher:
        raise InputError(
            f"teacher = {config.teacher!r}: objective {row.name!r} takes none; leave it out", field="teacher"
        )
    if row.name == "distillation":
        terms.weighted_terms(config.loss)
    return row


def function_of(row: NamedObjective) -> Callable[..., Any]:
    return load(row.function) if isinstance(row.function, str) else row.function


def sources(config: PretrainConfig) -> dict[str, str]:
    """Digests of what users' files bring to a run's loss, by the names that inputs.json gives them."""
    row = check_objective(config)
    if row.name == "distillation":
        return terms.sources(terms.weighted_terms(config.loss))
    return {f"objective {row.name}": source_digest(function_of(row))} if OBJECTIVES.file(row.name) else {}


def origins(config: PretrainConfig, parts: Collection[str]) -> dict[str, str]:
    """Where the parts of a run's loss come from that users' files bring: {part: file and name}."""
    row = check_objective(config)
    if row.name == "distillation":
        brought = [one for one in terms.weighted_terms(config.loss) if one.file]
        return {one.term.metric: f"{file_of(one.function)}: term {one.term.name!r}" for one in brought}
    where = f"{file_of(function_of(row))}: objective {row.name!r}"
    return dict.fromkeys(parts, where) if OBJECTIVES.file(row.name) else {}


MASKED = "masking_probability"  # the name of its value where it is scheduled


def schedules(config: PretrainConfig) -> dict[str, Schedule]:
    """What changes over the steps of a run, by the names that the log gives the values: `kl_weight`, `masking_probability`."""
    probability = config.masking.probability
    result = {MASKED: probability} if isinstance(probability, Schedule) else {}
    if config.objective == "distillation":
        for one in terms.weighted_terms(config.loss):
            result |= one.schedules
    return result


def logits_shares(config: PretrainConfig, masked: float) -> tuple[float, float]:
    """Shares of the tokens whose logits the model and its teacher compute, when `masked` of them are masked."""
    row = check_objective(config)
    if row.name == "distillation":
        asked = terms.weighted_terms(config.loss)
        return terms.scored(asked, masked, teacher=False), terms.scored(asked, masked, teacher=True)
    share = {"none": 0.0, "masked": masked, "all": 1.0}[row.logits]
    return share, share if row.teacher else 0.0
