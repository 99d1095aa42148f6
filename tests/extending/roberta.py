"""RoBERTa as a family of one's own: one module beside the package. Whoever imports it can load, save, train and ask such models.

import roberta
from distilbert_jax.pipelines import FillMask
FillMask("roberta-base")("Hello, I'm a <mask> model.")
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from distilbert_jax.config import ModelConfig
from distilbert_jax.families import BERT, Family, TokenizerKind, register
from distilbert_jax.models import EncoderModel, MaskedLM, SequenceClassification
from distilbert_jax.models.heads import HEAD_SITE, ModelOutput
from distilbert_jax.models.layers import Linear, dropout, fold_rows


def byte_level_bpe(directory: Path) -> Tokenizer:
    """The tokenizer of a directory with vocab.json and merges.txt, as fairseq's were converted."""
    return byte_level(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))


def byte_level(model: models.BPE) -> Tokenizer:
    """RoBERTa's tokenizer around its pieces: bytes, a space belongs to the word behind it, <s> text </s></s> pair </s>."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    return tokenizer


ROBERTA = register(
    Family(
        name="roberta",
        title="RoBERTa",
        parameters={
            ours: theirs.replace("bert.", "roberta.", 1)
            for ours, theirs in BERT.parameters.items()
            if ours.startswith(("encoder.", "pooler."))
        }
        | {
            "head.transform": "lm_head.dense",
            "head.norm": "lm_head.layer_norm",
            "head.bias": "lm_head.bias",
            "classifier.dense": "classifier.dense",
            "classifier.out_proj": "classifier.out_proj",
        },
        config_fields=BERT.config_fields,
        config_fallbacks=BERT.config_fallbacks,
        defaults={"vocab_size": 50265, "pad_token_id": 1},  # where a config.json leaves them out; see `roberta_base`
        config_extra={"bos_token_id": 0, "eos_token_id": 2},
        tied={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        positions_after_pad=True,  # 514 positions for 512 tokens
        mlm_activation="gelu",
        student=True,  # DistilRoBERTa is a RoBERTa of six layers
        tokenizer=TokenizerKind(
            name="RobertaTokenizer",
            pad="<pad>",
            unk="<unk>",
            cls="<s>",
            sep="</s>",
            mask="<mask>",
            files=("vocab.json", "merges.txt"),
            load=byte_level_bpe,
            settings=lambda tokenizer: {
                "bos_token": "<s>",
                "eos_token": "</s>",
                "add_prefix_space": tokenizer["pre_tokenizer"]["add_prefix_space"],
            },
        ),
    )
)


def roberta_base(**changes: Any) -> ModelConfig:
    """RoBERTa-base: 124,055,040 parameters without pooler and head."""
    own = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return ModelConfig.of_family("roberta", **{**own, **changes})


class RobertaModel(EncoderModel):
    """RoBERTa with pooler, without a head."""

    family = ROBERTA


class RobertaForMaskedLM(MaskedLM):
    """RoBERTa with a masked-LM head."""

    family = ROBERTA


class ClassificationHead(nnx.Module):
    """Dropout, linear, tanh, dropout, linear, on the first token."""

    def __init__(self, config: ModelConfig, *, dtype: Any, rngs: nnx.Rngs):
        linear = lambda size: Linear(config.hidden_size, size, std=config.initializer_range, dtype=dtype, rngs=rngs)
        self.dense, self.out_proj = linear(config.hidden_size), linear(len(config.labels))
        self.dropout = config.classifier_dropout

    def __call__(self, hidden: jax.Array, rngs: jax.Array | None) -> jax.Array:
        """hidden [B, T, D], rngs [B] → logits [B, labels]."""
        first = dropout(hidden[:, 0], self.dropout, fold_rows(rngs, HEAD_SITE))
        return self.out_proj(dropout(jnp.tanh(self.dense(first)), self.dropout, fold_rows(rngs, HEAD_SITE + 1)))


class RobertaForSequenceClassification(SequenceClassification):
    """RoBERTa with a classifier of two layers on <s>; it has no pooler."""

    family = ROBERTA

    def add_head(self, config: ModelConfig, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.classifier = ClassificationHead(config, dtype=dtype, rngs=rngs)

    def __call__(self, input_ids: Any, attention_mask: Any = None, *, rngs: Any = None, **inputs: Any) -> ModelOutput:
        """Arguments as `Encoder.__call__`; logits [B, labels]."""
        encoded = self.encoder(input_ids, attention_mask, rngs=rngs, **inputs)
        return ModelOutput(**vars(encoded), logits=self.classifier(encoded.last_hidden_state, rngs))
