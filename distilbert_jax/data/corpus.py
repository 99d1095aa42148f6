"""Text to token shards: one flat array of ids for every few megabytes of text, and a manifest of them all.

<corpus>/manifest.json      written last: sources, shards, totals, checksums
         token_counts.npy   int64 [V]
         tokenizer/         the tokenizer that made it
         shards/00000.npz   tokens, line_ends, document_ends; 00000.json says what it was made of
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.cli import call
from distilbert_jax.data.files import read_json, sha256_of, write_array, write_json
from distilbert_jax.data.progress import progress
from distilbert_jax.data.shards import Shard, ShardMaker, id_dtype, worker_pool
from distilbert_jax.data.text import TextSources
from distilbert_jax.data.tokenizer import SpecialIds, fingerprint, load_tokenizer, save_tokenizer, special_ids
from distilbert_jax.errors import InputError, one_line_errors

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A finished corpus on disk.

    Attributes:
        path: its directory.
        manifest: what `manifest.json` says.
        shards_made: how many shards the call that returned this object had to make; the others were found finished.
    """

    path: Path
    manifest: dict[str, Any]
    shards_made: int = 0

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Corpus":
        """Open a corpus that `build_corpus` has made.

        Raises:
            InputError: there is none, it is unfinished or damaged, or another version of this package made it.
        """
        path = Path(path)
        if not (path / "manifest.json").is_file():
            state = (
                "an unfinished corpus: build it to its end" if (path / "shards").is_dir() else "no corpus: build one"
            )
            raise InputError(f"{path}: {state} with python -m distilbert_jax.data.corpus --out {path}")
        manifest = read_json(path / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise InputError(f"{path / 'manifest.json'}: not a corpus of format {FORMAT}: build it again")
        if missing := {"tokenizer", "sources", "vocab_size", "specials", "shards"} - manifest.keys():
            raise InputError(f"{path / 'manifest.json'}: damaged, has no {', '.join(sorted(missing))}: build it again")
        return cls(path, manifest)

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.manifest["tokenizer"]

    @property
    def vocab_size(self) -> int:
        return self.manifest["vocab_size"]

    @property
    def dtype(self) -> np.dtype:
        """Type of the ids in shards and packed rows: uint16, or uint32 for more than 65,536 entries."""
        return id_dtype(self.vocab_size)

    @property
    def specials(self) -> SpecialIds:
        return SpecialIds(**self.manifest["specials"])

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the checksums of all shards: changes with any token."""
        sums = [self.tokenizer_fingerprint, *(shard["sha256"] for shard in self.manifest["shards"])]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    @property
    def token_counts(self) -> np.ndarray:
        """How often each id occurs in the text, int64 [V]; [CLS], [SEP] and [PAD] are no text and have 0."""
        file = self.path / "token_counts.npy"
        try:
            counts = np.load(file)
        except (OSError, ValueError, EOFError):
            raise InputError(f"{file}: missing or damaged: build the corpus again") from None
        if counts.shape != (self.vocab_size,):
            raise InputError(
                f"{file}: has the shape {counts.shape}, expected ({self.vocab_size},): build the corpus again"
            )
        return counts

    def __len__(self) -> int:
        return len(self.manifest["shards"])

    def __iter__(self) -> Iterator[Shard]:
        return map(self.shard, range(len(self)))

    def shard(self, index: int) -> Shard:
        """Read one shard into memory."""
        file = self.path / self.manifest["shards"][index]["file"]
        try:
            with file.open("rb") as stream, np.load(stream) as arrays:
                return Shard(arrays["tokens"], arrays["line_ends"], arrays["document_ends"])
        except Exception as error:  # a damaged zip raises errors of many kinds
            raise InputError(
                f"{file}: missing or damaged ({error}); build the corpus again: it mends this file"
            ) from error

    def verify(self) -> None:
        """Compare every shard with its checksum.

        Raises:
            InputError: names the first file that differs.
        """
        for shard in self.manifest["shards"]:
            file = self.path / shard["file"]
            if not file.is_file() or sha256_of(file) != shard["sha256"]:
                raise InputError(f"{file}: missing or not what was written; build the corpus again: it mends this file")


def build_corpus(
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    out: Path,
    *,
    shard_bytes: int = 4 << 20,
    processes: int | None = None,
) -> Corpus:
    """Tokenize text files into `out`; what an interrupted call has finished there, the next one finds.

    Special tokens that are spelt out in the text, such as "[SEP]", are text and become ordinary pieces.

    Args:
        sources: `.txt`, `.txt.xz` or `.txt.gz` files; see `TextSources`.
        shard_bytes: text per shard. Only a document longer than that is cut, at a line.
        processes: how many tokenize at the same time; None for all cores.

    Raises:
        InputError: a source cannot be read, has no documents, `out` holds a corpus of another tokenizer or of other files, or
            `processes` < 1.
    """
    if processes is not None and processes < 1:
        raise InputError(f"processes = {processes}: expected at least 1")
    out, text = Path(out), TextSources(sources)
    tokenizer_id, specials = fingerprint(tokenizer), special_ids(tokenizer)
    if (out / "tokenizer").is_dir() and fingerprint(load_tokenizer(out / "tokenizer")) != tokenizer_id:
        raise InputError(
            f"{out}: holds a corpus made with another tokenizer; name another directory, or remove this one"
        )
    described = [{"file": p.name, "bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in text.paths]
    origin = {"format": FORMAT, "tokenizer": tokenizer_id, "shard_bytes": shard_bytes, "sources": described}
    found = _opened(out)
    kept = {source["file"] for source in described}
    # A file that was edited, or one more, is another matter: shards that stay the same are kept.
    if found and (lost := {source["file"] for source in found.manifest["sources"]} - kept):
        raise InputError(
            f"{out}: holds a corpus of {', '.join(sorted(lost))}; name another directory, or remove this one"
        )
    if found and {key: found.manifest.get(key) for key in origin} == origin:
        with contextlib.suppress(InputError):  # what is damaged is made again
            found.verify()
            return found
    (out / "shards").mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    save_tokenizer(tokenizer, out / "tokenizer")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(1, min(processes or cores, math.ceil(text.size / shard_bytes)))
    maker = ShardMaker(tokenizer.to_str(), tokenizer_id, out)
    shards, made = _build_shards(text, maker, shard_bytes, workers)
    if not shards:
        raise InputError(f"{', '.join(map(str, text.paths))}: no documents, only blank lines")
    for stale in (out / "shards").glob("[0-9]*"):
        if int(stale.stem) >= len(shards):
            stale.unlink()

    totals = {name: sum(shard[name] for shard in shards) for name in ("documents", "lines", "tokens")}
    manifest = {
        **origin,
        "vocab_size": maker.vocab_size,
        "specials": dataclasses.asdict(specials),
        **totals,
        "shards": shards,
    }
    corpus = Corpus(out, manifest, made)
    counts = sum(np.bincount(shard.tokens, minlength=maker.vocab_size) for shard in corpus)
    write_array(out / "token_counts.npy", counts.astype(np.int64))
    write_json(out / "manifest.json", manifest)
    return corpus


def _opened(path: Path) -> Corpus | None:
    """The corpus at `path`, if there is a finished one."""
    with contextlib.suppress(InputError):
        return Corpus.open(path)
    return None


def _build_shards(text: TextSources, maker: ShardMaker, shard_bytes: int, workers: int) -> tuple[list[dict], int]:
    """Make the shards that are not there yet; returns the manifest's entries of all, and how many were made."""
    entries, running, found = {}, {}, 0
    with progress("tokenizing", text.size) as done, contextlib.ExitStack() as stack:
        submit = stack.enter_context(worker_pool(workers, maker)) if workers > 1 else None
        for index, chunk in enumerate(_chunks(text, shard_bytes)):
            if entry := maker.finished(index, chunk):
                entries[index] = entry
                found += 1
            elif submit is None:
                entries[index] = maker.make(index, chunk)
            else:
                running[submit(index, chunk)] = index
                # No more text is read than the workers can take: memory does not grow with the corpus.
                while len(running) > workers:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        entries[running.pop(future)] = future.result()
            done(text.position)
        entries.update({index: future.result() for future, index in running.items()})
    return [entries[index] for index in sorted(entries)], len(entries) - found


def _chunks(text: TextSources, shard_bytes: int) -> Iterator[bytes]:
    """Documents joined by blank lines, as many as fit into `shard_bytes`."""
    chunk, size = [], 0
    for lines in text.documents(shard_bytes):
        document = "\n".join(lines).encode()
        if chunk and size + len(document) > shard_bytes:
            yield b"\n\n".join(chunk)
            chunk, size = [], 0
        chunk.append(document)
        size += len(document) + 2
    if chunk:
        yield b"\n\n".join(chunk)


def command(text: tuple[Path, ...], tokenizer: str, out: Path, processes: int | None = None) -> None:
    """Turn text files into a corpus of token shards.

    Args:
        text: .txt, .txt.xz or .txt.gz files, UTF-8, a blank line between documents.
        tokenizer: directory or hub id of a model with tokenizer.json or vocab.txt, or a tokenizer.json.
        out: directory for the corpus.
        processes: how many tokenize at the same time; all cores if not given.
    """
    start = time.monotonic()
    corpus = build_corpus(text, load_tokenizer(tokenizer), out, processes=processes)
    found = len(corpus) - corpus.shards_made
    print(
        "corpus: {documents:,} documents, {lines:,} lines, {tokens:,} tokens".format(**corpus.manifest)
        + f" in {len(corpus)} shards ({found} found finished), {time.monotonic() - start:.1f} s, in {out}"
    )


if __name__ == "__main__":
    with one_line_errors():
        call(command, "distilbert_jax.data.corpus")
