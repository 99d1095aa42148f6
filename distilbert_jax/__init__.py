"""BERT and DistilBERT in JAX: models, distillation pre-training, GLUE and probes."""
