"""Hugging Face directories (config.json, model.safetensors, tokenizer.json) to NNX modules and back.

The names of tensors and fields come from the record of each family (`families.Family`); a kernel is the transpose of the
reference's weight. Only safetensors are read: a pickle runs code when it is opened.
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.flax import load_file

from distilbert_jax import families
from distilbert_jax.base.files import fingerprint_of, read_json
from distilbert_jax.base.hub import locate, model_files
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.families import Family
from distilbert_jax.models.params import Params

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


def read_config(path_or_id: str | Path) -> ModelConfig:
    """`config.json` of a model as a `ModelConfig`; fields it leaves out have the reference's defaults."""
    directory = locate(path_or_id)
    path = directory / "config.json"
    if not path.exists():
        raise InputError(f"{directory}: has no config.json, so it is not a model directory", path=directory)
    found = read_json(path, dict)
    if "model_type" not in found and "optimizer" in found:
        hint = str(directory / "model")
        raise InputError(f"{directory}: is a run's directory; its model is {hint}", path=directory, hint=hint)
    try:
        family = families.find(found.get("model_type"))
    except InputError as error:
        raise error.within(path) from None
    defaults = ModelConfig.of_family(family.name)
    values: dict[str, Any] = {}
    for ours, theirs in family.config_fields.items():
        value = found.get(theirs)
        if value is None and ours in family.config_fallbacks:
            value = found.get(family.config_fields[family.config_fallbacks[ours]])
        default = getattr(defaults, ours)
        if type(default) is int and value is not None and type(value) is not int:
            raise InputError(f"{path}: {theirs} is {value!r}, expected a whole number", path=path)
        values[ours] = default if value is None else value
    try:
        if labels := found.get("id2label"):
            if sorted(map(int, labels)) != list(range(len(labels))):
                raise InputError(f"id2label has the ids {', '.join(labels)}, expected 0 to {len(labels) - 1}")
            values["labels"] = tuple(str(labels[key]) for key in sorted(labels, key=int))
        elif "num_labels" in found:
            values["labels"] = tuple(f"LABEL_{i}" for i in range(found["num_labels"]))
        return ModelConfig.of_family(family.name, **values)
    except InputError as error:
        raise error.within(path) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a field has a value of another type ({error})", path=path) from None


def hf_config(config: ModelConfig, architecture: str, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """The content of `config.json` for a model of class `architecture`."""
    family = config.family
    values = {theirs: getattr(config, ours) for ours, theirs in family.config_fields.items()} | dict(
        family.config_extra
    )
    labels = {str(i): label for i, label in enumerate(config.labels)}
    if len(labels) == 1:  # else transformers' pipeline puts a sigmoid on the score
        values["problem_type"] = "regression"
    return {
        "architectures": [architecture],
        "model_type": family.name,
        **values,
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "tie_word_embeddings": True,
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


def read_tensors(directory: str | Path) -> dict[str, jnp.ndarray]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names."""
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
    elif index.is_file():
        try:
            files = sorted({directory / name for name in read_json(index, dict)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{index}: expected JSON with a weight_map from tensors to files", path=index) from None
    elif pickles := sorted(directory.glob("*.bin")):
        raise InputError(
            f"{pickles[0]}: a pickle can run code when it is read and is not loaded; convert it once with transformers: "
            f"AutoModel.from_pretrained(DIR).save_pretrained(DIR)",
            path=pickles[0],
        )
    else:
        raise InputError(f"{directory}: has no model.safetensors", path=directory)
    tensors: dict[str, jnp.ndarray] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except FileNotFoundError:
            raise InputError(f"{file}: named by {index.name}, but not there", path=file) from None
        except SafetensorError as error:
            raise InputError(f"{file}: damaged or not a safetensors file ({error})", path=file) from None
    return tensors


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
        names |= {str(name) for name in shards if (directory / name).is_file()}
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


def reference_names(tensors: dict[str, jnp.ndarray], family: Family) -> dict[str, jnp.ndarray]:
    """Tensors under today's full names: legacy `gamma`/`beta` renamed, the family's prefix added where it is missing, what is there
    as a tied copy alone under its own name too."""
    renamed = {}
    for name, value in tensors.items():
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name.startswith(family.bare):
            name = f"{family.prefix}{name}"
        renamed[name] = value
    return {original: renamed[copy] for copy, original in family.tied.items() if copy in renamed} | renamed


def to_params(
    tensors: dict[str, jnp.ndarray],
    family: Family,
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
            tied to the word embedding, a value is not finite; all are listed.
    """
    source = reference_names(tensors, family)
    params, problems, initialised = {}, [], []
    for copy, original in family.tied.items() if "head.bias" in shapes else ():
        if copy in source and not jnp.array_equal(source[copy], source[original]):
            what = "the word embedding" if original == family.word else original
            problems.append(f"{copy} differs from {what}, but is tied to it here")
    for path, value in shapes.items():
        name = hf_name(family.parameters, path)
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
        params[path] = jnp.asarray(tensor.T if kernel else tensor, jnp.float32)
        if not bool(jnp.isfinite(params[path]).all()):
            problems.append(f"{name} has values that are not finite")
    left = [name for name in source if name not in family.tied]
    problems += [f"{name} is unknown" for name in left if not (name.startswith(family.heads) or _BUFFERS.search(name))]
    if problems:
        raise InputError(f"{where}: {len(problems)} tensors do not fit: {'; '.join(problems)}", path=where)
    if initialised and not new_head:
        raise InputError(
            f"{where}: has no trained head for this, {', '.join(sorted(initialised))} are missing; train it first",
            path=where,
        )
    skipped = sorted({name if _BUFFERS.search(name) else name.rpartition(".")[0] for name in left})
    if skipped:
        warn_once(f"{where}: not used here: {', '.join(skipped)}")
    if initialised:
        warn_once(f"{where}: newly initialised: {', '.join(sorted(initialised))}")
    return params
