"""Fields of a tokenizer's files, as transformers' BertTokenizer reads them: which are obeyed, which refused, and why.

"A BertTokenizer" is what the reference makes where tokenizer_config.json, or else the family in config.json, names that class: of
tokenizer.json it takes the vocabulary and the added tokens alone. Where another class is named (PreTrainedTokenizerFast) or none,
it takes tokenizer.json as it stands. So it is here.
"""

from typing import Any

from distilbert_jax.base.file_fields import FileField, Treatment

CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
SPECIAL_MAP, ADDED, VOCABULARY = "special_tokens_map.json", "added_tokens.json", "vocab.txt"

_OTHER_CODE = "only the tokenizers of the families are here, no code that a directory brings"
_OTHER_FILE = "the file is found under its usual name, and what else the field could hand over is not taken"
_CHAT = "of chat models"
_UNREAD = "no longer read by the reference"
_CALLS = "set anew by every call"


def _obeyed(file: str, name: str, reason: str, *flips: Any) -> FileField:
    return FileField(file, name, Treatment.OBEYED, reason, flips=flips)


def _refused(file: str, name: str, reason: str, *accepted: Any, flips: tuple[Any, ...] = ()) -> FileField:
    return FileField(file, name, Treatment.REFUSED, reason, accepted=accepted, flips=flips)


def _without(file: str, name: str, reason: str, *flips: Any) -> FileField:
    return FileField(file, name, Treatment.WITHOUT_EFFECT, reason, flips=flips)


_MARK = {"content": "[E1]", "lstrip": True, "rstrip": True, "single_word": False, "normalized": False, "special": True}
_WORD = {"content": "Red", "lstrip": False, "rstrip": False, "single_word": True, "normalized": False, "special": False}

FIELDS: tuple[FileField, ...] = (
    _obeyed(CONFIG, "tokenizer_class", "BertTokenizer or a class whose file is taken as it stands; others are refused",
            "PreTrainedTokenizerFast", "DistilBertTokenizer", "BertTokenizerFast", "ElectraTokenizer"),
    _obeyed(CONFIG, "do_lower_case", "of a BertTokenizer, whatever tokenizer.json says; true where it is left out",
            False, True),
    _obeyed(CONFIG, "strip_accents", "of a BertTokenizer; null: as do_lower_case", False, True),
    _obeyed(CONFIG, "tokenize_chinese_chars", "of a BertTokenizer; true where it is left out", False, True),
    _obeyed(CONFIG, "cls_token", "first token of a text, whatever it is called", "<s>"),
    _obeyed(CONFIG, "sep_token", "token between and after texts", "</s>"),
    _obeyed(CONFIG, "mask_token", "what fill-mask fills; a token that the vocabulary lacks is refused", "<s>",
            {"__type": "AddedToken", "content": "<s>", "lstrip": True}),
    _obeyed(CONFIG, "pad_token", "its id fills batches", "</s>"),
    _obeyed(CONFIG, "unk_token", "stands for words without pieces", "<s>"),
    _obeyed(CONFIG, "bos_token", "never split; stands nowhere by itself", "red", "new"),
    _obeyed(CONFIG, "eos_token", "never split; stands nowhere by itself", "red", "new"),
    _obeyed(CONFIG, "extra_special_tokens", "never split, left out by skip_special_tokens", ["Red", "[E1]"],
            {"image_token": "[E1]"}),
    _obeyed(CONFIG, "additional_special_tokens", "an older name of extra_special_tokens", ["Red", "[E1]"],
            [{"__type": "AddedToken", **_MARK}]),
    _obeyed(CONFIG, "model_specific_special_tokens", "special tokens with names of their own", {"image_token": "[E1]"}),
    _obeyed(CONFIG, "*_token", "a special token with a name of its own", "[E1]"),
    _obeyed(CONFIG, "added_tokens_decoder", "tokens beside the vocabulary, their flags obeyed; no other file is then asked for "
            "them", {"60": _MARK, "10": _WORD}, {"60": {"content": "NeWer", "normalized": True}}),
    _obeyed(CONFIG, "model_max_length", "the smaller of it and the model's positions; a number without room for a word is refused",
            16, 1e30),
    _obeyed(CONFIG, "max_len", "an older name of model_max_length", 16),
    _obeyed(CONFIG, "model_input_names", "without token_type_ids all are 0; the ids and the mask cannot be left out",
            ["input_ids", "attention_mask"]),
    _obeyed(CONFIG, "clean_up_tokenization_spaces", "in decoded texts, not of BPE", True, False),
    _obeyed(CONFIG, "truncation_side", "the side that is cut", "left", "right"),
    _obeyed(CONFIG, "split_special_tokens", "whether special tokens that a text spells out are ordinary pieces", True, False),
    _refused(CONFIG, "padding_side", "positions count from the left, so padding stands on the right", "right",
             flips=("left",)),
    _refused(CONFIG, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
             "texts of BPE are decoded as they are", False, None, flips=(True,)),
    _refused(CONFIG, "auto_map", _OTHER_CODE, None, flips=({"AutoTokenizer": ["tokenizer.Own", None]},)),
    _refused(CONFIG, "init_inputs", "arguments without names are not taken", [], None, flips=([{"[UNK]": 0}],)),
    _refused(CONFIG, "fast_tokenizer_files", "one file, tokenizer.json, is read", [], None,
             flips=(["tokenizer.4.0.0.json"],)),
    *(
        _refused(CONFIG, name, _OTHER_FILE, None)
        for name in ("vocab", "merges", "merges_file", "tokenizer_object", "gguf_file", "post_processor", "tokenizer_truncation",
                     "tokenizer_padding", "_json_truncation", "_json_padding", "_spm_precompiled_charsmap")
    ),
    *(
        _without(CONFIG, name, _OTHER_FILE, "elsewhere")
        for name in ("tokenizer_file", "vocab_file", "special_tokens_map_file", "added_tokens_file", "chat_template_file")
    ),
    *(
        _without(CONFIG, name, "of other classes; a BertTokenizer's template stands", True)
        for name in ("add_bos_token", "add_eos_token", "add_prefix_space")
    ),
    *(_without(CONFIG, name, _UNREAD, flip) for name, flip in (
        ("do_basic_tokenize", False), ("never_split", ["red"]), ("clean_text", False), ("wordpieces_prefix", "@@"),
        ("max_input_chars_per_word", 2), ("response_schema", {}), ("slow_tokenizer_class", "x"), ("device_map", "cpu"),
    )),
    *(_without(CONFIG, name, _CALLS, flip) for name, flip in (
        ("max_length", 4), ("stride", 2), ("truncation_strategy", "only_first"), ("pad_to_multiple_of", 8),
        ("pad_token_type_id", 1),
    )),
    *(_without(CONFIG, name, "where it came from", "x") for name in (
        "name_or_path", "processor_class", "backend", "is_local", "local_files_only", "_commit_hash", "transformers_version",
    )),
    *(_without(CONFIG, name, reason, flip) for name, reason, flip in (
        ("unk_id", "of other classes", 2), ("tokenizer", "of another family", "x"),
        ("verbose", "says more, gives the same", True), ("files_loaded", "where it came from", []),
        ("fix_mistral_regex", "of another family", True), ("trust_remote_code", _OTHER_CODE, True),
        ("chat_template", _CHAT, "{{ x }}"), ("response_template", _CHAT, {"x": "y"}), ("chat_control_tokens", _CHAT, ["red"]),
    )),
    *(
        _obeyed(SPECIAL_MAP, name, "as in tokenizer_config.json, over what it says; not read beside added_tokens_decoder", *flips)
        for name, *flips in (
            ("cls_token", "<s>"), ("sep_token", "</s>"), ("mask_token", "<s>", {"content": "<s>", "lstrip": True}),
            ("pad_token", "</s>"), ("unk_token", "<s>"), ("bos_token", "red"), ("eos_token", "new"),
            ("additional_special_tokens", ["Red", "[E1]"]), ("extra_special_tokens", ["Red"], [{"content": "[E1]", "lstrip": True}],
             {"image_token": "[E1]"}),
            ("*_token", "[E1]"),
        )
    ),
    _refused(SPECIAL_MAP, "*", "no special token"),
    _obeyed(ADDED, "*", "token: id; special where a field names it so; not read beside added_tokens_decoder; an id that the token "
            "does not get is refused", {"[E2]": 60, "red": 9}),
    _obeyed(VOCABULARY, "lines", "a token a line, space at its end apart, the last of equal ones; not read beside tokenizer.json"),
    _without(TOKENIZER, "version", "of the format"),
    _obeyed(TOKENIZER, "truncation", "its direction, where there is no truncation_side; whether texts are cut is the call's to say",
            {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
    _obeyed(TOKENIZER, "padding", "its direction, as padding_side; whether rows are filled is the call's to say",
            {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
             "pad_token": "[PAD]"}),
    _obeyed(TOKENIZER, "added_tokens", "with their flags; of a BertTokenizer not beside added_tokens_decoder; an id that the "
            "token does not get is refused", [], [{"id": 9, **_WORD, "content": "red"}]),
    _obeyed(TOKENIZER, "normalizer", "not of a BertTokenizer",
            {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
            {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False, "strip_accents": False,
             "lowercase": False}, None),
    _obeyed(TOKENIZER, "pre_tokenizer", "not of a BertTokenizer", {"type": "WhitespaceSplit"}, {"type": "Whitespace"}),
    _obeyed(TOKENIZER, "post_processor", "not of a BertTokenizer; ids beyond the vocabulary, and texts without [CLS] and [SEP], "
            "are refused", None, {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
    _obeyed(TOKENIZER, "decoder", "not of a BertTokenizer", {"type": "WordPiece", "prefix": "##", "cleanup": False}, None),
    _obeyed(TOKENIZER, "model.type", "of a BertTokenizer WordPiece alone"),
    _obeyed(TOKENIZER, "model.vocab", "two tokens of one id are refused"),
    _obeyed(TOKENIZER, "model.unk_token", "not of a BertTokenizer; one that the vocabulary lacks is refused", "<s>"),
    _obeyed(TOKENIZER, "model.continuing_subword_prefix", "not of a BertTokenizer", "@@"),
    _obeyed(TOKENIZER, "model.max_input_chars_per_word", "not of a BertTokenizer", 3),
)  # fmt: skip


def rows_of(file: str) -> tuple[FileField, ...]:
    """The rows of one file."""
    return tuple(row for row in FIELDS if row.file == file)
