"""Tokenizer settings: what tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json say beside the pieces.

The order in which one file yields to another is that of transformers (`PreTrainedTokenizerBase._from_pretrained`);
`tokenizer_fields.FIELDS` lists what is read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from tokenizers import AddedToken

from distilbert_jax import families
from distilbert_jax.base.file_fields import refuse_values
from distilbert_jax.base.files import read_json
from distilbert_jax.errors import InputError
from distilbert_jax.families import BERT_TOKENIZER, TokenizerKind
from distilbert_jax.text.tokenizer_fields import ADDED, CONFIG, SPECIAL_MAP, TOKENIZER, rows_of

# Classes of the reference that take tokenizer.json as it stands, and those that are its BertTokenizer under another name.
AS_IT_STANDS = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
_BERT_NAMES = (
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "MobileBertTokenizer",
    "LayoutLMTokenizer",
    "SqueezeBertTokenizer",
)
_WITHOUT_TYPES = (*AS_IT_STANDS, "DistilBertTokenizer")  # their model_input_names where no file names them
INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")

NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)  # in the order of new ids
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_NO_LIMIT = 2**31  # some files say 10³⁰

Token = str | AddedToken


class NormalizerOptions(TypedDict):
    """Options of `tokenizers.normalizers.BertNormalizer`."""

    lowercase: bool
    strip_accents: bool | None
    handle_chinese_chars: bool


@dataclass(frozen=True)
class TokenizerSettings:
    """What decides a tokenizer's results and is not in a `tokenizers.Tokenizer`.

    Attributes:
        kind: its family's, with the names that the files give the special tokens.
        as_it_stands: whether the files name a class of the reference that takes tokenizer.json as it stands.
        named: other special tokens by their fields (`eos_token`).
        extra: special tokens without a name.
        type_ids: whether the second text has another token type than the first.
        clean_up: whether spaces before punctuation are taken out of decoded texts.
        truncation_side: "right" or "left", the side that is cut.
        split_special_tokens: whether special tokens that a text spells out are ordinary pieces.
        max_length: tokens at most, as the files say; None: they name no limit.
        path: the directory or file, for what errors say; None: no file.
    """

    kind: TokenizerKind = BERT_TOKENIZER
    as_it_stands: bool = False
    named: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    type_ids: bool = True
    clean_up: bool = False
    truncation_side: str = "right"
    split_special_tokens: bool = False
    max_length: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class Declared:
    """What the files beside tokenizer.json say, their types checked.

    Attributes:
        directory: where they lie.
        config: tokenizer_config.json, without its special tokens.
        tokenizer_class: without "Fast" at its end; None: no file names one.
        model_type: of config.json; None: there is none.
        named: special tokens by their fields, in the reference's order; None: the field says that there is none.
        extra: special tokens without a name.
        added: id → token, of tokenizer_config.json or else of added_tokens.json.
        decides_added: whether `added` is from tokenizer_config.json, beside which other files do not add tokens.
    """

    directory: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_class: str | None = None
    model_type: str | None = None
    named: Mapping[str, Token | None] = field(default_factory=dict)
    extra: tuple[Token, ...] = ()
    added: Mapping[int, AddedToken] = field(default_factory=dict)
    decides_added: bool = False

    @property
    def path(self) -> Path:
        """tokenizer_config.json."""
        return self.directory / CONFIG

    def kind(self) -> TokenizerKind | None:
        """The kind of tokenizer that these files name by a class of the reference or by the family in config.json; None: they name
        none.

        Raises:
            InputError: they name a class of no family.
        """
        family = families.known().get(self.model_type or "")
        if self.tokenizer_class is None or self.tokenizer_class in AS_IT_STANDS:
            return family.tokenizer if family else None
        kinds = {kind.name: kind for kind in families.tokenizers()} | dict.fromkeys(_BERT_NAMES, BERT_TOKENIZER)
        if self.tokenizer_class in kinds:
            return kinds[self.tokenizer_class]
        hint = (
            f"known: {', '.join([*kinds, AS_IT_STANDS[0]])}, of which the last one takes tokenizer.json as it stands; import the "
            "module that registers another family first"
        )
        raise InputError(
            f"{self.path}: tokenizer_class = {self.tokenizer_class!r}: {hint}",
            path=self.path,
            field="tokenizer_class",
            hint=hint,
        )

    @property
    def as_it_stands(self) -> bool:
        """Whether the class takes tokenizer.json as it stands, or none is named."""
        return self.tokenizer_class in AS_IT_STANDS or (
            self.tokenizer_class is None and self.model_type not in families.known()
        )

    def settings(self, kind: TokenizerKind, *, direction: str = "right") -> TokenizerSettings:
        """The settings that these files make of a kind of tokenizer.

        Args:
            direction: the side that tokenizer.json cuts.
        """
        given = {name: content(token) for name, token in self.named.items() if token is not None}
        roles = {role: given.pop(f"{role}_token") for role in kind.special_tokens if f"{role}_token" in given}
        self._check_said("split_special_tokens")
        inputs = self._inputs() or (INPUT_NAMES if self._has_type_ids else ())
        return TokenizerSettings(
            kind=dataclasses.replace(kind, **roles),
            as_it_stands=self.tokenizer_class in AS_IT_STANDS,
            named=given,
            extra=tuple(map(content, self.extra)),
            type_ids="token_type_ids" in inputs,
            clean_up=bool(self._bool("clean_up_tokenization_spaces")),
            truncation_side=self._truncation_side(direction),
            split_special_tokens=bool(self._bool("split_special_tokens")),
            max_length=self._limit(),
            path=str(self.directory),
        )

    def normalizer(self) -> NormalizerOptions:
        """The options of BERT's normalizer."""
        self._check_said("do_lower_case", "tokenize_chinese_chars")
        return {
            "lowercase": self.config.get("do_lower_case", True),
            "strip_accents": self._bool("strip_accents"),
            "handle_chinese_chars": self.config.get("tokenize_chinese_chars", True),
        }

    def _check_said(self, *names: str) -> None:
        """Raise InputError where one of these fields is there and neither true nor false; null is not as good as none."""
        for name in names:
            if name in self.config and self._bool(name) is None:
                raise self.refused(name, "expected true or false")

    @property
    def _has_type_ids(self) -> bool:
        """Whether the class gives token types where no file says so; without a file that names a class there is no reference."""
        named = self.tokenizer_class or self.model_type in families.known()
        return not named or self.tokenizer_class not in _WITHOUT_TYPES

    def _inputs(self) -> Sequence[str] | None:
        if "model_input_names" not in self.config:
            return None
        names = self.config["model_input_names"]
        if not (isinstance(names, list) and names[:1] == ["input_ids"] and set(names) in _INPUTS):
            raise self.refused("model_input_names", f"expected {', '.join(INPUT_NAMES)}, the second one or not")
        return names

    def _truncation_side(self, direction: str) -> str:
        side = self.config.get("truncation_side", direction)
        if side not in ("right", "left"):
            raise self.refused("truncation_side", "expected 'right' or 'left'")
        return side

    def _bool(self, name: str) -> bool | None:
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refused(name, "expected true or false")
        return value

    def _limit(self) -> int | None:
        name = "model_max_length" if self.config.get("model_max_length") is not None else "max_len"
        limit = self.config.get(name)
        if limit is None:
            return None
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise self.refused(name, "expected a number of tokens")
        if limit >= _NO_LIMIT:
            return None
        if limit != int(limit):
            raise self.refused(name, "expected a whole number of tokens")
        return int(limit)

    def refused(self, name: str, why: str) -> InputError:
        """The error of a field of tokenizer_config.json."""
        return wrong(self.path, name, self.config.get(name), why)


_INPUTS = (set(INPUT_NAMES), {"input_ids", "attention_mask"})


def content(token: Token) -> str:
    """The text of a token."""
    return token if isinstance(token, str) else token.content


def wrong(path: Path, name: str, value: object, why: str) -> InputError:
    """The error of a field that has such a value."""
    return InputError(f"{path}: {name} = {value!r:.60}: {why}", path=path, field=name)


def read_declared(directory: Path) -> Declared:
    """What a directory's files say beside tokenizer.json; none of them has to be there.

    Raises:
        InputError: one is damaged, has a field of the wrong type, or one that is refused.
    """
    file, config = directory / CONFIG, _object(directory / CONFIG)
    model_file, model = directory / "config.json", _object(directory / "config.json")
    refuse_values(config, rows_of(CONFIG), file)
    if (directory / TOKENIZER).exists():  # else the reference takes text in them for special tokens
        config = {name: value for name, value in config.items() if name not in ("add_bos_token", "add_eos_token")}
    decoder = config.get("added_tokens_decoder")
    if decoder is None and "added_tokens_decoder" in config:
        raise wrong(file, "added_tokens_decoder", decoder, "expected an object of ids and tokens")
    special = _special_map(directory / SPECIAL_MAP) if decoder is None else {}
    named, extra = _special_tokens(config, special, file, directory / SPECIAL_MAP)
    if decoder is None:
        added = _older(directory / ADDED, {content(token) for token in (*filter(None, named.values()), *extra)})
    else:
        added = _by_id(decoder, file)
    classes = [_text(config, "tokenizer_class", file), _text(model, "tokenizer_class", model_file)]
    named_class = next((name for name in classes if name is not None), None)
    return Declared(
        directory=directory,
        config={name: value for name, value in config.items() if not name.endswith("_token") and name not in _LISTS},
        tokenizer_class=_without_fast(named_class),
        model_type=_text(model, "model_type", model_file),
        named=named,
        extra=tuple(extra),
        added=added,
        decides_added=decoder is not None,
    )


def _without_fast(name: str | None) -> str | None:
    return name if name is None or name in AS_IT_STANDS else name.removesuffix("Fast")


def _object(file: Path) -> dict[str, Any]:
    """The content of a file; empty where there is no file."""
    return read_json(file, dict) if file.exists() else {}


def _text(fields: Mapping[str, Any], name: str, file: Path) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(file, name, value, "expected a name")
    return value


def _special_map(file: Path) -> dict[str, Any]:
    special = _object(file)
    for name, value in special.items():
        if not name.endswith("_token") and name not in _LISTS:
            raise wrong(file, name, value, "names no special token")
    return special


def _special_tokens(
    config: Mapping[str, Any], special: Mapping[str, Any], config_file: Path, special_file: Path
) -> tuple[dict[str, Token | None], list[Token]]:
    """Special tokens by name, and those without one."""
    named: dict[str, Token | None] = {}
    for name in NAMED:
        fields, file = (special, special_file) if name in special else (config, config_file)
        if name in fields:
            named[name] = None if fields[name] is None else _token(fields[name], name, file, special=fields is special)
    own = {name: value for name, value in config.items() if _names_token(name, value)}
    named |= {name: _token(value, name, special_file, special=True) for name, value in special.items()
              if _names_token(name, value) and name not in own}  # fmt: skip
    named |= {name: _token(value, name, config_file) for name, value in own.items()}
    inside, extra = _without_names(config, special, config_file, special_file)
    specific = _fields_of(config.get("model_specific_special_tokens"), "model_specific_special_tokens", config_file)
    if not own:  # the reference lets them take the place of these
        inside = {name: _token(value, name, config_file) for name, value in specific.items()} | inside
    return named | inside, extra


def _names_token(name: str, value: object) -> bool:
    """Whether a field that is none of the reference's own names a token: `image_token` does, `add_bos_token: true` does not."""
    return name.endswith("_token") and name not in NAMED and (isinstance(value, str) or _has_type(value))


def _has_type(value: object) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def _without_names(
    config: Mapping[str, Any], special: Mapping[str, Any], config_file: Path, special_file: Path
) -> tuple[dict[str, Token], list[Token]]:
    """`extra_special_tokens` and its older name: the tokens of an object by name, and those of lists."""
    newer, older = _LISTS
    name = newer if config.get(newer) or older not in config else older
    lists = [(config.get(name), name, config_file, False), (special.get(newer), newer, special_file, True)]
    if not any(name in config and not isinstance(config[name], dict) for name in _LISTS) and newer not in special:
        lists.append((special.get(older), older, special_file, True))
    named, extra = {}, []
    for values, name, file, flagged in lists:
        # An object belongs under the newer name, though the reference has one beside it.
        if values == {} and name == older and flagged:
            raise wrong(file, name, values, "expected a list of tokens")
        if isinstance(values, dict):
            named |= {key: _token(value, name, file, special=flagged) for key, value in values.items()}
        elif isinstance(values, list):
            tokens = [_token(value, name, file, special=flagged) for value in values]
            extra += [token for token in tokens if token not in extra]
        elif values is not None:
            raise wrong(file, name, values, "expected a list of tokens")
    return named, extra


def _fields_of(value: object, name: str, file: Path) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise wrong(file, name, value, "expected an object of names and tokens")
    return value or {}


def _token(value: object, name: str, file: Path, *, special: bool = False) -> Token:
    """A token that is written as its text or as an object with its flags; `special`: it is, whatever that object says."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise wrong(file, name, value, "expected a token, as text or as an object with `content`")
    flags = {key: flag for key, flag in value.items() if key not in ("content", "__type", "id")}
    if unknown := [key for key, flag in flags.items() if key not in _FLAGS or not isinstance(flag, bool)]:
        raise wrong(file, name, value, f"{unknown[0]} is none of {', '.join(_FLAGS)}, or neither true nor false")
    return AddedToken(value["content"], **flags | ({"special": True} if special else {}))


def _by_id(decoder: object, file: Path) -> dict[int, AddedToken]:
    """`added_tokens_decoder`: id, as text → token with its flags."""
    if not isinstance(decoder, dict):
        raise wrong(file, "added_tokens_decoder", decoder, "expected an object of ids and tokens")
    added = {}
    for index, value in decoder.items():
        if not index.isdecimal() or not isinstance(value, dict):
            raise wrong(
                file, "added_tokens_decoder", {index: value}, "expected an id and an object with a token's flags"
            )
        added[int(index)] = _token(value, "added_tokens_decoder", file)
    return added


def _older(file: Path, special: set[str]) -> dict[int, AddedToken]:
    """added_tokens.json: token → id. Special is what another file names so."""
    added = {}
    for token, index in _object(file).items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise wrong(file, token, index, "expected an id")
        added[index] = AddedToken(token, normalized=token not in special, special=token in special)
    return added
