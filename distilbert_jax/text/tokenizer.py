"""BERT's tokenizer: loaded from and saved as the files that Hugging Face reads, and texts to the arrays that a model reads."""

import copy
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tokenizers import (
    AddedToken,
    Encoding,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from distilbert_jax import families
from distilbert_jax.base.files import atomic_file, read_json, write_json
from distilbert_jax.base.hub import locate
from distilbert_jax.errors import InputError
from distilbert_jax.families import BERT_TOKENIZER, TokenizerKind

SPECIAL_TOKENS = BERT_TOKENIZER.special_tokens
_LONGEST = 512  # BERT's positions, where no file says how many there are


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens by role."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


def bert_tokenizer(vocabulary: dict[str, int], normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    present = [token for token in SPECIAL_TOKENS.values() if token in vocabulary]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in present])
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def load_tokenizer(path: str | Path, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer from a `tokenizer.json`, or from a directory or hub id that has one or else the files of a registered
    family, such as BERT's `vocab.txt`.

    Truncation and padding are switched off: some published files have them on, and would cut every line of a corpus.

    Raises:
        InputError: nothing to load is there, or it cannot be read as a tokenizer.
    """
    file = Path(path)
    if not file.is_file():
        directory = locate(path, revision)
        file = directory / "tokenizer.json"
    if not file.is_file():
        tokenizer = _load_others(directory, path)
    else:
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises nothing more special for a file it cannot parse
            raise InputError(f"{file}: not a tokenizer that can be read ({error})", path=file) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_others(directory: Path, path: str | Path) -> Tokenizer:
    """The tokenizer of a directory without tokenizer.json."""
    kinds = families.tokenizers()
    for kind in kinds:
        if all((directory / name).is_file() for name in kind.files):
            return (kind.load or _load_vocabulary)(directory)
    names = " or ".join(" with ".join(kind.files) for kind in kinds)
    raise InputError(f"{path}: no tokenizer.json or {names} in this directory", path=path)


def _load_vocabulary(directory: Path) -> Tokenizer:
    file = directory / "vocab.txt"
    try:
        # Not splitlines(): some vocabularies have a Unicode line separator as a token.
        tokens = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a vocabulary in UTF-8 ({error})", path=file) from error
    settings = directory / "tokenizer_config.json"
    settings = read_json(settings) if settings.is_file() else {}
    if "[UNK]" not in tokens:
        raise InputError(f"{file}: no [UNK] among its {len(tokens)} lines: not the vocabulary of a BERT", path=file)
    normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    return bert_tokenizer({token: index for index, token in enumerate(tokens)}, normalizer)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike, *, model_max_length: int = 512) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, so that `transformers.AutoTokenizer` loads the directory.

    Args:
        model_max_length: tokens that the model has positions for.
    """
    directory = Path(directory)
    kind = kind_of(tokenizer)
    settings = {
        "tokenizer_class": kind.name,
        "model_max_length": model_max_length,
        **kind.settings(json.loads(tokenizer.to_str())),
        **{f"{role}_token": token for role, token in kind.special_tokens.items()},
    }
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / "tokenizer.json") as file:
        file.write(tokenizer.to_str(pretty=True).encode())
    write_json(directory / "tokenizer_config.json", settings)


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256, in hex, of all that decides which ids a text gets: normalizer, pre-tokenizer, model and added tokens."""
    parts = json.loads(tokenizer.to_str())
    deciding = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def entries(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest id and 1."""
    return max(tokenizer.get_vocab().values()) + 1


def check_fit(tokenizer: Tokenizer, embeddings: int, where: str) -> None:
    """Raise InputError unless every piece has one of an embedding's rows, and a text comes between [CLS] and [SEP], by whatever
    names."""
    if entries(tokenizer) > embeddings:
        raise InputError(
            f"{where}: its tokenizer needs {entries(tokenizer)} rows, the embedding has only {embeddings}", path=where
        )
    ids, framed = special_ids(tokenizer), tokenizer.encode("a").ids
    if framed[:1] != [ids.cls] or framed[-1:] != [ids.sep]:
        kind = kind_of(tokenizer)
        raise InputError(
            f"{where}: its tokenizer puts no {kind.cls} before a text and no {kind.sep} behind: no {kind.name}",
            path=where,
        )


def kind_of(tokenizer: Tokenizer) -> TokenizerKind:
    """The kind, among those of the registered families, whose special tokens the tokenizer has; BERT's where there is none."""
    has = lambda kind: all(tokenizer.token_to_id(token) is not None for token in kind.special_tokens.values())
    return next(filter(has, families.tokenizers()), BERT_TOKENIZER)


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Ids of the special tokens by role: of BERT's [PAD], [UNK], [CLS], [SEP] and [MASK], or those of another family.

    Raises:
        InputError: the tokenizer lacks one of them.
    """
    tokens = kind_of(tokenizer).special_tokens
    ids = {role: tokenizer.token_to_id(token) for role, token in tokens.items()}
    missing = [tokens[role] for role, index in ids.items() if index is None]
    if missing:
        known = ", ".join(families.known())
        raise InputError(
            f"the tokenizer has no {' '.join(missing)}: a tokenizer of a known family is needed ({known})",
            hint="import the module that registers its family first",
        )
    return SpecialIds(**ids)


class Row(NamedTuple):
    """A text as the model reads it: ids and type_ids int32 [T], special tokens included."""

    ids: np.ndarray
    type_ids: np.ndarray


def stack(
    rows: Sequence[Row], pad_id: int, *, batch_size: int | None = None, length: int | None = None
) -> dict[str, np.ndarray]:
    """Rows padded to one batch: `input_ids`, `token_type_ids`, `attention_mask` (1 = a token), int32 [B, T] each.

    Args:
        batch_size: B, the rows beyond those given hold nothing; None: as many as given.
        length: T; None: the longest row's.
    """
    shape = batch_size or len(rows), length or max((len(row.ids) for row in rows), default=0)
    batch = {
        "input_ids": np.full(shape, pad_id, np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
        "attention_mask": np.zeros(shape, np.int32),
    }
    for i, (ids, type_ids) in enumerate(rows):
        batch["input_ids"][i, : len(ids)] = ids
        batch["token_type_ids"][i, : len(ids)] = type_ids
        batch["attention_mask"][i, : len(ids)] = 1
    return batch


def announce_cut(cut: int, texts: int, max_length: int) -> None:
    """Say on stderr, in one line, that texts were too long; nothing if none was."""
    if cut:
        which = "the text is" if texts == 1 else f"{cut:,} of {texts:,} texts {'is' if cut == 1 else 'are'}"
        print(f"{which} longer than {max_length} tokens; what is beyond them was cut off", file=sys.stderr)


class BertTokenizer:
    """BERT's tokenizer, which is DistilBERT's too, or another registered family's: called with texts, it gives
    what a model is called with.

    >>> tokenizer = BertTokenizer.from_pretrained("path/to/distilbert-base-uncased")
    >>> model(**tokenizer("Replace me by any text you'd like.")).last_hidden_state

    Every attribute that is not named here (`encode`, `decode`, `token_to_id`, …) is that of the `tokenizers.Tokenizer` it holds.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`.
        ids: `SpecialIds`.
        max_length: tokens that the model has positions for.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int = _LONGEST):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.ids = special_ids(tokenizer)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, revision: str | None = None) -> Self:
        """Load the tokenizer of a directory or hub id, see `load_tokenizer`; `max_length` is the smaller one of the tokenizer's
        own limit and the model's positions, as far as the directory's files name them.

        Raises:
            InputError: nothing to load is there, or it is damaged or no tokenizer of BERT's kind.
        """
        tokenizer = load_tokenizer(path_or_id, revision)
        directory = Path(path_or_id).parent if Path(path_or_id).is_file() else locate(path_or_id, revision)
        limits = []
        for name, field in (("tokenizer_config.json", "model_max_length"), ("config.json", "max_position_embeddings")):
            settings = read_json(directory / name) if (directory / name).is_file() else {}
            limit = settings.get(field) if isinstance(settings, dict) else None
            if name == "config.json" and isinstance(limit, int):
                limit -= _first_position(settings)
            if isinstance(limit, int) and 0 < limit < 2**31:  # some files say 10³⁰ for "no limit"
                limits.append(limit)
        return cls(tokenizer, max_length=min(limits, default=_LONGEST))

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self).get("tokenizer"), name)

    @functools.cached_property
    def _cutting(self) -> Tokenizer:
        return copy.deepcopy(self.tokenizer)  # one that cuts; the setting would be saved with the other

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Encode one text or several, padded to the longest.

        Args:
            pairs: the second text of each row: `[CLS] text [SEP] pair [SEP]`.
            max_length: tokens to cut longer rows to, the special ones counted; None: `self.max_length`. Of a pair the longer text
                is cut first. A line on stderr says how many rows were cut.

        Returns:
            `input_ids`, `token_type_ids` (1 for the second text) and `attention_mask`, int32 [B, T] each; one text is a row.

        Raises:
            InputError: a text is empty, no string, or has no partner; `max_length` leaves no room for a word, or is beyond the
                model's positions.
        """
        texts, pairs = ([given] if isinstance(given, str) else given for given in (texts, pairs))
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} texts and {len(pairs)} pairs: expected the same number of both")
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        rows, cut = self.rows(given, max_length=max_length)
        announce_cut(cut, len(rows), max_length or self.max_length)
        return stack(rows, self.ids.pad)

    def rows(
        self, texts: Sequence[str | tuple[str, str]], *, max_length: int | None = None, first: int = 1
    ) -> tuple[list[Row], int]:
        """Texts or pairs of texts as rows of their own lengths, and how many of them were cut to `max_length`.

        Args:
            first: the number of the first text, for what errors say.

        Raises:
            InputError: as `__call__`.
        """
        limit = self.max_length if max_length is None else max_length
        shortest = self.tokenizer.num_special_tokens_to_add(any(isinstance(text, tuple) for text in texts)) + 1
        if not shortest <= limit <= self.max_length:
            raise InputError(
                f"max_length = {limit}: expected {shortest} to {self.max_length}, what the model has positions for",
                field="max_length",
            )
        for number, text in enumerate(texts, first):
            if isinstance(text, tuple) and len(text) != 2:
                raise InputError(f"text {number} is a tuple of {len(text)}; a pair is (text, pair)", row=number)
            for part in text if isinstance(text, tuple) else (text,):
                check_text(part, f"text {number}")
        found, cut = self.tokenizer.encode_batch(texts), 0
        for i, encoding in enumerate(found):
            parts = (0, 1) if isinstance(texts[i], tuple) else (0,)
            if not set(parts) <= set(encoding.sequence_ids):
                raise InputError(f"text {first + i} is empty: {texts[i]!r} has no word to read", row=first + i)
            if len(encoding) > limit:
                cut += 1
                found[i] = self._cut(texts[i], limit)
        return [Row(np.array(e.ids, np.int32), np.array(e.type_ids, np.int32)) for e in found], cut

    def _cut(self, text: str | tuple[str, str], limit: int) -> Encoding:
        self._cutting.enable_truncation(limit, strategy="longest_first")
        return self._cutting.encode(*(text if isinstance(text, tuple) else (text,)))


def _first_position(config: dict[str, Any]) -> int:
    """The row of the position table where a config.json's family begins; 0 where the family is not known."""
    family = families.known().get(config.get("model_type"))
    pad = config.get("pad_token_id")
    return family.first_position(family.defaults.get("pad_token_id", 0) if pad is None else pad) if family else 0


def check_text(text: Any, what: str) -> None:
    """Raise InputError unless `text` is a string of valid Unicode; `what` names it."""
    if not isinstance(text, str):
        raise InputError(f"{what} is a {type(text).__name__} ({text!r:.60}); expected a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is not valid Unicode ({text!r:.60}); was it UTF-8 where it came from?") from None
