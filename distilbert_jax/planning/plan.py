"""Plan of a run on a machine that is not here: `distilbert-jax plan`, and for programs `plan`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from distilbert_jax.base.config_io import files_run, write_config
from distilbert_jax.config import MeshConfig, PretrainConfig
from distilbert_jax.errors import InputError, counted
from distilbert_jax.planning.compile import DoesNotFitError, Job, compile_step
from distilbert_jax.planning.estimate import Plan, Work, plan_of
from distilbert_jax.planning.runs import (
    Config,
    Features,
    FeaturesConfig,
    Finetuning,
    Run,
    run_of,
    with_accumulate,
    with_batch,
)
from distilbert_jax.planning.targets import Target, parse_target

_COMPILES = 4  # at most, to find the largest batch that fits


def plan(config: Config, target: str, *, seeds: int = 1, price_per_chip_hour: float | None = None) -> Plan:
    """Compile a run's step for a target and say what it takes there; neither data nor weights are needed.

    Args:
        config: of a pre-training, distillation or fine-tuning run, or `FeaturesConfig`. The shape of a model is read from its
            directory's config.json, or known by its name (`runs.PUBLISHED`).
        target: such as "v5e:4x4" or "h100:8", see `parse_target`.
        seeds: of fine-tuning, or students of one teacher, that train side by side in one step.
        price_per_chip_hour: in any currency.

    Raises:
        InputError: the target is unknown, its compiler is not installed, the mesh does not divide it, the step cannot be compiled.
    """
    aim = parse_target(target)
    if price_per_chip_hour is not None and not 0 <= price_per_chip_hour < float("inf"):
        raise InputError(
            f"--price-per-chip-hour {price_per_chip_hour}: expected 0 or more, in any currency",
            field="--price-per-chip-hour",
        )
    run = run_of(config, seeds)
    axes = _axes(run, aim)
    if isinstance(run, Finetuning):  # as `PackedShape.for_mesh` does
        shared_by = axes["data"] * axes["fsdp"] * run.accumulate
        run = dataclasses.replace(run, rows=-(-run.rows // shared_by) * shared_by)
    compiled = compile_step(Job.of(target, run, files_run()))
    work = Work(
        kind=run.kind,
        models=run.models,
        mesh=" × ".join(f"{name} {size}" for name, size in axes.items() if size > 1) or "data 1",
        batch_size=run.rows,
        length=run.length,
        seeds=run.seeds,
        accumulate=run.accumulate,
        steps=run.steps,
        model_flops=run.flops(),
        dtype=run.dtype,
    )
    return plan_of(compiled, aim, work, price_per_chip_hour)


def _axes(run: Run, target: Target) -> dict[str, int]:
    """The sizes of the mesh as it will be.

    Raises:
        InputError: it does not divide the target's devices, or the batch.
    """
    mesh, devices = run.mesh, target.devices
    if run.kind == Features.kind and devices != 1:
        hint = f"{target.chip.name}:{'x'.join('1' * target.chip.dimensions)}"
        raise InputError(
            f"--target {target}: features are computed by one device, and this has {devices}; for several, divide the hours "
            f"(as in {hint if target.chip.cores == 1 else 'v5e:1x1'})",
            field="--target",
            hint=hint,
        )
    inner = mesh.fsdp * mesh.tensor
    data = devices // inner if mesh.data == -1 else mesh.data
    if data * inner != devices:
        raise InputError(
            f"--target {target}: has {devices} devices, the mesh asks for {max(data, 1)} × {mesh.fsdp} × {mesh.tensor} "
            "(data × fsdp × tensor); the product must be the number of devices",
            field="--target",
        )
    rows = data * mesh.fsdp * run.accumulate
    if run.batch_size % rows:
        raise InputError(
            f"{run.batch_field} = {run.batch_size} is not divisible by data × fsdp × optimizer.accumulate = {rows}; "
            "it counts the rows of all chips together",
            field=run.batch_field,
            hint=f"{max(run.batch_size // rows, 1) * rows}",
        )
    return {"data": data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}


def write(plans: Sequence[Plan], directory: Path) -> None:
    """Write `plan.json`."""
    write_config({"plans": list(plans)}, directory / "plan.json")


def largest_batch(config: Config, target: str, *, seeds: int = 1, price_per_chip_hour: float | None = None) -> Plan:
    """The plan with the largest batch that fits, in one micro-batch: a power of two, or half as much more, rows a device.

    Raises:
        InputError: as `plan`; not even one row a device fits.
    """
    aim = parse_target(target)
    rows = _row_devices(config, aim)

    def of_rows(each: int) -> Plan:
        return plan(with_batch(config, each * rows), target, seeds=seeds, price_per_chip_hour=price_per_chip_hour)

    return _largest(of_rows, aim)


def fewest_micro_batches(
    config: Config, target: str, *, seeds: int = 1, price_per_chip_hour: float | None = None
) -> Plan:
    """The plan with the smallest `optimizer.accumulate` at which the step fits.

    Raises:
        InputError: as `plan`; it fits at none.
    """
    aim = parse_target(target)
    rows = _row_devices(config, aim)
    if isinstance(config, FeaturesConfig):
        raise InputError("--optimizer.accumulate: features have no micro-batches", field="--optimizer.accumulate")
    batch = config.data.batch_size if isinstance(config, PretrainConfig) else config.batch_size
    if batch % rows:
        named = "data.batch_size" if isinstance(config, PretrainConfig) else "batch_size"
        raise InputError(f"{named} = {batch} is not divisible by the {rows} devices of its rows", field=named)
    each = batch // rows

    def of_size(size: int) -> Plan:
        cut = with_accumulate(config, each // size)
        return plan(cut, target, seeds=seeds, price_per_chip_hour=price_per_chip_hour)

    return _largest(of_size, aim, [size for size in range(1, each + 1) if each % size == 0])


def _row_devices(config: Config, target: Target) -> int:
    mesh = MeshConfig() if isinstance(config, FeaturesConfig) else config.mesh
    return max(target.devices // mesh.tensor, 1) if mesh.data == -1 else mesh.data * mesh.fsdp


@dataclasses.dataclass(frozen=True)
class _Trial:
    """What came of a number of rows a device. plan: None where the compiler found no program."""

    plan: Plan | None
    needed: float  # bytes
    fits: bool


def _largest(of_rows: Callable[[int], Plan], target: Target, sizes: list[int] | None = None) -> Plan:
    """The plan of the most rows a device that fit, by at most four compilations: memory is close to linear in the rows."""
    sizes = sizes or sorted({base << power for base in (2, 3) for power in range(13)} | {1})
    memory, tried = target.chip.memory / target.chip.cores, dict[int, _Trial]()
    size = max((one for one in sizes if one <= 8), default=sizes[0])
    while len(tried) < _COMPILES and size not in tried:
        try:
            tried[size] = _Trial(result := of_rows(size), result.total_bytes, result.fits)
        except DoesNotFitError as error:
            tried[size] = _Trial(None, error.needed, False)
        size = _next(tried, sizes, memory)
    fitting = {size: one.plan for size, one in tried.items() if one.plan and one.fits}
    if not fitting:
        least = tried[min(tried)].needed
        raise InputError(
            f"--target {target}: with {counted(min(tried), 'row')} a device it needs {least / 1e9:.1f} GB of the "
            f"{memory / 1e9:.0f}: more of --mesh.fsdp or --mesh.tensor, or shorter rows, is what it would take",
            field="--target",
        )
    return fitting[max(fitting)]


def _next(tried: dict[int, _Trial], sizes: list[int], memory: float) -> int:
    """The next size to try: the largest that by the line through two of those tried will fit, and that no trial has refuted."""
    refuted = min((size for size, one in tried.items() if not one.fits), default=max(sizes) + 1)
    possible = [size for size in sizes if size < refuted]
    if not possible:
        return min(tried)
    if len(tried) == 1:
        ((size, one),) = tried.items()
        share = memory / one.needed
        guess = [each for each in possible if each <= size * share / 2 or each <= size // 2]
        return max((each for each in guess if each not in tried), default=possible[0])
    (a, first), (b, second) = sorted(tried.items())[:2]
    slope = (second.needed - first.needed) / (b - a)
    fits = lambda size: first.needed + slope * (size - a) <= memory
    return max(filter(fits, possible), default=possible[0])
