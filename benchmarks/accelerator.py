"""This project on a GPU or a TPU, and PyTorch beside it on a GPU: the one command that compares a machine.

    python benchmarks/accelerator.py --minutes 15 --out accelerator.json

Its parts, in this order as far as the minutes go. `--parts` takes some, by the names of parts or of sides, in the order given:
`--parts ceilings distillation/64x128 inference`; `--list` names them. B × T are rows and tokens of a row; all is bfloat16.

- ceilings: a product of two random 8192 × 8192 matrices in bfloat16, and in float32 at the default precision (on a GPU TF32) and
  the highest, FLOP/s; x + 1 in place on an array of 2 GiB, bytes read and written a second.
- distillation: the step of BERT-base → DistilBERT, 12 + 6 layers, vocabulary 30,522: teacher forward, student forward with
  dropout, triple loss over all tokens, backward, clipping, AdamW. 64 × 128, 16 × 512, 256 × 128, 64 × 512. Here it is the step that
  a run compiles (`planning.steps.step_of`) with random weights, activations `auto`, corruption and segment mask included. PyTorch:
  the models of transformers with SDPA, autocast, fused AdamW, eager and with `torch.compile` of models and loss; corruption is
  given, and no mask, so that SDPA may choose any kernel. Last, at 64 × 128, the loss of both without dropout, on the same weights
  and batch.
- inference: DistilBERT-base, T = 128, batch 1 and 256: mean-pooled features, and fill-mask at one position, results left on the
  device.
- glue: a fine-tuning step of DistilBERT-base on packed rows, 32 examples as long as MRPC's: one seed, and five in one step.
- attention: of one layer, 12 heads × 64, without projections and dropout, forward, and forward and backward: this project's
  einsums, and `jax.nn.dot_product_attention` by "xla" and "cudnn", plain and with three segments a row.

What the figures are
- Times are medians over five groups of calls, which are waited for at a group's end only: half a second of steps, 0.15 of anything
  else; in inference also of calls that are each waited for. Compilation and a warm-up are left out. Compile seconds are those of a
  program that is not in the cache; the cache is a new folder unless `--cache` names one.
- Shares are model FLOPs (`pretraining.cost`: matmuls, what is computed twice counts once) over the data sheet's dense bfloat16
  peak; null where the device's data sheet is not known (`planning.targets`). `share_of_matmul`: over the matmul measured here.
- Peak memory of JAX: the most that its process held on the device, weights and the search for kernels included; of PyTorch: of the
  variant. `program`: what the compiler says that it allocates, and its count of bytes and FLOPs, as `distilbert-jax plan` does.
- One device is used, however many there are.

Each side is a process of its own, so that a crash, a lack of memory or a time-out costs that side alone and is written down as one
line. FILE.json is written after each side, and FILE.log has all that the sides print. A full run on a GPU takes some fifteen
minutes, two thirds of them compilation (an estimate: a side starts in about ten seconds, compiles for 20 to 60, and is timed for
5 to 20). What the minutes did not suffice for is named. PyTorch is optional.
"""

import argparse
import contextlib
import datetime
import fnmatch
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import commit, processor
from sides import ABSENT, write_json

HERE = Path(__file__).resolve().parent
VERSIONS = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda12-plugin",
    "libtpu",
    "flax",
    "torch",
    "transformers",
    "numpy",
)
LEAST = 8.0  # seconds, with which no side is begun


@dataclass(frozen=True)
class Side:
    """One process.

    Attributes:
        part: with `what` and `library` its name.
        does: what its file calls it.
    """

    part: str
    what: str
    library: str
    does: str
    rows: int = 0
    length: int = 0

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.part, self.what, self.library)))

    def asked_for(self, pattern: str) -> bool:
        return fnmatch.fnmatch(self.name, pattern) or fnmatch.fnmatch(self.name, f"{pattern}/*")


def sides_of(toy: bool) -> list[Side]:
    """All, in the order in which they run."""
    both = ("jax", "torch")
    steps = [(4, 16), (2, 32), (8, 16), (4, 32)] if toy else [(64, 128), (16, 512), (256, 128), (64, 512)]
    (rows, length), batch = steps[0], 4 if toy else 256
    return [
        *(Side("ceilings", "", library, "ceilings") for library in both),
        *(Side("distillation", f"{B}x{T}", library, "distillation", B, T) for B, T in steps for library in both),
        *(Side("distillation", "losses", library, "losses", rows, length) for library in both),
        *(Side("inference", "", library, "inference", batch, length) for library in both),
        Side("glue", "", "jax", "glue"),
        Side("attention", "", "jax", "attention"),
    ]


def chosen(sides: list[Side], patterns: list[str]) -> list[Side]:
    """In the order of the patterns, each once."""
    found = dict.fromkeys(side for pattern in patterns for side in sides if side.asked_for(pattern))
    for pattern in patterns:
        if not any(side.asked_for(pattern) for side in sides):
            known = ", ".join(side.name for side in sides)
            raise SystemExit(f"error: --parts {pattern}: no such part or side; there are {known}")
    return list(found)


class Children:
    """Runs sides, one after the other.

    Attributes:
        log: what they print.
    """

    def __init__(self, given: argparse.Namespace, work: Path):
        self.given, self.work = given, work
        self.log = given.out.with_suffix(".log")
        cache = given.cache or work / "cache"
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH", "")))),
            "PYTHONUNBUFFERED": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, side: Side, limit: float) -> dict[str, Any]:
        """What a side found, with its wall seconds; `error` in one line where it did not come to its end."""
        asked = {
            "name": side.does,
            "toy": self.given.toy,
            "rows": side.rows,
            "length": side.length,
            "folder": str(self.work),
            "programs": str(self.given.programs or ""),
            "profile": self.given.profile,
            "begun": time.time(),
        }
        out = self.work / (side.name.replace("/", "-") + ".json")
        command = [sys.executable, str(HERE / f"accelerator_{side.library}.py"), json.dumps(asked), str(out)]
        begun, error = time.monotonic(), None
        with self.log.open("ab") as log:
            log.write(f"\n=== {side.name}\n".encode())
            log.flush()
            at = log.tell()
            # In a session of its own, so that the compilers that it starts end with it.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
            try:
                status = child.wait(limit)
            except subprocess.TimeoutExpired:
                status, error = None, f"stopped after {limit:.0f} s"
            finally:
                end(child)
        found = read(out)
        if status not in (0, ABSENT) and not error and "error" not in found:
            said = self.log.read_bytes()[at:].decode(errors="replace").strip().splitlines()
            error = f"ended with status {status}: {said[-1].strip() if said else 'it said nothing'}"[:300]
        return {"seconds": round(time.monotonic() - begun, 1), **found, **({"error": error} if error else {})}


def end(child: subprocess.Popen) -> None:
    """A process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    query = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm"
    try:
        of_commit = commit()
    except OSError:  # no git
        of_commit = "unknown"
    return {
        "commit": of_commit,
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
        "nvidia_smi": said_by("nvidia-smi", query, "--format=csv,noheader"),
    }


# What follows from several sides


def compared(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Shares of the measured matmul, and this project's speed over PyTorch's best: ratios above 1 mean that it is faster."""
    of = lambda name: sides.get(name, {})
    measured = of("ceilings/jax").get("matmul_bfloat16", {}).get("flops_per_second")
    result: dict[str, Any] = {"distillation": {}, "inference": {}}
    for name, ours in sides.items():
        part, _, rest = name.partition("/")
        if part != "distillation" or not rest.endswith("/jax") or "tokens_per_second" not in ours:
            continue
        what, row = rest.removesuffix("/jax"), {}
        flops = ours["model_flops_per_second"]
        row["share_of_sheet"], row["share_of_matmul"] = ours["share_of_sheet"], measured and flops / measured
        theirs = of(f"distillation/{what}/torch")
        for variant in ("eager", "compiled"):
            if "tokens_per_second" in theirs.get(variant, {}):
                row[f"ratio_to_{variant}"] = ours["tokens_per_second"] / theirs[variant]["tokens_per_second"]
        result["distillation"][what] = row
    ours, theirs = of("distillation/losses/jax").get("loss"), of("distillation/losses/torch").get("loss")
    if ours is not None and theirs is not None:
        result["losses"] = {"jax": ours, "torch": theirs, "relative_difference": abs(ours - theirs) / abs(theirs)}
    for name, one in of("inference/jax").items():
        peers = [
            peer["ms"]
            for key, peer in of("inference/torch").items()
            if isinstance(peer, dict) and "ms" in peer and (key == name or key.startswith(f"{name}_compiled"))
        ]
        if isinstance(one, dict) and "ms" in one and peers:
            result["inference"][name] = {"ratio_to_fastest": min(peers) / one["ms"]}
    return result


def table(results: dict[str, Any]) -> str:
    """Markdown: distillation in full, and what each side said."""
    sides, compare = results["sides"], results["compared"]
    percent = lambda share: "" if share is None else f"{100 * share:.1f} %"
    memory = lambda count: "" if count is None else f"{count / 1e9:.1f}"
    lines = [
        "| distillation, B × T | ms | tokens/s | of the sheet | of the matmul | GB (compiler's) | torch eager, ms (GB) "
        "| torch.compile, ms (GB) | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for what, row in compare["distillation"].items():
        ours, theirs = sides[f"distillation/{what}/jax"], sides.get(f"distillation/{what}/torch", {})
        cells = [what.replace("x", " × "), f"{ours['ms']:.1f}", f"{ours['tokens_per_second']:,.0f}"]
        cells += [percent(row["share_of_sheet"]), percent(row["share_of_matmul"])]
        cells.append(f"{memory(ours['peak_memory'])} ({memory(ours.get('program', {}).get('bytes'))})")
        for variant in ("eager", "compiled"):
            one = theirs.get(variant, {})
            cells.append(f"{one['ms']:.1f} ({memory(one.get('peak_memory'))})" if "ms" in one else one.get("error", ""))
        ratios = [row[name] for name in ("ratio_to_eager", "ratio_to_compiled") if name in row]
        lines.append(f"| {' | '.join([*cells, f'{min(ratios):.2f}' if ratios else ''])} |")
    lines += ["", "| side | s | |", "| --- | --- | --- |"]
    for name, one in sides.items():
        said = "; ".join(filter(None, (one.get("summary"), one.get("error"), one.get("absent"))))
        lines.append(f"| {name} | {one['seconds']:.0f} | {said.replace('|', '/')} |")
    lines += [f"| {name} | | left out: {why} |" for name, why in results["left_out"].items()]
    if "losses" in compare:
        lines += ["", "losses without dropout: {jax:.5f} here, {torch:.5f} in PyTorch".format(**compare["losses"])]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), metavar="FILE.json")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="of parts or sides, * allowed, in the order given")
    parser.add_argument("--side-seconds", type=float, default=180.0, help="the most that one side may take")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="for compiled programs (default: a new folder)")
    parser.add_argument("--programs", type=Path, metavar="DIR", help="write the compiled programs' text there")
    parser.add_argument("--profile", action="store_true", help="also where the time of a distillation step goes")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, on whatever there is: seconds a side")
    parser.add_argument("--list", action="store_true", help="name the sides in their order and stop")
    given = parser.parse_args()
    if given.minutes <= 0:
        parser.error(f"--minutes {given.minutes}: expected more than 0")
    return given


def stop(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    given = arguments()
    begun = time.monotonic()
    sides = sides_of(given.toy)
    if given.parts:
        sides = chosen(sides, given.parts)
    if given.list:
        print("\n".join(side.name for side in sides))
        return 0
    deadline = begun + 60 * given.minutes
    signal.signal(signal.SIGTERM, stop)  # so that the side that runs is ended, too
    for folder in filter(None, (given.out.parent, given.programs, given.cache)):
        folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "toy": given.toy,
        **machine(),
        "device": None,
        "sides": {},
        "left_out": {},
    }
    absent = {} if importlib.util.find_spec("torch") else {"torch": "PyTorch is not installed"}
    work = Path(tempfile.mkdtemp(prefix="accelerator-"))
    try:
        children = Children(given, work)
        children.log.write_bytes(b"")
        for side in sides:
            left = deadline - time.monotonic()
            if left < LEAST or side.library in absent:
                results["left_out"][side.name] = absent.get(side.library, "no minutes were left")
            else:
                found = children.run(side, min(left, given.side_seconds))
                if "absent" in found:
                    absent[side.library] = found["absent"]
                results["sides"][side.name] = found
                if side.library == "jax":
                    results["device"] = results["device"] or found.get("device")
                said = "; ".join(filter(None, (found.get("summary"), found.get("error"), found.get("absent"))))
                print(f"{time.monotonic() - begun:6.1f} s  {side.name} ({found['seconds']:.0f} s): {said}", flush=True)
            results |= {"compared": compared(results["sides"]), "seconds": round(time.monotonic() - begun, 1)}
            write_json(results, given.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{table(results)}\n\n{given.out}", flush=True)
    return 0 if any("summary" in found for found in results["sides"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
