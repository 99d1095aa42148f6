"""Accelerators that a run can be planned for: their data sheets, and what the compilers call them. Knows nothing of JAX."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from distilbert_jax.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip by its data sheet.

    Attributes:
        peak: FLOP/s of bfloat16 matmuls, dense.
        float32_peak: the same of float32 operands; None: it has no such unit.
        memory: bytes of HBM.
        bandwidth: bytes/s of HBM.
        link: bytes/s that a chip sends to its neighbour over one link (TPU), or to all others together (GPU).
        dimensions: of the network: 2 or 3 of a torus; 1 of a switch.
        clock: Hz of the cycles that a TPU's compiler counts; None: not published, a lone matmul tells it (`compile.clock_of`).
        generation: what libtpu calls it in TPU_ACCELERATOR_TYPE.
        cores: devices that JAX sees in a chip; a chip's figures are shared out among them.
        largest: chips of the largest slice.
    """

    name: str
    title: str
    kind: Literal["tpu", "gpu"]
    peak: float
    float32_peak: float | None = None
    memory: float
    bandwidth: float
    link: float
    dimensions: int = 1
    clock: float | None = None
    generation: str = ""
    cores: int = 1
    largest: int = 8  # of GPUs those that a switch connects

    @property
    def ridge(self) -> float:
        """FLOP a byte at which matmuls and memory take equally long."""
        return self.peak / self.bandwidth


# Google Cloud's pages of each TPU version and NVIDIA's data sheets (SXM), November 2026. A link of a TPU is one direction.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e",
            title="TPU v5e",
            kind="tpu",
            peak=197e12,
            memory=16e9,
            bandwidth=819e9,
            link=45e9,
            dimensions=2,
            clock=1.5e9,
            generation="v5litepod",
            largest=256,
        ),
        Chip(
            name="v6e",
            title="TPU v6e",
            kind="tpu",
            peak=918e12,
            memory=32e9,
            bandwidth=1640e9,
            link=90e9,
            dimensions=2,
            generation="v6e",
            largest=256,
        ),
        Chip(
            name="v5p",
            title="TPU v5p",
            kind="tpu",
            peak=459e12,
            memory=95e9,
            bandwidth=2765e9,
            link=90e9,
            dimensions=3,
            clock=1.75e9,
            generation="v5p",
            largest=8_960,
        ),
        Chip(
            name="v4",
            title="TPU v4",
            kind="tpu",
            peak=275e12,
            memory=32e9,
            bandwidth=1228e9,
            link=45e9,
            dimensions=3,
            clock=1.05e9,
            generation="v4",
            largest=4_096,
        ),
        Chip(
            name="tpu7x",
            title="TPU7x",
            kind="tpu",
            peak=2307e12,
            memory=192e9,
            bandwidth=7380e9,
            link=90e9,
            dimensions=3,
            generation="tpu7x",
            largest=9_216,
            cores=2,
        ),
        Chip(
            name="h100",
            title="NVIDIA H100 SXM",
            kind="gpu",
            peak=989e12,
            float32_peak=67e12,
            memory=80e9,
            bandwidth=3350e9,
            link=450e9,
        ),
        Chip(
            name="h200",
            title="NVIDIA H200 SXM",
            kind="gpu",
            peak=989e12,
            float32_peak=67e12,
            memory=141e9,
            bandwidth=4800e9,
            link=450e9,
        ),
        Chip(
            name="a100",
            title="NVIDIA A100 SXM 80 GB",
            kind="gpu",
            peak=312e12,
            float32_peak=19.5e12,
            memory=80e9,
            bandwidth=2039e9,
            link=300e9,
        ),
    )
}
# By JAX's `device_kind`. What is no SXM (H100 PCIe, H200 NVL, GH200) has another data sheet.
_KINDS = (
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H200", "h200"),
    ("NVIDIA A100-SXM4-80GB", "a100"),
    ("TPU v6 lite", "v6e"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v5p", "v5p"),
    ("TPU v4", "v4"),
    ("TPU7x", "tpu7x"),
)
EXAMPLES = "v5e:4x4, v6e:4x4, v5p:2x2x2, v4:2x2x1, tpu7x:2x2x1, h100:8, h200:8, a100:8"


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device, by the name that JAX gives it; None: not one of these."""
    return next((CHIPS[name] for kind, name in _KINDS if kind == device_kind), None)


@dataclass(frozen=True)
class Target:
    """Chips of one kind, connected: `v5e:4x4` has the shape (4, 4), `h100:8` the shape (8,)."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Devices that JAX sees."""
        return self.chips * self.chip.cores

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parse_target(text: str) -> Target:
    """The target that `v5e:4x4`, `v5p:2x2x2` or `h100:8` names; `v5e:1x1` and `h100:1` are one chip.

    Raises:
        InputError: the chip is unknown (the nearest is named, all are listed), or the shape is not one of its networks.
    """
    if sliced := re.fullmatch(r"(v5e|v6e|v5litepod|v4|v5p)-(\d+)", text.lower()):  # as Google Cloud calls a slice
        hint = _slice(sliced[1].replace("litepod", "e"), int(sliced[2]))
        raise InputError(
            f"--target {text}: name the chips and how they are connected, {hint}", field="--target", hint=hint
        )
    name, colon, shape = text.partition(":")
    chip = CHIPS.get(name.lower())
    if chip is None:
        hint = nearest(name.lower(), CHIPS)
        known = "" if hint.startswith("known") else f"; known: {', '.join(CHIPS)}"
        raise InputError(
            f"--target {text}: no chip {name!r}; {hint}{known} (as in {EXAMPLES})", field="--target", hint=hint
        )
    if not colon or not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", shape):
        raise InputError(
            f"--target {text}: expected {name}: and the chips, as in {EXAMPLES}", field="--target", hint=EXAMPLES
        )
    sizes = tuple(map(int, shape.split("x")))
    if len(sizes) != chip.dimensions:
        of = {1: "a number", 2: "two numbers, as in 4x4", 3: "three numbers, as in 2x2x2"}[chip.dimensions]
        raise InputError(
            f"--target {text}: {chip.title} are counted by {of}", field="--target", hint=f"{name}: and {of}"
        )
    if chip.kind == "tpu" and math.prod(sizes) > chip.largest:
        raise InputError(
            f"--target {text}: no such slice: the largest of {chip.title} has {chip.largest:,} chips",
            field="--target",
            hint=f"{chip.largest:,} chips",
        )
    if chip.kind == "gpu" and sizes[0] > chip.largest:
        hint = f"{name}:{chip.largest}"
        raise InputError(
            f"--target {text}: GPUs are planned within one machine, up to {hint}; between machines their links differ",
            field="--target",
            hint=hint,
        )
    return Target(chip, sizes)


def _slice(name: str, number: int) -> str:
    """The target of Google's `v5e-8`: chips of a v5e or v6e, cores (two a chip) of a v4 or v5p; the squarest shape."""
    dimensions = CHIPS[name].dimensions
    chips = number // (2 if dimensions == 3 else 1)
    sizes = [1] * dimensions
    while math.prod(sizes) < chips:
        sizes[sizes.index(min(sizes))] *= 2
    shape = "x".join(
        map(str, sorted(sizes, key=lambda size: (size == 1 and dimensions == 3, size)))
    )  # 2x2x1, but 2x2x4
    return f"{name}:{shape}" if math.prod(sizes) == chips > 0 else f"as in {EXAMPLES}"
