"""One side of `accelerator.py`, a process of its own: sizes, timing, how it tells its results. Imports neither JAX nor torch."""

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABSENT = 3  # status of a child whose library finds no device


class AbsentError(Exception):
    """What no side of this library can do without is not there."""


@dataclass(frozen=True)
class Sizes:
    """Of the models and of what is timed."""

    vocabulary: int = 30_522
    hidden: int = 768
    layers: int = 12  # of the teacher; the student has half
    heads: int = 12
    inner: int = 3_072
    positions: int = 512
    matmul: int = 8_192  # rows and columns
    copied: int = 1 << 31  # bytes of the array
    unrolled: int = 8  # attentions in one program
    glue: int = 3_668  # examples, of which 32 make a batch
    seconds: float = 0.5  # of a timed group of steps
    brief: float = 0.15  # of anything else
    groups: int = 5

    def shape(self) -> dict[str, int]:
        """As transformers' BertConfig and `ModelConfig` name it."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
        }


TOY = Sizes(
    vocabulary=384,
    hidden=32,
    layers=2,
    heads=2,
    inner=64,
    positions=64,
    matmul=128,
    copied=1 << 20,
    unrolled=2,
    glue=200,
    seconds=0.0,
    brief=0.0,
    groups=3,
)


class Report:
    """What a side has found so far, on disk after each figure: a side that is killed leaves what it had."""

    def __init__(self, path: Path):
        self.path, self.found = path, {}

    def __call__(self, **values: Any) -> None:
        self.found |= values
        write_json(self.found, self.path)


def write_json(values: Any, path: Path) -> None:
    """All or nothing."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


@dataclass(frozen=True)
class Asked:
    """What a side is to do.

    Attributes:
        rows, length: B and T; 0 where a side has its own.
        folder: what sides hand to one another: weights and a batch.
        programs: folder for the compiled programs' text; empty: none.
        profile: whether the device's kernels are timed one by one, too.
        begun: when the process was started, seconds since 1970.
    """

    name: str
    toy: bool
    rows: int
    length: int
    folder: str
    programs: str = ""
    profile: bool = False
    begun: float = 0.0

    @property
    def sizes(self) -> Sizes:
        return TOY if self.toy else Sizes()


def timed(
    call: Callable[[], Any], block: Callable[[Any], Any], sizes: Sizes, seconds: float | None = None
) -> dict[str, Any]:
    """Milliseconds a call: the median over groups of calls, which are waited for at each group's end only.

    Two calls go before (the second tells how many make a group) and one group.

    seconds: that a group is to take; None: `sizes.seconds`.
    """
    seconds = sizes.seconds if seconds is None else seconds
    block(call())
    begun = time.perf_counter()
    block(call())
    pace = time.perf_counter() - begun
    calls = max(1, min(round(seconds / max(pace, 1e-5)), 1_000))

    def group() -> float:
        begun, last = time.perf_counter(), None
        for _ in range(calls):
            last = call()
        block(last)
        return 1e3 * (time.perf_counter() - begun) / calls

    group()
    times = [group() for _ in range(sizes.groups)]
    return {
        "ms": statistics.median(times),
        "ms_min": min(times),
        "ms_max": max(times),
        "groups": sizes.groups,
        "calls_in_a_group": calls,
    }


def one_line(error: BaseException) -> str:
    """Its kind and the first line of what it says."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"[:300]


def main(sides: Mapping[str, Callable[[Asked, Report], None]]) -> None:
    """The side that the arguments name: its `Asked` as JSON, and the file for its results."""
    asked, report = Asked(**json.loads(sys.argv[1])), Report(Path(sys.argv[2]))
    try:
        sides[asked.name](asked, report)
    except AbsentError as absent:
        report(absent=str(absent))
        _leave(ABSENT)
    except Exception as error:
        traceback.print_exc()
        report(error=one_line(error))
        _leave(1)
    _leave(0)


def _leave(status: int) -> None:
    """At once: what a library does at its end is nobody's business here, and some hang there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
