"""Tokenizer files: a directory's tokenizer.json or vocab.txt, with what stands beside it, to a `Tokenizer` and back.

It says the same to `transformers.AutoTokenizer`, before and after it is saved here: tests/parity/test_tokenizer_fields.py.
"""

import contextlib
import copy
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from distilbert_jax import families
from distilbert_jax.base.files import atomic_file, read_json, read_text, write_json
from distilbert_jax.base.hub import locate
from distilbert_jax.errors import InputError, said, warn_once
from distilbert_jax.families import BERT_TOKENIZER, TokenizerKind
from distilbert_jax.text.tokenizer_fields import CONFIG, TOKENIZER, VOCABULARY
from distilbert_jax.text.tokenizer_settings import (
    AS_IT_STANDS,
    INPUT_NAMES,
    NAMED,
    Declared,
    Token,
    TokenizerSettings,
    content,
    read_declared,
)

_LARGEST = 64 << 20  # bytes of a vocabulary; that of a hundred languages has 17 MB


def settings_of(tokenizer: Tokenizer) -> TokenizerSettings:
    """What a tokenizer that was loaded here has beside its pieces; the defaults of its kind for one that was made otherwise."""
    return vars(tokenizer).get("settings") or TokenizerSettings(kind=kind_of(tokenizer))


def attach(tokenizer: Tokenizer, settings: TokenizerSettings) -> Tokenizer:
    """Give a tokenizer its settings; a copy of it, made through its JSON, has none."""
    vars(tokenizer)["settings"] = settings
    tokenizer.encode_special_tokens = settings.split_special_tokens
    return tokenizer


def cutting(tokenizer: Tokenizer, length: int) -> Tokenizer:
    """A copy that cuts to `length` tokens, of a pair the longer text first."""
    settings = settings_of(tokenizer)
    copied = attach(copy.deepcopy(tokenizer), settings)
    copied.no_padding()
    copied.enable_truncation(length, strategy="longest_first", direction=settings.truncation_side)
    return copied


@contextlib.contextmanager
def whole(tokenizer: Tokenizer) -> Iterator[None]:
    """A tokenizer without the truncation and padding that its owner may have switched on for calls of his own."""
    truncation, padding = tokenizer.truncation, tokenizer.padding
    if truncation is None and padding is None:
        yield
        return
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        yield
    finally:
        if truncation is not None:
            tokenizer.enable_truncation(**truncation)
        if padding is not None:
            tokenizer.enable_padding(**padding)


def kind_of(tokenizer: Tokenizer) -> TokenizerKind:
    """The kind that a tokenizer's files named or, where there were none, that among those of the registered families whose special
    tokens it has; BERT's where there is none."""
    if settings := vars(tokenizer).get("settings"):
        return settings.kind
    has = lambda kind: all(tokenizer.token_to_id(token) is not None for token in kind.special_tokens.values())
    return next(filter(has, families.tokenizers()), BERT_TOKENIZER)


@contextlib.contextmanager
def told_in_a_line(path: object) -> Iterator[None]:
    """Turn what the library of tokenizers raises, its panics included, into an InputError that names the file, if any."""
    path = "the tokenizer" if path is None else path
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # nothing more special comes from there
        raise InputError(f"{path}: not a tokenizer that can be used ({said(error):.200})", path=path) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # it has no module to import it from
            raise
        why = "the library of tokenizers gave up; a regular expression that goes back without end does that"
        raise InputError(f"{path}: {why} ({said(error):.200})", path=path) from None


def bert_tokenizer(vocabulary: dict[str, int], normalizer: normalizers.Normalizer) -> Tokenizer:
    """BERT's tokenizer of a vocabulary, with those of BERT's special tokens that are in it."""
    present = [token for token in BERT_TOKENIZER.special_tokens.values() if token in vocabulary]
    tokenizer = _word_pieces(vocabulary, normalizer, BERT_TOKENIZER.unk)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in present])
    if BERT_TOKENIZER.cls in vocabulary and BERT_TOKENIZER.sep in vocabulary:
        tokenizer.post_processor = _frame(tokenizer, BERT_TOKENIZER)
    return tokenizer


def _word_pieces(vocabulary: dict[str, int], normalizer: normalizers.Normalizer, unk: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _frame(tokenizer: Tokenizer, kind: TokenizerKind, *, second: int = 1) -> processors.TemplateProcessing:
    """The template of a text and of two; `second`: the token type of the second text."""
    cls, sep = kind.cls, kind.sep
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:{second} {sep}:{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


def load_tokenizer(path: str | Path, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer from a `tokenizer.json`, or from a directory or hub id that has one or else the files of a registered
    family, such as BERT's `vocab.txt`. tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json beside
    it are read as transformers reads them (`tokenizer_fields.FIELDS`).

    Truncation and padding are switched off: some published files have them on, and would cut every line of a corpus.

    Raises:
        InputError: nothing to load is there, it cannot be read as a tokenizer, or a field is refused.
    """
    file = Path(path)
    if file.is_file():
        directory = file.parent
    else:
        directory = locate(path, revision)
        file = directory / TOKENIZER
    # A file under another name stands alone: what lies beside it belongs to another tokenizer.
    declared = read_declared(directory) if file.name == TOKENIZER else Declared(directory)
    tokenizer, settings = _from_json(file, declared) if file.exists() else _from_others(declared, path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return attach(tokenizer, settings)


def _from_json(file: Path, declared: Declared) -> tuple[Tokenizer, TokenizerSettings]:
    parts = read_json(file, dict, limit=_LARGEST)
    with told_in_a_line(file):
        tokenizer = Tokenizer.from_str(json.dumps(parts))
    _check_vocabulary(parts, file)
    kind = declared.kind()
    settings = declared.settings(kind or kind_of(tokenizer), direction=_direction(parts, "truncation"))
    if _direction(parts, "padding") == "left" and "padding_side" not in declared.config:
        why = "positions count from the left, so padding stands on the right"
        raise InputError(f"{file}: padding.direction = 'Left': {why}", path=file, field="padding")
    of_file = {entry["id"]: _added(entry) for entry in parts.get("added_tokens") or []}
    added = dict(declared.added) if declared.decides_added else {**declared.added, **of_file}
    if declared.as_it_stands or settings.kind.load is not None:
        with told_in_a_line(file):
            if not settings.type_ids:
                tokenizer = Tokenizer.from_str(
                    json.dumps(parts | {"post_processor": _one_type(parts["post_processor"])})
                )
        _check_family(declared, settings.kind, parts)
        _check_named(tokenizer, declared, settings.kind, added, file)
        _add(tokenizer, declared, added)
        _check_unk(tokenizer, parts, file)
        _try_expressions(tokenizer, parts, file)
        added |= of_file
    else:
        if not isinstance(tokenizer.model, models.WordPiece):
            kind_of_model = type(tokenizer.model).__name__
            raise InputError(
                f"{file}: model.type = {kind_of_model!r}: a {settings.kind.name} has WordPiece",
                path=file,
                field="model.type",
            )
        tokenizer = _berts(parts["model"]["vocab"], declared, settings, added, file)
        _tell_unused(parts, declared, settings.kind, file)
    _check_added(tokenizer, added, file)
    _check_template(tokenizer, parts.get("post_processor"), file)
    return tokenizer, settings


def _from_others(declared: Declared, given: str | Path) -> tuple[Tokenizer, TokenizerSettings]:
    """The tokenizer of a directory without tokenizer.json."""
    directory, named = declared.directory, declared.kind()
    if declared.tokenizer_class in AS_IT_STANDS:
        raise declared.refused("tokenizer_class", f"it goes by a {TOKENIZER}, which is not there")
    kinds = families.tokenizers() if named is None else (named, *families.tokenizers())
    kind = next((kind for kind in kinds if all((directory / name).is_file() for name in kind.files)), None)
    if kind is None:
        names = " or ".join(dict.fromkeys(" with ".join(kind.files) for kind in kinds))
        raise InputError(f"{given}: no {TOKENIZER} or {names} in this directory", path=given)
    settings = declared.settings(kind)
    if kind.load is None:
        file = directory / VOCABULARY
        tokenizer = _berts(_read_vocabulary(file), declared, settings, dict(declared.added), file)
    else:
        file = directory / kind.files[0]
        with told_in_a_line(file):
            tokenizer = kind.load(directory)
        _check_named(tokenizer, declared, settings.kind, declared.added, file)
        _add(tokenizer, declared, declared.added)
    _check_added(tokenizer, declared.added, file)
    return tokenizer, settings


def _read_vocabulary(file: Path) -> dict[str, int]:
    """vocab.txt: token → line. Space at a line's end is none of the token's, as for the reference."""
    if read_text(file, _LARGEST, "a vocabulary").startswith("\ufeff"):
        raise InputError(
            f"{file}: begins with a byte order mark, which would be part of its first token: save it as UTF-8 without one",
            path=file,
        )
    with told_in_a_line(file):
        return models.WordPiece.read_file(str(file))


def _berts(
    vocabulary: dict[str, int],
    declared: Declared,
    settings: TokenizerSettings,
    added: Mapping[int, AddedToken],
    file: Path,
) -> Tokenizer:
    """What the reference's BertTokenizer makes of a vocabulary: normalizer, pieces and template are its own."""
    kind = settings.kind
    if kind.unk not in vocabulary:
        lines = "lines" if file.name == VOCABULARY else "tokens"
        raise InputError(
            f"{file}: no {kind.unk} among its {len(vocabulary)} {lines}: not the vocabulary of a BERT",
            path=file,
            field="unk_token",
        )
    with told_in_a_line(file):
        tokenizer = _word_pieces(vocabulary, normalizers.BertNormalizer(**declared.normalizer()), kind.unk)
        _check_named(tokenizer, declared, kind, added, file, all_of_them=True)
        _add(tokenizer, declared, added, {f"{role}_token": token for role, token in kind.special_tokens.items()})
        tokenizer.post_processor = _frame(tokenizer, kind, second=int(settings.type_ids))
    return tokenizer


def _add(
    tokenizer: Tokenizer,
    declared: Declared,
    added: Mapping[int, AddedToken],
    defaults: Mapping[str, Token] | None = None,
) -> None:
    """Add tokens as the reference does: those with an id in its order, then special ones that are no added tokens yet."""
    there = tokenizer.get_added_tokens_decoder().values()
    known = {repr(token) for token in there}
    new: list[AddedToken] = [token for _, token in sorted(added.items()) if repr(token) not in known]
    have = {token.content for token in (*there, *new)}
    named = {**(defaults or {}), **{name: token for name, token in declared.named.items() if token is not None}}
    for token in (*named.values(), *declared.extra):
        if content(token) not in have:
            new.append(AddedToken(token, special=True) if isinstance(token, str) else token)
    names = {content(token) for token in named.values()}
    for token in new:
        token.special = token.special or token.content in names
    tokenizer.add_tokens(new)


def _added(entry: Mapping[str, Any]) -> AddedToken:
    """An entry of `added_tokens`, which the library has read before."""
    return AddedToken(**{name: value for name, value in entry.items() if name != "id"})


def _direction(parts: Mapping[str, Any], name: str) -> str:
    return str((parts.get(name) or {}).get("direction", "right")).lower()


def _one_type(post_processor: Any) -> Any:
    """A post-processor whose token types are all 0."""
    if not isinstance(post_processor, dict):
        return post_processor
    if post_processor.get("type") == "BertProcessing":
        (cls, cls_id), (sep, sep_id) = post_processor["cls"], post_processor["sep"]
        frame = processors.TemplateProcessing(
            single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B {sep}", special_tokens=[(cls, cls_id), (sep, sep_id)]
        )
        return json.loads(frame.__getstate__())
    if "processors" in post_processor:
        return post_processor | {"processors": [_one_type(one) for one in post_processor["processors"]]}
    without = lambda pieces: [{kind: piece | {"type_id": 0} for kind, piece in entry.items()} for entry in pieces]
    return post_processor | {
        name: without(post_processor[name]) for name in ("single", "pair") if name in post_processor
    }


def _check_vocabulary(parts: Mapping[str, Any], file: Path) -> None:
    vocabulary = parts["model"].get("vocab")
    if isinstance(vocabulary, dict) and len(set(vocabulary.values())) < len(vocabulary):
        seen: dict[int, str] = {}
        one, other, index = next(
            (seen[index], token, index) for token, index in vocabulary.items() if seen.setdefault(index, token) != token
        )
        raise InputError(
            f"{file}: model.vocab: {one!r} and {other!r} have the id {index}", path=file, field="model.vocab"
        )


def _check_named(
    tokenizer: Tokenizer,
    declared: Declared,
    kind: TokenizerKind,
    added: Mapping[int, AddedToken],
    file: Path,
    *,
    all_of_them: bool = False,
) -> None:
    """Raise InputError where a special token of a role is not in the vocabulary: it would get a new id, beyond the model's rows.

    Args:
        all_of_them: False: those that a file names; True: also those that have their usual names.
    """
    contents = {token.content for token in added.values()}
    for role, token in kind.special_tokens.items():
        name = f"{role}_token"
        if all_of_them and declared.named.get(name, token) is None:
            raise InputError(f"{declared.path}: {name} = null: a {kind.name} has one", path=declared.path, field=name)
        asked = all_of_them or declared.named.get(name) is not None
        if asked and token not in contents and tokenizer.token_to_id(token) is None:
            raise InputError(
                f"{file}: no {token}, the {name} of a {kind.name}; where it is called otherwise, {CONFIG} names it",
                path=file,
                field=name,
            )


def _check_added(tokenizer: Tokenizer, added: Mapping[int, AddedToken], file: Path) -> None:
    """Raise InputError unless every added token has the id that the files give it, and no other token has it."""
    for index, token in added.items():
        given = tokenizer.token_to_id(token.content)
        if given != index:
            raise InputError(
                f"{file.parent}: the added token {token.content!r} has the id {index} in its files, the tokenizer gives it {given}",
                path=file.parent,
                field="added_tokens",
            )
    for index, token in tokenizer.get_added_tokens_decoder().items():
        if tokenizer.model.id_to_token(index) not in (None, token.content):
            raise InputError(
                f"{file.parent}: the added token {token.content!r} gets the id {index}, which another token has",
                path=file.parent,
                field="added_tokens",
            )


def _check_template(tokenizer: Tokenizer, post_processor: Any, file: Path) -> None:
    """Raise InputError where a template adds an id without a token."""
    for name, index in _template_ids(post_processor):
        if tokenizer.id_to_token(index) is None:
            raise InputError(
                f"{file}: post_processor: {name!r} has the id {index}, which no token has",
                path=file,
                field="post_processor",
            )


def _template_ids(post_processor: Any) -> Iterator[tuple[str, int]]:
    if not isinstance(post_processor, dict):
        return
    for inner in post_processor.get("processors", ()):
        yield from _template_ids(inner)
    for name, entry in post_processor.get("special_tokens", {}).items():
        yield from ((name, index) for index in entry["ids"])
    yield from (
        (name, index) for name, index in (post_processor[end] for end in ("cls", "sep") if end in post_processor)
    )


def _check_unk(tokenizer: Tokenizer, parts: Mapping[str, Any], file: Path) -> None:
    if (
        isinstance(tokenizer.model, models.WordPiece | models.WordLevel)
        and tokenizer.model.unk_token not in parts["model"]["vocab"]
    ):
        why = f"{tokenizer.model.unk_token!r}: the vocabulary has no such token"
        raise InputError(f"{file}: model.unk_token = {why}", path=file, field="model.unk_token")


def _check_family(declared: Declared, kind: TokenizerKind, parts: Mapping[str, Any]) -> None:
    """Raise InputError where tokenizer_config.json says another thing of a family's tokenizer than its tokenizer.json."""
    if kind.load is None or declared.as_it_stands:
        return
    for name, value in kind.settings(parts).items():
        if name in declared.config and declared.config[name] != value:
            raise declared.refused(name, f"{TOKENIZER} beside it says {value!r}")


def _tell_unused(parts: Mapping[str, Any], declared: Declared, kind: TokenizerKind, file: Path) -> None:
    """Say on stderr which parts of tokenizer.json have no say."""
    model = {name: value for name, value in parts["model"].items() if name not in ("type", "vocab")}
    own = {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, **declared.normalizer()},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": _MODEL | {"unk_token": kind.unk},
    }
    unused = [name for name, value in own.items() if (model if name == "model" else parts.get(name)) != value]
    if unused:
        warn_once(f"{file}: {', '.join(unused)}: not used; a {kind.name} goes by {CONFIG}, as in transformers")


_MODEL = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


def _try_expressions(tokenizer: Tokenizer, parts: Mapping[str, Any], file: Path) -> None:
    """Raise InputError where a regular expression gives up on a long run of one of its own characters."""
    for pattern in set(_expressions([parts.get("normalizer"), parts.get("pre_tokenizer")])):
        for character in sorted({" ", *filter(str.isalnum, pattern)})[:16]:
            with told_in_a_line(file), _silent():
                tokenizer.encode(f"{character * 64}!")


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if name == "Regex" and isinstance(inner, str))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _expressions(inner)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing on stderr, where a panic prints its own trace."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike, *, model_max_length: int = 512) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, so that `transformers.AutoTokenizer` gives the same of the directory.

    Args:
        model_max_length: tokens that the model has positions for.

    Raises:
        InputError: what is given is no tokenizer of these kinds.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise InputError(
            f"tokenizer is a {type(tokenizer).__module__}.{type(tokenizer).__name__}; expected a BertTokenizer or a "
            "tokenizers.Tokenizer",
            field="tokenizer",
        )
    directory, settings = Path(directory), settings_of(tokenizer)
    text = tokenizer.to_str(pretty=True)
    config = _config_of(tokenizer, json.loads(text), settings) | {"model_max_length": model_max_length}
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / TOKENIZER) as file:
        file.write(text.encode())
    write_json(directory / CONFIG, config)


def _config_of(tokenizer: Tokenizer, parts: Mapping[str, Any], settings: TokenizerSettings) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    kind = settings.kind
    own = not settings.as_it_stands if kind.load is not None else _is_berts(tokenizer, parts, settings)
    specific = {name: token for name, token in settings.named.items() if name not in NAMED}
    inputs = INPUT_NAMES if settings.type_ids else [name for name in INPUT_NAMES if name != "token_type_ids"]
    return {
        "tokenizer_class": kind.name if own else AS_IT_STANDS[0],
        **(kind.settings(parts) if own else {}),
        **({} if own and settings.type_ids else {"model_input_names": list(inputs)}),
        **{f"{role}_token": token for role, token in kind.special_tokens.items()},
        **{name: token for name, token in settings.named.items() if name in NAMED},
        # Under this one name, whatever their own ones are: only those that end in "_token" would be known again.
        **({"model_specific_special_tokens": specific} if specific else {}),
        **({"extra_special_tokens": list(settings.extra)} if settings.extra else {}),
        "clean_up_tokenization_spaces": settings.clean_up,
        **({} if settings.truncation_side == "right" else {"truncation_side": settings.truncation_side}),
        **({"split_special_tokens": True} if settings.split_special_tokens else {}),
        # With them here, older files that lie in the directory, such as special_tokens_map.json, are read no more.
        "added_tokens_decoder": {
            str(entry["id"]): {name: value for name, value in entry.items() if name != "id"}
            for entry in parts["added_tokens"]
        },
    }


def _is_berts(tokenizer: Tokenizer, parts: Mapping[str, Any], settings: TokenizerSettings) -> bool:
    """Whether the reference's BertTokenizer makes the same of the vocabulary and the fields of tokenizer_config.json."""
    kind, normalizer = settings.kind, parts["normalizer"] or {}
    if any(tokenizer.token_to_id(token) is None for token in (kind.cls, kind.sep)):
        return False
    model = {name: value for name, value in parts["model"].items() if name != "vocab"}
    return (
        (normalizer.get("type"), normalizer.get("clean_text")) == ("BertNormalizer", True)
        and parts["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and model == {"type": "WordPiece", "unk_token": kind.unk, **_MODEL}
        and parts["decoder"] == {"type": "WordPiece", "prefix": "##", "cleanup": True}
        and parts["post_processor"] == json.loads(_frame(tokenizer, kind, second=int(settings.type_ids)).__getstate__())
    )
