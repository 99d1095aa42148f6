"""BERT's tokenizer: loaded from and saved as the files that Hugging Face reads, and texts to the arrays that a model reads."""

import dataclasses
import difflib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np
from tokenizers import Encoding, Tokenizer, models

from distilbert_jax import families
from distilbert_jax.base.files import read_json
from distilbert_jax.base.hub import locate
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.families import BERT_TOKENIZER
from distilbert_jax.text import tokenizer_files
from distilbert_jax.text.objects import refuse_fields, several_texts
from distilbert_jax.text.tokenizer_fields import CONFIG
from distilbert_jax.text.tokenizer_files import (
    attach,
    cutting,
    kind_of,
    load_tokenizer,
    settings_of,
    told_in_a_line,
    whole,
)

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


def save_tokenizer(
    tokenizer: "Tokenizer | BertTokenizer", directory: str | os.PathLike, *, model_max_length: int = 512
) -> None:
    """`tokenizer_files.save_tokenizer`, of either kind of tokenizer."""
    inner = tokenizer.tokenizer if isinstance(tokenizer, BertTokenizer) else tokenizer
    tokenizer_files.save_tokenizer(inner, directory, model_max_length=model_max_length)


def read_back(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer that `load_tokenizer` makes of what `save_tokenizer` writes. Files may say the same in several ways, of special
    tokens above all; this is how our own say it.

    Raises:
        InputError: what is written cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as directory:
        save_tokenizer(tokenizer, directory)
        try:
            return load_tokenizer(directory)
        except InputError as error:
            why = str(error).replace(f"{directory}/", "").replace(directory, "its files")
            raise InputError(f"the tokenizer, as it is saved: {why}", field=error.field, hint=error.hint) from None


def _deciding(tokenizer: Tokenizer) -> dict[str, Any]:
    """All that decides which ids a text gets."""
    parts = json.loads(tokenizer.to_str())
    return {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256, in hex, of all that decides which ids a text gets: normalizer, pre-tokenizer, model and added tokens."""
    return hashlib.sha256(json.dumps(_deciding(tokenizer), sort_keys=True).encode()).hexdigest()


def same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give every text the same ids, however their files put it: nested steps, defaults, special tokens that
    are named elsewhere. Parts that differ otherwise count as different, though no text may show it."""
    if fingerprint(one) == fingerprint(other):
        return True
    one, other = read_back(one), read_back(other)
    return _plain(one) == _plain(other) and one.encode("a").ids == other.encode("a").ids


def _plain(tokenizer: Tokenizer) -> dict[str, Any]:
    """`_deciding`, with normalizers and pre-tokenizers as flat lists of steps and BERT's defaults spelt out."""
    parts = _deciding(tokenizer)
    steps = {name: list(_steps(parts[name])) for name in ("normalizer", "pre_tokenizer")}
    for step in steps["normalizer"]:
        if step["type"] == "BertNormalizer" and step["strip_accents"] is None:
            step["strip_accents"] = step["lowercase"]
    return parts | steps


def _steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if part and part["type"] == "Sequence":
        for inner in part.get("normalizers", part.get("pretokenizers", ())):
            yield from _steps(inner)
    elif part:
        yield part


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
    check_frame(tokenizer, where)


def check_frame(tokenizer: Tokenizer, where: str | None) -> None:
    """Raise InputError unless a text comes between [CLS] and [SEP], by whatever names."""
    with told_in_a_line(where), whole(tokenizer):
        ids, framed = special_ids(tokenizer), tokenizer.encode("a").ids
    if framed[:1] != [ids.cls] or framed[-1:] != [ids.sep]:
        kind = kind_of(tokenizer)
        raise InputError(
            f"{where or 'the tokenizer'}: its tokenizer puts no {kind.cls} before a text and no {kind.sep} behind: no {kind.name}",
            path=where,
            field="post_processor",
        )


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Ids of the special tokens by role: of BERT's [PAD], [UNK], [CLS], [SEP] and [MASK], of those that the tokenizer's files name
    in their place, or of those of another family.

    Raises:
        InputError: the tokenizer lacks one of them.
    """
    tokens, path = kind_of(tokenizer).special_tokens, settings_of(tokenizer).path
    ids = {role: index for role, token in tokens.items() if (index := tokenizer.token_to_id(token)) is not None}
    missing = [token for role, token in tokens.items() if role not in ids]
    if missing:
        known = ", ".join(families.known())
        raise InputError(
            f"{path or 'the tokenizer'}: has no {' '.join(missing)}: a tokenizer of a known family is needed ({known})",
            path=path,
            hint="import the module that registers its family first",
        )
    return SpecialIds(**ids)


class Row(NamedTuple):
    """A text as the model reads it: ids and type_ids int32 [T], special tokens included."""

    ids: np.ndarray
    type_ids: np.ndarray

    @classmethod
    def of(cls, encoding: Encoding) -> Self:
        return cls(np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32))


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

    What it shares with `transformers.AutoTokenizer` has that one's names and results. Every attribute that is not named here
    (`token_to_id`, `encode_batch`, …) is that of the `tokenizers.Tokenizer` it holds.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`.
        ids: `SpecialIds`.
        settings: `TokenizerSettings`, what its files say beside its pieces.
        max_length: tokens that the model has positions for; `model_max_length` is another name of it.
        pad_token, unk_token, cls_token, sep_token, mask_token: the special tokens, as text.
        pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id: their ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int = _LONGEST):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.settings, self.ids = settings_of(tokenizer), special_ids(tokenizer)
        check_frame(tokenizer, self.settings.path)
        kind = self.settings.kind
        self.pad_token, self.unk_token, self.cls_token = kind.pad, kind.unk, kind.cls
        self.sep_token, self.mask_token = kind.sep, kind.mask
        self.pad_token_id, self.unk_token_id = self.ids.pad, self.ids.unk
        self.cls_token_id, self.sep_token_id, self.mask_token_id = self.ids.cls, self.ids.sep, self.ids.mask
        self._shorter: tuple[int, Tokenizer] | None = (
            None  # one that cuts, and to how many tokens; made when it is needed
        )

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, revision: str | None = None) -> Self:
        """Load the tokenizer of a directory or hub id, see `load_tokenizer`; `max_length` is the smaller one of the tokenizer's
        own limit and the model's positions, as far as the directory's files name them.

        Raises:
            InputError: nothing to load is there, or it is damaged or no tokenizer of BERT's kind.
        """
        tokenizer = load_tokenizer(path_or_id, revision)
        directory = Path(path_or_id).parent if Path(path_or_id).is_file() else locate(path_or_id, revision)
        config = read_json(directory / "config.json", dict) if (directory / "config.json").exists() else {}
        positions = config.get("max_position_embeddings")
        limit = settings_of(tokenizer).max_length
        shortest = tokenizer.num_special_tokens_to_add(False) + 1
        if limit is not None and limit < shortest:
            raise InputError(
                f"{directory / CONFIG}: model_max_length = {limit}: a text of one word has {shortest} tokens",
                path=directory / CONFIG,
                field="model_max_length",
            )
        if isinstance(positions, int) and (last := positions - _first_position(config)) > 0:
            limit = last if limit is None else min(limit, last)
        return cls(tokenizer, max_length=_LONGEST if limit is None else limit)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, see `save_tokenizer`."""
        save_tokenizer(self, directory, model_max_length=self.max_length)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        attach(self.tokenizer, self.settings)  # a copied tokenizer has lost them

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and "tokenizer" in vars(self) and hasattr(self.tokenizer, name):
            return getattr(self.tokenizer, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; {_nearest(name, dir(self))}")

    def __dir__(self) -> list[str]:
        public = (name for name in dir(vars(self).get("tokenizer")) if not name.startswith("_"))
        return sorted({*super().__dir__(), *public})

    def __repr__(self) -> str:
        normalizer = self.tokenizer.normalizer
        case = "lowercase" if normalizer and normalizer.normalize_str("A") == "a" else "cased"
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, {case}, max_length={self.max_length})"

    def __len__(self) -> int:
        """Entries of the vocabulary, those included that were added to it later."""
        return self.tokenizer.get_vocab_size()

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, without those that were added to it later."""
        return self.tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def model_max_length(self) -> int:
        return self.max_length

    def get_vocab(self) -> dict[str, int]:
        """The id of each token."""
        return self.tokenizer.get_vocab()

    def tokenize(self, text: str, pair: str | None = None, *, add_special_tokens: bool = False) -> list[str]:
        """The pieces of a text, or of a pair of texts; nothing is cut."""
        return self._encoding(text, pair, add_special_tokens).tokens

    def encode(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text, or of a pair of texts, as a list; nothing is cut. For a model's arrays call the tokenizer itself."""
        return self._encoding(text, pair, add_special_tokens).ids

    def _encoding(self, text: str, pair: str | None, add_special_tokens: bool) -> Encoding:
        for part in (text,) if pair is None else (text, pair):
            check_text(part, "the text")
        with told_in_a_line(self.settings.path), whole(self.tokenizer):
            return self.tokenizer.encode(text, pair, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: int | Sequence[int] | np.ndarray, *, skip_special_tokens: bool = False) -> str:
        """The text of one row of ids (a list or an array [T]); ids without a token are left out.

        Raises:
            InputError: several rows, for which there is `batch_decode`, or what are no ids.
        """
        ids = _ids_of(token_ids)
        with told_in_a_line(self.settings.path):
            text = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        # Not of BPE, whose spaces are the text's own.
        clean = self.settings.clean_up and not isinstance(self.tokenizer.model, models.BPE)
        return _without_spaces(text) if clean else text

    def batch_decode(
        self, sequences: Sequence[Sequence[int]] | np.ndarray, *, skip_special_tokens: bool = False
    ) -> list[str]:
        """The text of each row of ids, see `decode`."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in sequences]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """The id of a token or of each of several; that of `[UNK]` for what the vocabulary lacks."""
        if isinstance(tokens, str):
            index = self.tokenizer.token_to_id(tokens)
            return self.ids.unk if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int] | np.ndarray, *, skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The token of an id or of each of several; None for an id without one."""
        special = self._special() if skip_special_tokens else ()
        tokens = [self.tokenizer.id_to_token(index) for index in _ids_of(ids) if index not in special]
        return tokens[0] if np.ndim(ids) == 0 and tokens else tokens

    def _special(self) -> set[int]:
        """The ids of all special tokens, of those without a role too."""
        others = (*self.settings.named.values(), *self.settings.extra)
        return {*vars(self.ids).values(), *self.convert_tokens_to_ids(others)}

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        padding: bool | str = True,
        truncation: bool | str = True,
        max_length: int | None = None,
        return_tensors: str = "np",
        **unknown: Any,
    ) -> dict[str, np.ndarray]:
        """Encode one text or several.

        Args:
            pairs: the second text of each row: `[CLS] text [SEP] pair [SEP]`.
            padding: True or "longest": to the longest row; "max_length": to `max_length`; False: rows must be of one length.
            truncation: True or "longest_first": longer rows are cut to `max_length`, of a pair the longer text first, and a line on
                stderr says how many were cut; False: a longer row is an error.
            max_length: tokens of a row at most, the special ones counted; None: `self.max_length`.
            return_tensors: "np", the only kind; JAX takes NumPy's arrays as they are.

        Returns:
            `input_ids`, `token_type_ids` (1 for the second text) and `attention_mask`, int32 [B, T] each; one text is a row.

        Raises:
            InputError: a text is empty, no string, or has no partner; `max_length` leaves no room for a word, or is beyond the
                model's positions; an argument or its value is unknown.
        """
        _check_arguments(unknown)
        to_longest = _chosen("padding", padding, {True: True, "longest": True, "max_length": False, **_NOT_PADDED})
        cut_off = _chosen("truncation", truncation, _TRUNCATION)
        _chosen("return_tensors", return_tensors, {"np": "np"})
        texts = [texts] if isinstance(texts, str) else list(several_texts(texts))
        pairs = [pairs] if isinstance(pairs, str) else pairs if pairs is None else list(several_texts(pairs, "pairs"))
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(
                f"{len(texts)} texts and {len(pairs)} pairs: expected the same number of both", field="pairs"
            )
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        rows, cut = self.rows(given, max_length=max_length, truncation=cut_off)
        announce_cut(cut, len(rows), max_length or self.max_length)
        if to_longest is None and len(lengths := sorted({len(row.ids) for row in rows})) > 1:
            raise InputError(
                f"padding = False: the rows have {lengths[0]} to {lengths[-1]} tokens, and an array has rows of one length; "
                "leave padding out, or give one text at a time",
                field="padding",
            )
        return stack(rows, self.ids.pad, length=(max_length or self.max_length) if to_longest is False else None)

    def rows(
        self,
        texts: Sequence[str | tuple[str, str]],
        *,
        max_length: int | None = None,
        truncation: bool = True,
        first: int = 1,
    ) -> tuple[list[Row], int]:
        """Texts or pairs of texts as rows of their own lengths, and how many of them were cut to `max_length`.

        Args:
            truncation: False: a text that would be cut is an error.
            first: the number of the first text, for what errors say.

        Raises:
            InputError: as `__call__`.
        """
        encodings, cut = self.encodings(texts, max_length=max_length, truncation=truncation, first=first)
        return [Row.of(encoding) for encoding in encodings], cut

    def encodings(
        self,
        texts: Sequence[str | tuple[str, str]],
        *,
        max_length: int | None = None,
        truncation: bool = True,
        first: int = 1,
    ) -> tuple[list[Encoding], int]:
        """What `rows` makes rows of: the library's encodings, which also know where each token stands in its text."""
        limit = self.max_length if max_length is None else max_length
        shortest = self.tokenizer.num_special_tokens_to_add(any(isinstance(text, tuple) for text in texts)) + 1
        if not shortest <= limit <= self.max_length:
            raise InputError(
                f"max_length = {limit}: expected {shortest} to {self.max_length}, what the model has positions for",
                field="max_length",
            )
        for number, text in enumerate(texts, first):
            refuse_fields(text, f"text {number}", row=number)
            if isinstance(text, tuple) and len(text) != 2:
                raise InputError(f"text {number} is a tuple of {len(text)}; a pair is (text, pair)", row=number)
            for part in text if isinstance(text, tuple) else (text,):
                check_text(part, f"text {number}")
        with told_in_a_line(self.settings.path), whole(self.tokenizer):
            encodings, cut = self.tokenizer.encode_batch(texts), 0
        for i, encoding in enumerate(encodings):
            parts = (0, 1) if isinstance(texts[i], tuple) else (0,)
            if not set(parts) <= set(encoding.sequence_ids):
                raise InputError(f"text {first + i} is empty: {texts[i]!r} has no word to read", row=first + i)
            if len(encoding) > limit:
                if not truncation:
                    raise InputError(
                        f"text {first + i} has {len(encoding)} tokens, above the limit of {limit}, and truncation is off; shorten "
                        "it, or leave truncation out",
                        field="truncation",
                        row=first + i,
                    )
                cut += 1
                encodings[i] = self._cut(texts[i], limit)
        return encodings, cut

    def _cut(self, text: str | tuple[str, str], limit: int) -> Encoding:
        first, second = text if isinstance(text, tuple) else (text, None)
        if self._shorter is None or self._shorter[0] != limit:
            self._shorter = limit, cutting(self.tokenizer, limit)
        return self._shorter[1].encode(first, second)


def _first_position(config: dict[str, Any]) -> int:
    """The row of the position table where a config.json's family begins; 0 where the family is not known."""
    family = families.known().get(config.get("model_type", ""))
    pad = config.get("pad_token_id")
    return family.first_position(family.defaults.get("pad_token_id", 0) if pad is None else pad) if family else 0


# What the reference's clean_up_tokenization replaces, in its order.
_SPACES = (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (
    " 've", "'ve"), (" 're", "'re")  # fmt: skip


def _without_spaces(text: str) -> str:
    """A decoded text without the spaces that stand before punctuation and the ends of English contractions."""
    for spaced, joined in _SPACES:
        text = text.replace(spaced, joined)
    return text


_NOT_PADDED = {False: None, "do_not_pad": None}
_TRUNCATION = {True: True, "longest_first": True, False: False, "do_not_truncate": False}
_ARGUMENTS = ("texts", "pairs", "padding", "truncation", "max_length", "return_tensors")
_OTHER_NAMES = {
    "text": "texts",
    "text_pair": "pairs",
    "pad_to_max_length": "padding",
}  # what transformers says for them


def _check_arguments(unknown: Mapping[str, Any]) -> None:
    for name in unknown:
        hint = f"did you mean {_OTHER_NAMES[name]!r}?" if name in _OTHER_NAMES else nearest(name, _ARGUMENTS)
        raise InputError(f"{name}: a BertTokenizer has no such argument; {hint}", field=name, hint=hint)


def _chosen(name: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """What `choices` gives for the value of an argument."""
    if isinstance(value, bool | str) and value in choices:
        return choices[value]
    hint = f"known: {', '.join(map(repr, choices))}"
    raise InputError(f"{name} = {value!r}: {hint}", field=name, hint=hint)


def _ids_of(ids: Any) -> list[int]:
    """One id, a list or an array [T] of them, as a list."""
    try:
        array = np.atleast_1d(np.asarray(ids))
    except ValueError:  # rows of different lengths
        array = np.empty((len(ids), 0))
    if array.ndim > 1:
        raise InputError(f"ids of {len(array)} rows: expected those of one; several are for batch_decode", field="ids")
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0):
        raise InputError(f"ids: expected whole numbers from 0 on, not {ids!r:.60}", field="ids")
    return [int(index) for index in array]


def _nearest(name: str, known: Collection[str]) -> str:
    """The nearest name, or where names are listed: there are too many to say them all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "dir() lists what it has"


def check_text(text: Any, what: str) -> None:
    """Raise InputError unless `text` is a string of valid Unicode; `what` names it."""
    if not isinstance(text, str):
        raise InputError(f"{what} is a {type(text).__name__} ({text!r:.60}); expected a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is not valid Unicode ({text!r:.60}); was it UTF-8 where it came from?") from None
