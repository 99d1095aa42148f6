"""Model families: what tells BERT, DistilBERT and other encoders of their kind apart, one record each.

Whatever depends on the family of a model asks its record; nothing else compares a `model_type`. A family of one's own is a module
outside of the package that registers a `Family` and subclasses the heads of `distilbert_jax.models` (CONTRIBUTING.md shows one).
The records stand below the configs, which are checked against them, and come without JAX.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distilbert_jax.errors import InputError, nearest, shortened

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _bert_settings(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    normalizer = tokenizer["normalizer"] or {}
    return {
        "do_lower_case": normalizer.get("lowercase", False),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }


@dataclass(frozen=True, eq=False)
class TokenizerKind:
    """How a family's tokenizer stands in files, and its special tokens by role. The defaults are BERT's.

    Attributes:
        name: `tokenizer_class` of tokenizer_config.json, for transformers.
        pad, unk, cls, sep, mask: the special token of each role.
        files: what a directory without tokenizer.json has to have instead.
        load: makes a `tokenizers.Tokenizer` of a directory that has those files, and tokenizer.json is taken as it stands; None:
            they are BERT's vocab.txt, and of tokenizer.json the vocabulary and the added tokens are taken alone.
        settings: the content of tokenizer.json → what tokenizer_config.json says beside class, length and special tokens; one that
            says another thing is refused.
    """

    name: str = "BertTokenizer"
    pad: str = "[PAD]"
    unk: str = "[UNK]"
    cls: str = "[CLS]"
    sep: str = "[SEP]"
    mask: str = "[MASK]"
    files: tuple[str, ...] = ("vocab.txt",)
    load: Callable[[Path], Any] | None = None
    settings: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _bert_settings

    @property
    def special_tokens(self) -> dict[str, str]:
        """Role → token."""
        return {role: getattr(self, role) for role in ("pad", "unk", "cls", "sep", "mask")}


BERT_TOKENIZER = TokenizerKind()


@dataclass(frozen=True, eq=False)
class Family:
    """A family of models: its names in Hugging Face's files, and where it differs from BERT. The defaults are BERT's.

    Attributes:
        name: `model_type` of config.json.
        title: its name in sentences.
        parameters: our paths of modules and parameters → the reference's names; `{i}` stands for the number of a layer. The
            reference's begin with one prefix for what its bare model has, a pooler included, and without it for the heads.
        config_fields: fields of `ModelConfig` → those of config.json. What is left out keeps its default: config.json cannot say
            another value.
        defaults: fields of `ModelConfig` that have another default here than in BERT-base.
        config_fallbacks: fields of `ModelConfig` → the field whose value they have where config.json leaves them out.
        config_aliases: other names that config.json may have for its fields → those names; they go before them.
        config_extra: what config.json says beside these fields, for transformers.
        tied: the reference's names of copies that files may hold → the tensors they are copies of.
        untied: with a decoder that is not the word embedding, the paths that have another name than in `parameters` → it.
        untied_copies: then also written: names that the reference asks for and does not use → the tensors they are copies of.
        positions_after_pad: positions are counted from pad_token_id + 1 over the tokens that are no padding; padding stands at
            pad_token_id (RoBERTa). Else from 0 over all.
        attention_output_dropout: `hidden_dropout` also after the attention's output.
        pooler_activation: of the linear layer on the first token, a name in `layers.ACTIVATIONS`.
        mlm_activation: in the masked-LM head; None: `hidden_act`.
        token_dropout: the field of `ModelConfig` that a token classifier drops by.
        student: a model of this family may begin with layers of a teacher; else it takes a whole model or none.
        encoder: called like `encoder.Encoder`, which it replaces; None: that one. For terms of the loss that read layers it
            has to have its method `read`, too.
        tokenizer: its tokenizer's kind.
    """

    name: str
    title: str
    parameters: Mapping[str, str]
    config_fields: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    config_fallbacks: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    config_aliases: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    config_extra: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    tied: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    untied: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    untied_copies: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    positions_after_pad: bool = False
    attention_output_dropout: bool = True
    pooler_activation: str = "tanh"
    mlm_activation: str | None = None
    token_dropout: str = "classifier_dropout"
    student: bool = False
    encoder: Callable[..., Any] | None = None
    tokenizer: TokenizerKind = BERT_TOKENIZER

    @property
    def word(self) -> str:
        """The reference's name of the word embedding."""
        return self.parameters["encoder.embeddings.word"]

    def names(self, *, tied: bool) -> Mapping[str, str]:
        """`parameters`, as they are called where the masked LM's decoder is the word embedding, or a table of its own."""
        return self.parameters if tied else {**self.parameters, **self.untied}

    def copies(self, *, tied: bool) -> Mapping[str, str]:
        """`tied` or `untied_copies`."""
        return self.tied if tied else self.untied_copies

    @property
    def prefix(self) -> str:
        """What the reference's names of a bare model's parameters begin with, its dot included; such a model is saved without."""
        return self.word.partition(".")[0] + "."

    @property
    def bare(self) -> tuple[str, ...]:
        """What those names go on with after the prefix, their dot included."""
        inside = (name.removeprefix(self.prefix) for name in self.parameters.values() if name.startswith(self.prefix))
        return tuple(dict.fromkeys(name.partition(".")[0] + "." for name in inside))

    @property
    def heads(self) -> tuple[str, ...]:
        """What the reference's names of all heads begin with, a bare model's pooler included."""
        names = (theirs for ours, theirs in self.parameters.items() if not ours.startswith("encoder."))
        parts = ((name.split("."), 2 if name.startswith(self.prefix) else 1) for name in names)
        return tuple(dict.fromkeys(".".join(part[:depth]) + "." for part, depth in parts))

    @property
    def has_pooler(self) -> bool:
        """Whether a bare model has a pooler."""
        return self.parameters.get("pooler.dense", "").startswith(self.prefix)

    @property
    def reads_layers(self) -> bool:
        """Whether the encoder has a `read` that goes with what it computes when it is called."""
        kinds = getattr(self.encoder, "__mro__", ())
        first = lambda name: next((i for i, kind in enumerate(kinds) if name in vars(kind)), len(kinds))
        return self.encoder is None or first("read") <= first("__call__") < len(kinds)

    @property
    def has_next_sentence(self) -> bool:
        """Whether there is a head for next-sentence prediction."""
        return "seq_relationship" in self.parameters

    def first_position(self, pad_token_id: int) -> int:
        """The row of the position table that the first token of a sequence has."""
        return pad_token_id + 1 if self.positions_after_pad else 0


_REGISTERED: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make a family known by its name, in the place of an older one of that name, and give it back."""
    _REGISTERED[family.name] = family
    return family


def known() -> Mapping[str, Family]:
    """The registered families by name."""
    return MappingProxyType(_REGISTERED)


def tokenizers() -> tuple[TokenizerKind, ...]:
    """The kinds of tokenizers of the registered families, each once."""
    return tuple(dict.fromkeys(family.tokenizer for family in _REGISTERED.values()))


def find(name: object) -> Family:
    """The family that a `model_type` names.

    Raises:
        InputError: none is registered under this name.
    """
    if isinstance(name, str) and name in _REGISTERED:
        return _REGISTERED[name]
    close = nearest(str(name), _REGISTERED, cutoff=0.75)
    more = "import the module that registers another one first (CONTRIBUTING.md: add a family)"
    raise InputError(
        f"model_type = {shortened(repr(name))}: {close if close.startswith('did') else f'families {close}'}; {more}",
        field="model_type",
        hint=close if close.startswith("did") else more,
    )


_SHARED_FIELDS = {
    name: name
    for name in (
        "vocab_size",
        "max_position_embeddings",
        "initializer_range",
        "pad_token_id",
        "tie_word_embeddings",
        "output_hidden_states",
        "output_attentions",
    )
}

BERT = register(
    Family(
        name="bert",
        title="BERT",
        parameters={
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
            "head.decoder": "cls.predictions.decoder.weight",
            "pooler.dense": "bert.pooler.dense",
            "classifier": "classifier",
            "qa_outputs": "qa_outputs",
            "seq_relationship": "cls.seq_relationship",
        },
        config_fields=_SHARED_FIELDS
        | {
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "intermediate_size": "intermediate_size",
            "type_vocab_size": "type_vocab_size",
            "hidden_act": "hidden_act",
            "layer_norm_eps": "layer_norm_eps",
            "hidden_dropout": "hidden_dropout_prob",
            "attention_dropout": "attention_probs_dropout_prob",
            "classifier_dropout": "classifier_dropout",
        },
        config_fallbacks={"classifier_dropout": "hidden_dropout"},
        tied={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        untied={"head.bias": "cls.predictions.decoder.bias"},
        untied_copies={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    )
)

DISTILBERT = register(
    Family(
        name="distilbert",
        title="DistilBERT",
        parameters={
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
            "head.decoder": "vocab_projector.weight",
            "pooler.dense": "pre_classifier",
            "classifier": "classifier",
            "qa_outputs": "qa_outputs",
        },
        config_fields=_SHARED_FIELDS
        | {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout": "dropout",
            "attention_dropout": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
            "qa_dropout": "qa_dropout",
        },
        defaults={"num_hidden_layers": 6, "type_vocab_size": 0, "classifier_dropout": 0.2, "qa_dropout": 0.1},
        config_aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
        config_extra={"sinusoidal_pos_embds": False, "tie_weights_": True},
        tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
        attention_output_dropout=False,
        pooler_activation="relu",
        token_dropout="hidden_dropout",  # the reference's DistilBERT has its classifier dropout for sequences only
        student=True,
    )
)
