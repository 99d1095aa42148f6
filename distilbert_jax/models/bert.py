"""BERT: the shared encoder with token types, and the reference's names of its parameters."""

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
    "qa_outputs": "qa_outputs",
    "seq_relationship": "cls.seq_relationship",
}


class BertModel(EncoderModel):
    """BERT with pooler, without a head."""

    model_type = "bert"
    names = NAMES


class BertForMaskedLM(MaskedLM):
    """BERT with a masked-LM head."""

    model_type = "bert"
    names = NAMES


class BertForSequenceClassification(SequenceClassification):
    """BERT with pooler (tanh) and a classifier or, with one label, a regression on [CLS]."""

    model_type = "bert"
    names = NAMES


class BertForTokenClassification(TokenClassification):
    """BERT with a classifier on every token."""

    model_type = "bert"
    names = NAMES


class BertForQuestionAnswering(QuestionAnswering):
    """BERT with start and end of an answer; no dropout before them."""

    model_type = "bert"
    names = NAMES


class BertForMultipleChoice(MultipleChoice):
    """BERT with pooler and one score for each choice."""

    model_type = "bert"
    names = NAMES


class BertForNextSentencePrediction(NextSentencePrediction):
    """BERT with pooler and next-sentence prediction."""

    model_type = "bert"
    names = NAMES


class BertForPreTraining(PreTraining):
    """BERT with masked LM and next-sentence prediction."""

    model_type = "bert"
    names = NAMES
