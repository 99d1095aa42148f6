"""Sweep of an experiment: its student with several values of one field, each a variant. Imports without JAX."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilbert_jax.config import ExperimentConfig, PretrainConfig, Schedule, Variant
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.training.run_directory import is_free

_NOT_SWEPT = ("run.directory",)  # each variant has its own


def swept(
    config: ExperimentConfig,
    field: str,
    values: Sequence[str],
    read: Callable[[Sequence[str], PretrainConfig], PretrainConfig],
) -> ExperimentConfig:
    """The experiment of the student and of variants of it, and of what these need: the teacher, and what they begin with.

    A variant is called by its value: `kl.weight=2`. A value that is the student's own makes none.

    Args:
        field: of the student's pre-training config, by its dotted name, as on the command line or in Python.
        read: (options of the command line, a config) → the config with these.

    Raises:
        InputError: the student is not pre-trained, there is no such field (the nearest is named), or a value does not fit.
    """
    (student,) = (variant for variant in config.variants if variant.name == config.student)
    if (base := student.pretrain) is None:
        raise InputError(
            f"--sweep {field}: the student, {student.name}, is not pre-trained in this experiment", field="--sweep"
        )
    name, old = field.replace("-", "_"), dict(leaves(base))
    own = name.startswith("loss.own.")
    if name in _NOT_SWEPT or (name not in old and not own):
        hint = nearest(name, [one for one in old if one not in _NOT_SWEPT])
        raise InputError(f"--sweep {field}: no such field of a pre-training config; {hint}", field="--sweep", hint=hint)
    if is_free(name):
        raise InputError(f"--sweep {field}: changes nothing of what is computed", field="--sweep")
    configs = [(value, read(_options(name, value, base), base)) for value in values]
    twice = any(one == other for (_, one), (_, other) in itertools.combinations(configs, 2))  # also 2 and 2.0
    if not values or twice:
        raise InputError(f"--sweep {field} {' '.join(values)}: expected values, each once", field="--sweep")
    titles = [f"{'.'.join(field.split('.')[-2:])}={value.replace('/', '_')}" for value in values]
    if same := [title for title in titles if titles.count(title) > 1]:
        raise InputError(
            f"--sweep {field} {' '.join(values)}: two values would both be called {same[0]}; name one otherwise",
            field="--sweep",
        )
    variants = []
    for title, (_, changed) in zip(titles, configs, strict=True):
        if changed != base:
            run = dataclasses.replace(changed.run, directory=str(Path(config.directory) / title))
            variants.append(Variant(title, student.seeds, pretrain=dataclasses.replace(changed, run=run)))
    needed = _needed(config, [student, *variants])
    kept = [variant for variant in config.variants if variant.name in needed]
    return dataclasses.replace(config, variants=(*kept, *variants))


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config and of those within it, by their dotted names."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


def _options(name: str, value: str, base: PretrainConfig) -> list[str]:
    """How the command line gives a field a value."""
    if name.startswith("loss.own."):
        weights = {
            **{term: str(weight) for term, weight in base.loss.own.items()},
            name.removeprefix("loss.own."): value,
        }
        return ["--loss.own", *(word for pair in weights.items() for word in pair)]
    option = name.replace("_", "-")
    if isinstance(dict(leaves(base)).get(name), bool):
        head, _, last = option.rpartition(".")
        no = {"true": "", "false": "no-"}.get(value.lower())
        if no is None:
            raise InputError(f"--sweep {name} {value}: expected true or false", field="--sweep")
        return [f"--{head}.{no}{last}"]
    return [f"--{option}", *value.split(",")]


def _needed(config: ExperimentConfig, variants: Sequence[Variant]) -> set[str]:
    """The names of the teacher, of the student, and of all that the variants begin with or are taught by."""
    models = {str(config.run_of(variant) / "model"): variant for variant in config.variants}
    result, left = {config.teacher, config.student}, list(variants)
    left += [variant for variant in config.variants if variant.name == config.teacher]
    while left:
        pretrain = left.pop().pretrain
        for place in (pretrain.init.source, pretrain.teacher) if pretrain else ():
            if (other := models.get(place)) and other.name not in result:
                result.add(other.name)
                left.append(other)
    return result
