"""BERT and DistilBERT in JAX: models, distillation pre-training, GLUE and probes."""

__version__ = "0.2.0"
