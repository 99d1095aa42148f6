"""HLO of a compiled program, read from its text: cycles, memory traffic, FLOPs and collectives of each operation.

Only what a scheduled program of XLA says of itself: `estimated_cycles` of the TPU's compiler, shapes and layouts, the trip counts
of `while` loops, and the names of the scopes in which the operations were traced. An array whose layout has a memory space
(`S(1)`) lies on the chip and is no traffic.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from distilbert_jax.errors import InputError

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
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ?([\w\-]+)\((.*)$")
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
_COUNTER = 4  # bytes: a start's type names a counter, too, beside what it moves
# Of their first operand these read what comes out, and these write what they put in, in its place.
_PICKS, _PUTS = ("gather", "dynamic-slice", "slice"), ("scatter", "dynamic-update-slice")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclass(frozen=True)
class Operation:
    """An operation of the scheduled program, loops multiplied out.

    Attributes:
        scope: the path of scopes in which it was traced, `jit(step)/jvp(student)/…/dot_general`; of one that the compiler added
            (a change of layout, a prefetch) that of what reads its result.
        count: how often it runs.
        cycles: all its runs together, as the compiler estimates them; 0: it gives none.
        bytes: that it reads from and writes to HBM, all its runs together; of an array of which it takes or changes a part, that.
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
    result: str  # its type
    opcode: str
    rest: str  # what follows the opening bracket of the operands
    is_root: bool = False

    @functools.cached_property
    def scope(self) -> str:
        """Its path of scopes; "": it has none, or only a name (`reshape.12`)."""
        named = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return named[1] if named and "/" in named[1] else ""

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", _bracketed(self.rest))

    def called(self, attribute: str) -> str | None:
        named = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return named[1] if named else None


def _instruction(line: str) -> _Instruction | None:
    """The instruction of a line, `%name = type opcode(operands), attributes`."""
    if not (named := _INSTRUCTION.match(line)):
        return None
    name, rest = named.groups()
    if rest.startswith("("):  # a tuple, of tuples perhaps, and with brackets in its layouts
        result = f"({_bracketed(rest[1:])})"
    else:
        result = rest.partition(" ")[0]
    called = _OPCODE.match(rest[len(result) :])
    return called and _Instruction(name, result, called[1], called[2], line.lstrip().startswith("ROOT "))


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
        elif current is not None and (instruction := _instruction(line)):
            current.append(instruction)
    return computations, entry


def operations(text: str) -> list[Operation]:
    """The operations of a compiled program (`compiled.as_text()`) in their order; those of a loop's body once, with their count."""
    computations, entry = _parse(text)
    partitions = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    program = _Program(computations, int(partitions[1]) if partitions else 1)
    return list(program.walk(entry, 1)) if entry else []


def _constant(
    name: str, here: Mapping[str, _Instruction], outside: Mapping[str, _Instruction], loop: _Instruction
) -> int | None:
    """The whole number that a name in a loop's condition stands for when the loop begins, as far as it is a constant."""
    one = here.get(name)
    while one and one.opcode in ("copy", "bitcast", "convert"):
        one = here.get(one.operands[0])
    if one and one.opcode == "get-tuple-element" and here is not outside:
        carried = outside.get(loop.operands[0])
        place = re.search(r"\bindex=(\d+)", one.rest)
        if carried and carried.opcode == "tuple" and place:
            return _constant(carried.operands[int(place[1])], outside, outside, loop)
    value = re.match(r"-?\d+", one.rest) if one and one.opcode == "constant" else None
    return int(value[0]) if value else None


class _Program:
    """A compiled program's computations, walked from the one that is the program."""

    def __init__(self, computations: Mapping[str, list[_Instruction]], devices: int):
        self._computations, self._devices = computations, devices
        self._types = {name: {one.name: one.result for one in inside} for name, inside in computations.items()}
        # Channels of collectives that stand in fusions: in their start, steps and done alike.
        self._fused: set[str] = set()

    def walk(self, name: str, count: int) -> Iterator[Operation]:
        """The operations of a computation that runs `count` times."""
        scopes = self._scopes(name)
        for one in self._computations[name]:
            if one.opcode == "while":
                if (body := one.called("body")) in self._computations:
                    yield from self.walk(str(body), count * self._trips(one, self._computations[name]))
            elif one.opcode in ("call", "conditional"):
                branches = re.findall(r"branch_computations=\{%?([\w.\-]+)", one.rest)
                inside = one.called("to_apply") or (branches[0] if branches else None)
                if inside in self._computations:
                    yield from self.walk(str(inside), count)
            elif one.opcode not in _FREE:
                yield from self._fused_collectives(one, count)
                yield self._operation(one, count, self._types[name], scopes[one.name])

    def _trips(self, loop: _Instruction, around: list[_Instruction]) -> int:
        """How often a `while` runs: as it says or, where it does not (libtpu 0.0.42), by the bound of its counter.

        Raises:
            InputError: neither tells.
        """
        if told := re.search(r'"?known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)', loop.rest):
            return int(told[1])
        condition = {one.name: one for one in self._computations.get(loop.called("condition") or "", ())}
        outside = {one.name: one for one in around}
        test = next((one for one in condition.values() if one.is_root), None)
        compared = test and test.operands
        if test and test.opcode in ("fusion", "call"):
            given, inside = (
                test.operands,
                self._computations.get(test.called("calls") or test.called("to_apply") or "", []),
            )
            test = next((one for one in inside if one.is_root), None)
            place = {one.name: int(one.rest.partition(")")[0]) for one in inside if one.opcode == "parameter"}
            compared = [given[place[name]] if name in place else name for name in test.operands] if test else None
            condition |= {one.name: one for one in inside if one.opcode == "constant"}
        if test and compared and test.opcode == "compare" and "direction=LT" in test.rest:
            # A counter of JAX's loops begins at 0 where its beginning is not in sight.
            begin, end = (_constant(name, condition, outside, loop) for name in compared)
            if end is not None:
                return max(end - (begin or 0), 0)
        where = f" ({loop.scope})" if loop.scope else ""
        raise InputError(
            f"the compiled program has a loop that does not say how often it runs{where}: nothing can be estimated"
        )

    def _scopes(self, name: str) -> dict[str, str]:
        """The scope of each instruction of a computation: its own, that of the last one in the fusion, that of the first that reads
        it, or that of one which it reads."""
        inside, readers = self._computations[name], dict[str, list[str]]()
        for one in inside:
            for operand in one.operands:
                readers.setdefault(operand, []).append(one.name)
        scopes: dict[str, str] = {}
        first = lambda names: next((scopes[each] for each in names if scopes.get(each)), "")
        for one in reversed(inside):  # what reads a result stands behind it
            fused = self._computations.get(one.called("calls") or "", ()) if not one.scope else ()
            own = one.scope or next((inner.scope for inner in reversed(fused) if inner.scope), "")
            scopes[one.name] = own or first(readers.get(one.name, ()))
        for one in inside:
            scopes[one.name] = scopes[one.name] or first(one.operands)
        return scopes

    def _fused_collectives(self, one: _Instruction, count: int) -> Iterator[Operation]:
        """Collectives that the compiler has fused with the work that hides them."""
        for inner in self._computations.get(one.called("calls") or "", ()) if one.opcode == "fusion" else ():
            channel = re.search(r"channel_id=(\d+)", inner.rest)
            if inner.opcode in COLLECTIVES and channel and channel[1] not in self._fused:
                self._fused.add(channel[1])
                sent = max((size for size, _ in sizes(inner.result)), default=0.0)
                yield Operation(
                    name=inner.name,
                    scope=inner.scope or one.scope,
                    count=count,
                    cycles=0,
                    bytes=0.0,  # the fusion's own
                    flops=0.0,
                    asynchronous=True,
                    collective=inner.opcode,
                    sent=count * sent,
                    group=_group(inner.rest, self._devices),
                )

    def _operation(self, one: _Instruction, count: int, known: Mapping[str, str], scope: str) -> Operation:
        base = re.sub(r"-(start|done|update)$", "", one.opcode)
        wrapped = one.called("calls") if base == "async" else None
        if wrapped in self._computations:  # a generic async-start around one operation
            inside = self._computations[str(wrapped)]
            base = next((inner.opcode for inner in inside if inner.opcode in COLLECTIVES), base)
        begins, ends = one.opcode.endswith("-start"), one.opcode.endswith(("-done", "-update"))
        given = [known.get(operand, "") for operand in dict.fromkeys(one.operands)]
        traffic = 0.0 if ends else _moved(one, base in COLLECTIVES) if begins else self._traffic(one, known)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
        collective = base if base in COLLECTIVES and not ends else ""
        sides = [sum(size for size, _ in sizes(side)) for side in (one.result, " ".join(given))]
        sent = max(size for size, _ in sizes(one.result)) if begins and collective else max(sides)
        return Operation(
            name=one.name,
            scope=scope,
            count=count,
            cycles=count * int(cycles[1]) if cycles else 0,
            bytes=count * traffic,
            flops=count * _flops(one, self._computations, known),
            asynchronous=begins or ends,
            collective=collective,
            sent=count * sent if collective else 0.0,
            group=_group(one.rest, self._devices) if collective else 1,
        )

    def _traffic(self, one: _Instruction, known: Mapping[str, str]) -> float:
        """Bytes of HBM that an operation reads and writes, which runs while no other does."""
        read, written = self._parts(one, known)
        operands = list(dict.fromkeys(one.operands))
        whole = {name: sum(size for size, in_hbm in sizes(known.get(name, "")) if in_hbm) for name in operands}
        result = [(size, part) for (size, in_hbm), part in zip(sizes(one.result), written, strict=True) if in_hbm]
        return sum(min(whole[name], read.get(name, math.inf)) for name in operands) + sum(
            size if part is None else min(size, part) for size, part in result
        )

    def _parts(self, one: _Instruction, known: Mapping[str, str]) -> tuple[dict[str, float], list[float | None]]:
        """Of which operands an operation reads a part alone, and of which arrays of its result it writes one, in place: bytes."""
        whole: list[float | None] = [None] * len(sizes(one.result))
        bytes_of = lambda type_text: sum(size for size, _ in sizes(type_text))
        if one.opcode in _PICKS:
            return {one.operands[0]: bytes_of(one.result)}, whole
        if one.opcode in _PUTS and len(whole) == 1:
            update = bytes_of(known.get(one.operands[1 if one.opcode == "dynamic-update-slice" else -1], ""))
            return {one.operands[0]: update}, [update]
        inside = self._computations.get(one.called("calls") or "") if one.opcode == "fusion" else None
        if not inside:
            return {}, whole
        return self._parts_of_fusion(one, inside, whole)

    def _parts_of_fusion(
        self, one: _Instruction, inside: list[_Instruction], written: list[float | None]
    ) -> tuple[dict[str, float], list[float | None]]:
        types = {inner.name: inner.result for inner in inside}
        origin: dict[str, str] = {}  # of a parameter, and of what is that parameter in another shape, its place
        read: dict[str, float] = {}
        puts: dict[str, float] = {}  # those that change a parameter in place: the bytes that they write
        for inner in inside:
            if inner.opcode == "parameter":
                place = int(inner.rest.partition(")")[0])
                origin[inner.name] = one.operands[place] if place < len(one.operands) else ""
            elif inner.opcode == "bitcast":
                if (same := inner.operands[0]) in origin:
                    origin[inner.name] = origin[same]
                if same in puts:
                    puts[inner.name] = puts[same]
            elif inner.opcode != "tuple":
                parts, changed = self._parts(inner, types)
                for name in dict.fromkeys(inner.operands):
                    if name in origin:
                        read[origin[name]] = read.get(origin[name], 0.0) + parts.get(name, math.inf)
                target = inner.operands[0] if inner.operands else ""
                if target in origin and changed and changed[0] is not None:
                    puts[inner.name] = changed[0]
        root = next((inner for inner in inside if inner.is_root), inside[-1])
        results = root.operands if root.opcode == "tuple" else [root.name]
        if len(results) == len(written):
            written = [puts.get(name) for name in results]
        return read, written


def _moved(one: _Instruction, is_collective: bool) -> float:
    """Bytes of HBM that the start of a copy, of a slice or of a collective reads and writes. Its type names both sides; a slice's
    source is the whole array, of which no more is read than arrives."""
    sides = [side for side in sizes(one.result) if side[0] > _COUNTER]
    moved = min((size for size, _ in sides), default=0.0)
    return sum(size if is_collective else moved for size, in_hbm in sides if in_hbm)


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
    array = _ARRAY.search(type_text)
    return tuple(int(size) for size in array[2].split(",") if size) if array else ()
