"""This project against PyTorch, torch.compile, ONNX Runtime, OpenVINO and KerasHub, in one run on the CPU: `make bench`.

The same work from the same weights (random, BERT-base's sizes, exchanged as HF directories) on the same given tokens, with
all cores for each, in short rounds that alternate A B C A B C …, all dtypes in one, so that whatever else the machine does hits
all. Each round gives one ratio peer / this project (above 1: this project is faster); the table shows medians and min – max of
rounds, beside each time its share of the processor's ceiling: the best of large matmuls by PyTorch and XLA in the same run. Last
come the lines that compare bfloat16 here with the fastest peer at bfloat16 or float32.

What is timed
- distillation: BERT-base → DistilBERT step: teacher forward, student forward with dropout, triple loss (5/2/1, T = 2, L_ce over
  all tokens, MLM over 15 %), backward, clipping at 5.0, AdamW. The corruption is given to both and not timed.
- encoder: DistilBERT-base inference, last hidden state, attention mask of ones as a tokenizer gives it. The last hidden states
  are compared before they are timed, as the losses of the distillation step are. KerasHub, ONNX Runtime and OpenVINO take part
  here only: they have no distillation step. int8 (ONNX Runtime, quantised on the fly) stands beside bfloat16 here: its outputs are
  not the same, and by how much they differ is said.

What to know before quoting a number
- Compilation (tens of seconds a step for JAX, none for eager PyTorch) and warm-up are left out.
- Among candidates of a peer (bfloat16: autocast, bfloat16 weights) a short trial keeps the fastest, named in the table.
  torch.compile freezes the weights for inference, which packs them. A peer that is not installed is left out with a line, as is
  PyTorch in bfloat16 where the processor has no instructions for it (a hundredth of the speed).
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
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jax
import jax_work
import numpy as np
import tyro
from machine import commit, processor
from rich.console import Console
from rich.progress import track
from rich.table import Table

from distilbert_jax.base import runtime
from distilbert_jax.config import LossConfig, ModelConfig, OptimizerConfig, student_config
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.training.cost import forward_flops

try:  # what is missing here is said in one line by `main`
    import torch
    import torch_work
except ImportError:
    torch = None
try:
    import keras_work
except ImportError:
    keras_work = None
try:
    import runtimes_work
except ImportError:
    runtimes_work = None

Call = Callable[[], object]
Work = Literal["distillation", "encoder-1x32", "encoder-1x128", "encoder-8x128", "encoder-32x128"]
Dtype = Literal["float32", "bfloat16"]
PROJECT = "this project"
STEP_ROWS = 8  # of a distillation step
CEILING = 4096  # rows and columns of the matmul


@dataclass(frozen=True)
class Arguments:
    """Times this project against PyTorch, torch.compile, ONNX Runtime, OpenVINO and KerasHub on the same work, alternating."""

    only: tuple[Work, ...] = get_args(Work)
    dtype: tuple[Dtype, ...] = get_args(Dtype)
    rounds: int = 9  # timings of each side for each line of the table
    length: int = 128  # tokens in a row of the distillation step
    layers: int = 12  # of the teacher; the student has half
    compile: bool = True  # torch.compile takes part (needs a C++ compiler; minutes)
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None  # write every timing and the machine
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None  # write the table and the machine


@dataclass(frozen=True)
class Side:
    """Who computes something, how, and the call that does it."""

    name: str
    dtype: str
    how: str
    call: Call


@dataclass(frozen=True)
class Line:
    """One line of the table: seconds a call of this project and of one peer, round by round.

    Attributes:
        share: of the ceiling of matmuls in `dtype` that this project's median reaches; `peer_share` the peer's, None of int8.
    """

    work: str
    batch: int
    length: int
    dtype: str
    peer: str
    how: str
    project_seconds: list[float]
    peer_seconds: list[float]
    share: float
    peer_share: float | None

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


def difference(theirs: object, ours: np.ndarray) -> float:
    """Of a peer's output, relative to the norm of ours."""
    theirs = np.asarray(theirs.float() if isinstance(theirs, torch.Tensor) else theirs, np.float32)
    return float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))


def same_output(
    candidates: Iterator[tuple[str, Call]], ours: np.ndarray, peer: str, dtype: Dtype
) -> Iterator[tuple[str, Call]]:
    """Refuse to time an encoder whose last hidden state [B, T, D] is not the same.

    The difference is relative to the norm of ours; rounding to bfloat16 alone makes about 1e-2 of it, float32 about 1e-6.
    """
    for how, candidate in candidates:
        differs = difference(candidate(), ours)
        if not differs <= {"float32": 1e-4, "bfloat16": 2e-2}[dtype]:
            raise RuntimeError(f"{dtype}: the last hidden state of {peer} ({how}) differs by {differs:.1e}")
        yield how, candidate


def rate(library: Any, size: int, dtype: str) -> float:
    """FLOP/s of a library's matmul of two square matrices, by the better of two pairs of calls."""
    call = library.matmul(size, dtype)
    return 2 * size**3 / min(seconds(call, 2) for _ in range(2))


@functools.cache
def emulated(dtype: str) -> bool:
    """Whether PyTorch's matmuls in a dtype are not a tenth as fast as XLA's: of bfloat16, where instructions for it lack, a step
    takes minutes."""
    return rate(torch_work, 256, dtype) < rate(jax_work, 256, dtype) / 10


def ceilings(dtypes: Sequence[str]) -> dict[str, float]:
    """FLOP/s of a large matmul in each dtype, the best of PyTorch's and XLA's."""
    libraries = lambda dtype: [jax_work] if emulated(dtype) else [torch_work, jax_work]
    return {dtype: max(rate(library, CEILING, dtype) for library in libraries(dtype)) for dtype in dtypes}


def step_sides(arguments: Arguments, dtype: Dtype, batch: jax_work.Batch, teacher: Path, student: Path) -> list[Side]:
    """The distillation step by all who have one, this project first; nobody where there is no peer."""
    if emulated(dtype):
        return []
    setting = {"batch": batch, "dtype": dtype, "loss": LossConfig(), "optimizer": OptimizerConfig()}
    ours = jax_work.Distillation(teacher, student, **setting)
    loss, sides = ours.loss_without_dropout(), [Side(PROJECT, dtype, "", ours)]
    for peer, compiled in [("PyTorch", False), *([("torch.compile", True)] if arguments.compile else [])]:
        made = torch_work.steps(compiled, teacher=teacher, student=student, **setting)
        sides.append(Side(peer, dtype, *fastest(same_loss(made, loss, dtype))))
    return sides


def encoder_sides(
    arguments: Arguments, dtype: Dtype, batch: jax_work.Batch, student: Path, config: ModelConfig
) -> list[Side]:
    """Inference by all who are installed, this project first."""
    ours = jax_work.encoder(student, batch, dtype)
    expected, sides, peers = np.asarray(ours()), [Side(PROJECT, dtype, "", ours)], {}
    if keras_work:
        peers["KerasHub"] = keras_work.encoders(dtype, student, batch)
    if runtimes_work:
        peers["OpenVINO"] = runtimes_work.openvino_encoders(dtype, student, batch)
        if dtype == "float32":
            peers["ONNX Runtime"] = runtimes_work.onnx_runtime(dtype, student, batch, config)
    if arguments.compile and not emulated(dtype):
        peers["torch.compile"] = torch_work.encoders(True, dtype, student, batch)
    # PyTorch's threads stay awake for a moment after a call: that it comes last in a round costs this project, not a peer.
    if not emulated(dtype):
        peers["PyTorch"] = torch_work.encoders(False, dtype, student, batch)
    for peer, made in peers.items():
        sides.append(Side(peer, dtype, *fastest(same_output(made, expected, peer, dtype))))
    if runtimes_work and dtype == "bfloat16":
        how, call = fastest(runtimes_work.onnx_runtime("int8", student, batch, config))
        differs = difference(call(), expected)
        sides.insert(1, Side("ONNX Runtime", "int8", f"{how}; differs by {differs:.0e}", call))
    return sides


def measure(
    arguments: Arguments, work: Work, ceiling: dict[str, float], config: ModelConfig, teacher: Path, student: Path
) -> list[Line]:
    """The lines of one piece of work, one a peer and dtype; warm-up and compilation left out."""
    small, sides = student_config(config, config.num_hidden_layers // 2), []
    if work == "distillation":
        rows, length = STEP_ROWS, arguments.length
        # All logits of both models; forward, and twice as much backward, of the student.
        flops = forward_flops(config, length, 1.0) + 3 * forward_flops(small, length, 1.0)
    else:
        rows, length = map(int, work.removeprefix("encoder-").split("x"))
        flops = forward_flops(small, length, 0.0)
    batch = jax_work.make_batch(rows, length, config.vocab_size)
    for dtype in arguments.dtype:
        if work == "distillation":
            sides += step_sides(arguments, dtype, batch, teacher, student)
        else:
            sides += encoder_sides(arguments, dtype, batch, student, config)
    times = compare([side.call for side in sides], arguments.rounds) if sides else []
    share = lambda dtype, taken: (
        flops * rows * length / statistics.median(taken) / ceiling[dtype] if dtype in ceiling else None
    )
    project = {side.dtype: taken for side, taken in zip(sides, times, strict=True) if side.name == PROJECT}
    lines = []
    for side, taken in zip(sides, times, strict=True):
        if side.name != PROJECT:
            dtype = side.dtype if side.dtype in project else "bfloat16"
            how = ", ".join(filter(None, (side.how, side.dtype if side.dtype != dtype else "")))
            shares = (share(dtype, project[dtype]), share(side.dtype, taken))
            lines.append(Line(work, rows, length, dtype, side.name, how, project[dtype], taken, *shares))
    return lines


def best_of_peers(lines: list[Line]) -> list[Line]:
    """For each work, this project in bfloat16 beside the peer that is fastest in bfloat16 or float32."""
    best = []
    for work in dict.fromkeys(line.work for line in lines):
        mine = next((line for line in lines if line.work == work and line.dtype == "bfloat16"), None)
        peers = [line for line in lines if line.work == work and line.peer_share is not None]
        if mine and peers:
            first = min(peers, key=lambda line: statistics.median(line.peer_seconds))
            how = f"{first.how}, {first.dtype}".removeprefix(", ")
            best.append(
                dataclasses.replace(
                    first, dtype="bfloat16", how=how, project_seconds=mine.project_seconds, share=mine.share
                )
            )
    return best


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
        **({name: version(name) for name in ("onnxruntime", "openvino")} if runtimes_work else {}),
    }


CAPTION = (
    "Median (min – max) over rounds; % of the ceiling of matmuls in that dtype; ratio = peer / this project, above 1: this "
    "project is faster"
)
HEADER = ("work", "B × T", "dtype", "this project, ms", "%", "peer, ms", "%", "ratio", "peer")


def cells(line: Line) -> tuple[str, ...]:
    """A line of the table as text: medians, with min – max in brackets."""
    spread = lambda values, unit, digits: (
        f"{statistics.median(values) * unit:.{digits}f} ({min(values) * unit:.{digits}f} – {max(values) * unit:.{digits}f})"
    )
    return (
        "distillation step" if line.work == "distillation" else "encoder inference",
        f"{line.batch} × {line.length}",
        line.dtype,
        spread(line.project_seconds, 1000, 1),
        f"{100 * line.share:.0f}",
        spread(line.peer_seconds, 1000, 1),
        "" if line.peer_share is None else f"{100 * line.peer_share:.0f}",
        spread(line.ratios, 1, 2),
        f"{line.peer}, {line.how}".removesuffix(", "),
    )


def as_table(lines: list[Line], title: str) -> Table:
    table = Table(*HEADER, title=title)
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
    missing = {"KerasHub": keras_work, "ONNX Runtime and OpenVINO": runtimes_work}
    if set(arguments.only) != {"distillation"} and (absent := [name for name, there in missing.items() if not there]):
        hint = "pip install -e '.[bench]' && pip install --no-deps keras-hub"
        print(f"left out, as they do not import: {', '.join(absent)}; for them: {hint}", file=sys.stderr)
    runtime.keep_freed_memory()
    jax.config.update("jax_platforms", "cpu")  # where there is a GPU too: PyTorch is timed on the CPU
    torch.set_num_threads(os.cpu_count() or 1)
    # A log has no width of its own, and rich would fold the table into 80 columns.
    console, about, lines = Console(width=None if sys.stdout.isatty() else 132), machine(), []
    config = ModelConfig.bert_base(num_hidden_layers=arguments.layers)
    if slow := list(filter(emulated, arguments.dtype)):
        print(
            f"PyTorch is left out in {', '.join(slow)}: its matmuls are not a tenth as fast as XLA's here",
            file=sys.stderr,
        )
    ceiling = ceilings(arguments.dtype)
    with tempfile.TemporaryDirectory() as folder:
        teacher, student = Path(folder, "teacher"), Path(folder, "student")
        jax_work.save_models(config, teacher, student)
        for work in track(arguments.only, "timing", console=Console(stderr=True), transient=True):
            for line in measure(arguments, work, ceiling, config, teacher, student):
                lines.append(line)
                console.print(" · ".join(cells(line)))
    after = ceilings(arguments.dtype)
    about["matmul ceiling before and after, GFLOP/s"] = {
        dtype: [round(one[dtype] / 1e9) for one in (ceiling, after)] for dtype in ceiling
    }
    best = best_of_peers(lines)
    console.print(as_table(lines, CAPTION))
    console.print(as_table(best, "bfloat16 here beside the fastest peer at either dtype"))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    if arguments.json:
        results = [{**dataclasses.asdict(line), "ratio": statistics.median(line.ratios)} for line in lines]
        arguments.json.write_text(json.dumps({**about, "results": results}, indent=2) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(as_markdown([*lines, *best], about, " ".join(sys.argv)), encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments))
