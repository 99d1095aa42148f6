"""BERT and DistilBERT as Flax NNX modules, and their way to and from Hugging Face directories."""

from distilbert_jax.models.bert import BertForMaskedLM, BertForSequenceClassification
from distilbert_jax.models.distilbert import (
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    student_from_teacher,
)
from distilbert_jax.models.heads import MaskedLM, SequenceClassification

__all__ = [
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "DistilBertForMaskedLM",
    "DistilBertForSequenceClassification",
    "MaskedLM",
    "SequenceClassification",
    "student_from_teacher",
]
