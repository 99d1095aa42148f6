"""Hugging Face directories (config.json, model.safetensors, tokenizer.json) to NNX modules and back.

The names of tensors come from the table of each family (`bert.NAMES`, `distilbert.NAMES`); a kernel is the transpose of the
reference's weight. Only safetensors are read: a pickle runs code when it is opened.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.flax import load_file

from distilbert_jax.base.files import fingerprint_of
from distilbert_jax.base.hub import FILES, locate
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.models.params import Params

_SHARED_FIELDS = ("vocab_size", "max_position_embeddings", "initializer_range", "pad_token_id")
CONFIG_FIELDS = {
    "bert": {name: name for name in _SHARED_FIELDS}
    | {
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_hidden_layers",
        "num_attention_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "type_vocab_size": "type_vocab_size",
        "hidden_act": "hidden_act",
        "layer_norm_eps": "layer_norm_eps",
        "hidden_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "classifier_dropout": "classifier_dropout",
    },
    "distilbert": {name: name for name in _SHARED_FIELDS}
    | {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "qa_dropout": "qa_dropout",
    },
}
_BUFFERS = re.compile(r"(\.|^)(position_ids|token_type_ids)$")
_TIED_COPIES = re.compile(r"^cls\.predictions\.decoder\.|^vocab_projector\.weight$")
_TIED_DECODERS = ("cls.predictions.decoder.weight", "vocab_projector.weight")
_OTHER_HEADS = re.compile(
    r"^(cls\.|bert\.pooler\.|vocab_transform\.|vocab_layer_norm\.|vocab_projector\.|pre_classifier\.|classifier\.|qa_outputs\.)"
)


def read_config(path_or_id: str | Path) -> ModelConfig:
    """`config.json` of a model as a `ModelConfig`; fields it leaves out have the reference's defaults."""
    directory = locate(path_or_id)
    path = directory / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: has no config.json, so it is not a model directory", path=directory) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})", path=path) from None
    model_type = found.get("model_type") if isinstance(found, dict) else None
    if model_type not in tuple(CONFIG_FIELDS):
        raise InputError(f"{path}: model_type is {model_type!r}; this package reads 'bert' and 'distilbert'", path=path)
    defaults = ModelConfig.bert_base() if model_type == "bert" else ModelConfig.distilbert_base()
    values: dict[str, Any] = {"model_type": model_type}
    for ours, theirs in CONFIG_FIELDS[model_type].items():
        value = found.get(theirs)
        if ours == "classifier_dropout" and value is None and model_type == "bert":
            value = found.get("hidden_dropout_prob")
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
        return ModelConfig(type_vocab_size=values.pop("type_vocab_size", 0), **values)
    except InputError as error:
        raise error.within(path) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a field has a value of another type ({error})", path=path) from None


def hf_config(config: ModelConfig, architecture: str, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """The content of `config.json` for a model of class `architecture`."""
    values = {theirs: getattr(config, ours) for ours, theirs in CONFIG_FIELDS[config.model_type].items()}
    if config.model_type == "distilbert":
        values |= {"sinusoidal_pos_embds": False, "tie_weights_": True}
    labels = {str(i): label for i, label in enumerate(config.labels)}
    if len(labels) == 1:  # else transformers' pipeline puts a sigmoid on the score
        values["problem_type"] = "regression"
    return {
        "architectures": [architecture],
        "model_type": config.model_type,
        **values,
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "tie_word_embeddings": True,
        "dtype": jnp.dtype(dtype).name,
    }


def hf_name(names: dict[str, str], path: str) -> str:
    """The reference's tensor name for one of our parameter paths, e.g. `encoder.layers.0.ffn_in.kernel` for BERT gives
    `bert.encoder.layer.0.intermediate.dense.weight`."""
    if path in names:
        return names[path]
    module, _, leaf = path.rpartition(".")
    pattern = re.sub(r"\.\d+\.", ".{i}.", module)
    index = re.search(r"\.(\d+)\.", module)
    return names[pattern].format(i=index and index[1]) + (".bias" if leaf == "bias" else ".weight")


def read_tensors(directory: str | Path) -> dict[str, jnp.ndarray]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names."""
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
    elif index.is_file():
        try:
            files = sorted({directory / name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError):
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


def fingerprint(path_or_id: str | Path) -> str:
    """One SHA-256 for all that is read of a model's directory: weights, config and tokenizer."""
    directory = locate(path_or_id)
    names = sorted({path for pattern in FILES for path in directory.glob(pattern)})
    return hashlib.sha256("".join(f"{path.name} {fingerprint_of(path)}\n" for path in names).encode()).hexdigest()


def reference_names(tensors: dict[str, jnp.ndarray], model_type: str) -> dict[str, jnp.ndarray]:
    """Tensors under today's full names: legacy `gamma`/`beta` renamed, a missing `bert.`/`distilbert.` prefix added."""
    renamed = {}
    for name, value in tensors.items():
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if re.match(r"(embeddings|encoder|transformer|pooler)\.", name):
            name = f"{model_type}.{name}"
        renamed[name] = value
    if "cls.predictions.bias" not in renamed and "cls.predictions.decoder.bias" in renamed:
        renamed["cls.predictions.bias"] = renamed["cls.predictions.decoder.bias"]
    return renamed


def to_params(
    tensors: dict[str, jnp.ndarray],
    names: dict[str, str],
    model_type: str,
    shapes: dict[str, jax.ShapeDtypeStruct],
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
    source = reference_names(tensors, model_type)
    params, problems, initialised = {}, [], []
    word = source.get(names["encoder.embeddings.word"])
    for name in _TIED_DECODERS:
        if "head.bias" in shapes and word is not None and name in source and not jnp.array_equal(source[name], word):
            problems.append(f"{name} differs from the word embedding, but is tied to it here")
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
        params[path] = jnp.asarray(tensor.T if kernel else tensor, jnp.float32)
        if not bool(jnp.isfinite(params[path]).all()):
            problems.append(f"{name} has values that are not finite")
    left = [name for name in source if not _TIED_COPIES.match(name)]
    problems += [f"{name} is unknown" for name in left if not (_OTHER_HEADS.match(name) or _BUFFERS.search(name))]
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
