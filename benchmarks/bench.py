"""This project against PyTorch + transformers and KerasHub on JAX, side by side in one run on the CPU: `make bench`.

The same work from the same weights (random, BERT-base's sizes, exchanged as HF directories) on the same given tokens, with
all cores for each, in short rounds that alternate A B C A B C …, so that whatever else the machine does hits all. Each round
gives one ratio peer / this project (above 1: this project is faster); the table shows medians and min – max of rounds.

What is timed
- distillation: BERT-base → DistilBERT step: teacher forward, student forward with dropout, triple loss (5/2/1, T = 2, L_ce over
  all tokens, MLM over 15 %), backward, clipping at 5.0, AdamW. The corruption is given to both and not timed.
- encoder: DistilBERT-base inference, last hidden state, attention mask of ones as a tokenizer gives it. The last hidden states
  are compared before they are timed, as the losses of the distillation step are. KerasHub takes part here only: it has no
  distillation step of its own.

What to know before quoting a number
- Compilation (tens of seconds a step for JAX, none for eager PyTorch) and warm-up are left out.
- PyTorch runs eagerly unless `--compile` adds `torch.compile` candidates; among candidates (bfloat16: autocast, bfloat16
  weights) a short trial keeps the fastest, named in the table. It does not get ipex, ONNX or packed weights.
- KerasHub's candidates are `jax.jit` of its `stateless_call` (in the table: jit) and `predict_on_batch`; for bfloat16 each under
  the policies `mixed_bfloat16` and `bfloat16`. In float32 it hands XLA the same matmuls as this project: expect a ratio near 1.
- KerasHub is optional; without it its lines are left out. It is installed without its dependencies: its metadata demands
  tensorflow-text, and with it TensorFlow, which its models do not use (`pip install -e '.[bench]'`, then
  `pip install --no-deps keras-hub`, as `make bench` does).
- bfloat16 is not the same arithmetic on all sides: PyTorch and Keras round every activation to bfloat16, this project only the
  operands of matmuls (which keeps twice the bytes in memory). XLA's CPU backend of jax 0.10.2 computes matmuls with bfloat16
  output, as Keras asks for, at about the float32 rate only. Weights are bfloat16 before inference on all sides where that is
  the faster candidate, on this one always.
- All live in one process: each call of a round is preceded by an untimed one where calls are short, so that the threads of the
  side before it are asleep. All have the allocator's setting that train.py makes (`runtime.keep_freed_memory`): on an idle machine
  it took a third off this project's float32 distillation step and an eighth off PyTorch's.
- Full rows: with padding, packing would favour this project; that is not shown here.
- A shared machine moves medians by some per cent from run to run; trust ratios, and look at their min – max. Other work on the
  same cores slows PyTorch's threads, which wait for the slowest of them at each operation, more than JAX's: ratios from a
  busy machine flatter this project, which is why the load before the run is printed.
"""

import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax_work
import numpy as np
import tyro
from machine import commit, processor
from rich.console import Console
from rich.progress import track
from rich.table import Table

from distilbert_jax.base import runtime
from distilbert_jax.config import LossConfig, ModelConfig, OptimizerConfig
from distilbert_jax.errors import InputError, one_line_errors

try:
    import torch
    import torch_work
except ImportError:  # said in one line by `main`
    torch = None
try:
    import keras_work
except ImportError:  # said in one line by `main`
    keras_work = None

Call = Callable[[], object]
Work = Literal["distillation", "encoder-b8", "encoder-b1"]
Dtype = Literal["float32", "bfloat16"]
TITLES = {
    "distillation": "distillation step",
    "encoder-b8": "encoder inference",
    "encoder-b1": "encoder inference",
}


@dataclass(frozen=True)
class Arguments:
    """Times this project against PyTorch + transformers and KerasHub on the same work, in one run, alternating."""

    only: tuple[Work, ...] = ("distillation", "encoder-b8", "encoder-b1")
    dtype: tuple[Dtype, ...] = ("float32", "bfloat16")
    rounds: int = 9  # timings of each side for each line of the table
    length: int = 128  # tokens in a row
    layers: int = 12  # of the teacher; the student has half
    compile: bool = False  # also try torch.compile (needs a C++ compiler; minutes)
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None  # write every timing and the machine
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None  # write the table and the machine


@dataclass(frozen=True)
class Line:
    """One line of the table: seconds a call of this project and of one peer, round by round."""

    work: str
    batch: int
    length: int
    dtype: str
    peer: str
    how: str
    project_seconds: list[float]
    peer_seconds: list[float]

    @property
    def ratios(self) -> list[float]:
        return [b / a for a, b in zip(self.project_seconds, self.peer_seconds, strict=True)]


def seconds(call: Call, calls: int) -> float:
    """Mean seconds of `calls` calls; when they are several, another one goes before them untimed."""
    if calls > 1:
        call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def fastest(candidates: Iterator[tuple[str, Call]]) -> tuple[str, Call]:
    """The candidate with the shortest of three calls after a warm-up."""
    best, kept = float("inf"), ("", lambda: None)
    for how, call in candidates:
        call()
        took = min(seconds(call, 1) for _ in range(3))
        if took < best:
            best, kept = took, (how, call)
    return kept


def compare(sides: list[Call], rounds: int) -> list[list[float]]:
    """Seconds a call of each side, alternating; a round times enough calls to last about 0.4 s for the slowest."""
    pace = max(min(seconds(call, 1) for _ in range(2)) for call in sides)
    calls = max(1, round(0.4 / pace))
    timed = [[seconds(call, calls) for call in sides] for _ in range(rounds)]
    return [list(times) for times in zip(*timed, strict=True)]


def same_loss(candidates: Iterator[tuple[str, Call]], loss: float, dtype: Dtype) -> Iterator[tuple[str, Call]]:
    """Refuse to time a distillation step that does not compute the same loss (without dropout)."""
    for how, candidate in candidates:
        theirs = candidate.loss_without_dropout()
        if abs(loss - theirs) > {"float32": 1e-5, "bfloat16": 1e-2}[dtype] * abs(theirs):
            raise RuntimeError(f"{dtype}: the loss is {loss} here and {theirs} in PyTorch ({how})")
        yield how, candidate


def same_output(
    candidates: Iterator[tuple[str, Call]], ours: np.ndarray, peer: str, dtype: Dtype
) -> Iterator[tuple[str, Call]]:
    """Refuse to time an encoder whose last hidden state [B, T, D] is not the same.

    The difference is relative to the norm of ours; rounding to bfloat16 alone makes about 1e-2 of it, float32 about 1e-6.
    """
    for how, candidate in candidates:
        theirs = candidate()
        theirs = np.asarray(theirs.float() if isinstance(theirs, torch.Tensor) else theirs, np.float32)
        difference = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
        if not difference <= {"float32": 1e-4, "bfloat16": 2e-2}[dtype]:
            raise RuntimeError(f"{dtype}: the last hidden state of {peer} ({how}) differs by {difference:.1e}")
        yield how, candidate


def measure(arguments: Arguments, work: Work, dtype: Dtype, teacher: Path, student: Path) -> list[Line]:
    """The lines of one piece of work, one a peer; warm-up and compilation left out."""
    rows = 1 if work == "encoder-b1" else 8
    batch = jax_work.make_batch(rows, arguments.length, ModelConfig.bert_base().vocab_size)
    if work == "distillation":
        setting = {"batch": batch, "dtype": dtype, "loss": LossConfig(), "optimizer": OptimizerConfig()}
        ours = jax_work.Distillation(teacher, student, **setting)
        candidates = torch_work.steps(arguments.compile, teacher=teacher, student=student, **setting)
        peers = {"PyTorch": fastest(same_loss(candidates, ours.loss_without_dropout(), dtype))}
        ours()
    else:
        ours = jax_work.encoder(student, batch, dtype)
        expected = np.asarray(ours())
        # PyTorch's threads stay awake for a moment after a call: that it comes last in a round costs this project, not a peer.
        candidates = {"KerasHub": keras_work.encoders(dtype, student, batch)} if keras_work else {}
        candidates["PyTorch"] = torch_work.encoders(arguments.compile, dtype, student, batch)
        peers = {peer: fastest(same_output(found, expected, peer, dtype)) for peer, found in candidates.items()}
    project, *others = compare([ours, *(call for _, call in peers.values())], arguments.rounds)
    return [
        Line(work, rows, arguments.length, dtype, peer, how, project, times)
        for (peer, (how, _)), times in zip(peers.items(), others, strict=True)
    ]


def machine() -> dict[str, Any]:
    """What the figures belong to: commit, versions, processor, cores."""
    return {
        "commit": commit(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "torch", "transformers")},
        **({name: version(name) for name in ("keras", "keras-hub")} if keras_work else {}),
    }


CAPTION = "Median (min – max) over rounds; ratio = peer / this project, above 1: this project is faster"
HEADER = ("work", "B × T", "dtype", "this project, ms", "peer, ms", "ratio", "peer")


def cells(line: Line) -> tuple[str, ...]:
    """A line of the table as text: medians, with min – max in brackets."""
    spread = lambda values, unit, digits: (
        f"{statistics.median(values) * unit:.{digits}f} ({min(values) * unit:.{digits}f} – {max(values) * unit:.{digits}f})"
    )
    times = [spread(values, 1000, 1) for values in (line.project_seconds, line.peer_seconds)]
    return (
        TITLES[line.work],
        f"{line.batch} × {line.length}",
        line.dtype,
        *times,
        spread(line.ratios, 1, 2),
        f"{line.peer}, {line.how}",
    )


def as_table(lines: list[Line]) -> Table:
    table = Table(*HEADER, title=CAPTION)
    for line in lines:
        table.add_row(*cells(line))
    return table


def as_markdown(lines: list[Line], about: dict[str, Any], command: str) -> str:
    """The table and what it belongs to, for docs/results."""
    rows = [HEADER, ["---"] * len(HEADER), *map(cells, lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    return f"`{command}`\n\n{table}\n\n{CAPTION}\n\n{facts}\n"


def main(arguments: Arguments) -> None:
    if torch is None:
        raise InputError("benchmarks/bench.py needs torch and transformers: pip install -e '.[parity]'")
    if arguments.rounds < 1:
        raise InputError(f"--rounds {arguments.rounds}: expected 1 or more")
    if not 8 <= arguments.length <= 512:
        raise InputError(f"--length {arguments.length}: expected 8 to 512, the position table's size")
    if keras_work is None and set(arguments.only) != {"distillation"}:
        print(
            "KerasHub does not import and is left out; for it: pip install -e '.[bench]' && pip install --no-deps keras-hub",
            file=sys.stderr,
        )
    runtime.keep_freed_memory()
    jax.config.update("jax_platforms", "cpu")  # where there is a GPU too: PyTorch is timed on the CPU
    torch.set_num_threads(os.cpu_count() or 1)
    # A log has no width of its own, and rich would fold the table into 80 columns.
    console, about, lines = Console(width=None if sys.stdout.isatty() else 132), machine(), []
    config = ModelConfig.bert_base(num_hidden_layers=arguments.layers)
    todo = [(work, dtype) for work in arguments.only for dtype in arguments.dtype]
    with tempfile.TemporaryDirectory() as folder:
        teacher, student = Path(folder, "teacher"), Path(folder, "student")
        jax_work.save_models(config, teacher, student)
        for work, dtype in track(todo, "timing", console=Console(stderr=True), transient=True):
            for line in measure(arguments, work, dtype, teacher, student):
                lines.append(line)
                console.print(" · ".join(cells(line)))
    console.print(as_table(lines))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    if arguments.json:
        results = [{**dataclasses.asdict(line), "ratio": statistics.median(line.ratios)} for line in lines]
        arguments.json.write_text(json.dumps({**about, "results": results}, indent=2) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(as_markdown(lines, about, " ".join(sys.argv)), encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments))
