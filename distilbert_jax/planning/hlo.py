"""HLO of a compiled program, read from its text: cycles, memory traffic, FLOPs and collectives of each operation.

Only what a scheduled program of XLA says of itself: `estimated_cycles` of the TPU's compiler, shapes and layouts, the trip counts
of `while` loops, and the names of the scopes in which the operations were traced. An array whose layout has a memory space
(`S(1)`) lies on the chip and is no traffic.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "bf16": 16,
    "f16": 16,
    "s16": 16,
    "u16": 16,
}
_BITS |= {"f32": 32, "s32": 32, "u32": 32, "f64": 64, "s64": 64, "u64": 64, "c64": 64}
_ARRAY = re.compile(rf"\b({'|'.join(sorted(_BITS, key=len, reverse=True))})\[([\d,]*)\](\{{[^}}]*\}})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)$")
_FREE = frozenset(
    (
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
    )
)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclass(frozen=True)
class Operation:
    """An operation of the scheduled program, loops multiplied out.

    Attributes:
        scope: the path of scopes in which it was traced, `jit(step)/jvp(student)/…/dot_general`.
        count: how often it runs.
        cycles: all its runs together, as the compiler estimates them; 0: it gives none.
        bytes: that it reads from and writes to HBM, all its runs together.
        flops: of the matmuls in it, all its runs together.
        asynchronous: it runs beside others, between its start and its done.
        collective: which of `COLLECTIVES` it is, or "".
        sent: of a collective the bytes of its largest side, all its runs together.
        group: how many devices take part in a collective.
    """

    name: str
    scope: str
    count: int
    cycles: int
    bytes: float
    flops: float
    asynchronous: bool = False
    collective: str = ""
    sent: float = 0.0
    group: int = 1


@dataclass(frozen=True)
class _Instruction:
    name: str
    result: str
    opcode: str
    rest: str  # what follows the opening bracket of the operands

    @property
    def scope(self) -> str:
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found[1] if found else ""

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", _bracketed(self.rest))

    def called(self, attribute: str) -> str | None:
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


def _bracketed(text: str) -> str:
    """What stands before the bracket that closes the operands."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:i]
    return text


def sizes(type_text: str) -> list[tuple[float, bool]]:
    """Of each array in a type its bytes, and whether it lies in HBM."""
    result = []
    for dtype, dimensions, layout in _ARRAY.findall(type_text):
        elements = math.prod(int(size) for size in dimensions.split(",") if size)
        result.append((elements * _BITS[dtype] / 8, re.search(r"S\([1-9]\d*\)", layout) is None))
    return result


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of each computation, and the name of the one that is the program."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" ") and (header := _COMPUTATION.match(line)):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_Instruction(*found.groups()))
    return computations, entry


def operations(text: str) -> list[Operation]:
    """The operations of a compiled program (`compiled.as_text()`) in their order; those of a loop's body once, with their count."""
    computations, entry = _parse(text)
    partitions = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    program = _Program(computations, int(partitions[1]) if partitions else 1)
    return list(program.walk(entry, 1)) if entry else []


class _Program:
    """A compiled program's computations, walked from the one that is the program."""

    def __init__(self, computations: Mapping[str, list[_Instruction]], devices: int):
        self._computations, self._devices = computations, devices
        self._types = {name: {one.name: one.result for one in inside} for name, inside in computations.items()}
        self._fused: set[str] = (
            set()
        )  # channels of collectives that stand in fusions: in their start, steps and done alike

    def walk(self, name: str, count: int) -> Iterator[Operation]:
        """The operations of a computation that runs `count` times."""
        for one in self._computations[name]:
            if one.opcode == "while":
                trips = re.search(r'"?known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)', one.rest)
                if (body := one.called("body")) in self._computations:
                    yield from self.walk(str(body), count * (int(trips[1]) if trips else 1))
            elif one.opcode in ("call", "conditional"):
                branches = re.findall(r"branch_computations=\{%?([\w.\-]+)", one.rest)
                inside = one.called("to_apply") or (branches[0] if branches else None)
                if inside in self._computations:
                    yield from self.walk(str(inside), count)
            elif one.opcode not in _FREE:
                yield from self._fused_collectives(one, count)
                yield self._operation(one, count, self._types[name])

    def _fused_collectives(self, one: _Instruction, count: int) -> Iterator[Operation]:
        """Collectives that the compiler has fused with the work that hides them."""
        for inner in self._computations.get(one.called("calls") or "", ()) if one.opcode == "fusion" else ():
            channel = re.search(r"channel_id=(\d+)", inner.rest)
            if inner.opcode in COLLECTIVES and channel and channel[1] not in self._fused:
                self._fused.add(channel[1])
                sent = max((size for size, _ in sizes(inner.result)), default=0.0)
                yield Operation(
                    name=inner.name,
                    scope=one.scope,
                    count=count,
                    cycles=0,
                    bytes=0.0,  # the fusion's own
                    flops=0.0,
                    asynchronous=True,
                    collective=inner.opcode,
                    sent=count * sent,
                    group=_group(inner.rest, self._devices),
                )

    def _operation(self, one: _Instruction, count: int, known: Mapping[str, str]) -> Operation:
        base = re.sub(r"-(start|done|update)$", "", one.opcode)
        wrapped = one.called("calls") if base == "async" else None
        if wrapped in self._computations:  # a generic async-start around one operation
            inside = self._computations[str(wrapped)]
            base = next((inner.opcode for inner in inside if inner.opcode in COLLECTIVES), base)
        begins, ends = one.opcode.endswith("-start"), one.opcode.endswith(("-done", "-update"))
        given = [known.get(operand, "") for operand in dict.fromkeys(one.operands)]
        if ends:
            traffic = 0.0
        elif begins:  # from one memory to another: what it moves is in HBM on one side, and named on both
            traffic = max((size for size, in_hbm in sizes(one.result) if in_hbm), default=0.0)
        else:
            traffic = sum(size for side in (one.result, *given) for size, in_hbm in sizes(side) if in_hbm)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
        collective = base if base in COLLECTIVES and not ends else ""
        sides = [sum(size for size, _ in sizes(side)) for side in (one.result, " ".join(given))]
        sent = max(size for size, _ in sizes(one.result)) if begins and collective else max(sides)
        return Operation(
            name=one.name,
            scope=one.scope,
            count=count,
            cycles=count * int(cycles[1]) if cycles else 0,
            bytes=count * traffic,
            flops=count * _flops(one, self._computations, known),
            asynchronous=begins or ends,
            collective=collective,
            sent=count * sent if collective else 0.0,
            group=_group(one.rest, self._devices) if collective else 1,
        )


def _group(rest: str, devices: int) -> int:
    """Devices of a group: of `replica_groups={{0,1},{2,3}}`, of `[2,2]<=[4]` (two groups of two), or of
    `mesh['x'=2,'y'=4] {'y'}` (those along the axes that are named); all of them where none are told apart."""
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(counted[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}", rest):
        size = dict(re.findall(r"'([^']+)'=(\d+)", axes[1]))
        # An axis may be cut, 'x':(2)4 being four of it.
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes[2])
        return math.prod(int(part or size[name]) for name, part in parts)
    return 2 if "source_target_pairs" in rest else devices


def _flops(one: _Instruction, computations: Mapping[str, list[_Instruction]], known: Mapping[str, str]) -> float:
    """Of the matmuls in an operation: its own, or those of the computation that it is a fusion of."""
    if one.opcode in ("fusion", "custom-call") and (inside := one.called("calls")) in computations:
        body = computations[str(inside)]
        types = {inner.name: inner.result for inner in body}
        return sum(_flops(inner, computations, types) for inner in body)
    if one.opcode not in ("dot", "convolution"):
        return 0.0
    shapes = [_shape(known.get(operand, "")) for operand in one.operands[:2]]
    result = math.prod(_shape(one.result))
    if one.opcode == "dot" and len(shapes) == 2:
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * result * math.prod(shapes[0][axis] for axis in axes)
    labels = re.search(r"dim_labels=([\dbf?]+)_([\dio?]+)->", one.rest)
    if not labels or len(shapes) < 2 or [len(shape) for shape in shapes] != [len(labels[1]), len(labels[2])]:
        return 0.0
    inputs, kernel = dict(zip(labels[1], shapes[0], strict=True)), dict(zip(labels[2], shapes[1], strict=True))
    return 2.0 * inputs["b"] * kernel["o"] * kernel["i"] * _meetings(one.rest, inputs, kernel)


def _meetings(rest: str, inputs: Mapping[str, int], kernel: Mapping[str, int]) -> int:
    """How often an element of the input meets one of the kernel, along the dimensions of a convolution's window.

    A TPU's batched matmul is a convolution whose input is spread out so far that each element of a batch meets its own alone.
    """
    window = dict(re.findall(r"(\w+)=(\S+)", found[1])) if (found := re.search(r"window=\{([^}]*)\}", rest)) else {}
    result = 1
    for place, size in enumerate(window.get("size", "").split("x") if window else ()):
        one = lambda name, place=place: int(window[name].split("x")[place]) if name in window else 1
        low, high = map(int, window["pad"].split("x")[place].split("_")) if "pad" in window else (0, 0)
        spread = (inputs[str(place)] - 1) * one("lhs_dilate") + 1
        reach = (int(size) - 1) * one("rhs_dilate") + 1
        starts = range(-low, spread + high - reach + 1, one("stride"))
        steps = range(0, reach, one("rhs_dilate"))
        result *= sum(
            0 <= at + step < spread and (at + step) % one("lhs_dilate") == 0 for at in starts for step in steps
        )
    return result


def _shape(type_text: str) -> tuple[int, ...]:
    found = _ARRAY.search(type_text)
    return tuple(int(size) for size in found[2].split(",") if size) if found else ()
