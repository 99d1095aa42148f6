"""Corpus on disk: token shards and their manifest, as `build_corpus` has made them."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from distilbert_jax.base.config_io import read_config
from distilbert_jax.base.files import open_file, read_array, read_json, sha256_of
from distilbert_jax.errors import InputError
from distilbert_jax.pretraining.manifests import CORPUS_FORMAT, CorpusManifest, ShardEntry
from distilbert_jax.text.tokenizer import SpecialIds, entries, fingerprint, load_tokenizer, special_ids


@dataclasses.dataclass(frozen=True)
class Shard:
    """Tokens of some documents, without special tokens. Those are whole, but for pieces of one that is larger than a shard.

    Attributes:
        tokens: ids, uint16 (uint32 for 65,536 entries or more) [tokens].
        line_ends: where in `tokens` each line ends, int32 [lines].
        document_ends: where in `line_ends` each document ends, int32 [documents].
    """

    tokens: np.ndarray
    line_ends: np.ndarray
    document_ends: np.ndarray


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds all ids of a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def read_shard(file: Path) -> Shard:
    """A shard, read into memory.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        with open_file(file) as stream, np.load(stream) as arrays:
            return Shard(arrays["tokens"], arrays["line_ends"], arrays["document_ends"])
    except Exception as error:  # a damaged zip raises errors of many kinds
        raise InputError(
            f"{file}: missing or damaged ({error}); build the corpus again: it mends this file", path=file
        ) from error


def holds(shard: Shard, entry: ShardEntry) -> bool:
    """Whether there are as many documents, lines and tokens in a shard as its entry says."""
    counts = len(shard.document_ends), len(shard.line_ends), len(shard.tokens)
    return counts == (entry.documents, entry.lines, entry.tokens)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A finished corpus on disk.

    Attributes:
        path: its directory.
        manifest: what `manifest.json` says.
        shards_made: how many shards the call that returned this object had to make; the others were found finished.
    """

    path: Path
    manifest: CorpusManifest
    shards_made: int = 0

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Corpus":
        """Open a corpus that `build_corpus` has made.

        Raises:
            InputError: there is none, it is unfinished or damaged, or another version of this package made it.
        """
        path = Path(path)
        if path.is_file():
            hint = f"distilbert-jax corpus --text {path} --tokenizer MODEL --out DIR"
            raise InputError(f"{path}: is a file; a corpus is a directory, which {hint} makes", path=path, hint=hint)
        if not (path / "manifest.json").is_file():
            state = (
                "an unfinished corpus: build it to its end" if (path / "shards").is_dir() else "no corpus: build one"
            )
            raise InputError(f"{path}: {state} with distilbert-jax corpus --out {path}", path=path)
        file = path / "manifest.json"
        content = read_json(file, dict)
        if not {"tokenizer", "shards", "vocab_size"} & content.keys():
            raise InputError(f"{path}: no corpus: its manifest.json is that of something else", path=path)
        if content.get("format") != CORPUS_FORMAT:
            raise InputError(
                f"{file}: not a corpus of format {CORPUS_FORMAT}: build it again", path=file, field="format"
            )
        return cls(path, read_config(CorpusManifest, file, "build it again, finished shards are kept"))

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.manifest.tokenizer

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def dtype(self) -> np.dtype:
        """Type of the ids in shards and packed rows: uint16, or uint32 for more than 65,536 entries."""
        return id_dtype(self.vocab_size)

    @property
    def specials(self) -> SpecialIds:
        return self.manifest.specials

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the checksums of all shards and of the counts: changes with any token and any end of a document."""
        sums = [
            self.tokenizer_fingerprint,
            self.manifest.token_counts,
            *(shard.sha256 + " continues" * bool(shard.continues) for shard in self.manifest.shards),
        ]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    @property
    def token_counts(self) -> np.ndarray:
        """How often each id occurs in the text, int64 [V]; [CLS], [SEP] and [PAD] are no text and have 0."""
        file = self.path / "token_counts.npy"
        try:
            counts = read_array(file)
        except (InputError, OSError):
            raise InputError(f"{file}: missing or damaged: build the corpus again", path=file) from None
        if counts.shape != (self.vocab_size,):
            raise InputError(
                f"{file}: has the shape {counts.shape}, expected ({self.vocab_size},): build the corpus again",
                path=file,
            )
        if sha256_of(file) != self.manifest.token_counts:
            raise InputError(f"{file}: not what was written: build the corpus again", path=file)
        return counts

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made it, from its own directory.

        Raises:
            InputError: another tokenizer lies there, or the manifest does not describe it.
        """
        path = self.path / "tokenizer"
        tokenizer = load_tokenizer(path)
        if fingerprint(tokenizer) != self.tokenizer_fingerprint:
            raise InputError(
                f"{path}: not the tokenizer that made this corpus, by its manifest.json: put that one back, or build the "
                "corpus again in another directory",
                path=path,
            )
        if (special_ids(tokenizer), entries(tokenizer)) != (self.specials, self.vocab_size):
            raise InputError(
                f"{self.path / 'manifest.json'}: damaged, specials or vocab_size are not those of its tokenizer: "
                "build the corpus again",
                path=self.path / "manifest.json",
            )
        return tokenizer

    def __len__(self) -> int:
        return len(self.manifest.shards)

    def __iter__(self) -> Iterator[Shard]:
        return map(self.shard, range(len(self)))

    def shard(self, index: int) -> Shard:
        """Read one shard into memory.

        Raises:
            InputError: it is missing, not what was written, or has not what the manifest says of it.
        """
        entry = self.manifest.shards[index]
        file = self.path / entry.file
        if not file.is_file() or sha256_of(file) != entry.sha256:
            raise InputError(
                f"{file}: missing or not what was written; build the corpus again: it mends this file", path=file
            )
        shard = read_shard(file)
        if not holds(shard, entry):
            raise InputError(
                f"{self.path / entry.file}: has not as many documents, lines and tokens as {self.path / 'manifest.json'} says: "
                "build the corpus again: it mends this",
                path=self.path / entry.file,
            )
        return shard

    def verify(self) -> None:
        """Compare the tokenizer, the counts and every shard with what the manifest says.

        Raises:
            InputError: names the first file that differs.
        """
        self.tokenizer()
        _ = self.token_counts
        for index in range(len(self)):
            self.shard(index)
