"""Fields of config.json that transformers reads for BERT and DistilBERT, and what is done here with each.

What is read of an obeyed field is in the record of the family (`families.Family.config_fields`); the refused ones are asked of this
table. A field that is not in it is a user's own: the reference keeps it and computes the same, here it is passed over.
"""

from collections.abc import Callable, Iterable
from typing import Any

from distilbert_jax.base.file_fields import FileField, Form, Treatment
from distilbert_jax.families import Family

FILE = "config.json"
# The fields that may be null, which is what they are where they are left out.
NULLABLE = frozenset({"pad_token_id", "classifier_dropout", "output_hidden_states", "output_attentions"})


def _row(name: str, treatment: Treatment, reason: str, families: str = "", **more: Any) -> FileField:
    return FileField(FILE, name, treatment, reason, families=frozenset(families.split()), **more)


def _obeyed(name: str, reason: str, *flips: Any, of: str = "") -> FileField:
    return _row(name, Treatment.OBEYED, reason, of, flips=flips)


def _refused(name: str, reason: str, *flips: Any, accepted: tuple[Any, ...]) -> FileField:
    return _row(name, Treatment.REFUSED, reason, flips=flips, accepted=accepted)


def _idle(name: str, reason: str, *flips: Any, of: str = "", form: Form | None = None) -> FileField:
    return _row(name, Treatment.WITHOUT_EFFECT, reason, of, flips=flips, form=form)


def _is_id(value: object) -> bool:
    return type(value) is int


def _is_list(value: object, holds: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


_DTYPES = {"auto", "bfloat16", "double", "float", "float16", "float32", "float64", "half"}
_BOOL = Form("true or false", lambda value: isinstance(value, bool))
_ID = Form("an id or null", lambda value: value is None or _is_id(value))
_IDS = Form("an id, a list of ids or null", lambda value: value is None or _is_id(value) or _is_list(value, _is_id))
_NAMES = Form(
    "a list of names of classes", lambda value: value is None or _is_list(value, lambda one: isinstance(one, str))
)
# An object names a type for each part of a model.
_DTYPE = Form(
    "the name of a floating-point type, such as 'float32'",
    lambda value: value is None or isinstance(value, dict) or (isinstance(value, str) and value in _DTYPES),
)
_OBJECT = Form("an object or null", lambda value: not value or isinstance(value, dict))

_SIZE = "a size of the model, compared with the tensors before one of that size is made"
_TRAINING = "a share dropped in training; a model that is asked drops nothing"

CONFIG_FIELDS = (
    _obeyed("model_type", "the family; where it is left out, that of a family's own class (BertForMaskedLM)"),
    # Sizes
    _obeyed("vocab_size", _SIZE, 101),
    _obeyed("max_position_embeddings", _SIZE, 19),
    _obeyed("hidden_size", _SIZE, 24, of="bert"),
    _obeyed("num_hidden_layers", _SIZE, 1, of="bert"),
    _obeyed("num_attention_heads", "how the hidden size is cut", 2, of="bert"),
    _obeyed("intermediate_size", _SIZE, 41, of="bert"),
    _obeyed("type_vocab_size", _SIZE, 3, of="bert"),
    _obeyed("dim", _SIZE, 24, of="distilbert"),
    _obeyed("n_layers", _SIZE, 1, of="distilbert"),
    _obeyed("n_heads", "how the hidden size is cut", 2, of="distilbert"),
    _obeyed("hidden_dim", _SIZE, 41, of="distilbert"),
    _obeyed("hidden_size", "another name of dim, and goes before it", 24, of="distilbert"),
    _obeyed("num_hidden_layers", "another name of n_layers, and goes before it", 1, of="distilbert"),
    _obeyed("num_attention_heads", "another name of n_heads, and goes before it", 2, of="distilbert"),
    # Functions
    _obeyed("hidden_act", "all names of the reference's functions without parameters", "gelu_new", "silu", of="bert"),
    _obeyed(
        "activation", "all names of the reference's functions without parameters", "gelu_new", "silu", of="distilbert"
    ),
    _obeyed("layer_norm_eps", "ε under the root of every LayerNorm", 1e-2, 0.3, of="bert"),
    _obeyed("tie_word_embeddings", "false: the decoder is a table of its own, read, trained and written", False),
    _obeyed("hidden_dropout_prob", _TRAINING, 0.3, 1.0, of="bert"),
    _obeyed("attention_probs_dropout_prob", _TRAINING, 0.3, 0.0, of="bert"),
    _obeyed("classifier_dropout", f"{_TRAINING}; null: hidden_dropout_prob", 0.3, None, of="bert"),
    _obeyed("dropout", _TRAINING, 0.3, 1.0, of="distilbert"),
    _obeyed("attention_dropout", _TRAINING, 0.3, 0.0, of="distilbert"),
    _obeyed("seq_classif_dropout", _TRAINING, 0.3, 0.0, of="distilbert"),
    _obeyed("qa_dropout", _TRAINING, 0.3, 0.0, of="distilbert"),
    _obeyed("initializer_range", "the standard deviation that new heads are drawn with", 0.5, 0.0),
    _obeyed("pad_token_id", "what pads a batch; null: 0; a negative one counts from the vocabulary's end", 5, -1, None),
    # Heads
    _obeyed("id2label", "the labels' names and number", {"0": "x", "1": "y", "2": "z"}),
    _obeyed(
        "num_labels", "the labels' number; where it contradicts id2label, they are LABEL_0, LABEL_1 …, as there", 3, 2
    ),
    _obeyed(
        "problem_type",
        "what a classifier's scores are: the values, a softmax, or of each label a sigmoid (of one label too where it is left out)",
        "regression",
        "multi_label_classification",
        "single_label_classification",
    ),
    _obeyed("output_hidden_states", "what a call gives that does not say itself", True),
    _obeyed("output_attentions", "what a call gives that does not say itself", True),
    # Refused
    _refused("is_decoder", "an encoder's tokens see what follows them", True, accepted=(False,)),
    _refused("add_cross_attention", "there is no second sequence to attend to", True, accepted=(False,)),
    _refused(
        "position_embedding_type",
        "positions are absolute; transformers 5 knows no others and would pass over this",
        "relative_key",
        "relative_key_query",
        accepted=("absolute", None),
    ),
    _refused(
        "quantization_config",
        "quantised weights are not read",
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        accepted=(None,),
    ),
    _refused(
        "transformers_weights",
        "names another file of weights, which transformers reads in the place of model.safetensors",
        "other.safetensors",
        accepted=(None, "model.safetensors"),
    ),
    _refused("per_layer_config", "all layers are of one kind", {"0": {"intermediate_size": 40}}, accepted=(None, {})),
    # Without effect
    _idle("label2id", "id2label says the same; written from it", {"a": 1, "b": 0}),
    _idle("architectures", "the class is the caller's choice", ["BertForQuestionAnswering"], form=_NAMES),
    _idle("transformers_version", "says who wrote the file", "4.11.3"),
    _idle(
        "dtype",
        "parameters are float32 here, and from_pretrained's own dtype is that of the matmuls",
        "float32",
        form=_DTYPE,
    ),
    _idle("torch_dtype", "the older name of dtype", "float32", form=_DTYPE),
    _idle("return_dict", "outputs have names here", False),
    _idle("chunk_size_feed_forward", "the same sums in pieces, for less memory", 5),
    _idle("is_encoder_decoder", "read by a decoder alone", True),
    _idle("use_cache", "read by a decoder alone", False, of="bert", form=_BOOL),
    _idle("use_cache", "read by a decoder alone", False, of="distilbert"),
    _idle("cross_attention_hidden_size", "read by a decoder alone", 16),
    _idle("bos_token_id", "for generation", 7, form=_ID),
    _idle("eos_token_id", "for generation", 8, form=_IDS),
    _idle("sep_token_id", "for generation", 8),
    _idle("decoder_start_token_id", "for generation", 7),
    _idle("embedding_size", "spares the reference a check", 32, of="bert"),
    _idle(
        "sinusoidal_pos_embds",
        "the table of positions is in the file, however it was made",
        True,
        of="distilbert",
        form=_BOOL,
    ),
    _idle("tie_weights_", "of transformers 3; tie_word_embeddings says it", False, of="distilbert"),
    _idle("attn_implementation", "how attention is computed, not what", "eager"),
    _idle("_attn_implementation", "how attention is computed, not what", "eager"),
    _idle("experts_implementation", "there are no experts", "eager"),
    _idle("gradient_checkpointing", "memory in training", True),
    _idle("pruned_heads", "transformers 5 does not read it; the tensors of pruned heads do not fit", {"0": [1]}),
    _idle("_name_or_path", "says where the file came from", "somewhere"),
    _idle("name_or_path", "says where the file came from", "somewhere"),
    _idle("_commit_hash", "says where the file came from", "0"),
    _idle("torchscript", "of transformers 4: for tracing", True),
    _idle("use_bfloat16", "of transformers 4, and read by none", True),
    _idle("finetuning_task", "of transformers 4: a note", "sst2"),
    _idle("task_specific_params", "for generation", {"summarization": {"max_length": 3}}),
    _idle("rope_scaling", "positions are not rotary", form=_OBJECT),
    _idle("rope_theta", "positions are not rotary"),
)


def of_family(family: Family) -> Iterable[FileField]:
    """The rows of a family."""
    return (row for row in CONFIG_FIELDS if not row.families or family.name in row.families)
