"""`build_corpus` beside `tokenizers` alone, for `corpus.py`."""

import contextlib
import itertools
import lzma
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from findings import Findings, alternating, spread
from tokenizers import Tokenizer

from distilbert_jax.pretraining.build_corpus import build_corpus
from distilbert_jax.text.sources import TextSources

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode(tokenizer: Tokenizer, lines: list[str], method: str, at_once: int) -> int:
    """What `tokenizers` alone does; returns the number of tokens."""
    batches = (lines[first : first + at_once] for first in range(0, len(lines), at_once))
    return sum(
        len(encoding) for batch in batches for encoding in getattr(tokenizer, method)(batch, add_special_tokens=False)
    )


_held: tuple[Tokenizer, list[str], str, int]


def _hold(tokenizer: str, *rest: Any) -> None:
    global _held
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _held = (Tokenizer.from_str(tokenizer), *rest)
    _held[0].encode_special_tokens = True


def _encode_held() -> int:
    return encode(*_held)


@contextlib.contextmanager
def encoding_processes(tokenizer: Tokenizer, lines: list[str], *how: Any) -> Iterator[Callable[[], int]]:
    """As many processes as cores, each with its part of the lines in memory; the value lets them all encode."""
    context = get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = []
        for part in range(CORES):
            arguments = (tokenizer.to_str(), lines[part::CORES], *how)
            pools.append(ProcessPoolExecutor(1, mp_context=context, initializer=_hold, initargs=arguments))
            stack.callback(pools[-1].shutdown)

        def encode_all() -> int:
            return sum(future.result() for future in [pool.submit(_encode_held) for pool in pools])

        yield encode_all


def cut_text(paths: tuple[Path, ...], largest: float, out: Path) -> Path:
    """The first documents of some files, at most `largest` bytes, as one .txt file."""
    with out.open("wb") as file:
        for chunk, _ in TextSources(paths).chunks(1 << 18):
            if file.tell() + len(chunk) + 2 > largest:
                break
            file.write(chunk + b"\n\n")
    return out


def tokenizing(paths: tuple[Path, ...], tokenizer: Tokenizer, megabytes: int, rounds: int, folder: Path) -> Findings:
    """This project beside `tokenizers` alone."""
    text = cut_text(paths, megabytes * 1e6, folder / "text.txt")
    packed, size = folder / "text.txt.xz", text.stat().st_size / 1e6
    with packed.open("wb") as file:
        file.write(lzma.compress(text.read_bytes()))
    lines = list(TextSources([text]).lines())
    trial = {
        f"{method}, {at_once:,} lines at once": (method, at_once)
        for method, at_once in itertools.product(("encode_batch_fast", "encode_batch"), (1000, 10_000))
    }
    tries = alternating({name: lambda h=how: encode(tokenizer, lines[:5000], *h) for name, how in trial.items()}, 3)
    fastest = min(tries, key=lambda name: min(took.cpu for took in tries[name]))
    tokenizer.encode_special_tokens = True  # as `build_corpus` does: the tokens are compared
    runs, tokens = itertools.count(), set()

    def build(source: Path) -> None:
        tokens.add(build_corpus([source], tokenizer, folder / f"corpus-{next(runs)}").manifest.tokens)

    with encoding_processes(tokenizer, lines, *trial[fastest]) as in_processes:
        in_processes()  # the first call starts them
        sides = {
            "build_corpus, .txt": lambda: build(text),
            "build_corpus, .txt.xz": lambda: build(packed),
            "tokenizers, threads": lambda: tokens.add(encode(tokenizer, lines, *trial[fastest])),
            "tokenizers, processes": lambda: tokens.add(in_processes()),
            "decompression of .xz": lambda: lzma.decompress(packed.read_bytes()),
        }
        took = alternating(sides, rounds)
    if len(tokens) != 1:
        raise RuntimeError(f"not the same work on all sides: {sorted(tokens)} tokens")
    threads, processes = took["tokenizers, threads"], took["tokenizers, processes"]
    rows = []
    for name, times in took.items():
        ratios = ["–"] * 3
        if name.startswith("build"):
            ratios = [
                spread([peer.wall / own.wall for peer, own in zip(threads, times, strict=True)]),
                spread([peer.wall / own.wall for peer, own in zip(processes, times, strict=True)]),
                spread([peer.cpu / own.cpu for peer, own in zip(threads, times, strict=True)]),
            ]
        # Processes that live on are not counted among the children.
        cpu = "–" if times is processes else f"{statistics.median(one.cpu for one in times):.1f}"
        rows.append((name, spread([size / one.wall for one in times]), *ratios[:2], cpu, ratios[2]))
    title = f"Tokenizing {size:.0f} MB, {max(tokens):,} tokens, {CORES} cores, {rounds} rounds; tokenizers: {fastest}"
    header = ("", "MB/s", "ratio to threads", "to processes", "CPU seconds", "CPU ratio to threads")
    return Findings(title, header, rows)
