"""Pipelines for notebooks: a model and its tokenizer behind one call on texts."""

from distilbert_jax.pipelines.classification import TextClassification
from distilbert_jax.pipelines.features import FeatureExtraction
from distilbert_jax.pipelines.fill_mask import FillMask

__all__ = ["FeatureExtraction", "FillMask", "TextClassification"]
