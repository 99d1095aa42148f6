"""Hugging Face directories (config.json, model.safetensors, tokenizer.json) to NNX modules and back.

The names of tensors and fields come from the record of each family (`families.Family`); a kernel is the transpose of the
reference's weight. Only safetensors are read: a pickle runs code when it is opened.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.flax import load_file

from distilbert_jax import families
from distilbert_jax.base.file_fields import refuse_values
from distilbert_jax.base.files import fingerprint_of, read_json
from distilbert_jax.base.hub import locate, model_files
from distilbert_jax.config import MOST_LABELS, ModelConfig
from distilbert_jax.errors import InputError, few, shortened, warn_once
from distilbert_jax.families import Family
from distilbert_jax.models import config_fields
from distilbert_jax.models.params import Params

T = TypeVar("T")
_FLOATS = ("F64", "F32", "F16", "BF16")
_DTYPES = {*_FLOATS, "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
# Until 0.1: with the files of the families' tokenizers.
_READ_BEFORE = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_BUFFERS = re.compile(r"(\.|^)(position_ids|token_type_ids)$")


def architectures(path_or_id: str | Path) -> tuple[str, ...]:
    """The reference's classes that a directory's config.json says it holds, such as BertForMaskedLM; none where it says nothing."""
    return tuple(map(str, read_json(locate(path_or_id) / "config.json", dict).get("architectures") or ()))


def read_config(path_or_id: str | Path, *, family: Family | None = None) -> ModelConfig:
    """`config.json` of a model as a `ModelConfig`; fields it leaves out have the reference's defaults.

    Args:
        family: of the model where config.json does not say its model_type.

    Raises:
        InputError: it is missing, is no config of a model, or a field has a value that cannot be used (`config_fields`).
    """
    directory = locate(path_or_id)
    path = directory / "config.json"
    if not path.exists():
        _say_where_the_model_is(directory, {})
        raise InputError(f"{directory}: has no config.json, so it is not a model directory", path=directory)
    content = read_json(path, dict)
    if "model_type" not in content:
        _say_where_the_model_is(directory, content)
    try:
        if content.get("model_type") is not None or family is None:
            family = families.find(content.get("model_type"))
        refuse_values(content, config_fields.of_family(family), path)
        return ModelConfig.of_family(family.name, **_values(content, family, path))
    except InputError as error:
        raise error if error.path else _in_their_words(error, family).within(path) from None


def _say_where_the_model_is(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError for a run's directory, which has its model in a directory of its own."""
    if "optimizer" in config or (directory / "model" / "config.json").is_file():
        hint = str(directory / "model")
        raise InputError(f"{directory}: is a run's directory; its model is {hint}", path=directory, hint=hint)


def _in_their_words(error: InputError, family: Family | None) -> InputError:
    """An error of `ModelConfig` that names the field as config.json does."""
    theirs = family.config_fields.get(error.field or "", error.field) if family else error.field
    said = str(error).replace(f"{ModelConfig.__name__}.{error.field}", str(theirs), 1)
    return InputError(said, field=theirs, hint=error.hint)


def _values(content: Mapping[str, Any], family: Family, path: Path) -> dict[str, Any]:
    """The fields of `ModelConfig` that a config.json says."""
    said = dict(content) | {name: content[other] for other, name in family.config_aliases.items() if other in content}
    values = {}
    for ours, theirs in family.config_fields.items():
        fallback = family.config_fallbacks.get(ours)
        if said.get(theirs) is None and fallback is not None:
            theirs = family.config_fields[fallback]
        if theirs not in said or (said[theirs] is None and theirs in config_fields.NULLABLE):
            continue
        values[ours] = said[theirs]
    if type(pad := values.get("pad_token_id")) is int and pad < 0 and not family.positions_after_pad:
        size = values.get("vocab_size", ModelConfig.of_family(family.name).vocab_size)
        values["pad_token_id"] = pad + size if type(size) is int else pad  # torch counts a negative one from the end
    if said.get("problem_type") is not None:
        values["problem_type"] = said["problem_type"]
    if (labels := _labels(said, path)) is not None:
        values["labels"] = labels
    return values


def _labels(content: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    """The names of the labels; None: config.json says none. As in the reference, a `num_labels` that contradicts `id2label` holds.

    Raises:
        InputError: ids that do not go from 0 up, names that are none, a number that no classifier has.
    """
    names, number = content.get("id2label"), content.get("num_labels")
    if "num_labels" in content and (type(number) is not int or not 0 < number <= MOST_LABELS):
        raise InputError(f"num_labels = {number!r:.40}: expected 1 to {MOST_LABELS:,}", field="num_labels")
    if names is not None:
        wrong = InputError(
            "id2label: expected an object of ids 0, 1, 2 … and the names of the labels", field="id2label"
        )
        if not isinstance(names, dict):
            raise wrong
        if any(isinstance(name, dict | list) or name is None for name in names.values()):
            raise wrong
        try:
            by_id = {int(key): str(name) for key, name in names.items()}
        except ValueError:
            raise wrong from None
        if sorted(by_id) != list(range(len(names))):
            ids = shortened(few(list(names), ", "))
            raise InputError(f"id2label has the ids {ids}, expected 0 to {len(names) - 1}", field="id2label")
        if number in (None, len(by_id)):
            return tuple(by_id[i] for i in range(len(by_id)))
        warn_once(f"{path}: num_labels = {number}, id2label has {len(by_id)}: the labels are LABEL_0, LABEL_1 …")
    return None if number is None else tuple(f"LABEL_{i}" for i in range(number))


def hf_config(config: ModelConfig, architecture: str, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """The content of `config.json` for a model of class `architecture`."""
    family = config.family
    values = {theirs: getattr(config, ours) for ours, theirs in family.config_fields.items()}
    if config.problem_type is not None:
        values["problem_type"] = config.problem_type
    labels = {str(i): label for i, label in enumerate(config.labels)}
    return {
        "architectures": [architecture],
        "model_type": family.name,
        "tie_word_embeddings": True,
        **values,
        **family.config_extra,
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "dtype": jnp.dtype(dtype).name,
    }


def hf_name(names: Mapping[str, str], path: str) -> str:
    """The reference's tensor name for one of our parameter paths, e.g. `encoder.layers.0.ffn_in.kernel` for BERT gives
    `bert.encoder.layer.0.intermediate.dense.weight`.

    Args:
        names: of a family, `Family.parameters`.

    Raises:
        InputError: the family has no name for it.
    """
    if path in names:
        return names[path]
    module, _, leaf = path.rpartition(".")
    pattern = re.sub(r"\.\d+\.", ".{i}.", module)
    index = re.search(r"\.(\d+)\.", module)
    if pattern not in names:
        raise InputError(f"parameter {path}: its family's table of parameters has no {pattern}", field=pattern)
    return names[pattern].format(i=index and index[1]) + (".bias" if leaf == "bias" else ".weight")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file tells of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # in safetensors' words, "F32"


def read_headers(directory: str | Path) -> dict[str, StoredTensor]:
    """What `model.safetensors`, or the shards that `model.safetensors.index.json` names, say of their tensors; none is read.

    Raises:
        InputError: a file is missing, damaged or outside of the directory; a tensor is of a type that is not read, or there twice.
    """
    headers: dict[str, StoredTensor] = {}
    for file in _weight_files(Path(directory)):
        for name, header in _opened(file, _headers_of).items():
            if header.dtype not in _DTYPES:
                raise InputError(
                    f"{file}: {name:.100} is of the type {header.dtype}; expected {', '.join(_FLOATS)} (quantised weights are "
                    "not read)",
                    path=file,
                    field=name,
                )
            if name in headers:
                raise InputError(f"{file}: {name:.100} also stands in {headers[name].file.name}", path=file, field=name)
            headers[name] = header
    return headers


def read_tensors(directory: str | Path) -> dict[str, jax.Array]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.

    Raises:
        InputError: as `read_headers`.
    """
    read_headers(directory)
    tensors: dict[str, jax.Array] = {}
    for file in _weight_files(Path(directory)):
        tensors |= _opened(file, load_file)
    return tensors


def _opened(file: Path, read: Callable[[Path], dict[str, T]]) -> dict[str, T]:
    try:
        return read(file)
    except SafetensorError as error:
        raise InputError(f"{file}: damaged or not a safetensors file ({error!s:.200})", path=file) from None


def _headers_of(file: Path) -> dict[str, StoredTensor]:
    with safe_open(file, framework="numpy") as opened:
        parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
        return {name: StoredTensor(file, tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}


def _weight_files(directory: Path) -> list[Path]:
    """The files that a model's tensors stand in."""
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        shards = read_json(index, dict).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise InputError(f"{index}: expected JSON with a weight_map from tensors to files", path=index)
        return [_shard(directory, name, index) for name in sorted(set(shards.values()))]
    for file in (whole, index):
        if file.exists():
            raise InputError(f"{file}: is not a regular file", path=file)
    if pickles := sorted(directory.glob("*.bin")):
        raise InputError(
            f"{pickles[0]}: a pickle can run code when it is read and is not loaded; convert it once with transformers: "
            f"AutoModel.from_pretrained(DIR).save_pretrained(DIR)",
            path=pickles[0],
        )
    raise InputError(f"{directory}: has no model.safetensors", path=directory)


def _shard(directory: Path, name: str, index: Path) -> Path:
    """A file that an index names: in the model's directory or in a folder there."""
    file, inside = directory / name, directory.resolve()
    # In the hub's cache a snapshot's files are links to what it keeps beside the snapshots.
    roots = [inside, inside.parents[1] / "blobs"] if inside.parent.name == "snapshots" else [inside]
    try:
        target, is_there, is_file = file.resolve(), file.exists(), file.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that is too long, has a NUL; links in a circle
        raise InputError(f"{index}: names {name!r:.100}, which cannot be a file", path=index) from None
    if Path(name).is_absolute() or ".." in Path(name).parts or not any(map(target.is_relative_to, roots)):
        raise InputError(f"{index}: names {name!r:.100}, which is outside of the model's directory", path=index)
    if not is_file:
        what = "is not a regular file" if is_there else "not there"
        raise InputError(f"{file}: named by {index.name}, but {what}", path=file)
    return file


# The sizes of `ModelConfig` and where the weights show them: a parameter and its axis in the file.
_SIZES = (
    ("vocab_size", "encoder.embeddings.word", 0),
    ("hidden_size", "encoder.embeddings.word", 1),
    ("max_position_embeddings", "encoder.embeddings.position", 0),
    ("type_vocab_size", "encoder.embeddings.token_type", 0),
    ("intermediate_size", "encoder.layers.0.ffn_in.bias", 0),
)


def check_sizes(config: ModelConfig, headers: Mapping[str, StoredTensor], where: str) -> None:
    """Refuse a config that asks for more than the weights have, before a model of its sizes is made.

    Raises:
        InputError: a size or the number of layers is beyond those of the tensors, or two tensors of other shapes or types have
            one name.
    """
    family = config.family
    _check_names(headers, family, where, lambda one, other: (one.shape, one.dtype) == (other.shape, other.dtype))
    shapes = {name: header.shape for name, header in reference_names(dict(headers), config).items()}
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    problems = []
    for ours, path, axis in _SIZES:
        value, theirs = getattr(config, ours), family.config_fields.get(ours)
        if theirs is None or not {path, path.replace(".0.", ".{i}.").rpartition(".")[0]} & family.parameters.keys():
            continue
        shape = shapes.get(name := hf_name(family.parameters, path), ())
        known = axis < len(shape)
        if value > (shape[axis] if known else largest):
            has = f"{name} has the shape {shape}" if known else f"{name} is missing"
            problems.append((theirs, f"{theirs} = {value}, but {has}"))
    theirs = family.config_fields.get("num_hidden_layers", "num_hidden_layers")
    if config.num_hidden_layers > (layers := _number_of_layers(shapes, family)):
        problems.append((theirs, f"{theirs} = {config.num_hidden_layers}, but the weights have {layers} layers"))
    if problems:
        raise InputError(
            f"{where}: config.json asks for more than the weights have: {'; '.join(line for _, line in problems)}",
            path=where,
            field=problems[0][0],
        )


def _number_of_layers(names: Iterable[str], family: Family) -> int:
    starts = {theirs.partition("{i}")[0] for theirs in family.parameters.values() if "{i}" in theirs}
    numbers = {
        name.removeprefix(start).partition(".")[0] for start in starts for name in names if name.startswith(start)
    }
    return len({number for number in numbers if number.isdecimal()})


def has_weights(directory: Path) -> bool:
    """Whether a directory has weights, in one file or in several."""
    return any((directory / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))


def loaded_files(directory: Path) -> list[str]:
    """Every file that is read of a model's directory, by its name in there: weights, in whatever sub-folder an index names
    them, config and tokenizer."""
    names = {path.name for pattern in model_files() for path in directory.glob(pattern) if path.is_file()}
    index = directory / "model.safetensors.index.json"
    with contextlib.suppress(
        InputError, OSError, KeyError, TypeError, AttributeError
    ):  # `read_tensors` says what is wrong
        shards = read_json(index, dict)["weight_map"].values()
        inside = {name for name in shards if not Path(name).is_absolute() and ".." not in Path(name).parts}
        names |= {str(name) for name in inside if (directory / name).is_file()}
    return sorted(names)


def fingerprint(path_or_id: str | Path) -> str:
    """One SHA-256 for all that is read of a model's directory, see `loaded_files`."""
    directory = locate(path_or_id)
    return _fingerprint(directory, loaded_files(directory))


def known_fingerprints(path_or_id: str | Path) -> tuple[str, ...]:
    """`fingerprint`, and what an earlier version took for it, which read fewer files: for the records of its runs."""
    directory = locate(path_or_id)
    before = sorted({path.name for pattern in _READ_BEFORE for path in directory.glob(pattern) if path.is_file()})
    return fingerprint(directory), _fingerprint(directory, before)


def _fingerprint(directory: Path, names: Sequence[str]) -> str:
    lines = (f"{name} {fingerprint_of(directory / name)}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def reference_names(tensors: Mapping[str, T], config: ModelConfig) -> dict[str, T]:
    """Tensors (or what stands for them) under today's full names: legacy `gamma`/`beta` renamed, the family's prefix added where it
    is missing, what is there as a tied copy alone under its own name too."""
    family, renamed = config.family, {_full_name(name, config.family): value for name, value in tensors.items()}
    tied = family.tied if config.tie_word_embeddings else {}
    return {original: renamed[copy] for copy, original in tied.items() if copy in renamed} | renamed


def _full_name(name: str, family: Family) -> str:
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return f"{family.prefix}{name}" if name.startswith(family.bare) else name


def _check_names(tensors: Mapping[str, T], family: Family, where: str, equal: Callable[[T, T], bool]) -> None:
    """Raise InputError where two tensors (or what stands for them) have one full name, unless they are `equal`."""
    first: dict[str, str] = {}
    for name, value in tensors.items():
        full = _full_name(name, family)
        other = first.setdefault(full, name)
        if other != name and not equal(tensors[other], value):
            raise InputError(
                f"{where}: {other:.100} and {name:.100} differ, and both stand for {full:.100}; remove one of them",
                path=where,
                field=full,
            )


def _same_bits(one: jax.Array, other: jax.Array) -> bool:
    alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    return alike and np.asarray(one).tobytes() == np.asarray(other).tobytes()


def to_params(
    tensors: dict[str, jax.Array],
    config: ModelConfig,
    shapes: Mapping[str, jax.ShapeDtypeStruct | jax.Array],
    where: str,
    *,
    new_head: bool = True,
) -> Params:
    """Parameters float32 in the given shapes, taken from reference tensors. Those of a head may be missing: they are left out, and
    named in one line on stderr (once a process), as are buffers and what the file holds for other heads.

    Args:
        new_head: False: a head may not be missing.

    Raises:
        InputError: a tensor of the encoder is missing, a shape contradicts the config, a name is unknown, a decoder is not
            tied to the word embedding as the config says, a value is not finite; the first few are listed. Or two tensors that
            differ have one name.
    """
    family, tied = config.family, config.tie_word_embeddings
    _check_names(tensors, family, where, _same_bits)
    source, names, copies = reference_names(tensors, config), family.names(tied=tied), family.copies(tied=tied)
    params, problems, initialised = {}, [], []
    for copy, original in copies.items() if tied and "head.bias" in shapes else ():
        if copy in source and not jnp.array_equal(source[copy], source[original]):
            what = "the word embedding" if original == family.word else original
            problems.append(
                f"{copy} differs from {what}, to which config.json ties it (a decoder of its own: tie_word_embeddings false)"
            )
    for path, value in shapes.items():
        name = hf_name(names, path)
        if name not in source:
            if path.startswith("encoder."):
                problems.append(f"{name} is missing")
            else:
                initialised.append(name)
            continue
        tensor, kernel = source.pop(name), path.endswith(".kernel")
        expected = value.shape[::-1] if kernel else value.shape
        if tensor.shape != expected:
            problems.append(f"{name} has the shape {tensor.shape}, config.json asks for {expected}")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems.append(f"{name} is of the type {tensor.dtype}, expected one of {', '.join(_FLOATS)}")
        else:
            values = np.asarray(tensor.T if kernel else tensor, np.float32)
            params[path] = jnp.asarray(values)
            if not np.isfinite(values).all():  # on the host: JAX would compile a program for each shape
                problems.append(f"{name} has values that are not finite")
    left = [name for name in source if name not in copies]
    problems += [
        f"{name:.100} is unknown" for name in left if not (name.startswith(family.heads) or _BUFFERS.search(name))
    ]
    if problems:
        raise InputError(f"{where}: {len(problems)} tensors do not fit: {few(problems)}", path=where)
    if initialised and not new_head:
        raise InputError(
            f"{where}: has no trained head for this, {few(sorted(initialised), ', ')} are missing; train it first",
            path=where,
        )
    skipped = sorted({name if _BUFFERS.search(name) else name.rpartition(".")[0] for name in left})
    if skipped:
        warn_once(f"{where}: not used here: {few(skipped, ', ', 12)}")
    if initialised:
        warn_once(f"{where}: newly initialised: {few(sorted(initialised), ', ', 12)}")
    return params
