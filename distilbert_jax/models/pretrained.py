"""The base of all models: from an HF directory or a hub id to an NNX module, and back to a directory."""

import dataclasses
import functools
import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.flax import save_file
from tokenizers import Tokenizer

from distilbert_jax import families
from distilbert_jax.base.hub import CARD, is_edited, locate, write_directory
from distilbert_jax.config import Activations, ModelConfig
from distilbert_jax.errors import InputError, nearest, warn_once
from distilbert_jax.families import Family
from distilbert_jax.models.compiled import compiled
from distilbert_jax.models.hf_format import (
    architectures,
    check_sizes,
    hf_config,
    hf_name,
    read_config,
    read_headers,
    read_tensors,
    reference_names,
    to_params,
)
from distilbert_jax.models.params import count, merge, split
from distilbert_jax.models.push import Pushed, push_model
from distilbert_jax.text.tokenizer import BertTokenizer, save_tokenizer


def float_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of matmuls or of a file.

    Raises:
        InputError: it is none, or not one of floating-point numbers of 16 bits or more.
    """
    try:
        known = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating) or known.itemsize < 2:
        raise InputError(
            f"dtype = {dtype!r}: matmuls take a floating-point dtype, such as float32 or bfloat16", field="dtype"
        )
    return known


def _check_options(kind: type, options: Collection[str], fields: Collection[str]) -> None:
    """Raise InputError for what is no field of a config and no argument of the model's class."""
    taken = inspect.signature(kind.__init__).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return
    known = {*fields, *taken} - {"self", "config", "rngs"}
    for name in options:
        if name not in known:
            hint = nearest(name, sorted(known))
            raise InputError(f"{name}: no argument of {kind.__name__}.from_pretrained; {hint}", field=name, hint=hint)


# Heads whose parameters have the same names in a file.
_ALIKE = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")


def _check_head(wanted: str, named: Collection[str], where: str) -> None:
    """Raise InputError where a file was written for another head whose parameters would load as those of this one."""
    ours = next((end for end in _ALIKE if wanted.endswith(end)), None)
    others = [name for name in named if name.endswith(_ALIKE)]
    if ours and others and not any(name.endswith(ours) for name in others):
        raise InputError(
            f"{where}: holds a {others[0]}, by its config.json, and no {wanted}: the head would be taken for another",
            path=where,
            field="architectures",
        )


@functools.lru_cache(maxsize=64)
def _abstract(
    kind: type, config: ModelConfig, dtype: jnp.dtype, activations: DTypeLike | Activations
) -> tuple[nnx.GraphDef, Mapping[str, jax.Array]]:
    """The graph of a model, and its parameters without values. Once: its whole constructor is traced."""
    graphdef, shapes = split(
        nnx.eval_shape(lambda: kind(config, dtype=dtype, activations=activations, rngs=nnx.Rngs(0)))
    )
    return graphdef, MappingProxyType(shapes)


class PretrainedModel(nnx.Module):
    """A model of one family that reads and writes HF directories. Subclasses name the record of their family, and what they
    compute in `__call__`; called on its own, outside of `jax.jit`, that is compiled for few shapes (see `compiled`)."""

    family: ClassVar[Family]
    config: ModelConfig
    bare = False  # True: without a head; the reference saves such a model's tensors without the family's prefix
    __call__: Callable[..., Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = compiled(vars(cls)["__call__"])

    def __init__(self, config: ModelConfig):
        if getattr(self, "family", config.family).name != config.model_type:
            raise InputError(
                f"{type(self).__name__} cannot hold a model of type {config.model_type!r}", field="model_type"
            )
        self.config = config

    @classmethod
    def _of_family(cls, model_type: str) -> type[Self] | None:
        family = families.find(model_type)
        return next((kind for kind in (cls, *cls.__subclasses__()) if getattr(kind, "family", None) is family), None)

    @classmethod
    def has_family(cls, model_type: str) -> bool:
        """Whether a registered family has a class with this head."""
        return cls._of_family(model_type) is not None

    @classmethod
    def of_family(cls, model_type: str) -> type[Self]:
        """This head's class of a family, such as "bert" or "distilbert".

        Raises:
            InputError: the family is not registered, or has no class with this head.
        """
        if kind := cls._of_family(model_type):
            return kind
        raise InputError(f"{cls.__name__} cannot hold a model of type {model_type!r}", field="model_type")

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        dtype: DTypeLike = jnp.float32,
        activations: DTypeLike | Activations = "auto",
        seed: int = 0,
        new_head: bool = True,
        reinitialise: Collection[str] = (),
        **changes: Any,
    ) -> Self:
        """Load a model from an HF directory or, where there is no such directory, by its id on the Hugging Face hub.

        On a family's own class (`BertForMaskedLM`) the model must be of that family; on the head's base class (`MaskedLM`)
        its `model_type` chooses. What the file holds for other heads or as buffers, and what this head has to draw
        from `seed` because the file lacks it, is named in one line each on stderr.

        Args:
            revision: branch, tag or commit on the hub.
            dtype: of the matmuls; parameters are float32.
            activations: between layers, and of a masked LM's logits; `"auto"`: bfloat16 on an accelerator where the matmuls are
                bfloat16, else float32.
            new_head: False: a head that the file lacks is an error, none is made.
            reinitialise: what the paths of parameters begin with that are initialised anew although the file may hold them, such as
                "classifier." of another task.
            changes: fields of `ModelConfig` to set otherwise, e.g. `labels` for a new classifier; other arguments of the class
                (`add_pooling_layer=False` of a bare model).

        Raises:
            InputError: what is missing, damaged or contradictory, in one line.
        """
        dtype = float_dtype(dtype)
        directory = locate(path_or_id, revision)
        fields = {field.name for field in dataclasses.fields(ModelConfig)}
        read = read_config(directory, family=getattr(cls, "family", None))
        kind = cls.of_family(read.model_type)
        options = {name: value for name, value in changes.items() if name not in fields}
        _check_options(kind, options, fields)
        config = ModelConfig(**vars(read) | {k: v for k, v in changes.items() if k in fields})
        check_sizes(config, read_headers(directory), str(path_or_id))
        make = cast(Callable[..., Self], kind)  # which takes more than this base
        draw = lambda: make(config, dtype=dtype, activations=activations, rngs=nnx.Rngs(seed), **options)
        # Nothing is drawn that the file holds.
        graphdef, shapes = split(nnx.eval_shape(draw)) if options else _abstract(kind, config, dtype, activations)
        tensors, names = read_tensors(directory), kind.family.names(tied=config.tie_word_embeddings)
        anew = (reinitialise,) if isinstance(reinitialise, str) else tuple(reinitialise)
        for path in shapes:
            if path.startswith(anew):
                tensors.pop(hf_name(names, path), None)
        if not new_head:
            _check_head(kind.__name__, architectures(directory), str(path_or_id))
        params = to_params(tensors, config, shapes, str(path_or_id), new_head=new_head)
        if len(params) < len(shapes):
            params = {path: params.get(path, value) for path, value in split(draw())[1].items()}
        return merge(graphdef, params)

    @classmethod
    def is_whole(cls, path_or_id: str | Path) -> bool:
        """Whether the files hold every parameter of this class, its head included; `from_pretrained` would draw none.

        Raises:
            InputError: they cannot be read, or hold a model of a family that has no such class.
        """
        directory = locate(path_or_id)
        config = read_config(directory, family=getattr(cls, "family", None))
        kind, headers = cls.of_family(config.model_type), read_headers(directory)
        check_sizes(config, headers, str(path_or_id))
        _, shapes = _abstract(kind, config, jnp.dtype(jnp.float32), "auto")
        there, names = reference_names(headers, config), kind.family.names(tied=config.tie_word_embeddings)
        return all(hf_name(names, path) in there for path in shapes)

    @classmethod
    def is_named(cls, path_or_id: str | Path) -> bool:
        """Whether config.json says that the directory holds this class; `is_whole` may be true of others, too."""
        kind = cls._of_family(read_config(path_or_id).model_type)
        return kind is not None and kind.__name__ in architectures(path_or_id)

    def num_parameters(self) -> int:
        """Number of parameters; the tied decoder is one table with the embedding and counts once."""
        return count(split(self)[1])

    def save_pretrained(
        self,
        directory: str | Path,
        tokenizer: BertTokenizer | Tokenizer | None = None,
        *,
        dtype: DTypeLike = jnp.float32,
        new: bool = False,
    ) -> None:
        """Write config.json, model.safetensors (the reference's names, the tied decoder once) and, when a tokenizer is given,
        its files. An older model in the directory is replaced file by file, and the README.md that a run has written of it goes.

        Args:
            dtype: of the file. A model that was read from a bfloat16 file gives that file's bits back with `jnp.bfloat16`.
            new: refuse a directory in which something is.
        """
        dtype, tied, tensors = float_dtype(dtype), self.config.tie_word_embeddings, {}
        for path, value in split(self)[1].items():
            name = hf_name(self.family.names(tied=tied), path)
            tensor = np.asarray(value).T if path.endswith(".kernel") else np.asarray(value)
            tensors[name.removeprefix(self.family.prefix) if self.bare else name] = jnp.asarray(tensor, dtype)
        if not tied:
            copies = self.family.untied_copies.items()
            tensors |= {copy: tensors[original] for copy, original in copies if original in tensors}
        config = json.dumps(hf_config(self.config, type(self).__name__, dtype), indent=2) + "\n"

        def write(partial: Path) -> None:
            try:
                save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
            except SafetensorError as error:  # a full disk, in words of its own
                if (number := re.search(r"os error (\d+)", str(error))) is None:
                    raise
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(directory)) from error
            (partial / "config.json").write_text(config, encoding="utf-8")
            # safetensors lets none but the file's owner read it.
            shutil.copymode(partial / "config.json", partial / "model.safetensors")
            if tokenizer is not None:
                save_tokenizer(tokenizer, partial, model_max_length=self.config.max_length)

        write_directory(directory, write, new=new)
        card = Path(directory) / CARD
        if is_edited(card):
            warn_once(f"{card}: stays as it is, though the model beside it is another one now")
        else:
            card.unlink(missing_ok=True)

    def push_to_hub(
        self,
        repo_id: str,
        tokenizer: BertTokenizer | Tokenizer | None = None,
        *,
        private: bool = False,
        message: str = "",
        dtype: DTypeLike = jnp.float32,
    ) -> Pushed:
        """`save_pretrained` to the Hugging Face hub, see `distilbert_jax.push_to_hub`. A run's own goes up with its card."""
        with tempfile.TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary) / "model", tokenizer, dtype=dtype)
            return push_model(Path(temporary) / "model", repo_id, private=private, message=message)
