"""DistilBERT: the shared encoder without token types, and the reference's names of its parameters."""

from distilbert_jax.models.heads import (
    EncoderModel,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)

NAMES = {
    "encoder.embeddings.word": "distilbert.embeddings.word_embeddings.weight",
    "encoder.embeddings.position": "distilbert.embeddings.position_embeddings.weight",
    "encoder.embeddings.norm": "distilbert.embeddings.LayerNorm",
    "encoder.layers.{i}.attention.query": "distilbert.transformer.layer.{i}.attention.q_lin",
    "encoder.layers.{i}.attention.key": "distilbert.transformer.layer.{i}.attention.k_lin",
    "encoder.layers.{i}.attention.value": "distilbert.transformer.layer.{i}.attention.v_lin",
    "encoder.layers.{i}.attention.out": "distilbert.transformer.layer.{i}.attention.out_lin",
    "encoder.layers.{i}.attention_norm": "distilbert.transformer.layer.{i}.sa_layer_norm",
    "encoder.layers.{i}.ffn_in": "distilbert.transformer.layer.{i}.ffn.lin1",
    "encoder.layers.{i}.ffn_out": "distilbert.transformer.layer.{i}.ffn.lin2",
    "encoder.layers.{i}.ffn_norm": "distilbert.transformer.layer.{i}.output_layer_norm",
    "head.transform": "vocab_transform",
    "head.norm": "vocab_layer_norm",
    "head.bias": "vocab_projector.bias",
    "pooler.dense": "pre_classifier",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
}


class DistilBertModel(EncoderModel):
    """DistilBERT without a head; it has no pooler."""

    model_type = "distilbert"
    names = NAMES


class DistilBertForMaskedLM(MaskedLM):
    """DistilBERT with a masked-LM head."""

    model_type = "distilbert"
    names = NAMES


class DistilBertForSequenceClassification(SequenceClassification):
    """DistilBERT with pre-classifier (ReLU) and a classifier or, with one label, a regression on [CLS]."""

    model_type = "distilbert"
    names = NAMES


class DistilBertForTokenClassification(TokenClassification):
    """DistilBERT with a classifier on every token."""

    model_type = "distilbert"
    names = NAMES


class DistilBertForQuestionAnswering(QuestionAnswering):
    """DistilBERT with dropout, then start and end of an answer."""

    model_type = "distilbert"
    names = NAMES


class DistilBertForMultipleChoice(MultipleChoice):
    """DistilBERT with pre-classifier and one score for each choice."""

    model_type = "distilbert"
    names = NAMES
