"""BERT: the shared encoder with token types, and the reference's names of its parameters."""

from distilbert_jax.models.heads import MaskedLM, SequenceClassification

NAMES = {
    "encoder.embeddings.word": "bert.embeddings.word_embeddings.weight",
    "encoder.embeddings.position": "bert.embeddings.position_embeddings.weight",
    "encoder.embeddings.token_type": "bert.embeddings.token_type_embeddings.weight",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    "encoder.layers.{i}.attention.query": "bert.encoder.layer.{i}.attention.self.query",
    "encoder.layers.{i}.attention.key": "bert.encoder.layer.{i}.attention.self.key",
    "encoder.layers.{i}.attention.value": "bert.encoder.layer.{i}.attention.self.value",
    "encoder.layers.{i}.attention.out": "bert.encoder.layer.{i}.attention.output.dense",
    "encoder.layers.{i}.attention_norm": "bert.encoder.layer.{i}.attention.output.LayerNorm",
    "encoder.layers.{i}.ffn_in": "bert.encoder.layer.{i}.intermediate.dense",
    "encoder.layers.{i}.ffn_out": "bert.encoder.layer.{i}.output.dense",
    "encoder.layers.{i}.ffn_norm": "bert.encoder.layer.{i}.output.LayerNorm",
    "head.transform": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head.bias": "cls.predictions.bias",
    "pooler.dense": "bert.pooler.dense",
    "classifier": "classifier",
}


class BertForMaskedLM(MaskedLM):
    """BERT with a masked-LM head."""

    model_type = "bert"
    names = NAMES


class BertForSequenceClassification(SequenceClassification):
    """BERT with pooler (tanh) and a classifier or, with one label, a regression on [CLS]."""

    model_type = "bert"
    names = NAMES
