"""Token classification: named entities and other labels of the words of a text, from a fine-tuned directory."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import softmax
from tokenizers import Encoding

from distilbert_jax import models
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.pipelines.base import Pipeline
from distilbert_jax.pipelines.results import Answers
from distilbert_jax.text.tokenizer import Row

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A token, or a word of several: its text, P of each label [labels], and where it stands in the text."""

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues: bool  # the word of the piece before it


class TokenClassification(Pipeline):
    """Named entities, or what else a model labels words with.

    >>> entities = TokenClassification("path/to/a-model-for-entities")
    >>> entities("Ada Lovelace lived in London.", aggregation_strategy="simple")
    [{'entity_group': 'PER', 'score': 0.998…, 'word': 'ada lovelace', 'start': 0, 'end': 12}, …]

    The directory must hold a trained classifier of tokens; the model itself is `distilbert_jax.models.TokenClassification`.
    Arguments: see `Pipeline`.
    """

    _kind = models.TokenClassification

    @staticmethod
    def compute(model: models.TokenClassification, batch: dict[str, jax.Array]) -> jax.Array:
        """float32 [B, T, labels]."""
        return model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"]).logits

    def __call__(self, texts: Any, aggregation_strategy: str = "none", ignore_labels: Sequence[str] = ("O",)) -> Any:
        """The labelled words of a text, of a list of texts (a list of results), or of an iterator (an iterator of results).

        What is too long is cut, which a line on stderr says.

        Args:
            aggregation_strategy: `"none"`: every token on its own. The others join neighbours of one label, `B-` beginning a new
                group: `"simple"`: tokens as they are, so that the pieces of a word may go apart; words as a whole by the label
                of their `"first"` piece, the `"average"` of their pieces' probabilities, or the piece with the `"max"` one.
                As in the reference, a piece goes on with the word before it if it has another length than its place in the
                text: `##s`, but also a letter with a combining mark.
            ignore_labels: labels that are left out.

        Returns:
            For a text a list of `{"entity", "score", "index", "word", "start", "end"}` for the tokens, or of `{"entity_group",
            "score", "word", "start", "end"}` for groups, whose label has no `B-` or `I-` and whose score is the mean of its
            members'. `text[start:end]` is the word as it was given; `word` is what the vocabulary makes of it, `index` its token.

        Raises:
            InputError: an empty text, an unknown strategy.
        """
        if aggregation_strategy not in STRATEGIES:
            hint = nearest(str(aggregation_strategy), STRATEGIES)
            raise InputError(
                f"aggregation_strategy = {aggregation_strategy!r}: no such strategy; {hint}",
                field="aggregation_strategy",
                hint=hint,
            )
        ignored = {ignore_labels} if isinstance(ignore_labels, str) else {*ignore_labels}

        def answer(texts: Sequence[str], encodings: Sequence[Encoding]) -> list[Answers]:
            logits = dict(self._forward([Row.of(encoding) for encoding in encodings]))
            return [
                Answers(self._entities(text, encoding, logits[i], aggregation_strategy, ignored), text)
                for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
            ]

        encode = lambda texts, first: self.tokenizer.encodings(texts, first=first)
        return self._over(texts, answer, "finding entities", collect=Answers, encode=encode)

    def _entities(
        self, text: str, encoding: Encoding, logits: np.ndarray, strategy: str, ignored: set[str]
    ) -> list[dict[str, Any]]:
        pieces = self._pieces(text, encoding, logits)
        if strategy not in ("none", "simple"):
            pieces = [self._word(group, strategy) for group in _words(pieces)]
        labels = self.model.config.labels
        entities = [
            {
                "entity": labels[best := int(piece.scores.argmax())],
                "score": float(piece.scores[best]),
                "index": piece.index,
                "word": piece.word,
                "start": piece.start,
                "end": piece.end,
            }
            for piece in pieces
        ]
        if strategy == "none":
            return [entity for entity in entities if entity["entity"] not in ignored]
        groups = map(self._group, _groups(entities))
        return [group for group in groups if group["entity_group"] not in ignored]

    def _pieces(self, text: str, encoding: Encoding, logits: np.ndarray) -> Iterator[_Piece]:
        """The tokens of a text but for [CLS] and [SEP] around it."""
        scores = softmax(logits[: len(encoding)].astype(np.float64), axis=-1)
        by_pieces = bool(getattr(self.tokenizer.tokenizer.model, "continuing_subword_prefix", None))
        tokens = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
        for index, (token_id, token, (start, end), special) in enumerate(tokens):
            if special:
                continue
            if token_id == self.tokenizer.ids.unk:
                yield _Piece(text[start:end], scores[index], start, end, index, False)
            elif by_pieces:
                yield _Piece(token, scores[index], start, end, index, len(token) != end - start)
            else:  # a word of BPE begins where a space stands before it
                within = start > 0 and " " not in text[start - 1 : start + 1]
                yield _Piece(token, scores[index], start, end, index, within)

    def _word(self, pieces: Sequence[_Piece], strategy: str) -> _Piece:
        """The pieces of a word as one, with the scores that the strategy gives it."""
        if strategy == "first":
            scores = pieces[0].scores
        elif strategy == "max":
            scores = max(pieces, key=lambda piece: piece.scores.max()).scores
        else:
            scores = np.mean([piece.scores for piece in pieces], axis=0)
        word = self._joined([piece.word for piece in pieces])
        return dataclasses.replace(pieces[0], word=word, scores=scores, end=pieces[-1].end)

    def _group(self, entities: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "entity_group": entities[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([entity["score"] for entity in entities])),
            "word": self._joined([entity["word"] for entity in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }

    def _joined(self, tokens: list[str]) -> str:
        decoder = self.tokenizer.tokenizer.decoder
        return decoder.decode(tokens) if decoder is not None else " ".join(tokens)


def _words(pieces: Iterator[_Piece]) -> list[list[_Piece]]:
    words: list[list[_Piece]] = []
    for piece in pieces:
        if words and piece.continues:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _groups(entities: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbours of the same label, of which the later ones do not begin with `B-`."""
    groups: list[list[dict[str, Any]]] = []
    for entity in entities:
        begins, label = _tag(entity["entity"])
        if groups and not begins and label == _tag(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins a group, and what it says without `B-` or `I-`."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
