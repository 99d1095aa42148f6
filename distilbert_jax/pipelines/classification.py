"""Classification: labels of texts, from a fine-tuned directory."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import expit, softmax

from distilbert_jax.errors import InputError, nearest
from distilbert_jax.models import SequenceClassification
from distilbert_jax.pipelines.base import Pipeline, Text, is_count
from distilbert_jax.pipelines.results import Answers
from distilbert_jax.text.tokenizer import Row


class TextClassification(Pipeline):
    """Labels and their probabilities.

    >>> classify = TextClassification("runs/glue/model/sst2-0/model")
    >>> classify("A gripping film.")
    [{'label': 'positive', 'score': 0.998…}]

    The directory must hold a trained classifier. Arguments: see `Pipeline`.
    """

    _kind = SequenceClassification

    @staticmethod
    def compute(model: SequenceClassification, batch: dict[str, jax.Array]) -> jax.Array:
        """float32 [B, labels]."""
        return model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"]).logits

    def __call__(self, texts: Any, top_k: int | None = 1, function_to_apply: str | None = None) -> Any:
        """Classify a text, a list of texts (a list of results), or an iterator (an iterator of results).

        A pair of texts is a tuple `(text, pair)`. What is too long is cut, which a line on stderr says.

        Args:
            top_k: how many labels, None: all.
            function_to_apply: what makes scores of logits, "softmax", "sigmoid" or "none". None: what config.json's `problem_type`
                says, as in the reference: the plain values of a `regression`; of each label its own sigmoid, for
                `multi_label_classification` and where there is one label; else the softmax over the labels.

        Returns:
            For a text a list of `{"label", "score"}`, best first.

        Raises:
            InputError: an empty text, a tuple that is no pair, `top_k` outside 1 … labels, another function.
        """
        labels = self.model.config.labels
        if top_k is not None and not (is_count(top_k) and top_k <= len(labels)):
            raise InputError(
                f"top_k = {top_k!r}: expected 1 to {len(labels)}, the number of labels, or None for all", field="top_k"
            )

        apply = self._function(function_to_apply)

        def answer(texts: Sequence[Text], rows: Sequence[Row]) -> list[Answers]:
            logits = dict(self._forward(rows))
            return [self._answers(texts[i], apply(logits[i]), top_k) for i in range(len(rows))]

        return self._over(texts, answer, "classifying", collect=Answers, one=(str, tuple))

    def _function(self, name: str | None) -> Callable[[np.ndarray], np.ndarray]:
        """What makes scores of the logits of a text, [labels] → [labels]."""
        problem = self.model.config.problem_type
        if name is None and problem == "regression":
            name = "none"
        elif name is None:
            single = len(self.model.config.labels) == 1
            name = "sigmoid" if single or problem == "multi_label_classification" else "softmax"
        if name not in _FUNCTIONS:
            raise InputError(
                f"function_to_apply = {name!r}: no such function; {nearest(str(name), _FUNCTIONS)}",
                field="function_to_apply",
            )
        return _FUNCTIONS[name]

    def _answers(self, text: Text, scores: np.ndarray, top_k: int | None) -> Answers:
        best = np.argsort(-scores, kind="stable")[:top_k]
        answers = [{"label": self.model.config.labels[i], "score": float(scores[i])} for i in best]
        return Answers(answers, text if isinstance(text, str) else " | ".join(text))


def _softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # of logits near the end of float32; exp(-inf) = 0 is right
        return softmax(logits)


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": expit,
    "none": lambda logits: logits,
}
