"""Chunks of text to token shards, in this process or in several."""

import contextlib
import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.base.files import atomic_file, read_json, sha256_of, write_json
from distilbert_jax.data.shards import id_dtype
from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import entries


class ShardMaker:
    """Makes one shard of one chunk of text; every worker process has its own."""

    def __init__(self, tokenizer: str, tokenizer_id: str, out: Path):
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text must not end a sequence
        self.tokenizer_id = tokenizer_id
        self.vocab_size = entries(self.tokenizer)
        self.dtype = id_dtype(self.vocab_size)
        self.out = out

    def recorded(self, index: int, text_sha256: str) -> dict[str, Any] | None:
        """The manifest's entry of a shard that an earlier run or another host made of this text with the same tokenizer."""
        with contextlib.suppress(InputError, OSError, KeyError, TypeError):
            entry = read_json(self.out / f"shards/{index:05}.json")
            if (entry.pop("tokenizer"), entry["text_sha256"]) == (self.tokenizer_id, text_sha256):
                return entry
        return None

    def finished(self, index: int, text_sha256: str) -> dict[str, Any] | None:
        """What `recorded` gives, if the shard is still what was written."""
        with contextlib.suppress(OSError, KeyError, TypeError):
            entry = self.recorded(index, text_sha256)
            if entry and sha256_of(self.out / entry["file"]) == entry["sha256"]:
                return entry
        return None

    def make(self, index: int, chunk: bytes, lines_at_once: int = 500) -> dict[str, Any]:
        """Write the shard, then its record; returns the manifest's entry."""
        documents = [document.split("\n") for document in chunk.decode().split("\n\n")]
        lines = list(itertools.chain.from_iterable(documents))
        pieces, lengths = [], []
        for first in range(0, len(lines), lines_at_once):
            batch = lines[first : first + lines_at_once]
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            lengths += map(len, ids)
            pieces.append(np.fromiter(itertools.chain.from_iterable(ids), self.dtype))
        tokens = np.concatenate(pieces)
        file = self.out / f"shards/{index:05}.npz"
        with atomic_file(file) as stream:
            np.savez(
                stream,
                tokens=tokens,
                line_ends=np.cumsum(lengths, dtype=np.int32),
                document_ends=np.cumsum([len(document) for document in documents], dtype=np.int32),
            )
        entry = {
            "file": f"shards/{file.name}",
            "documents": len(documents),
            "lines": len(lines),
            "tokens": len(tokens),
            "sha256": sha256_of(file),
            "text_sha256": hashlib.sha256(chunk).hexdigest(),
        }
        write_json(file.with_suffix(".json"), {**entry, "tokenizer": self.tokenizer_id})
        return entry


@contextlib.contextmanager
def worker_pool(workers: int, maker: ShardMaker) -> Iterator[Callable[[int, bytes], Future]]:
    """Processes that make shards: the value submits `(index, chunk)` to them and gives the future of the entry.

    When the block ends, for whatever reason, what has been begun is finished and kept, and the processes end.
    """
    # A forked process would inherit locks that JAX's or the tokenizer's threads hold.
    context = multiprocessing.get_context("spawn")
    setup = (maker.tokenizer.to_str(), maker.tokenizer_id, maker.out)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=setup)

    def submit(index: int, chunk: bytes) -> Future:
        # Processes inherit the blocked Ctrl-C: the parent alone answers it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return pool.submit(_make_in_worker, index, chunk)
        finally:
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
        multiprocessing.parent_process().join()
        os._exit(1)

    # A parent that was killed cannot tell its workers to end.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _make_in_worker(index: int, chunk: bytes) -> dict[str, Any]:
    return _worker.make(index, chunk)
