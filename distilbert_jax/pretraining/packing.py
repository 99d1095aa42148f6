"""Packing of token shards into rows of one length: sequences side by side, told apart by segment ids and positions, or one
pair of texts in each row (`sentence_pairs`).

<corpus>/packed-<length>-<sequences>/manifest.json   written last: options, files, totals
                                     00000.npy       rows of one shard; 00000.json says what they were made of
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from distilbert_jax.base.config_io import read_config, write_config
from distilbert_jax.base.files import read_array, read_json, sha256_of, write_array
from distilbert_jax.base.progress import progress
from distilbert_jax.base.ranges import check_range
from distilbert_jax.config import Sequences
from distilbert_jax.errors import InputError
from distilbert_jax.pretraining.corpus import Corpus, Shard
from distilbert_jax.pretraining.manifests import (
    PACKED_FORMAT,
    PackedCounts,
    PackedFile,
    PackedManifest,
    PackedOrigin,
    PackedRecord,
    PackOptions,
)
from distilbert_jax.pretraining.sentence_pairs import CHANNELS as PAIR_CHANNELS
from distilbert_jax.pretraining.sentence_pairs import pair_rows, shard_of_strangers, share_a_document
from distilbert_jax.text.tokenizer import SpecialIds
from distilbert_jax.training.batches import best_fit

SHORTEST_LENGTH = 8
PACKED_CHANNELS = ("input_ids", "segment_ids", "position_ids")


def channels_of(sequences: Sequences) -> tuple[str, ...]:
    """What a packed row holds, by name."""
    return PAIR_CHANNELS if sequences == "pair" else PACKED_CHANNELS


def batch_shapes(sequences: Sequences, batch_size: int, length: int) -> dict[str, tuple[int, ...]]:
    """The shapes of what `PackedRows.batch` returns; all are int32."""
    of_rows = {"next_sentence_label": (batch_size,)}
    return {name: of_rows.get(name, (batch_size, length)) for name in channels_of(sequences)}


class PackedRows:
    """The packed rows of a corpus, read from disk as they are asked for.

    Attributes:
        path: their directory, inside that of the corpus.
        manifest: totals, dropped sequences, efficiency.
        corpus: the corpus they are made of.
    """

    def __init__(self, path: Path, manifest: PackedManifest, corpus: Corpus):
        self.path, self.manifest, self.corpus = path, manifest, corpus
        self._ends = np.cumsum([file.rows for file in manifest.files])
        self._arrays: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | os.PathLike) -> "PackedRows":
        """Open what `pack` has made.

        Raises:
            InputError: it is missing, unfinished or damaged, or the corpus has changed since.
        """
        path = Path(path)
        if not (path / "manifest.json").is_file():
            raise InputError(f"{path}: no packed rows, or not finished: pack the corpus", path=path)
        file, corpus = path / "manifest.json", Corpus.open(path.parent)
        again = f"remove {path}, the corpus is packed again"
        if read_json(file, dict).get("format") != PACKED_FORMAT:
            raise InputError(f"{file}: not packed rows of format {PACKED_FORMAT}: {again}", path=file, field="format")
        manifest = read_config(PackedManifest, file, again)
        if manifest.corpus != corpus.fingerprint:
            raise InputError(
                f"{path}: packed from other tokens than the corpus has now: remove it, the corpus is packed again",
                path=path,
                field="corpus",
            )
        rows = cls(path, manifest, corpus)
        rows._check()
        return rows

    def _check(self) -> None:
        """Compare the manifest with the files' sizes and shapes; their content is for `verify`."""
        for index, entry in enumerate(self.manifest.files):
            file = self.path / _file_name(index)
            if entry.file != file.name or not file.is_file() or file.stat().st_size != entry.bytes:
                raise InputError(
                    f"{file}: missing or cut short: remove {self.path}, the corpus is packed again", path=file
                )
            if self._array(index).shape != (entry.rows, len(self.channels), self.length):
                raise InputError(
                    f"{file}: has other rows than {self.path / 'manifest.json'} says: remove {self.path}, the corpus is packed "
                    "again",
                    path=file,
                )

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def length(self) -> int:
        """T, tokens per row."""
        return self.manifest.options.length

    @property
    def channels(self) -> tuple[str, ...]:
        """What a row holds, in the order of the files: C names."""
        return channels_of(self.manifest.options.sequences)

    @property
    def dtype(self) -> np.dtype:
        return self.corpus.dtype

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by their number, any order, as a model takes them.

        Args:
            indices: int [n], 0 ≤ index < len(self).

        Returns:
            `input_ids` ([PAD] where empty) and `segment_ids` (1, 2, … of the sequences of a row, 0 where empty); `position_ids`,
            from 0 in each sequence; of pairs instead `token_type_ids`, 1 in the second text. int32 [n, T] each. Of pairs
            also `next_sentence_label` int32 [n], 0: the second text follows the first, 1: it is a stranger's.

        Raises:
            InputError: an id that the vocabulary lacks, a position beyond the row.
        """
        channels = np.moveaxis(self.read(indices), 1, 0).astype(np.int32, order="C")
        batch = dict(zip(self.channels, channels, strict=True))
        if "next_sentence_label" in batch:
            batch["next_sentence_label"] = np.ascontiguousarray(batch["next_sentence_label"][:, 0])
        # Models are held to the vocabulary and the length when they are loaded, so these ranges are theirs too.
        ranges = {
            "input_ids": self.corpus.vocab_size,
            "position_ids": self.length,
            "token_type_ids": 2,
            "next_sentence_label": 2,
        }
        for name in ranges.keys() & batch.keys():
            check_range(name, batch[name], ranges[name], self.path)
        return batch

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Rows by their number, any order.

        Args:
            indices: int [n], 0 ≤ index < len(self).

        Returns:
            `dtype` [n, C, T], the channels that `channels` names; 0 where empty, but for [PAD] in the ids.
        """
        indices = np.asarray(indices)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        rows = np.empty((len(indices), len(self.channels), self.length), self.dtype)
        files = np.searchsorted(self._ends, indices, side="right")
        for file in np.unique(files):
            chosen = files == file
            first = self._ends[file] - self.manifest.files[file].rows
            rows[chosen] = self._array(int(file))[indices[chosen] - first]
        return rows

    def verify(self) -> None:
        """Compare every file with its checksum and its counts; the InputError names the first that differs."""
        for index, entry in enumerate(self.manifest.files):
            file = self.path / entry.file
            if sha256_of(file) != entry.sha256 or not _holds(self._array(index), entry):
                raise InputError(
                    f"{file}: not what was written: remove {self.path}, the corpus is packed again", path=file
                )

    def _array(self, file: int) -> np.ndarray:
        if file not in self._arrays:
            path = self.path / self.manifest.files[file].file
            try:
                self._arrays[file] = read_array(path, mapped=True)
            except (InputError, OSError) as error:
                raise InputError(
                    f"{path}: missing or damaged ({error}): remove it and pack again", path=path
                ) from error
        return self._arrays[file]


def pack(
    directory: Path,
    length: int,
    *,
    sequences: Sequences = "line",
    min_tokens: int = 12,
    max_unk: float = 0.5,
) -> PackedRows:
    """Pack a corpus into rows of `length` tokens by best fit, each shard by itself; what is finished is found again.

    A sequence is `[CLS] ids [SEP]`. One longer than a row is cut, and its pieces are wrapped again (the original's
    lm_seqs_dataset.py:63-124, which drops short and unknown ones by the same two limits). A pair is a row, see `sentence_pairs`.

    Args:
        directory: that of the corpus; the rows go to `packed-<length>-<sequences>` inside.
        length: T, tokens per row.
        sequences: a line is a sequence, or all lines of a document joined; or rows are pairs of texts.
        min_tokens: sequences with fewer tokens, [CLS] and [SEP] included, are dropped.
        max_unk: sequences of which this share or more is [UNK] are dropped.

    Raises:
        InputError: no such corpus, a length below 8, nothing is left to pack, or pairs of a single document.
    """
    if length < SHORTEST_LENGTH:
        raise InputError(
            f"length = {length}: rows of fewer than {SHORTEST_LENGTH} tokens are not useful", field="length"
        )
    if sequences not in get_args(Sequences):
        raise InputError(f"sequences = {sequences!r}: expected 'line', 'document' or 'pair'", field="sequences")
    corpus = Corpus.open(directory)
    options = PackOptions(length=length, sequences=sequences, min_tokens=min_tokens, max_unk=float(max_unk))
    out = corpus.path / f"packed-{length}-{sequences}"
    if length < min_tokens:
        raise InputError(
            f"length = {length}: sequences of fewer than {min_tokens} tokens are dropped, and no row can hold a longer one: "
            f"expected {min_tokens} or more",
            field="length",
        )
    with contextlib.suppress(InputError):
        rows = PackedRows.open(out)
        if rows.manifest.options == options:
            return rows

    out.mkdir(exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    files: list[PackedFile] = []
    sums = [shard.sha256 for shard in corpus.manifest.shards]
    with progress(f"packing rows of {length}", len(corpus)) as done:
        for index, own in enumerate(sums):
            origin = PackedOrigin(shard=own, options=options)
            if sequences == "pair":
                other = shard_of_strangers(corpus, index)
                shared = share_a_document(corpus, index, other) or None
                origin = dataclasses.replace(origin, strangers=sums[other], shared=shared)
            files.append(_packed_file(corpus, index, origin, out))
            done(index + 1)
    for stale in out.glob("[0-9]*"):
        if stale.stem.isdecimal() and stale.suffix in (".npy", ".json") and int(stale.stem) >= len(files):
            stale.unlink()
    totals = _sum(files)
    if not totals.rows:
        raise InputError(
            f"{corpus.path}: no sequence is left to pack: {totals.short:,} have fewer than {min_tokens} tokens, "
            f"{totals.unknown:,} are {max_unk:.0%} [UNK] or more",
            path=corpus.path,
        )
    manifest = PackedManifest(
        **vars(totals),
        format=PACKED_FORMAT,
        corpus=corpus.fingerprint,
        options=options,
        efficiency=totals.tokens / (totals.rows * length),
        files=tuple(files),
    )
    write_config(manifest, out / "manifest.json")
    return PackedRows.open(out)


def _sum(files: Sequence[PackedFile]) -> PackedCounts:
    """What is in all files together."""
    names = [item.name for item in dataclasses.fields(PackedCounts) if getattr(files[0], item.name) is not None]
    return PackedCounts(**{name: sum(getattr(file, name) for file in files) for name in names})


def _file_name(index: int) -> str:
    return f"{index:05}.npy"


def _holds(rows: np.ndarray, counts: PackedCounts) -> bool:
    """Whether there is as much in rows as their entry says, as far as rows tell."""
    pairs = counts.strangers is not None
    sequences = len(rows) if pairs else int(rows[:, 1].max(-1).sum(dtype=np.int64))
    strangers = int(np.count_nonzero(rows[:, 3, 0])) if pairs else None
    in_rows = len(rows), sequences, int(np.count_nonzero(rows[:, 1])), strangers
    return in_rows == (counts.rows, counts.sequences, counts.tokens, counts.strangers)


def _packed_file(corpus: Corpus, index: int, origin: PackedOrigin, out: Path) -> PackedFile:
    """The manifest's entry of one shard's rows, made now or found finished."""
    file, options = out / _file_name(index), origin.options
    with contextlib.suppress(InputError, OSError, IndexError):
        record = read_config(PackedRecord, file.with_suffix(".json"))
        same = (record.origin, record.entry.file, record.entry.sha256) == (origin, file.name, sha256_of(file))
        if same and _holds(read_array(file, mapped=True), record.entry):
            return record.entry
    if options.sequences == "pair":
        rows, counts = pair_rows(corpus, index, options.length, options.min_tokens, options.max_unk)
    else:
        rows, counts = pack_shard(
            corpus.shard(index), corpus.specials, options.length, options.sequences, options.min_tokens, options.max_unk
        )
    write_array(file, rows)
    entry = PackedFile(**vars(counts), file=file.name, bytes=file.stat().st_size, sha256=sha256_of(file))
    write_config(PackedRecord(origin=origin, entry=entry), file.with_suffix(".json"))
    return entry


def pack_shard(
    shard: Shard, specials: SpecialIds, length: int, sequences: Sequences, min_tokens: int, max_unk: float
) -> tuple[np.ndarray, PackedCounts]:
    """Rows [R, 3, T] of `PACKED_CHANNELS`, and how many sequences and tokens are in them or were dropped."""
    ends = shard.line_ends if sequences == "line" else shard.line_ends[shard.document_ends - 1]
    starts, sizes = _cut(ends.astype(np.int64), length - 2)
    unknown = np.concatenate([[0], np.cumsum(shard.tokens == specials.unk)])
    long_enough = sizes + 2 >= min_tokens
    known = unknown[starts + sizes] - unknown[starts] < max_unk * (sizes + 2)
    kept = long_enough & known
    starts, lengths = starts[kept], sizes[kept] + 2
    row, offset, segment = best_fit(lengths, length)

    # One entry per token of all kept sequences: which sequence, and where in it.
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(sequence)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ids = shard.tokens[np.clip(starts[sequence] + position - 1, 0, len(shard.tokens) - 1)]
    ids[position == 0] = specials.cls
    ids[position == lengths[sequence] - 1] = specials.sep
    rows = np.zeros((row.max(initial=-1) + 1, 3, length), shard.tokens.dtype)
    rows[:, 0] = specials.pad
    column = offset[sequence] + position
    for channel, values in enumerate((ids, segment[sequence], position)):
        rows[row[sequence], channel, column] = values
    short, unknown = int(np.sum(~long_enough)), int(np.sum(long_enough & ~known))
    return rows, PackedCounts(rows=len(rows), sequences=len(lengths), tokens=len(ids), short=short, unknown=unknown)


def _cut(ends: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and sizes of the pieces of at most `largest` tokens of the sequences that end at `ends`."""
    first = np.concatenate([[0], ends[:-1]])
    pieces = -(-(ends - first) // largest)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(first, pieces) + within * largest
    return starts, np.minimum(np.repeat(ends, pieces) - starts, largest)
