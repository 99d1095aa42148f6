"""Augmentation of training rows: copies in which a masked LM replaces words (TinyBERT, Jiao et al. 2020, algorithm 1)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from distilbert_jax.base.progress import progress
from distilbert_jax.config import Activations, AugmentConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.models import MaskedLM
from distilbert_jax.pipelines.base import Forward
from distilbert_jax.pipelines.fill_mask import FillMask
from distilbert_jax.pipelines.scores import Ids, replaced
from distilbert_jax.text.tokenizer import Row, check_fit, load_tokenizer, same_ids, special_ids


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What the pieces of a vocabulary are, bool [V]. begins: a word begins with it, or is it; continues: a word goes on with it.
    Punctuation, special tokens and those that were added to the vocabulary are neither."""

    begins: np.ndarray
    continues: np.ndarray

    def words(self, ids: np.ndarray) -> tuple[int, np.ndarray]:
        """How many words a row has, and the positions of those that are one piece, int64 [n]."""
        begins, goes_on = self.begins[ids], np.append(self.continues[ids[1:]], False)
        return int(begins.sum()), np.flatnonzero(begins & ~goes_on)


def pieces_of(tokenizer: Tokenizer, vocab_size: int) -> Pieces:
    """Those of a WordPiece vocabulary, the rows beyond it up to `vocab_size` neither.

    Raises:
        InputError: the tokenizer is another.
    """
    model = tokenizer.model
    if not isinstance(model, WordPiece):
        raise InputError(
            f"augment.copies: words are told by the pieces of WordPiece, and this tokenizer is a {type(model).__name__}: "
            "--augment.copies 0",
            field="augment.copies",
            hint="--augment.copies 0",
        )
    prefix, begins, continues = model.continuing_subword_prefix, np.zeros(vocab_size, bool), np.zeros(vocab_size, bool)
    reserved = {*vars(special_ids(tokenizer)).values(), *tokenizer.get_added_tokens_decoder()}  # by whatever names
    for piece, index in tokenizer.get_vocab().items():
        if index in reserved or (piece.startswith("[") and piece.endswith("]")):  # [unused7]
            continue
        continues[index] = piece.startswith(prefix)
        begins[index] = not continues[index] and any(map(str.isalnum, piece))
    return Pieces(begins, continues)


def check_proposer(config: AugmentConfig) -> None:
    """Raise InputError where the masked LM that proposes words is not there, or is none. Its weights are not read."""
    if not MaskedLM.is_whole(config.model):
        raise InputError(
            f"augment.model = {config.model}: has no masked-LM head, as a classifier has none: name the model that the teacher was "
            "fine-tuned from",
            path=config.model,
            field="augment.model",
        )


def load_proposer(
    config: AugmentConfig,
    tokenizer: Tokenizer,
    length: int,
    *,
    dtype: DTypeLike = jnp.float32,
    activations: Activations = "auto",
) -> MaskedLM:
    """The masked LM that proposes words.

    Args:
        tokenizer: that made the rows. length: tokens of a row at most.

    Raises:
        InputError: it has no trained masked-LM head, another tokenizer, or too few positions.
    """
    where, name = f"augment.model = {config.model}", config.model
    check_proposer(config)
    model = MaskedLM.from_pretrained(name, dtype=dtype, activations=activations, new_head=False)
    try:
        check_fit(tokenizer, model.config.vocab_size, where)
    except InputError as error:
        raise InputError(str(error), path=name, field="augment.model", hint=error.hint) from None
    if not same_ids(load_tokenizer(name), tokenizer):
        raise InputError(
            f"{where}: its tokenizer is not that of the model to fine-tune; ids would differ",
            path=name,
            field="augment.model",
        )
    if length > model.config.max_length:
        raise InputError(
            f"length = {length} is beyond the {model.config.max_length} positions of {where}",
            path=name,
            field="length",
        )
    return model


def augmented(examples: Examples, config: AugmentConfig, model: MaskedLM, tokenizer: Tokenizer) -> Examples:
    """`examples`, then `config.copies` copies of each in which words are replaced.

    A copy has `share` of its words replaced, one at least, drawn at random; all of them are masked together, and for each a word is
    drawn from the `candidates` likeliest that are another. (TinyBERT masks one at a time: as many passes as there are words.) Words
    of one piece are replaced by words of one piece, so that a copy has the length of its row; words of several pieces stay as they
    are (TinyBERT takes neighbours in GloVe for them), and a row that has no others is not copied. What is drawn depends on the
    row's number and the copy's, on no seed of a run.

    Returns:
        Examples of which the copies are not `labelled`: they carry the label of their row, which may not fit them.

    Raises:
        NotFiniteError: the masked LM gives scores that are not finite.
    """
    pieces, mask = pieces_of(tokenizer, model.config.vocab_size), special_ids(tokenizer).mask
    number = int(min(config.candidates + 1, pieces.begins.sum()))  # one more, for the word itself
    allowed = jnp.asarray(pieces.begins)

    def likeliest(model: MaskedLM, batch: dict[str, jax.Array]) -> jax.Array:
        log_p, ids = jax.lax.top_k(jnp.where(allowed, FillMask.compute(model, batch), -jnp.inf), number)
        return jnp.where(jnp.isfinite(log_p), ids, jnp.nan)  # which is refused; float32 tells ids below 2²⁴ apart

    batch_size = 8 if jax.default_backend() == "cpu" else 64
    forward = Forward(model, likeliest, pad_id=special_ids(tokenizer).pad, batch_size=batch_size, name=config.model)
    drawn = functools.partial(_drawn, pieces=pieces, share=config.share)
    rows, made_of = list(examples.rows), [*range(len(examples))]
    with progress("augmenting", config.copies * len(examples)) as done:
        for copy in range(config.copies):
            places = {i: drawn(row.ids, np.random.default_rng((copy, i))) for i, row in enumerate(examples.rows)}
            places = {i: at for i, at in places.items() if len(at)}
            masked = [_with(examples.rows[i], at, [mask] * len(at)) for i, at in places.items()]
            which, copies = list(places), {}
            for n, proposed in forward(masked, list(places.values())):
                i = which[n]
                ids, at, generator = examples.rows[i].ids, places[i], np.random.default_rng((copy, i, 1))
                proposed = proposed.astype(np.int32)
                others = [words[words != word] for words, word in zip(proposed, ids[at], strict=False)]
                new = [choice[generator.integers(min(config.candidates, len(choice)))] for choice in others]
                copies[i] = _with(examples.rows[i], at, new)
                done(copy * len(examples) + len(copies))
            rows += [copies[i] for i in which]
            made_of += which
    copied = examples.copied(made_of, rows)
    return dataclasses.replace(copied, labelled=np.arange(len(rows)) < len(examples))


def _drawn(ids: np.ndarray, generator: np.random.Generator, *, pieces: Pieces, share: float) -> np.ndarray:
    """The positions of a row that are replaced in a copy, int64 [n], from left to right; none where no word is of one piece."""
    words, single = pieces.words(ids)
    number = min(max(1, round(share * words)), len(single))
    return np.sort(generator.choice(single, number, replace=False)) if number else single


def _with(row: Row, positions: np.ndarray, ids: Ids) -> Row:
    return row._replace(ids=replaced(row.ids, positions, ids))
