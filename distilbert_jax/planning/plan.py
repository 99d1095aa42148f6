"""Plan of a run on a machine that is not here: `distilbert-jax plan`, and for programs `plan`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from distilbert_jax.base.config_io import files_run, write_config
from distilbert_jax.base.hub import locate
from distilbert_jax.config import ModelConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.planning.compile import Job, compile_step
from distilbert_jax.planning.estimate import Plan, Work, plan_of
from distilbert_jax.planning.targets import Target, parse_target

# Architectures of published teachers, for which a plan needs no file: {hub id: fields that differ from BERT-base uncased}.
PUBLISHED: dict[str, dict[str, int]] = {
    "bert-base-uncased": {},
    "bert-base-cased": {"vocab_size": 28996},
    "bert-base-multilingual-cased": {"vocab_size": 119547},
    "bert-large-uncased": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
_COMPILES = 4  # at most, to find the largest batch that fits


def plan(
    config: PretrainConfig,
    target: str,
    *,
    price_per_chip_hour: float | None = None,
) -> Plan:
    """Compile a run's step for a target and say what it takes there; neither corpus nor weights are needed.

    Args:
        config: of a pre-training or distillation run. The shape of its teacher is read from the directory's config.json, or known
            by the teacher's name (`PUBLISHED`).
        target: such as "v5e:4x4" or "h100:8", see `parse_target`.
        price_per_chip_hour: in any currency.

    Raises:
        InputError: the target is unknown, its compiler is not installed, the mesh does not divide it, the step cannot be compiled.
    """
    from distilbert_jax.pretraining.cost import step_flops

    aim, teacher = parse_target(target), teacher_of(config)
    mesh = _mesh(config, aim)
    compiled = compile_step(Job(target=target, config=config, teacher=teacher, files=files_run()))
    work = Work(
        mesh=mesh,
        batch_size=config.data.batch_size,
        length=config.data.length,
        accumulate=config.optimizer.accumulate,
        steps=config.steps,
        model_flops=step_flops(config, teacher),
    )
    return plan_of(compiled, aim, work, price_per_chip_hour)


def _mesh(config: PretrainConfig, target: Target) -> str:
    """The mesh as it will be, `data 4 × fsdp 2`.

    Raises:
        InputError: it does not divide the target's devices, or the batch.
    """
    mesh, devices = config.mesh, target.devices
    inner = mesh.fsdp * mesh.tensor
    data = devices // inner if mesh.data == -1 else mesh.data
    if data * inner != devices:
        raise InputError(
            f"--target {target}: has {devices} devices, the mesh asks for {max(data, 1)} × {mesh.fsdp} × {mesh.tensor} "
            "(data × fsdp × tensor); the product must be the number of devices",
            field="--target",
        )
    rows = data * mesh.fsdp * config.optimizer.accumulate
    if config.data.batch_size % rows:
        raise InputError(
            f"data.batch_size = {config.data.batch_size} is not divisible by data × fsdp × optimizer.accumulate = {rows}",
            field="data.batch_size",
        )
    named = (("data", data), ("fsdp", mesh.fsdp), ("tensor", mesh.tensor))
    return " × ".join(f"{name} {size}" for name, size in named if size > 1) or "data 1"


def teacher_of(config: PretrainConfig) -> ModelConfig | None:
    """The architecture of a run's teacher.

    Raises:
        InputError: it distils from a teacher that has neither a config.json at hand nor a name that is known.
    """
    if config.objective != "distillation":
        return None
    if not Path(config.teacher).is_dir() and config.teacher in PUBLISHED:
        return ModelConfig.bert_base(**PUBLISHED[config.teacher])
    if not config.teacher:
        raise InputError(
            f"teacher is not set: name a directory, or one of {', '.join(PUBLISHED)}", field="teacher", hint="--teacher"
        )
    from distilbert_jax.models.hf_format import read_config

    return read_config(locate(config.teacher))


def write(plans: Sequence[Plan], directory: Path) -> None:
    """Write `plan.json`."""
    write_config({"plans": list(plans)}, directory / "plan.json")


def largest_batch(config: PretrainConfig, target: str, *, price_per_chip_hour: float | None = None) -> Plan:
    """The plan with the largest `data.batch_size` that fits, in one micro-batch, a power of two or half as much more rows a device.

    Raises:
        InputError: as `plan`; not even one row a device fits.
    """
    rows = _row_devices(config, parse_target(target))

    def with_rows(each: int) -> PretrainConfig:
        data = dataclasses.replace(config.data, batch_size=each * rows)
        return dataclasses.replace(config, data=data, optimizer=dataclasses.replace(config.optimizer, accumulate=1))

    return _largest(lambda each: plan(with_rows(each), target, price_per_chip_hour=price_per_chip_hour))


def fewest_micro_batches(config: PretrainConfig, target: str, *, price_per_chip_hour: float | None = None) -> Plan:
    """The plan with the smallest `optimizer.accumulate` at which the step fits.

    Raises:
        InputError: as `plan`; it fits at none.
    """
    rows = _row_devices(config, parse_target(target))
    if config.data.batch_size % rows:
        raise InputError(
            f"data.batch_size = {config.data.batch_size} is not divisible by the {rows} devices of its rows",
            field="data.batch_size",
        )
    each = config.data.batch_size // rows
    sizes = [size for size in range(1, each + 1) if each % size == 0]

    def of_size(size: int) -> Plan:
        optimizer = dataclasses.replace(config.optimizer, accumulate=each // size)
        whole = dataclasses.replace(config, optimizer=optimizer)
        return plan(whole, target, price_per_chip_hour=price_per_chip_hour)

    return _largest(of_size, sizes)


def _row_devices(config: PretrainConfig, target: Target) -> int:
    return target.devices // config.mesh.tensor if config.mesh.data == -1 else config.mesh.data * config.mesh.fsdp


def _largest(of_rows: Callable[[int], Plan], sizes: list[int] | None = None) -> Plan:
    """The plan of the most rows a device that fit, by at most four compilations: memory is close to linear in the rows."""
    sizes = sizes or sorted({base << power for base in (2, 3) for power in range(13)} | {1})
    tried: dict[int, Plan] = {}
    size = max((one for one in sizes if one <= 8), default=sizes[0])
    while len(tried) < _COMPILES and size not in tried:
        tried[size] = of_rows(size)
        size = _next(tried, sizes)
    fitting = [size for size, one in tried.items() if one.fits]
    if not fitting:
        least = tried[min(tried)]
        raise InputError(
            f"--target {least.target}: with {min(tried)} rows a device it needs {least.total_bytes / 1e9:.1f} GB of the "
            f"{least.memory_bytes / 1e9:.0f}: more of --mesh.fsdp or --mesh.tensor, or shorter rows, is what it would take",
            field="--target",
        )
    return tried[max(fitting)]


def _next(tried: dict[int, Plan], sizes: list[int]) -> int:
    """The next size to try: the largest that by the line through two of those tried will fit, and that no trial has refuted."""
    refuted = min((size for size, one in tried.items() if not one.fits), default=max(sizes) + 1)
    possible = [size for size in sizes if size < refuted]
    if not possible:
        return min(tried)
    if len(tried) == 1:
        ((size, one),) = tried.items()
        share = one.memory_bytes / one.total_bytes
        guess = [each for each in possible if each <= size * share / 2 or each <= size // 2]
        return max((each for each in guess if each not in tried), default=possible[0])
    (a, first), (b, second) = sorted(tried.items())[:2]
    slope = (second.total_bytes - first.total_bytes) / (b - a)
    fits = lambda size: first.total_bytes + slope * (size - a) <= first.memory_bytes
    return max(filter(fits, possible), default=possible[0])
