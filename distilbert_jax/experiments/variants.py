"""Sweep of an experiment: its student with several values of one field, each a variant. Imports without JAX."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from distilbert_jax.config import ExperimentConfig, FinetuneConfig, PretrainConfig, Schedule, Variant
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.training.run_directory import is_free

_GLUE = "glue."  # before a field of the fine-tuning
# Each variant has its own, or is fine-tuned for each of them.
_NOT_SWEPT = ("run.directory", *(f"{_GLUE}{name}" for name in ("run.directory", "run.seed", "task", "model")))

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)


class Read(Protocol):
    """(options of the command line, a config) → the config with these."""

    def __call__(self, options: Sequence[str], config: Config, /) -> Config: ...


def swept(config: ExperimentConfig, field: str, values: Sequence[str], read: Read) -> ExperimentConfig:
    """The experiment of the student and of variants of it, and of what these need: the teacher, and what they begin with.

    A variant is called by its value: `kl.weight=2`. A value that is the student's own makes none. Where the field is one of the
    fine-tuning the variants are the student's model, fine-tuned otherwise.

    Args:
        field: of the student's pre-training config, or behind `glue.` of its fine-tuning, by its dotted name, as on the command
            line or in Python.

    Raises:
        InputError: the student is not pre-trained, there is no such field (the nearest is named), or a value does not fit.
    """
    (student,) = (variant for variant in config.variants if variant.name == config.student)
    name = field.replace("-", "_")
    if name.startswith(_GLUE):
        tuning = config.glue_of(student)
        _check_field(field, name, {f"{_GLUE}{one}": value for one, value in leaves(tuning)}, "fine-tuning")
        if tried := config.sweep.tried().get(name.removeprefix(_GLUE)):
            raise InputError(
                f"--sweep {field}: each variant chooses it among {', '.join(map(str, tried))} by the experiment's own `sweep`",
                field="--sweep",
            )
        model = student.model or str(config.run_of(student) / "model")
        variants = [
            Variant(title, student.seeds, model=model, glue=changed)
            for title, changed in _changed(field, name.removeprefix(_GLUE), values, tuning, read)
        ]
    else:
        if (base := student.pretrain) is None:
            raise InputError(
                f"--sweep {field}: the student, {student.name}, is not pre-trained in this experiment", field="--sweep"
            )
        _check_field(field, name, dict(leaves(base)), "pre-training")
        variants = []
        for title, changed in _changed(field, name, values, base, read):
            run = dataclasses.replace(changed.run, directory=str(Path(config.directory) / title))
            trained = dataclasses.replace(changed, run=run)
            variants.append(Variant(title, student.seeds, pretrain=trained, glue=student.glue))
    needed = _needed(config, [student, *variants])
    kept = [variant for variant in config.variants if variant.name in needed]
    return dataclasses.replace(config, variants=(*kept, *variants))


def _check_field(field: str, name: str, there: Mapping[str, Any], kind: str) -> None:
    """Raise InputError unless values of this field make variants."""
    if name in _NOT_SWEPT:
        raise InputError(
            f"--sweep {field}: the experiment says it of each variant (model, seeds, directory) or of all (tasks)",
            field="--sweep",
        )
    if name not in there and not name.startswith("loss.own."):
        hint = nearest(name, [one for one in there if one not in _NOT_SWEPT])
        raise InputError(f"--sweep {field}: no such field of a {kind} config; {hint}", field="--sweep", hint=hint)
    if is_free(name.removeprefix(_GLUE)):
        raise InputError(f"--sweep {field}: changes nothing of what is computed", field="--sweep")


def _changed(field: str, name: str, values: Sequence[str], base: Config, read: Read) -> list[tuple[str, Config]]:
    """Names of variants and their configs, of those values that are not the config's own.

    Args:
        field, name: as it was given, and as the config calls it.
    """
    configs = [(value, read(_options(name, value, base), base)) for value in values]
    twice = any(one == other for (_, one), (_, other) in itertools.combinations(configs, 2))  # also 2 and 2.0
    if not values or twice:
        raise InputError(f"--sweep {field} {' '.join(values)}: expected values, each once", field="--sweep")
    prefix = _GLUE if isinstance(base, FinetuneConfig) else ""
    short = prefix + ".".join(field.removeprefix(prefix).split(".")[-2:])
    titles = [f"{short}={value.replace('/', '_')}" for value in values]
    if same := [title for title in titles if titles.count(title) > 1]:
        raise InputError(
            f"--sweep {field} {' '.join(values)}: two values would both be called {same[0]}; name one otherwise",
            field="--sweep",
        )
    return [(title, changed) for title, (_, changed) in zip(titles, configs, strict=True) if changed != base]


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config and of those within it, by their dotted names."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


def _options(name: str, value: str, base: PretrainConfig | FinetuneConfig) -> list[str]:
    """How the command line gives a field a value."""
    if name.startswith("loss.own.") and isinstance(base, PretrainConfig):
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
        return [f"--{head}{'.' if head else ''}{no}{last}"]
    return [f"--{option}", *value.split(",")]


def _needed(config: ExperimentConfig, variants: Sequence[Variant]) -> set[str]:
    """The names of the teacher, of the student, and of all that the variants begin with or are taught by."""
    models = {str(config.run_of(variant) / "model"): variant for variant in config.variants}
    result, left = {config.teacher, config.student}, list(variants)
    left += [variant for variant in config.variants if variant.name == config.teacher]
    while left:
        one = left.pop()
        for place in (one.pretrain.init.source, one.pretrain.teacher) if one.pretrain else (one.model,):
            if (other := models.get(place)) and other.name not in result:
                result.add(other.name)
                left.append(other)
    return result
