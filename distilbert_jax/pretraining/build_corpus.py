"""Building a corpus: text to token shards: one flat array of ids for every few megabytes of text, and a manifest of them all.

<corpus>/manifest.json      written last: sources, shards, totals, checksums
         token_counts.npy   int64 [V]
         tokenizer/         the tokenizer that made it
         shards/00000.npz   tokens, line_ends, document_ends; 00000.json says what it was made of
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import stat
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.base.config_io import read_config, write_config
from distilbert_jax.base.files import atomic_file, kind_of_place, read_json, sha256_of, write_array
from distilbert_jax.base.progress import progress
from distilbert_jax.errors import InputError, counted
from distilbert_jax.pretraining.corpus import Corpus, holds, id_dtype, read_shard
from distilbert_jax.pretraining.manifests import (
    CORPUS_FORMAT,
    CorpusManifest,
    CorpusOrigin,
    ShardEntry,
    ShardRecord,
    SourceFile,
    numbered,
    shard_file,
)
from distilbert_jax.text.sources import TextSources
from distilbert_jax.text.tokenizer import (
    SpecialIds,
    entries,
    fingerprint,
    load_tokenizer,
    read_back,
    save_tokenizer,
    special_ids,
)
from distilbert_jax.text.tokenizer_files import CONFIG, TOKENIZER, kind_of, settings_of, told_in_a_line

_OF_A_SHARD = re.compile(r"\d{5,}\.(npz|json)")
_CUT_OFF = re.compile(r"\..+\.partial")


class ShardMaker:
    """Makes one shard of one chunk of text; every worker process has its own."""

    def __init__(self, tokenizer: str, tokenizer_id: str, single_tokens: Collection[str], out: Path):
        parts = json.loads(tokenizer)
        for token in parts["added_tokens"]:
            token["special"] = token["special"] and token["content"] not in single_tokens
        self.tokenizer = Tokenizer.from_str(json.dumps(parts))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text must not end a sequence
        # Of an earlier version, which cut these into pieces, the shards are not taken over.
        self.tokenizer_id = _digest(tokenizer_id, *single_tokens) if single_tokens else tokenizer_id
        self.setup = tokenizer, tokenizer_id, tuple(single_tokens), out
        self.vocab_size = entries(self.tokenizer)
        self.dtype = id_dtype(self.vocab_size)
        self.out = out

    def recorded(self, index: int, text_sha256: str) -> ShardEntry | None:
        """The manifest's entry of a shard that an earlier run or another host made of this text with the same tokenizer."""
        with contextlib.suppress(InputError, OSError):
            record = read_config(ShardRecord, self.out / f"shards/{index:05}.json")
            made_of = record.file, record.tokenizer, record.text_sha256
            if made_of == (shard_file(index), self.tokenizer_id, text_sha256):
                return record.entry
        return None

    def finished(self, index: int, text_sha256: str) -> ShardEntry | None:
        """What `recorded` gives, if the shard is still what was written, and what the record says."""
        with contextlib.suppress(InputError, OSError):
            entry = self.recorded(index, text_sha256)
            if entry and sha256_of(file := self.out / entry.file) == entry.sha256 and holds(read_shard(file), entry):
                return entry
        return None

    def make(self, index: int, chunk: bytes, lines_at_once: int = 500) -> ShardEntry:
        """Write the shard, then its record; returns the manifest's entry."""
        documents = [document.split("\n") for document in chunk.decode().split("\n\n")]
        lines = list(itertools.chain.from_iterable(documents))
        pieces, lengths = [], []
        for first in range(0, len(lines), lines_at_once):
            batch = lines[first : first + lines_at_once]
            with told_in_a_line(self.out / "tokenizer"):
                ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            lengths += map(len, ids)
            pieces.append(np.fromiter(itertools.chain.from_iterable(ids), self.dtype))
        tokens = np.concatenate(pieces)
        file = self.out / shard_file(index)
        with atomic_file(file) as stream:
            np.savez(
                stream,
                tokens=tokens,
                line_ends=np.cumsum(lengths, dtype=np.int32),
                document_ends=np.cumsum([len(document) for document in documents], dtype=np.int32),
            )
        record = ShardRecord(
            file=shard_file(index),
            documents=len(documents),
            lines=len(lines),
            tokens=len(tokens),
            sha256=sha256_of(file),
            text_sha256=hashlib.sha256(chunk).hexdigest(),
            tokenizer=self.tokenizer_id,
        )
        write_config(record, file.with_suffix(".json"))
        return record.entry


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def worker_pool(workers: int, maker: ShardMaker) -> Iterator[Callable[[int, bytes], Future]]:
    """Processes that make shards: the value submits `(index, chunk)` to them and gives the future of the entry.

    When the block ends, for whatever reason, what has been begun is finished and kept, and the processes end.
    """
    # A forked process would inherit locks that JAX's or the tokenizer's threads hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=maker.setup)

    def submit(index: int, chunk: bytes) -> Future:  # and starts a process, where there are too few
        # Processes inherit the blocked Ctrl-C: the parent alone answers it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # Python would run the caller's script in each of them, where it builds the corpus again, or is standard input.
        main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
        try:
            return pool.submit(_make_in_worker, index, chunk)
        finally:
            sys.modules["__main__"] = main
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield submit
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, perhaps for memory: run the same command again with fewer --processes; "
            "finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: ShardMaker


def _start_worker(*setup: Any) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = ShardMaker(*setup)

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    # A parent that was killed cannot tell its workers to end.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _make_in_worker(index: int, chunk: bytes) -> ShardEntry:
    return _worker.make(index, chunk)


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of several hosts has done for a corpus.

    Attributes:
        corpus: the finished corpus; None while other hosts have shards to make.
        shards: how many shards are this host's.
        made: how many of them the call had to make; the others were found finished.
        missing: the hosts whose shards are not all there.
    """

    corpus: Corpus | None
    shards: int
    made: int
    missing: tuple[int, ...] = ()


def build_corpus(
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    out: Path,
    *,
    shard_bytes: int = 4 << 20,
    processes: int | None = None,
) -> Corpus:
    """Tokenize text files into `out`; what an interrupted call has finished there, the next one finds.

    BERT's special tokens that are spelt out in the text, such as "[SEP]", are text and become ordinary pieces; those that a user
    has added to them, such as "[E1]", are one piece, as they are everywhere.

    Args:
        sources: `.txt`, `.txt.xz` or `.txt.gz` files; see `TextSources`.
        shard_bytes: text per shard. Only a document longer than that is cut, at a line.
        processes: how many tokenize at the same time; None for all cores.

    Raises:
        InputError: a source cannot be read, has no documents, `out` holds something else, or a corpus of another tokenizer or of
            other files, or `processes` < 1.
    """
    share = build_share(sources, tokenizer, out, hosts=1, host=0, shard_bytes=shard_bytes, processes=processes)
    assert share.corpus is not None  # of a single host nothing is missing
    return share.corpus


def build_share(
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    out: Path,
    *,
    hosts: int,
    host: int,
    shard_bytes: int = 4 << 20,
    processes: int | None = None,
) -> Share:
    """The part of one host in `build_corpus`: shard i is made by host i mod `hosts`, in a directory that all hosts see.

    Each host reads all of the text, as a stream, and tokenizes what is its own. No host waits: the one that finds the shards of
    all others finished completes the corpus, which is the same, byte for byte, as that of one host. A host that was
    killed is called again; a call for one host makes whatever is missing.

    Raises:
        InputError: as in `build_corpus`; `host` is not one of the `hosts`.
    """
    if processes is not None and processes < 1:
        raise InputError(f"processes = {processes}: expected at least 1", field="processes")
    if not 0 <= host < hosts:
        raise InputError(
            f"host = {host} of {hosts} hosts: expected at least one host, and 0 for the first of them", field="host"
        )
    out, text = Path(out), TextSources(sources)
    _check_no_others(out)
    with _alone(out, shared=hosts > 1):
        return _build_share(text, tokenizer, out, hosts, host, shard_bytes, processes)


@contextlib.contextmanager
def _alone(out: Path, *, shared: bool) -> Iterator[None]:
    """Keep other calls out of a corpus, which is made where it is not there, during the `with` block: two would mix their shards.

    Args:
        shared: one of several hosts: the others of these may be there.

    Raises:
        InputError: another call is in it.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    place = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{out}: another process builds a corpus here; wait for it, or name another directory", path=out
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(place)
        if new:  # of a call that was refused nothing is left
            with contextlib.suppress(OSError):
                out.rmdir()


def _build_share(
    text: TextSources, tokenizer: Tokenizer, out: Path, hosts: int, host: int, shard_bytes: int, processes: int | None
) -> Share:
    """`build_share` in a directory that is its own."""
    states = _states(text.paths)
    specials, tokenizer = special_ids(tokenizer), read_back(tokenizer)  # what a corpus keeps is read again to open it
    tokenizer_id = fingerprint(tokenizer)
    if (out / "tokenizer/tokenizer.json").is_file() and fingerprint(load_tokenizer(out / "tokenizer")) != tokenizer_id:
        raise InputError(
            f"{out}: holds a corpus made with another tokenizer; name another directory, or remove this one", path=out
        )
    origin = CorpusOrigin(
        format=CORPUS_FORMAT,
        tokenizer=tokenizer_id,
        shard_bytes=shard_bytes,
        sources=describe(text.paths),
        single_tokens=_single_tokens(tokenizer) or None,
    )
    before = _opened(out)
    kept = {source.file for source in origin.sources}
    # A file that was edited, or one more, is another matter: shards that stay the same are kept.
    if before and (lost := {source.file for source in before.manifest.sources} - kept):
        raise InputError(
            f"{out}: holds a corpus of {', '.join(sorted(lost))}; name another directory, or remove this one", path=out
        )
    if before and before.manifest.origin == origin:
        with contextlib.suppress(InputError):  # what is damaged is made again
            before.verify()
            return Share(before, len(range(host, len(before), hosts)), 0)
    if before:  # a text that cannot be read to its end must not cost the corpus that is there
        _read_through(text, shard_bytes)
    _check_no_links(out)
    (out / "shards").mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    save_tokenizer(tokenizer, out / "tokenizer")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(1, min(processes or cores or 1, math.ceil(text.size / shard_bytes / hosts)))
    maker = ShardMaker(tokenizer.to_str(), tokenizer_id, origin.single_tokens or (), out)
    chunks, shards, made = _make_shards(text, maker, shard_bytes, workers, range(host, sys.maxsize, hosts))
    if changed := [path for path, state in _states(text.paths).items() if state != states[path]]:
        raise InputError(
            f"{changed[0]}: was changed while it was read; run the same command again once nothing writes to it",
            path=changed[0],
        )
    if not chunks:
        raise _blank(text)
    if text.invisible:
        print(
            f"{counted(text.invisible, 'line')} of the text {'shows' if text.invisible == 1 else 'show'} nothing and "
            f"{'is' if text.invisible == 1 else 'are'} not blank (U+FEFF, U+200B and the like): they separate no documents",
            file=sys.stderr,
        )
    own = len(shards)
    entries: list[ShardEntry | None] = []
    for check in (maker.recorded, maker.finished):  # checksums of what others made cost time: only when all is there
        entries = [shards.get(index) or check(index, digest) for index, (digest, _) in enumerate(chunks)]
        if missing := {index % hosts for index, entry in enumerate(entries) if not entry}:
            return Share(None, own, made, tuple(sorted(missing)))
    complete = [
        dataclasses.replace(entry, continues=continues or None)
        for entry, (_, continues) in zip(entries, chunks, strict=True)
        if entry
    ]
    return Share(_completed(out, origin, specials, maker.vocab_size, complete, made), own, made)


def _states(paths: Sequence[Path]) -> dict[Path, tuple[int, ...]]:
    """What changes with what is written to a file: its inode, size and time."""
    states = {path: path.stat() for path in paths}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in states.items()}


def describe(sources: Sequence[Path]) -> tuple[SourceFile, ...]:
    """What a manifest says of the files that a corpus was made of."""
    return tuple(SourceFile(file=path.name, bytes=path.stat().st_size, sha256=sha256_of(path)) for path in sources)


def _single_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Special tokens that a text may spell out: those of no role in a sequence, unless the tokenizer cuts all of them."""
    if settings_of(tokenizer).split_special_tokens:
        return ()
    added = tokenizer.get_added_tokens_decoder().values()
    roles = kind_of(tokenizer).special_tokens.values()
    return tuple(token.content for token in added if token.special and token.content not in roles)


def _check_no_others(out: Path) -> None:
    """Raise InputError where `out` is a directory with something in it that is neither a corpus nor the beginning of one."""
    if not out.is_dir():
        return
    manifest: dict[str, Any] | None = None
    with contextlib.suppress(InputError, OSError):
        manifest = read_json(out / "manifest.json", dict)
    if manifest is None and _has_shards(out):
        return  # unfinished, or its manifest is damaged
    if manifest is not None and _is_corpus(manifest):
        return
    other = next((path for path in _inside(out) if manifest is not None or not _is_beginning(path)), None)
    if other:
        named = "manifest.json" if manifest is not None else other.name
        raise InputError(
            f"{out}: holds {named}, and no corpus: name a directory that is empty, or not there yet", path=out
        )


def _inside(directory: Path) -> list[Path]:
    """What is in a directory; nothing where there is none."""
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _is_corpus(manifest: dict[str, Any]) -> bool:
    """Whether a manifest, perhaps a damaged one, is that of a corpus."""
    return len({"format", "tokenizer", "sources", "shards", "vocab_size", "specials"} & manifest.keys()) > 2


def _has_shards(out: Path) -> bool:
    """Whether a directory has shards of a corpus: the record of one or, where that is lost, files of such names alone, beside a
    tokenizer, which is written before any shard."""
    files = [path for path in _inside(out / "shards") if not _CUT_OFF.fullmatch(path.name)]
    if (out / "tokenizer" / TOKENIZER).is_file() and files and all(_OF_A_SHARD.fullmatch(path.name) for path in files):
        return True
    return any(map(_is_record, files))


def _is_record(path: Path) -> bool:
    """Whether a file in `shards` says what a shard was made of."""
    if not (_OF_A_SHARD.fullmatch(path.name) and path.suffix == ".json"):
        return False
    with contextlib.suppress(InputError, OSError):
        return {"file", "tokenizer", "text_sha256"} <= read_json(path, dict).keys()
    return False


def _is_beginning(path: Path) -> bool:
    """Whether an entry of a corpus is what a call leaves that was stopped before its first shard."""
    names = {child.name for child in _inside(path) if not _CUT_OFF.fullmatch(child.name)}
    written = {"tokenizer": {TOKENIZER, CONFIG}, "shards": set()}
    return path.is_dir() and path.name in written and names <= written[path.name]


def _check_no_links(out: Path) -> None:
    """Raise InputError where a name that a corpus writes to is that of a link, whose target would be lost, or of no file."""
    files = [
        out / "manifest.json",
        out / "token_counts.npy",
        *(out / "tokenizer" / name for name in (TOKENIZER, CONFIG)),
    ]
    for file in (*files, *(path for path in _inside(out / "shards") if _OF_A_SHARD.fullmatch(path.name))):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = file.lstat().st_mode
            if not stat.S_ISREG(mode):
                what = "a link" if stat.S_ISLNK(mode) else kind_of_place(mode)
                raise InputError(f"{file}: is {what}, where a corpus has a file of its own; remove it", path=file)


def _opened(path: Path) -> Corpus | None:
    """The corpus at `path`, if there is a finished one."""
    with contextlib.suppress(InputError):
        return Corpus.open(path)
    return None


def _read_through(text: TextSources, shard_bytes: int) -> None:
    documents = False
    with progress("reading", text.size) as done:
        for _ in text.chunks(shard_bytes):
            documents = True
            done(text.position)
    if not documents:
        raise _blank(text)


def _blank(text: TextSources) -> InputError:
    paths = ", ".join(map(str, text.paths))
    return InputError(f"{paths}: no documents, only blank lines", path=paths)


def _make_shards(
    text: TextSources, maker: ShardMaker, shard_bytes: int, workers: int, own: range
) -> tuple[list[tuple[str, bool]], dict[int, ShardEntry], int]:
    """Make those of the `own` shards that are not there yet.

    Returns:
        SHA-256 of the text of every shard, and whether it continues the document that the one before ends with; the manifest's
        entries of the own ones; how many of these were made.
    """
    chunks, entries, running, kept = [], {}, {}, 0
    with progress("tokenizing", text.size) as done, contextlib.ExitStack() as stack:
        submit = stack.enter_context(worker_pool(workers, maker)) if workers > 1 else None
        for index, (chunk, continues) in enumerate(text.chunks(shard_bytes)):
            digest = hashlib.sha256(chunk).hexdigest()
            chunks.append((digest, continues))
            if index not in own:
                pass
            elif entry := maker.finished(index, digest):
                entries[index] = entry
                kept += 1
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
    return chunks, entries, len(entries) - kept


def _completed(
    out: Path, origin: CorpusOrigin, specials: SpecialIds, vocab_size: int, shards: Sequence[ShardEntry], made: int
) -> Corpus:
    """Remove the shards of an older, longer text, count the tokens and write the manifest."""
    lines, tokens = (sum(getattr(shard, name) for shard in shards) for name in ("lines", "tokens"))
    if not tokens:
        raise InputError(f"{out}: not one token is in the {lines:,} lines of the text: nothing to train on", path=out)
    for stale in (out / "shards").glob("[0-9]*"):
        if _OF_A_SHARD.fullmatch(stale.name) and int(stale.stem) >= len(shards):
            stale.unlink(missing_ok=True)
    for cut_off in (out / "shards").glob(".[0-9]*.partial"):  # by a kill
        cut_off.unlink(missing_ok=True)
    counts = np.zeros(vocab_size, np.int64)
    for shard in shards:
        counts += np.bincount(read_shard(out / shard.file).tokens, minlength=vocab_size)
    write_array(out / "token_counts.npy", counts)
    manifest = CorpusManifest(
        **vars(origin),
        vocab_size=vocab_size,
        specials=specials,
        documents=numbered(shards)[-1].stop,
        lines=lines,
        tokens=tokens,
        shards=tuple(shards),
        token_counts=sha256_of(out / "token_counts.npy"),
    )
    write_config(manifest, out / "manifest.json")
    return Corpus(out, manifest, made)


def totals(corpus: Corpus) -> str:
    """What is in a corpus, in words."""
    manifest = corpus.manifest
    return f"{manifest.documents:,} documents, {manifest.lines:,} lines, {manifest.tokens:,} tokens"
