"""BERT: its classes. Its names of parameters and whatever else is its own stand in `families.BERT`."""

from distilbert_jax.families import BERT
from distilbert_jax.models.heads import (
    EncoderModel,
    MaskedLM,
    MultipleChoice,
    NextSentencePrediction,
    PreTraining,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)


class BertModel(EncoderModel):
    """BERT with pooler, without a head."""

    family = BERT


class BertForMaskedLM(MaskedLM):
    """BERT with a masked-LM head."""

    family = BERT


class BertForSequenceClassification(SequenceClassification):
    """BERT with pooler (tanh) and a classifier or, with one label, a regression on [CLS]."""

    family = BERT


class BertForTokenClassification(TokenClassification):
    """BERT with a classifier on every token."""

    family = BERT


class BertForQuestionAnswering(QuestionAnswering):
    """BERT with start and end of an answer; no dropout before them."""

    family = BERT


class BertForMultipleChoice(MultipleChoice):
    """BERT with pooler and one score for each choice."""

    family = BERT


class BertForNextSentencePrediction(NextSentencePrediction):
    """BERT with pooler and next-sentence prediction."""

    family = BERT


class BertForPreTraining(PreTraining):
    """BERT with masked LM and next-sentence prediction."""

    family = BERT
