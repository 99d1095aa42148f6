"""Pipelines for notebooks: a model and its tokenizer behind one call on texts."""

from distilbert_jax.pipelines.classification import TextClassification
from distilbert_jax.pipelines.features import FeatureExtraction
from distilbert_jax.pipelines.fill_mask import FillMask
from distilbert_jax.pipelines.questions import QuestionAnswering
from distilbert_jax.pipelines.tokens import TokenClassification

__all__ = ["FeatureExtraction", "FillMask", "QuestionAnswering", "TextClassification", "TokenClassification"]
