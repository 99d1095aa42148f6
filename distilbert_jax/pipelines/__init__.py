"""What people use in notebooks: a model and its tokenizer behind one call on texts."""

from distilbert_jax.pipelines.fill_mask import FillMask

__all__ = ["FillMask"]
