"""What goes into a model and comes out of it, checked on the host: rows of whole numbers, ranges of token ids, token types and
positions (`base.ranges`), and scores that have to be finite."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.base.ranges import check_range
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError, NotFiniteError


def check_rows(batch: Mapping[str, np.ndarray | jax.Array], config: ModelConfig, where: object = "") -> None:
    """Check the ids of rows that a model of `config` is to read.

    Args:
        batch: of which `input_ids`, `token_type_ids` and `position_ids`, integers [...], are looked at where they are there. Token
            types of a model that has none (DistilBERT) are not read, whatever they say.
        where: the file or directory that the rows come from.

    Raises:
        InputError: an id is below 0 or beyond the model's table; names the array, and the row of the batch.
    """
    tables = {"input_ids": config.vocab_size, "position_ids": config.max_length}
    if config.type_vocab_size:
        tables["token_type_ids"] = config.type_vocab_size
    for name, size in tables.items():
        if name in batch:
            check_range(name, batch[name], size, where)


def check_input(name: str, value: object) -> None:
    """Check that an input of a model is rows of numbers, which a text, say, is not.

    Args:
        name: `input_ids`, `attention_mask` (which may be truths, or floats), `token_type_ids` …

    Raises:
        InputError: it is not: names the argument.
    """
    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.asarray(None)
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name}: a masked array was given; what it masks goes into attention_mask", field=name)
    is_mask = name == "attention_mask"
    kind = jnp.number if is_mask else jnp.integer
    if not jnp.issubdtype(array.dtype, kind) and not (is_mask and array.dtype == bool):
        given = f"{array.dtype} array" if array.dtype.kind in "fc" else type(value).__name__
        raise InputError(
            f"{name}: a {given} was given, expected whole numbers [B, T], rows of one length; of texts a tokenizer makes them: "
            "model(**tokenizer(text))",
            field=name,
        )


def check_finite(scores: np.ndarray, name: object) -> None:
    """Check what a model computed.

    Args:
        scores: of any shape.
        name: of the model: its directory or hub id.

    Raises:
        NotFiniteError: a score is infinite or not a number.
    """
    if not np.isfinite(scores).all():
        raise NotFiniteError(
            f"{name}: scores that are not finite: its weights are too large for {scores.dtype}, or damaged",
            path=name,
        )
