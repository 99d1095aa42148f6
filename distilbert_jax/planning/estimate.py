"""Estimate of a step on a target, from what its compiler says: memory, time by part, share of the peak, hours and their price."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distilbert_jax.planning.compile import Compiled
from distilbert_jax.planning.hlo import Operation
from distilbert_jax.planning.targets import Chip, Target

# The parts of a step by the scopes in which its operations were traced, the first that stands in the path.
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dropout", ("dropout",)),
    ("optimizer", ("optimizer",)),
    ("masking", ("prepare",)),
    ("vocabulary and losses", ("vocabulary", "losses")),
    ("head", ("/head", "(head", "pooling")),
    ("attention", ("attention",)),
    ("encoder of the teacher", ("teacher",)),
    ("encoder", ("encoder",)),
)
_COLLECTIVES, _OTHER = "collectives", "other"
# Of the bytes of a collective's larger side, what each device of a ring of n sends.
_SENT: Mapping[str, float] = {"all-reduce": 2.0}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a step. `share`: of the step's time, 0 … 1."""

    name: str
    seconds: float
    share: float
    hbm_bytes: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Collective:
    """Collectives of one kind among groups of one size. `overlapped`: they run beside other work and take no time of their own."""

    kind: str
    group: int
    number: int
    bytes: float
    seconds: float
    overlapped: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a step and a run take on a target; seconds are the compiler's estimate (TPU) or a lower bound (GPU).

    Attributes:
        models: which, of how many layers, and the dtype of their matmuls.
        share_of_peak: FLOPs of the model a second, beside the chips' peak for bfloat16, 0 … 1.
        method: how `seconds` was found.
        model_flops: of a step over all devices, by the formulas of `training.cost`.
        compiled_flops: of the matmuls in the program of one device.
        hbm_bytes: that one device reads and writes in a step.
        argument_bytes, temporary_bytes, total_bytes: of one device; total: with outputs that share no argument's place.
        memory_bytes: what a device has.
    """

    kind: str
    models: str
    target: str
    chips: int
    mesh: str
    fits: bool
    share_of_peak: float
    seconds: float
    method: str
    argument_bytes: int
    temporary_bytes: int
    total_bytes: int
    memory_bytes: float
    model_flops: float
    compiled_flops: float
    hbm_bytes: float
    flops_per_byte: float
    ridge: float
    parts: tuple[Part, ...]
    collectives: tuple[Collective, ...]
    batch_size: int
    length: int
    seeds: int
    accumulate: int
    tokens_per_second: float
    steps: int
    hours: float
    chip_hours: float
    cost: float | None
    trace_seconds: float
    compile_seconds: float
    versions: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does, whatever it runs on.

    Attributes:
        kind: pre-training, fine-tuning or features.
        models: which, of how many layers, and the dtype of their matmuls.
        batch_size: rows of a step and seed, over all devices.
        seeds: that train side by side in one step.
        model_flops: of a step of all seeds over all devices.
        dtype: of matmuls.
    """

    kind: str = "pre-training"
    models: str = ""
    mesh: str
    batch_size: int
    length: int
    seeds: int = 1
    accumulate: int
    steps: int
    model_flops: float
    dtype: str = "bfloat16"


def plan_of(compiled: Compiled, target: Target, work: Work, price_per_chip_hour: float | None = None) -> Plan:
    """The plan of a run whose step was compiled for a target."""
    peak = target.chip.float32_peak if work.dtype == "float32" else None  # which a TPU has none of
    target = dataclasses.replace(target, chip=dataclasses.replace(target.chip, peak=peak or target.chip.peak))
    chip, cores = target.chip, target.chip.cores
    parts = parts_of(compiled, target)
    traffic = sum(one.bytes for one in compiled.operations)
    collectives = collectives_of(compiled.operations, chip)
    if chip.kind == "tpu":
        seconds = sum(part.seconds for part in parts)
        clock = f"{(compiled.clock or 0) / 1e9:.2f} GHz" + (" by a lone matmul" if compiled.clock_calibrated else "")
        method = f"estimate: cycles by the compiler at {clock}"
    else:
        exposed = sum(one.seconds for one in collectives if not one.overlapped)
        computing = work.model_flops / (target.devices * chip.peak)
        seconds = max(computing, traffic / chip.bandwidth) + exposed
        method = "bound: the longer one of matmuls at the peak and bytes at full bandwidth"
    method += f"; the peak is that of {'float32' if peak else 'bfloat16'}"
    hours = work.steps * seconds / 3600
    per_device = work.model_flops / target.devices
    return Plan(
        kind=work.kind,
        models=work.models,
        target=str(target),
        chips=target.chips,
        mesh=work.mesh,
        fits=compiled.total_bytes <= chip.memory / cores,
        share_of_peak=work.model_flops / (target.chips * chip.peak * seconds) if seconds else 0.0,
        seconds=seconds,
        method=method,
        argument_bytes=compiled.argument_bytes,
        temporary_bytes=compiled.temporary_bytes,
        total_bytes=compiled.total_bytes,
        memory_bytes=chip.memory / cores,
        model_flops=work.model_flops,
        compiled_flops=sum(one.flops for one in compiled.operations),
        hbm_bytes=traffic,
        flops_per_byte=per_device / traffic if traffic else 0.0,
        ridge=chip.ridge,
        parts=parts,
        collectives=collectives,
        batch_size=work.batch_size,
        length=work.length,
        seeds=work.seeds,
        accumulate=work.accumulate,
        tokens_per_second=work.seeds * work.batch_size * work.length / seconds if seconds else 0.0,
        steps=work.steps,
        hours=hours,
        chip_hours=hours * target.chips,
        cost=None if price_per_chip_hour is None else hours * target.chips * price_per_chip_hour,
        trace_seconds=compiled.trace_seconds,
        compile_seconds=compiled.compile_seconds,
        versions=compiled.versions,
    )


def part_of(one: Operation) -> str:
    """The part of a step that an operation belongs to."""
    if one.collective:
        return _COLLECTIVES
    return next((name for name, scopes in PARTS if any(scope in one.scope for scope in scopes)), _OTHER)


def parts_of(compiled: Compiled, target: Target) -> tuple[Part, ...]:
    """The parts of a step, the longest first."""
    totals: dict[str, list[float]] = {}
    for one in compiled.operations:
        sums = totals.setdefault(part_of(one), [0.0, 0.0, 0.0])
        for i, value in enumerate((seconds_of(one, target.chip, compiled.clock), one.bytes, one.flops)):
            sums[i] += value
    whole = sum(sums[0] for sums in totals.values()) or 1.0
    longest_first = sorted(totals.items(), key=lambda item: -item[1][0])
    return tuple(
        Part(name=name, seconds=seconds, share=seconds / whole, hbm_bytes=traffic, flops=flops)
        for name, (seconds, traffic, flops) in longest_first
    )


def seconds_of(one: Operation, chip: Chip, clock: float | None) -> float:
    """Time of an operation, which runs while no other does; 0 of what runs beside others.

    What the compiler gives no cycles (kernels written by hand, copies) takes the longer one of its matmuls at the peak and of its
    bytes at the memory's full bandwidth; collectives go at the links' speed.
    """
    if one.asynchronous:
        return 0.0
    if one.collective:
        return link_seconds(one, chip)
    if one.cycles and clock:
        return one.cycles / clock
    return max(one.flops / (chip.peak / chip.cores), one.bytes / (chip.bandwidth / chip.cores))


def link_seconds(one: Operation, chip: Chip) -> float:
    """Time of a collective on the wire: a ring on one axis of a torus, both ways; on GPUs all links of a switch."""
    sent = one.sent * _SENT.get(one.collective, 1.0) * (one.group - 1) / max(one.group, 1)
    return sent / (2 * chip.link if chip.kind == "tpu" else chip.link)


def collectives_of(operations: Iterable[Operation], chip: Chip) -> tuple[Collective, ...]:
    """The collectives of a program by kind, size of group, and whether they are overlapped."""
    totals: dict[tuple[str, int, bool], list[float]] = {}
    for one in operations:
        if one.collective:
            sums = totals.setdefault((one.collective, one.group, one.asynchronous), [0.0, 0.0, 0.0])
            for i, value in enumerate((one.count, one.sent, link_seconds(one, chip))):
                sums[i] += value
    return tuple(
        Collective(kind=kind, group=group, number=int(number), bytes=sent, seconds=seconds, overlapped=overlapped)
        for (kind, group, overlapped), (number, sent, seconds) in sorted(totals.items())
    )
