"""Ranges of what a model looks up in its tables: token ids, token types and positions, checked on the host (`base.ranges`)."""

from collections.abc import Mapping

import jax
import numpy as np

from distilbert_jax.base.ranges import check_range
from distilbert_jax.config import ModelConfig


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
