"""Manifests of corpora and of packed rows, and the records beside their files, as they stand on disk.

`base.config_io` reads and writes them. What an earlier version wrote is read as long as its `format` is that of now.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from distilbert_jax.base.config_io import LEFT_OUT
from distilbert_jax.config import Sequences
from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import SpecialIds

CORPUS_FORMAT = PACKED_FORMAT = 1
COUNTED = ("documents", "lines", "tokens")  # of each shard, and of all together


def _check_counts(record: object, names: Sequence[str], least: int = 0) -> None:
    """Raise InputError for a count that is none."""
    for name in names:
        if (value := getattr(record, name)) is not None and value < least:
            raise InputError(f"{name} = {value}: expected {least} or more", field=name)


def _check_sums(whole: object, parts: Sequence[object], names: Sequence[str], of: str) -> None:
    """Raise InputError unless what is said of all is the sum of what is said of each."""
    for name in names:
        values = [getattr(part, name) for part in parts]
        total = None if None in values else sum(values)
        if getattr(whole, name) != total:
            raise InputError(f"{name} are not the sum of those of its {of}", field=name)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A text file that a corpus was made of. bytes: on disk; sha256: of these, in hex."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What a manifest says of a shard.

    Attributes:
        file: its name in the corpus, `shards/00000.npz`.
        documents, lines, tokens: how many are in it, a piece of a document as one.
        sha256: of the file, in hex.
        text_sha256: of the text that it was made of.
        continues: whether its first document is a further piece of the last one of the shard before; None: it is not. It is for the
            manifest alone: the file, and the record beside it, are the same either way.
    """

    file: str
    documents: int
    lines: int
    tokens: int
    sha256: str
    text_sha256: str
    continues: bool | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        _check_counts(self, COUNTED)


def numbered(shards: Sequence[ShardEntry]) -> tuple[range, ...]:
    """Of each shard the numbers of its documents, see `CorpusManifest.document_numbers`."""
    begun = itertools.accumulate(shard.documents - bool(shard.continues) for shard in shards)
    return tuple(range(stop - shard.documents, stop) for stop, shard in zip(begun, shards, strict=True))


@dataclass(frozen=True, kw_only=True)
class ShardRecord(ShardEntry):
    """What stands beside a shard while the corpus is not finished. tokenizer: digest of what cut the text into pieces."""

    tokenizer: str

    @property
    def entry(self) -> ShardEntry:
        return ShardEntry(**{item.name: getattr(self, item.name) for item in dataclasses.fields(ShardEntry)})


def shard_file(index: int) -> str:
    """The name of a shard in its corpus."""
    return f"shards/{index:05}.npz"


@dataclass(frozen=True, kw_only=True)
class CorpusOrigin:
    """What a corpus is made of: with an equal origin it is the same, byte for byte.

    Attributes:
        tokenizer: its fingerprint.
        shard_bytes: text per shard.
        sources: in their order.
        single_tokens: special tokens beside those of BERT's roles, which a text may spell out; None: there are none.
    """

    format: int
    tokenizer: str
    shard_bytes: int
    sources: tuple[SourceFile, ...]
    single_tokens: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class CorpusManifest(CorpusOrigin):
    """`manifest.json` of a corpus.

    Attributes:
        vocab_size: rows that an embedding of its ids needs.
        documents, lines, tokens: how many there are in all shards, a document that is cut as one.
        token_counts: SHA-256 of `token_counts.npy`, in hex.
    """

    vocab_size: int
    specials: SpecialIds
    documents: int
    lines: int
    tokens: int
    shards: tuple[ShardEntry, ...]
    token_counts: str

    def __post_init__(self) -> None:
        _check_counts(self, ("vocab_size",), 1)
        if not self.shards:
            raise InputError("there is no shard", field="shards")
        for index, shard in enumerate(self.shards):
            if shard.file != shard_file(index):
                raise InputError(
                    f"shard {index} is called {shard.file!r:.60}, expected {shard_file(index)}", field="shards"
                )
        _check_sums(self, self.shards, ("lines", "tokens"), "shards")
        if self.documents != self.document_numbers[-1].stop:
            raise InputError("documents are not as many as its shards have", field="documents")

    @functools.cached_property
    def document_numbers(self) -> tuple[range, ...]:
        """The numbers of the documents of each shard, from 0; one that is cut has the same number in each of its shards."""
        return numbered(self.shards)

    @property
    def origin(self) -> CorpusOrigin:
        return CorpusOrigin(**{item.name: getattr(self, item.name) for item in dataclasses.fields(CorpusOrigin)})


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How sequences become rows, see `packing.pack`."""

    length: int
    sequences: Sequences
    min_tokens: int
    max_unk: float


@dataclass(frozen=True, kw_only=True)
class PackedCounts:
    """What is in rows, and what was left out of them.

    Attributes:
        rows, sequences, tokens: how many there are; of pairs one is a sequence.
        short, unknown: sequences that were dropped by either limit; of pairs `short` counts ends of documents.
        strangers: pairs whose second text does not follow the first; None where rows are no pairs.
    """

    rows: int
    sequences: int
    tokens: int
    short: int
    unknown: int
    strangers: int | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        _check_counts(self, [item.name for item in dataclasses.fields(PackedCounts)])


@dataclass(frozen=True, kw_only=True)
class PackedFile(PackedCounts):
    """What a manifest says of the rows of one shard. file: its name beside the manifest; bytes: of it; sha256: of these."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PackedOrigin:
    """What the rows of one shard were made of: checksums of it and, of pairs, of the shard of its strangers.

    Attributes:
        shared: of pairs, whether both shards have pieces of the same document; None: they have not.
    """

    shard: str
    options: PackOptions
    strangers: str | None = field(default=None, metadata=LEFT_OUT)
    shared: bool | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class PackedRecord:
    """What stands beside the rows of one shard."""

    origin: PackedOrigin
    entry: PackedFile


@dataclass(frozen=True, kw_only=True)
class PackedManifest(PackedCounts):
    """`manifest.json` of packed rows: their totals, and of what they are.

    Attributes:
        corpus: the fingerprint of the corpus.
        efficiency: the share of the places that hold a token.
    """

    format: int
    corpus: str
    options: PackOptions
    efficiency: float
    files: tuple[PackedFile, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, ("rows",), 1)
        _check_sums(self, self.files, [item.name for item in dataclasses.fields(PackedCounts)], "files")
