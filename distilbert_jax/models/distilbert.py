"""DistilBERT: its classes. Its names of parameters and whatever else is its own stand in `families.DISTILBERT`."""

from distilbert_jax.families import DISTILBERT
from distilbert_jax.models.heads import (
    EncoderModel,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)


class DistilBertModel(EncoderModel):
    """DistilBERT without a head; it has no pooler."""

    family = DISTILBERT


class DistilBertForMaskedLM(MaskedLM):
    """DistilBERT with a masked-LM head."""

    family = DISTILBERT


class DistilBertForSequenceClassification(SequenceClassification):
    """DistilBERT with pre-classifier (ReLU) and a classifier or, with one label, a regression on [CLS]."""

    family = DISTILBERT


class DistilBertForTokenClassification(TokenClassification):
    """DistilBERT with a classifier on every token."""

    family = DISTILBERT


class DistilBertForQuestionAnswering(QuestionAnswering):
    """DistilBERT with dropout, then start and end of an answer."""

    family = DISTILBERT


class DistilBertForMultipleChoice(MultipleChoice):
    """DistilBERT with pre-classifier and one score for each choice."""

    family = DISTILBERT
