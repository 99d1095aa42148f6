"""Frozen dataclasses that describe a model and a run, with errors that name the field.

A run is a `PretrainConfig` (masked LM or distillation on packed rows) or a `FinetuneConfig` (one GLUE task, one seed).
Files in `configs/` return one from `get_config()`; the command line overrides single fields (`--optimizer.learning-rate 1e-4`).
"""

import dataclasses
import typing
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from distilbert_jax import families
from distilbert_jax.errors import InputError, nearest, shortened

SMALLEST, LARGEST = 1.1754944e-38, 3.4028235e38  # that float32 tells from 0 and from infinity
LARGEST_BATCH = 1 << 20  # rows; thirty times those of BERT's largest batches
MOST_LABELS = 1 << 17  # of a classifier; a new one of that size takes 400 MB in the width of BERT-base


def require(condition: bool, owner: object, name: str, what: str) -> None:
    """Raise InputError, with the field `name` of `owner` and its value, unless `condition` holds; `what` says what is expected."""
    if not condition:
        value = shortened(repr(getattr(owner, name)), 200)
        raise InputError(f"{type(owner).__name__}.{name} = {value}: {what}", field=name)


def require_share(owner: object, *names: str) -> None:
    for name in names:
        require(0.0 <= getattr(owner, name) < 1.0, owner, name, "expected a share, 0 ≤ value < 1")


def require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)  # not `math.isnan`, to which a whole number may be too large
        require(value == value, owner, name, "expected a number")
        require(getattr(owner, name) >= SMALLEST, owner, name, "expected a value above 0")
        require(getattr(owner, name) <= LARGEST, owner, name, "expected a finite value (float32)")


def require_weight(owner: object, *names: str) -> None:
    for name in names:
        within = all(0.0 <= end <= LARGEST for end in ends(getattr(owner, name)))
        require(within, owner, name, "expected a finite value of 0 or more")


def require_batch(owner: object, name: str) -> None:
    what = f"expected 1 to {LARGEST_BATCH:,} rows"
    require(1 <= getattr(owner, name) <= LARGEST_BATCH, owner, name, what)


def require_temperature(owner: object, name: str) -> None:
    within = all(0.01 <= end <= 100.0 for end in ends(getattr(owner, name)))
    require(within, owner, name, "expected 0.01 to 100: others leave nothing to learn")


def require_choices(owner: object) -> None:
    for name, kind in typing.get_type_hints(type(owner)).items():
        value, alternatives = getattr(owner, name), typing.get_args(kind)
        if len(alternatives) == 2 and alternatives[1] is type(None) and value is not None:
            kind = alternatives[0]
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            few = len(choices) <= 8
            what = f"expected one of {', '.join(map(repr, choices))}" if few else nearest(str(value), choices)
            require(value in choices, owner, name, what)


def require_types(owner: object) -> None:
    """Raise InputError unless a number stands where a number is due, and true or false where one of them is."""
    for name, kind in typing.get_type_hints(type(owner)).items():
        value = getattr(owner, name)
        if kind is int:
            require(isinstance(value, Integral) and type(value) is not bool, owner, name, "expected a whole number")
        elif kind is float:
            require(isinstance(value, Real) and type(value) is not bool, owner, name, "expected a number")
        elif kind is bool:
            require(type(value) is bool, owner, name, "expected true or false")


@dataclass(frozen=True, repr=False)
class Schedule:
    """A number that changes over a run: `start` at its first step, `end` at its last. On the command line `linear:5:1`.

    linear: by the same amount each step; cosine: along half a wave, which is level at both ends.
    """

    kind: Literal["linear", "cosine"]
    start: float
    end: float

    def __post_init__(self) -> None:
        require_choices(self)
        require_types(self)

    def __repr__(self) -> str:
        return ":".join((self.kind, *(repr(float(end)).removesuffix(".0") for end in (self.start, self.end))))


Scheduled = float | Schedule  # a number that is the same at every step, or one that changes


def scheduled(text: str) -> Scheduled:
    """Read `5`, `linear:5:1` or `cosine:5:1`.

    Raises:
        InputError: it is none of them.
    """
    kind, *numbers = text.split(":")
    try:
        if not numbers:
            return float(text)
        start, end = map(float, numbers)
        if kind in ("linear", "cosine"):
            return Schedule(kind, start, end)
    except ValueError:
        pass
    raise InputError(f"{shortened(text, 200)!r}: expected a number, linear:START:END or cosine:START:END")


def ends(value: Scheduled) -> tuple[float, ...]:
    """The values between which a number stays: one, or the two of a schedule."""
    return (value.start, value.end) if isinstance(value, Schedule) else (value,)


Dtype = Literal["float32", "bfloat16"]
# auto: bfloat16 on accelerators where matmuls are bfloat16, float32 on a CPU and where they are float32.
Activations = Literal["auto", "float32", "bfloat16"]
Sequences = Literal["line", "document", "pair"]
TermTokens = Literal["all", "masked"]
# Under the names of config.json, of which several may mean one function; `models.layers.ACTIVATIONS` has them.
Activation = Literal[
    "gelu",
    "gelu_python",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "gelu_python_tanh",
    "gelu_accurate",
    "gelu_10",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "leaky_relu",
    "silu",
    "swish",
    "hardswish",
    "mish",
    "tanh",
    "sigmoid",
    "laplace",
    "sqrtsoftplus",
    "linear",
]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a model. Defaults are BERT-base uncased; see `distilbert_base` for the student."""

    model_type: str = "bert"  # the family: "bert", "distilbert" or one that a module of your own registers
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # 0: the model has no token types (DistilBERT)
    hidden_act: Activation = "gelu"  # "gelu" is the exact one, with erf
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    # after the embeddings and the feed-forward; not in DistilBERT: also after the attention output
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1  # on attention probabilities
    classifier_dropout: float = 0.1
    qa_dropout: float = 0.0  # before the question-answering head; BERT has none there
    pad_token_id: int = 0
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")  # of a classifier, in the order of their ids
    # What a classifier's logits are: values, one choice, or one yes or no a label. None: one choice; of one label, yes or no.
    problem_type: ProblemType | None = None
    tie_word_embeddings: bool = True  # False: the masked LM's decoder is a table of its own, not the word embedding
    output_hidden_states: bool = False  # what a call of the model gives beside its logits where it does not say itself
    output_attentions: bool = False

    def __post_init__(self) -> None:
        try:
            family = self.family
        except InputError as error:
            raise InputError(f"{type(self).__name__}.{error}", field=error.field, hint=error.hint) from None
        require_types(self)
        require_choices(self)
        require_positive(self, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        require_positive(self, "intermediate_size", "max_position_embeddings")
        require_weight(self, "layer_norm_eps", "initializer_range")
        for name in ("hidden_dropout", "attention_dropout", "classifier_dropout", "qa_dropout"):
            require(0.0 <= getattr(self, name) <= 1.0, self, name, "expected a share, 0 ≤ value ≤ 1")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            self,
            "num_attention_heads",
            f"does not divide hidden_size = {self.hidden_size}",
        )
        require(0 <= self.pad_token_id < self.vocab_size, self, "pad_token_id", "outside the vocabulary")
        self._check_labels()
        for one in fields(self):
            if one.name not in (*family.config_fields, "model_type", "labels", "problem_type"):
                fixed = family.defaults.get(one.name, one.default)
                require(getattr(self, one.name) == fixed, self, one.name, f"{family.title}'s is fixed at {fixed!r}")
        if "type_vocab_size" in family.config_fields:
            what = f"{family.title} has token types; expected 1 or more"
            require(self.type_vocab_size > 0, self, "type_vocab_size", what)
        what = f"{family.title}'s table of parameters has no decoder of its own (head.decoder)"
        require(self.tie_word_embeddings or "head.decoder" in family.parameters, self, "tie_word_embeddings", what)
        what = f"{family.title}'s positions begin after pad_token_id = {self.pad_token_id}: none is left"
        require(self.max_length > 0, self, "max_position_embeddings", what)

    def _check_labels(self) -> None:
        if isinstance(self.labels, list):
            object.__setattr__(self, "labels", tuple(self.labels))
        are_names = isinstance(self.labels, tuple) and all(isinstance(label, str) for label in self.labels)
        require(are_names, self, "labels", "expected a tuple of names")
        number = len(self.labels)
        if not 0 < number <= MOST_LABELS:  # the value is not shown: it may be long
            raise InputError(
                f"{type(self).__name__}.labels has {number}; expected 1 to {MOST_LABELS:,} labels", field="labels"
            )
        one_of_one = self.problem_type == "single_label_classification" and number == 1
        require(not one_of_one, self, "problem_type", "of one label there is no choice; expected a 'regression'")

    @property
    def family(self) -> families.Family:
        """The record of the model's family."""
        return families.find(self.model_type)

    @property
    def first_position(self) -> int:
        """The row of the position table that the first token of a sequence has."""
        return self.family.first_position(self.pad_token_id)

    @property
    def max_length(self) -> int:
        """Tokens of a sequence that the model has positions for."""
        return self.max_position_embeddings - self.first_position

    @property
    def problem(self) -> str:
        """What a classifier of texts was trained for: `problem_type`, or what transformers makes of the number of labels."""
        return self.problem_type or ("regression" if len(self.labels) == 1 else "single_label_classification")

    @classmethod
    def of_family(cls, model_type: str, **changes: Any) -> "ModelConfig":
        """The config of a family with its defaults.

        Raises:
            InputError: the family is not registered, a value is not one that it can have.
        """
        return cls(**{"model_type": model_type, **families.find(model_type).defaults, **changes})

    @classmethod
    def bert_base(cls, **changes: Any) -> "ModelConfig":
        """BERT-base uncased: 109,482,240 parameters with its pooler, without a head."""
        return cls.of_family("bert", **changes)

    @classmethod
    def distilbert_base(cls, **changes: Any) -> "ModelConfig":
        """DistilBERT-base uncased: 66,362,880 parameters without a head."""
        return cls.of_family("distilbert", **changes)


@dataclass(frozen=True)
class Reads:
    """What is read of an encoder: whether its embeddings, and of each kind the numbers of layers, the first is 0.

    hidden_states: what these layers return; attentions: probabilities, attention_scores: what they are the softmax of;
    queries_keys_values: as they leave their linear layers. Layers above the last one that is read are not computed.
    """

    embeddings: bool = False
    hidden_states: tuple[int, ...] = ()
    attentions: tuple[int, ...] = ()
    attention_scores: tuple[int, ...] = ()
    queries_keys_values: tuple[int, ...] = ()

    def __or__(self, other: "Reads") -> "Reads":
        """What one of the two reads."""
        both = lambda name: tuple(sorted({*getattr(self, name), *getattr(other, name)}))
        kinds = {item.name: both(item.name) for item in fields(self) if item.name != "embeddings"}
        return Reads(self.embeddings or other.embeddings, **kinds)

    @property
    def depth(self) -> int:
        """How many layers have to be computed, the last one perhaps in part."""
        kinds = (self.hidden_states, self.attentions, self.attention_scores, self.queries_keys_values)
        return max((layer + 1 for kind in kinds for layer in kind), default=0)


def student_config(teacher: ModelConfig, num_hidden_layers: int) -> ModelConfig:
    """DistilBERT of the teacher's width and vocabulary with `num_hidden_layers` layers."""
    return dataclasses.replace(
        teacher,
        model_type="distilbert",
        type_vocab_size=0,
        num_hidden_layers=num_hidden_layers,
        classifier_dropout=0.2,
        qa_dropout=0.1,
        layer_norm_eps=1e-12,  # fixed in the reference: its config.json cannot say another
    )


@dataclass(frozen=True)
class DataConfig:
    """Packed rows of a corpus (`distilbert-jax corpus`), and how they are batched."""

    corpus: str = ""  # directory of token shards
    heldout: str = ""  # directory of token shards of held-out text; empty: no evaluation during training
    # What one `[CLS] … [SEP]` holds; pair: two spans, for BERT's masked LM with next-sentence prediction.
    sequences: Sequences = "line"
    length: int = 128  # tokens in a row
    batch_size: int = 32  # rows in a global batch: all devices, all micro-batches

    def __post_init__(self) -> None:
        require_choices(self)
        require_batch(self, "batch_size")
        require(self.length >= 8, self, "length", "expected at least 8 tokens a row")


@dataclass(frozen=True)
class MaskingConfig:
    """Masked-LM corruption, drawn on the device for each packed row."""

    # n = ceil(probability · tokens of the row, or of the batch); of a schedule to four decimals
    probability: Scheduled = 0.15
    mask: float = 0.8  # of the masked: become [MASK]
    random: float = 0.1  # of the masked: become a token uniform over the vocabulary; the rest stay
    random_differs: bool = False  # True: the random token is never the true one (model card); the original allows it
    weighting: Literal["frequency", "uniform"] = "frequency"  # p ∝ max(count, 1)^-smoothing, or all equal
    smoothing: float = 0.7
    per: Literal["row", "batch"] = "row"  # "batch": drawn over all rows of the global batch together

    def __post_init__(self) -> None:
        require_choices(self)
        within = all(1e-4 <= end < 1.0 for end in ends(self.probability))  # see `masking.masked_count`
        require(within, self, "probability", "expected 0.0001 ≤ value < 1")
        require(self.mask >= 0.0, self, "mask", "expected a share")
        require(self.random >= 0.0 and self.mask + self.random <= 1.0 + 1e-9, self, "random", "mask + random exceeds 1")
        require(0.0 <= self.smoothing <= 100.0, self, "smoothing", "expected 0 to 100")


@dataclass(frozen=True)
class KLConfig:
    """L_ce, T² · KL(teacher ‖ student) of the vocabulary's probabilities at temperature T (Hinton et al. 2015).

    metrics.jsonl calls it `loss_ce`, the terminal `ce`.
    """

    weight: Scheduled = 5.0  # 0: the term is not computed
    temperature: Scheduled = 2.0  # T
    tokens: TermTokens = "all"  # where it is taken

    def __post_init__(self) -> None:
        require_choices(self)
        require_weight(self, "weight")
        require_temperature(self, "temperature")


@dataclass(frozen=True)
class MLMConfig:
    """L_mlm, the cross-entropy of the true tokens, at the masked ones."""

    weight: Scheduled = 2.0

    def __post_init__(self) -> None:
        require_weight(self, "weight")


@dataclass(frozen=True)
class CosConfig:
    """L_cos, 1 − cosine of the last hidden states, of all tokens."""

    weight: Scheduled = 1.0

    def __post_init__(self) -> None:
        require_weight(self, "weight")


@dataclass(frozen=True)
class MSEConfig:
    """L_mse, the squared difference of the logits, summed over the vocabulary."""

    weight: Scheduled = 0.0
    tokens: TermTokens = "all"  # where it is taken

    def __post_init__(self) -> None:
        require_choices(self)
        require_weight(self, "weight")


@dataclass(frozen=True)
class LayersConfig:
    """A term of pairs of layers: its weight, and which layers of the student it compares with which of the teacher."""

    weight: Scheduled = 0.0
    student_layers: tuple[int, ...] | None = None  # from 0; None: all
    # one for each of those; None: uniform, the teacher's layer m · L_t/L_s for layer m of the student, counted from 1
    teacher_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_weight(self, "weight")
        _require_layers(self)


@dataclass(frozen=True)
class HiddenConfig(LayersConfig):
    """L_hidden, the mean squared difference of hidden states, summed over pairs of layers; where the teacher has another
    width, through a trained projection for each, which is no part of the saved model (TinyBERT, Jiao et al. 2020, eq. 8)."""


@dataclass(frozen=True)
class EmbeddingsConfig:
    """L_embeddings, the mean squared difference of what the embeddings give, through a trained projection where the teacher
    has another width (TinyBERT, eq. 9)."""

    weight: Scheduled = 0.0

    def __post_init__(self) -> None:
        require_weight(self, "weight")


@dataclass(frozen=True)
class AttentionScoresConfig(LayersConfig):
    """L_attention_scores, the mean squared difference of Q·Kᵀ/√H at visible keys, summed over pairs of layers; for equal
    numbers of heads (TinyBERT, eq. 7)."""


@dataclass(frozen=True)
class AttentionProbabilitiesConfig(LayersConfig):
    """L_attention_probabilities, KL(teacher ‖ student) of attention probabilities before dropout, mean over the heads,
    summed over pairs of layers; for equal numbers of heads."""


@dataclass(frozen=True)
class MiniLMConfig:
    """L_minilm, KL(teacher ‖ student) of one layer's attention probabilities and value relations; for equal numbers of heads
    (MiniLM, Wang et al. 2020)."""

    weight: Scheduled = 0.0
    student_layer: int | None = None  # from 0; None: the last
    teacher_layer: int | None = None

    def __post_init__(self) -> None:
        require_weight(self, "weight")
        _require_layers(self)


@dataclass(frozen=True)
class MiniLMv2Config:
    """L_minilmv2, KL(teacher ‖ student) of one layer's relations between queries, between keys and between values, for any
    widths and numbers of heads (MiniLMv2, Wang et al. 2021)."""

    weight: Scheduled = 0.0
    relation_heads: int = 48  # R, into which all heads together are cut; it divides both widths
    queries: float = 1.0  # α of the relations between queries; 0: not computed
    keys: float = 1.0
    values: float = 1.0
    student_layer: int | None = None  # from 0; None: the last
    teacher_layer: int | None = None

    def __post_init__(self) -> None:
        require_weight(self, "weight", "queries", "keys", "values")
        require_positive(self, "relation_heads")
        require(any((self.queries, self.keys, self.values)), self, "queries", "no relation has a share above 0")
        _require_layers(self)


def _require_layers(owner: object) -> None:
    for item in fields(typing.cast(Any, owner)):
        if item.name.endswith(("_layer", "_layers")):
            value = getattr(owner, item.name)
            given = () if value is None else value if isinstance(value, tuple) else (value,)
            require(value is None or len(given) > 0, owner, item.name, "expected at least one layer")
            numbers = all(type(layer) is int and layer >= 0 for layer in given)
            require(numbers, owner, item.name, "expected numbers of layers, the first is 0")


# Command-line options of earlier versions, and what they are now.
OLD_FLAGS = {
    "--loss.alpha-ce": "--loss.kl.weight",
    "--loss.alpha-mlm": "--loss.mlm.weight",
    "--loss.alpha-cos": "--loss.cos.weight",
    "--loss.alpha-mse": "--loss.mse.weight",
    "--loss.temperature": "--loss.kl.temperature",
    "--loss.ce-tokens": "--loss.kl.tokens",
}


@dataclass(frozen=True)
class LossConfig:
    """The loss of distillation, Σ weight · term: the triple loss (paper, section 3) is L_ce, L_mlm and L_cos.

    A field that has a weight is a term of the same name in `training.terms`. Defaults are the original code's; an often-copied
    0.33 each gives poor results. A weight, or the temperature, may change over the steps: `linear:5:1`, `cosine:5:1`.
    """

    kl: KLConfig = field(default_factory=KLConfig)
    mlm: MLMConfig = field(default_factory=MLMConfig)
    cos: CosConfig = field(default_factory=CosConfig)
    mse: MSEConfig = field(default_factory=MSEConfig)
    hidden: HiddenConfig = field(default_factory=HiddenConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    attention_scores: AttentionScoresConfig = field(default_factory=AttentionScoresConfig)
    attention_probabilities: AttentionProbabilitiesConfig = field(default_factory=AttentionProbabilitiesConfig)
    minilm: MiniLMConfig = field(default_factory=MiniLMConfig)
    minilmv2: MiniLMv2Config = field(default_factory=MiniLMv2Config)
    own: dict[str, Scheduled] = field(
        default_factory=dict
    )  # {name: weight} of terms that a file of yours registers: --loss.own NAME WEIGHT
    chunk: int = 0  # where logits are of all tokens: those of so many of each row are held at a time, slower; 0: of all

    def __post_init__(self) -> None:
        require(self.chunk >= 0, self, "chunk", "expected 0 (all) or a number of tokens")
        for name, weight in self.own.items():
            if not all(0.0 <= end <= LARGEST for end in ends(weight)):
                raise InputError(
                    f"LossConfig.own[{name!r}] = {weight!r}: expected a finite value of 0 or more",
                    field=f"loss.own.{name}",
                )
        terms = (getattr(self, item.name) for item in fields(self))
        weights = (*(term.weight for term in terms if hasattr(term, "weight")), *self.own.values())
        if not any(end for weight in weights for end in ends(weight)):
            raise InputError("LossConfig: every weight is 0, nothing would be learned", field="loss.kl.weight")

    @classmethod
    def migrated(cls, values: dict[str, Any]) -> dict[str, Any]:
        """JSON of a version that had `alpha_*`, `temperature` and `ce_tokens` here, as it is now."""
        old = {
            "alpha_ce": ("kl", "weight"),
            "temperature": ("kl", "temperature"),
            "alpha_mlm": ("mlm", "weight"),
            "alpha_cos": ("cos", "weight"),
            "alpha_mse": ("mse", "weight"),
        }
        new: dict[str, Any] = {name: value for name, value in values.items() if name not in (*old, "ce_tokens")}
        places = {name: [place] for name, place in old.items()}
        # Of a term that was not computed nothing is kept that would make it another run now.
        places["ce_tokens"] = [("kl", "tokens"), *([("mse", "tokens")] if values.get("alpha_mse") else [])]
        for name, value in values.items():
            for term, option in places.get(name, ()):
                new[term] = {**new.get(term, {}), option: value}
        return new


@dataclass(frozen=True)
class InitConfig:
    """What a model begins with (paper, section 3, "Student initialization")."""

    source: str = ""  # HF directory or hub id whose weights it takes; empty: random weights
    # of the source; None: evenly spaced, both ends kept
    layers: tuple[int, ...] | Literal["first", "last"] | None = None
    fold_token_type: bool = True  # add the source's token-type-0 row to the positions; the original drops it
    copy_transform: bool = True  # copy the masked-LM transform too; the original does so on request only
    unigram_bias: bool = False  # of a new head: decoder bias at the log frequency of each token in the corpus
    # learned: trained like the rest; frozen: kept as they begin; sinusoidal: the table of Vaswani et al. 2017, kept
    positions: Literal["learned", "frozen", "sinusoidal"] = "learned"

    def __post_init__(self) -> None:
        require(self.layers is None or len(self.layers) > 0, self, "layers", "expected at least one layer")
        require_choices(self)


OF_LAYERS = ("layers", "fold_token_type", "copy_transform")  # of `InitConfig`: how a part of a source is taken


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and linear decay; defaults of the original code. Biases and LayerNorms are never decayed."""

    learning_rate: float = 5e-4  # at its highest
    warmup: float = 0.05  # share of the steps
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.0
    clip_norm: float = 5.0
    accumulate: int = 1  # micro-batches a step

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "eps", "clip_norm", "accumulate")
        require(0.0 <= self.warmup <= 1.0, self, "warmup", "expected a share of the steps, 0 to 1")
        require_share(self, "beta1", "beta2")
        require_weight(self, "weight_decay")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis. `data` = -1 takes every device that the other axes leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        require(self.data == -1 or self.data > 0, self, "data", "expected -1 or a number of devices")
        require_positive(self, "fsdp", "tensor")


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it reports."""

    directory: str = "runs/unnamed"
    seed: int = 0
    dtype: Dtype = "float32"  # of the matmuls; parameters, optimiser and losses are float32
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is, else float32
    log_every: int = 50  # steps between lines on the terminal; metrics.jsonl has every step
    eval_every: int = 500  # steps; 0: only at the end
    save_every: int = 500  # steps from one checkpoint to the next; 0: none but the last, of fine-tuning none at all
    keep: int = 2  # checkpoints kept
    deterministic: bool = False  # on a GPU: same bits at every run, at some cost (XLA's flag)
    callbacks: tuple[str, ...] = ()  # names of those that the config file registers
    wandb: str = ""  # project of Weights & Biases to log to as well; empty: none

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "log_every", "keep")
        require(self.eval_every >= 0, self, "eval_every", "expected 0 or a number of steps")
        require(self.save_every >= 0, self, "save_every", "expected 0 (none) or a number of steps")
        what = f"run.dtype is {self.dtype}: activations are not narrower than matmuls"
        require(self.activations != "bfloat16" or self.dtype == "bfloat16", self, "activations", what)
        require(0 <= self.seed < 2**32, self, "seed", "expected 0 ≤ seed < 2³²")


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run: masked LM, masked LM with next-sentence prediction, or the distillation of a teacher."""

    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    objective: str = "masked_lm"  # masked_lm, masked_lm_nsp, distillation, or one that a file of yours registers
    teacher: str = ""  # HF directory or hub id to distil from; empty: none
    steps: int = 1000  # 0: the model as it begins
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        require(self.steps >= 0, self, "steps", "expected 0 or more")
        require(self.steps < 2**31, self, "steps", "expected fewer than 2³¹, which the state counts in")
        require(
            self.data.length <= self.model.max_length,
            self.data,
            "length",
            f"beyond the position table of {self.model.max_length} (model.max_position_embeddings)",
        )
        self._check_objective()
        self._check_init()
        require(
            self.data.batch_size % self.optimizer.accumulate == 0,
            self.optimizer,
            "accumulate",
            f"does not divide data.batch_size = {self.data.batch_size}",
        )

    def _check_objective(self) -> None:
        pair, nsp = self.data.sequences == "pair", self.objective == "masked_lm_nsp"
        if self.objective in ("masked_lm", "masked_lm_nsp") and self.teacher:
            self._refuse("teacher", f"objective {self.objective!r} takes none", "--objective distillation")
        if nsp and not pair:
            self._refuse("objective", "next sentences are predicted on pairs", "--data.sequences pair")
        if pair:
            what = "pairs are for BERT's next-sentence prediction, which "
            family = self.model.family
            require(family.has_next_sentence, self.data, "sequences", what + f"a {family.title} has no head for")
            require(self.model.type_vocab_size > 1, self.model, "type_vocab_size", what + "needs two token types")
            if self.objective in ("masked_lm", "distillation"):
                self._refuse("objective", "its rows are no pairs", "--objective masked_lm_nsp")

    def _check_init(self) -> None:
        """How layers are taken from a source is asked only for a model that may begin with a part of one."""
        if self.init.source and not self.model.family.student:
            what = f"changes nothing: {self.model.family.title} takes the whole of init.source as it is"
            for item in fields(InitConfig):
                if item.name in OF_LAYERS:
                    require(getattr(self.init, item.name) == item.default, self.init, item.name, what)

    def _refuse(self, name: str, what: str, hint: str) -> typing.NoReturn:
        raise InputError(
            f"PretrainConfig.{name} = {getattr(self, name)!r}: {what}; did you mean {hint}?", field=name, hint=hint
        )

    @classmethod
    def migrated(cls, values: dict[str, Any]) -> dict[str, Any]:
        """JSON of a version in which the objective followed from the teacher and the rows, with the objective."""
        if "objective" in values:
            return values
        data = values.get("data")
        pair = isinstance(data, dict) and data.get("sequences") == "pair"
        objective = "distillation" if values.get("teacher") else "masked_lm_nsp" if pair else "masked_lm"
        return {**values, "objective": objective}


@dataclass(frozen=True)
class DistillConfig:
    """Distillation while fine-tuning, from a teacher that was fine-tuned on the task (paper, section 4.1; Hinton et al. 2015):
    (1 − α)·CE(labels) + α·T²·KL(teacher ‖ student); of a regression (1 − α)·MSE(labels) + α·MSE(teacher). To that the terms of
    layers are added by their weights, means over the tokens as in pre-training (TinyBERT, Jiao et al. 2020; MiniLMv2).
    """

    teacher: str = ""  # HF directory of a classifier; {task} and {seed} stand for the run's own; empty: labels alone
    alpha: Scheduled = 0.5  # share of the teacher in the loss
    temperature: Scheduled = 2.0  # T
    hidden: HiddenConfig = field(default_factory=HiddenConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    attention_scores: AttentionScoresConfig = field(default_factory=AttentionScoresConfig)
    attention_probabilities: AttentionProbabilitiesConfig = field(default_factory=AttentionProbabilitiesConfig)
    minilm: MiniLMConfig = field(default_factory=MiniLMConfig)
    minilmv2: MiniLMv2Config = field(default_factory=MiniLMv2Config)
    # of layers alone, before `epochs` of answers alone, each with a warm-up and decay of its own (TinyBERT); 0: both together
    layer_epochs: int = 0

    def __post_init__(self) -> None:
        require(
            self.layer_epochs >= 0,
            self,
            "layer_epochs",
            "expected 0 (layers and answers together) or a number of epochs",
        )
        require(all(0.0 <= end <= 1.0 for end in ends(self.alpha)), self, "alpha", "expected a share, 0 to 1")
        require_temperature(self, "temperature")


@dataclass(frozen=True)
class AugmentConfig:
    """Copies of training rows in which a masked LM replaces words, for a teacher to label (TinyBERT, Jiao et al. 2020): on them the
    loss is distillation alone. Rows that are scored are never copied."""

    copies: int = 0  # of each row; 0: none
    share: float = 0.15  # of a copy's words; only words of one piece are replaced
    model: str = ""  # HF directory or hub id with a masked-LM head, such as what the teacher was fine-tuned from
    candidates: int = 15  # likeliest words, one of which is drawn

    def __post_init__(self) -> None:
        require_types(self)
        require(0 <= self.copies <= 1000, self, "copies", "expected 0 (none) to 1,000")
        require(0.0 < self.share <= 1.0, self, "share", "expected a share, 0 < value ≤ 1")
        require(1 <= self.candidates <= 1000, self, "candidates", "expected 1 to 1,000 words")


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning of an encoder on one GLUE task with one seed; its length is in epochs, its last step is what is reported."""

    model: str = ""  # HF directory or hub id of a BERT or DistilBERT
    task: str = "sst2"  # of GLUE, or one that the config file registers
    data: str = ""  # folder with <task>/{train,validation}.parquet; empty: GLUE from the hub
    length: int = 128  # tokens; what is longer is cut, and the share is printed
    # examples of a step, drawn at random and packed side by side; what does not fit is in the next one
    batch_size: int = 32
    epochs: int | None = None  # None: the task's own, 3; MRPC and WNLI 5, RTE 10
    max_train_rows: int | None = None  # take the first so many rows only
    selection_split: bool = False  # leave a tenth of train out (by hash of the text) and score that instead of dev
    predict_test: bool = False  # also predict the test splits, for a submission
    save_model: bool = True
    distill: DistillConfig = field(default_factory=DistillConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=5e-5, warmup=0.1, beta2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0
        )
    )
    mesh: MeshConfig = field(default_factory=MeshConfig)
    # directory empty: runs/glue/<model>/<task>-<seed>
    run: RunConfig = field(default_factory=lambda: RunConfig(directory="", save_every=1000))
    # balanced: a class counts as much as another, however few its rows
    class_weights: Literal["none", "balanced"] = "none"
    freeze: Literal["nothing", "encoder"] = "nothing"  # encoder: the head alone is trained, a linear probe
    layer_decay: float = 1.0  # learning rate of a layer, times that of the one above it; 1: the same
    # keep the epoch that is best on a tenth of train (by hash of the text), in the place of the last
    select: bool = False

    def __post_init__(self) -> None:
        require_choices(self)
        require_batch(self, "batch_size")
        require(0.0 < self.layer_decay <= 1.0, self, "layer_decay", "expected a share, 0 < value ≤ 1")
        require(self.epochs is None or self.epochs > 0, self, "epochs", "expected 1 or more")
        require(self.length >= 8, self, "length", "expected at least 8 tokens")
        require(self.max_train_rows is None or self.max_train_rows > 0, self, "max_train_rows", "expected 1 or more")

    @property
    def teacher(self) -> str:
        """The directory of its teacher, with task and seed in their places, or ""."""
        return self.distill.teacher.replace("{task}", self.task).replace("{seed}", str(self.run.seed))

    @classmethod
    def migrated(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Fields as a run of an earlier version wrote them, by their names now."""
        renamed = {"guide": "distill", "held_out": "selection_split"}
        return {renamed.get(name, name): value for name, value in values.items() if name != "shapes"}


@dataclass(frozen=True)
class SweepConfig:
    """Settings to choose among, on a tenth of train that is held out; every combination of those that are given is tried."""

    learning_rate: tuple[float, ...] = ()
    batch_size: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)  # the best mean over them is chosen

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "epochs", "seeds"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), self, name, "expected each value once")
            require(
                name == "seeds" or all(SMALLEST <= value <= LARGEST for value in values),
                self,
                name,
                "expected finite values above 0",
            )
        require(len(self.seeds) > 0, self, "seeds", "expected one or more")
        require(all(0 <= seed < 2**32 for seed in self.seeds), self, "seeds", "expected 0 ≤ seed < 2³²")

    def tried(self) -> dict[str, tuple[float, ...]]:
        """{field of `FinetuneConfig` by its dotted name: the values that are tried in the place of its own}."""
        fields = {"optimizer.learning_rate": self.learning_rate, "batch_size": self.batch_size, "epochs": self.epochs}
        return {name: values for name, values in fields.items() if values}


@dataclass(frozen=True)
class Variant:
    """One of the models that are compared: pre-trained from a config, or an HF directory as it is."""

    name: str
    seeds: tuple[int, ...]  # of fine-tuning
    pretrain: PretrainConfig | None = None
    model: str = ""  # HF directory or hub id, or the model/ of a variant before it
    glue: FinetuneConfig | None = None  # how it is fine-tuned; None: as the experiment says
    published: str = ""  # whose scores on the test sets the report has beside it: a row of `glue.references`
    remark: str = ""  # what the report has to say of it

    def __post_init__(self) -> None:
        plain = self.name not in ("", ".", "..") and self.name.isprintable() and "/" not in self.name
        require(plain, self, "name", "expected a name that a directory can have, without /")
        require((self.pretrain is None) != (self.model == ""), self, "model", "expected it or pretrain, one of the two")
        require(len(self.seeds) == len(set(self.seeds)) > 0, self, "seeds", "expected one or more, each once")
        require(all(0 <= seed < 2**32 for seed in self.seeds), self, "seeds", "expected 0 ≤ seed < 2³²")


Stage = Literal["corpus", "pretrain", "glue", "report"]
STAGES: tuple[Stage, ...] = typing.get_args(Stage)  # of an experiment, in their order


@dataclass(frozen=True)
class ExperimentConfig:
    """Variants, in the order in which they are made, and how they are compared. A variant's run stands in <directory>/<name>."""

    directory: str
    variants: tuple[Variant, ...]
    teacher: str  # the variant whose score the others retain a share of
    student: str  # the variant that the others are compared with
    tokenizer: str  # of the corpora; HF directory or hub id
    tasks: tuple[str, ...]
    sweep: SweepConfig = field(default_factory=SweepConfig)
    glue: FinetuneConfig = field(default_factory=FinetuneConfig)
    vmap_seeds: bool = False  # the seeds of a task in one vmapped step, for accelerators
    heldout_rows: int = 2048  # rows of held-out text that every variant is asked in the end
    together: bool = True  # students of one teacher, corpus and seed train side by side, as far as they can

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        require(len(names) == len(set(names)), self, "variants", "two have the same name")
        for name in ("teacher", "student"):
            require(getattr(self, name) in names, self, name, nearest(getattr(self, name), names))
        require(len(self.tasks) == len(set(self.tasks)) > 0, self, "tasks", "expected one or more, each once")
        require(self.heldout_rows > 0, self, "heldout_rows", "expected 1 or more")
        later = {self.run_of(variant) / "model": variant.name for variant in self.variants}
        for variant in self.variants:
            if variant.pretrain:
                place = f"{self.directory}/{variant.name}"
                require(
                    variant.pretrain.run.directory == place, variant, "pretrain", f"its run.directory is not {place}"
                )
            maker = later.get(Path(variant.model)) if variant.model else None
            require(maker is None, variant, "model", f"is that of {maker}, which is not named before {variant.name}")
            del later[self.run_of(variant) / "model"]

    def run_of(self, variant: Variant) -> Path:
        return Path(self.directory) / variant.name

    def glue_of(self, variant: Variant) -> FinetuneConfig:
        return variant.glue or self.glue
