"""Files of a tokenizer as they are met: what they say is obeyed as by transformers, whose results stand here, or refused."""

import copy
import json
import pickle
import shutil

import pytest
from tokenizers import Tokenizer

from distilbert_jax.base.hub import model_files
from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import BertTokenizer, check_fit, load_tokenizer, save_tokenizer, special_ids
from distilbert_jax.text.tokenizer_files import cutting, settings_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "river", "sea", "red", "paris", "Paris", "cafe", "café", "CAFÉ",
         "don", "we", "'", "t", "it", "s", "you", "[", "]", "e1", "中", "国", "中国", "мир"]  # fmt: skip
ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
BERTS = {"tokenizer_class": "BertTokenizer", **ROLES}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", **ROLES}


def entry(content, index=None, **flags):
    of = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, **flags}
    return ({} if index is None else {"id": index}) | {"content": content} | of


def pieces(**changes):
    """The content of tokenizer.json, as BERT's with these words."""
    special = lambda token, kind=0: {"SpecialToken": {"id": token, "type_id": kind}}
    text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    one = [special("[CLS]"), text("A", 0), special("[SEP]")]
    parts = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [entry(token, i) for i, token in enumerate(WORDS[:5])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": one, "pair": [*one, text("B", 1), special("[SEP]", 1)],
            "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in (("[CLS]", 2), ("[SEP]", 3))},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {word: i for i, word in enumerate(WORDS)}},
    }  # fmt: skip
    return parts | changes


@pytest.fixture
def directory(tmp_path):
    """Writes a model's directory: tokenizer.json (or vocab.txt), tokenizer_config.json and other files by their content."""

    def write(config=None, parts=None, words=None, **others):
        files = {"config.json": {"model_type": "bert"}, "tokenizer_config.json": config, "tokenizer.json": parts}
        files |= {f"{name}.json": content for name, content in others.items()}
        for name, content in files.items():
            if content is not None:
                (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        if words is not None:
            (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        return tmp_path

    return write


def tokens(directory, text):
    return load_tokenizer(directory).encode(text).tokens


def refused(directory, field, path=None):
    with pytest.raises(InputError) as refusal:
        BertTokenizer.from_pretrained(directory)
    assert refusal.value.field == field
    assert refusal.value.path.startswith(str(directory if path is None else directory / path))
    assert "\n" not in str(refusal.value)
    return refusal.value


NEW = len(WORDS)


def test_added_tokens_of_an_older_directory_are_tokens(directory):
    place = directory({"do_lower_case": True}, words=WORDS, added_tokens={"covid19": NEW, "[E1]": NEW + 1},
                      special_tokens_map={**ROLES, "additional_special_tokens": ["[E1]"]})  # fmt: skip
    assert tokens(place, "a Covid19 river [E1] [e1]") == [
        "[CLS]", "a", "covid19", "river", "[E1]", "[", "e1", "]", "[SEP]"
    ]  # fmt: skip
    tokenizer = BertTokenizer.from_pretrained(place)
    ids = tokenizer.encode("a covid19 [E1]")
    assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["a", "covid19"]
    assert {"added_tokens.json", "special_tokens_map.json"} <= set(model_files()), "they come from the hub too"


def test_added_tokens_have_the_flags_of_the_config(directory):
    decoder = {str(i): entry(token) for i, token in enumerate(WORDS[:5])}
    decoder[str(NEW)] = entry("covid19", normalized=True, special=False)
    decoder[str(NEW + 1)] = entry("Red", single_word=True, special=False)
    decoder[str(NEW + 2)] = entry("[E1]", lstrip=True)
    place = directory({"added_tokens_decoder": decoder}, words=WORDS, added_tokens={"no such id": 999})
    assert tokens(place, "a COVID19 river") == ["[CLS]", "a", "covid19", "river", "[SEP]"]
    assert load_tokenizer(place).encode("Red red Reds   [E1]").ids == [2, NEW + 1, 9, 1, NEW + 2, 3]


@pytest.mark.parametrize(
    ("config", "lowercase", "expected"),
    [
        ({"do_lower_case": False}, True, ["Paris", "café"]),
        ({"do_lower_case": True}, False, ["paris", "cafe"]),
        ({}, False, ["paris", "cafe"]),
        ({"do_lower_case": True, "strip_accents": False}, True, ["paris", "café"]),
        ({"do_lower_case": False, "strip_accents": True}, True, ["Paris", "cafe"]),
        ({"do_lower_case": False, "tokenize_chinese_chars": False}, True, ["Paris", "café"]),
    ],
)
def test_the_config_of_a_bert_wins_over_its_tokenizer_json(config, lowercase, expected, directory, capfd):
    parts = pieces()
    parts["normalizer"]["lowercase"] = lowercase
    place = directory(BERTS | config, parts)
    assert tokens(place, "Paris café") == ["[CLS]", *expected, "[SEP]"]
    assert tokens(place, "中国")[1:-1] == (["中国"] if "tokenize_chinese_chars" in config else ["中", "国"])
    assert "normalizer" in capfd.readouterr().err, "what is not used is told of"


def test_special_tokens_of_the_vocabulary_are_never_split(directory):
    assert tokens(directory(BERTS, pieces(added_tokens=[])), "the [MASK] sea") == [
        "[CLS]",
        "the",
        "[MASK]",
        "sea",
        "[SEP]",
    ]


def test_a_bert_without_a_post_processor_has_its_own(directory):
    assert tokens(directory(BERTS, pieces(post_processor=None)), "the red sea") == [
        "[CLS]",
        "the",
        "red",
        "sea",
        "[SEP]",
    ]


def test_a_file_that_stands_as_it_is_and_puts_nothing_around_a_text_is_refused(directory):
    refused(directory(GENERIC, pieces(post_processor=None)), "post_processor")


def test_space_at_the_end_of_a_line_of_a_vocabulary_is_none_of_the_tokens(directory):
    place = directory({}, words=[f"{word}\r" for word in [*WORDS, "the", "zz "]])
    assert tokens(place, "zz the") == ["[CLS]", "zz", "the", "[SEP]"]
    assert load_tokenizer(place).encode("zz the").ids[1:3] == [NEW + 1, NEW], "the last of equal lines counts"


@pytest.mark.parametrize(
    ("clean", "expected"), [(True, "we don't you it"), (False, "we don ' t you it"), (None, "we don ' t you it")]
)
def test_spaces_of_decoded_texts_are_cleaned_up_on_request(clean, expected, directory):
    tokenizer = BertTokenizer.from_pretrained(directory(BERTS | {"clean_up_tokenization_spaces": clean}, pieces()))
    assert tokenizer.decode(tokenizer.encode("we don't you it"), skip_special_tokens=True) == expected


SEQUENCE = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]}


def test_a_normalizer_that_no_bert_has_is_saved_under_a_class_that_keeps_it(directory, tmp_path):
    place = directory(GENERIC, pieces(normalizer=SEQUENCE))
    save_tokenizer(load_tokenizer(place), tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "bert"}')
    assert tokens(tmp_path / "saved", "Paris CAFÉ") == ["[CLS]", "paris", "cafe", "[SEP]"]
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "do_lower_case" not in saved
    assert "token_type_ids" not in saved["model_input_names"], "the reference's class had none"


@pytest.mark.parametrize(
    "names", [None, ["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]]
)
def test_the_second_text_has_token_type_1_where_the_class_reads_token_types(names, directory):
    config = GENERIC | ({} if names is None else {"model_input_names": names})
    batch = BertTokenizer.from_pretrained(directory(config, pieces()))("the sea", "a river")
    assert batch["token_type_ids"].tolist() == [[0] * 4 + [int(names is not None and len(names) == 3)] * 3]


def test_special_tokens_may_have_other_names(directory, tmp_path):
    words = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", *WORDS[5:]]
    config = {f"{role}_token": f"<{name}>" for role, name in (
        ("pad", "pad"), ("unk", "unk"), ("cls", "s"), ("sep", "/s"), ("mask", "mask")
    )}  # fmt: skip
    place = directory(config, words=words)
    assert tokens(place, "the <mask> ☃") == ["<s>", "the", "<mask>", "<unk>", "</s>"]
    assert vars(special_ids(load_tokenizer(place))) == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    tokenizer = BertTokenizer.from_pretrained(place)
    assert (tokenizer.mask_token, tokenizer.mask_token_id, tokenizer.cls_token) == ("<mask>", 4, "<s>")
    check_fit(tokenizer.tokenizer, len(words), "m")
    save_tokenizer(tokenizer, tmp_path / "saved")
    for again in (
        BertTokenizer.from_pretrained(tmp_path / "saved"), pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)
    ):  # fmt: skip
        assert (again.mask_token, again.tokenize("the <mask>")) == ("<mask>", ["the", "<mask>"])
        check_fit(again.tokenizer, len(words), "m")


def test_special_tokens_without_a_role_are_kept(directory, tmp_path):
    config = BERTS | {
        "eos_token": "red",
        "sound_token": "[E1]",
        "extra_special_tokens": {"picture": "[I]"},
        "add_bos_token": True,
    }
    save_tokenizer(load_tokenizer(directory(config, pieces())), tmp_path / "saved")
    for place in (tmp_path, tmp_path / "saved"):
        tokenizer = BertTokenizer.from_pretrained(place)
        assert tokenizer.tokenize("[I]red[E1]") == ["[I]", "red", "[E1]"]
        assert tokenizer.decode(tokenizer.encode("[I] red [E1] sea"), skip_special_tokens=True) == "sea"
        assert settings_of(tokenizer.tokenizer).named == {"eos_token": "red", "sound_token": "[E1]", "picture": "[I]"}


def test_the_side_that_is_cut_is_the_configs(directory):
    place = directory(BERTS | {"truncation_side": "left"}, pieces())
    tokenizer = BertTokenizer.from_pretrained(place)
    ids = tokenizer("the red river sea", max_length=4)["input_ids"][0].tolist()
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "river", "sea", "[SEP]"]
    assert cutting(load_tokenizer(place), 4).encode("the red river sea").ids == ids


def test_special_tokens_that_a_text_spells_out_are_split_on_request(directory):
    tokenizer = BertTokenizer.from_pretrained(directory(BERTS | {"split_special_tokens": True}, pieces()))
    split = ["[", "[UNK]", "]"]
    assert tokenizer.tokenize("[SEP]") == split
    assert tokenizer.convert_ids_to_tokens(tokenizer("[SEP] a a a a", max_length=6)["input_ids"][0])[1:4] == split


def test_older_files_in_the_directory_do_not_speak_for_what_is_saved_there(directory, tmp_path):
    place = directory(words=WORDS, special_tokens_map={"mask_token": "red"}, added_tokens={"covid19": NEW})
    tokenizer = load_tokenizer(place)
    save_tokenizer(Tokenizer.from_str(json.dumps(pieces())), place)
    assert special_ids(load_tokenizer(place)).mask == 4 != special_ids(tokenizer).mask
    assert tokens(place, "covid19") == ["[CLS]", "[UNK]", "[SEP]"]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"do_lower_case": "yes"}, "do_lower_case"),
        ({"do_lower_case": None}, "do_lower_case"),
        ({"strip_accents": 1}, "strip_accents"),
        ({"tokenize_chinese_chars": "x"}, "tokenize_chinese_chars"),
        ({"clean_up_tokenization_spaces": "true"}, "clean_up_tokenization_spaces"),
        ({"split_special_tokens": 1}, "split_special_tokens"),
        ({"padding_side": "left"}, "padding_side"),
        ({"truncation_side": "up"}, "truncation_side"),
        ({"truncation_side": []}, "truncation_side"),
        ({"model_input_names": ["input_ids"]}, "model_input_names"),
        ({"model_input_names": [{}]}, "model_input_names"),
        ({"model_input_names": "input_ids"}, "model_input_names"),
        ({"model_max_length": "512"}, "model_max_length"),
        ({"model_max_length": 0}, "model_max_length"),
        ({"model_max_length": 1}, "model_max_length"),
        ({"model_max_length": True}, "model_max_length"),
        ({"max_len": -4}, "max_len"),
        ({"mask_token": 5}, "mask_token"),
        ({"mask_token": None}, "mask_token"),
        ({"mask_token": "[NO]"}, "mask_token"),
        ({"mask_token": {"content": "[MASK]", "lstrip": "yes"}}, "mask_token"),
        ({"cls_token": {"text": "[CLS]"}}, "cls_token"),
        ({"additional_special_tokens": "[E1]"}, "additional_special_tokens"),
        ({"additional_special_tokens": [3]}, "additional_special_tokens"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"x": entry("[E1]")}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"29": "[E1]"}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"77": entry("[E1]")}}, "added_tokens"),
        ({"model_specific_special_tokens": ["[E1]"]}, "model_specific_special_tokens"),
        ({"tokenizer_class": 3}, "tokenizer_class"),
        ({"tokenizer_class": "T5Tokenizer"}, "tokenizer_class"),
        ({"auto_map": {"AutoTokenizer": ["own.Own", None]}}, "auto_map"),
        ({"vocab": {"[UNK]": 0}}, "vocab"),
    ],
)
def test_a_field_of_the_wrong_type_or_a_refused_one_is_named_with_its_file(config, field, directory):
    refused(directory(BERTS | config, pieces()), field)


@pytest.mark.parametrize("content", ["[]", '"x"', "null", "5", "{", "[" * 100_000])
@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map", "added_tokens", "tokenizer"])
def test_a_file_without_fields_is_named(content, file, directory):
    assert refused(directory(**{"config": {}, "parts": pieces(), file: content}), None, f"{file}.json")


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("special_tokens_map", {"do_lower_case": False}, "do_lower_case"),
        ("special_tokens_map", {"mask_token": []}, "mask_token"),
        ("added_tokens", {"covid19": "29"}, "covid19"),
        ("added_tokens", {"covid19": True}, "covid19"),
        ("added_tokens", {"covid19": 99}, "added_tokens"),
    ],
)
def test_older_files_are_refused_where_they_cannot_be_obeyed(name, content, field, directory):
    refused(directory(None, words=WORDS, **{name: content}), field)


@pytest.mark.parametrize("config", [BERTS, GENERIC])
def test_a_template_with_an_id_that_no_token_has_is_refused(config, directory):
    template = pieces()["post_processor"]
    template["single"].insert(1, {"SpecialToken": {"id": "[X]", "type_id": 0}})
    template["special_tokens"]["[X]"] = {"id": "[X]", "ids": [999_999], "tokens": ["[X]"]}
    refused(directory(config, pieces(post_processor=template)), "post_processor")


def model(**changes):
    return {"model": pieces()["model"] | changes}


@pytest.mark.parametrize(
    ("config", "parts", "field"),
    [
        (GENERIC, model(unk_token="[NO]"), "model.unk_token"),
        (BERTS, {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}, "model.type"),
        (BERTS, model(vocab=dict.fromkeys(WORDS, 1)), "model.vocab"),
        (BERTS, model(vocab={word: i for i, word in enumerate(WORDS) if word != "[UNK]"}), "unk_token"),
        (BERTS, {"added_tokens": [entry("[E1]", 99)]}, "added_tokens"),
        (GENERIC, {"added_tokens": [entry("[E1]", 99)]}, "added_tokens"),
        (BERTS, model(vocab={w: i + 1 for i, w in enumerate(WORDS)}) | {"added_tokens": [entry("[E1]", NEW)]}, "added_tokens"),
        (BERTS, {"padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                             "pad_type_id": 0, "pad_token": "[PAD]"}}, "padding"),
    ],
)  # fmt: skip
def test_a_tokenizer_json_that_contradicts_itself_is_refused(config, parts, field, directory):
    refused(directory(config, pieces(**parts)), field)


def test_a_tokenizer_without_a_mask_is_named_with_its_file(directory):
    refused(directory({}, words=[word for word in WORDS if word != "[MASK]"]), "mask_token", "vocab.txt")


def test_an_expression_that_goes_back_without_end_is_named_with_its_file(directory, capfd):
    endless = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    refused(directory(GENERIC, pieces(normalizer=endless)), None, "tokenizer.json")
    assert capfd.readouterr().err == "", "no trace of a panic"


def test_a_panic_of_the_library_on_a_text_is_an_error_of_one_line(directory):
    endless = {"type": "Replace", "pattern": {"Regex": "(☃+)+$"}, "content": "b"}  # nothing to try it with
    tokenizer = BertTokenizer.from_pretrained(directory(GENERIC, pieces(normalizer=endless)))
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(InputError) as refusal:
            call("☃" * 64 + "!")
        assert refusal.value.path == str(directory(GENERIC))


def test_a_class_that_takes_tokenizer_json_needs_it(directory):
    refused(directory(GENERIC, words=WORDS), "tokenizer_class")


def test_a_file_under_another_name_stands_alone(directory, tmp_path):
    place = directory(BERTS | {"do_lower_case": False}, pieces())
    (place / "other.json").write_bytes((place / "tokenizer.json").read_bytes())
    assert load_tokenizer(place / "other.json").encode("Paris").tokens == ["[CLS]", "paris", "[SEP]"]
    assert load_tokenizer(place / "tokenizer.json").encode("Paris").tokens == ["[CLS]", "Paris", "[SEP]"]


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        *(("tokenizer_config.json", name, None)
          for name in ("added_tokens_decoder", "model_input_names", "padding_side", "split_special_tokens")),
        *(("tokenizer_config.json", name, value)
          for name in ("mask_token", "bos_token") for value in (7, True, 0.5, [], {"a": 1})),
        ("special_tokens_map.json", "additional_special_tokens", {}),
        ("special_tokens_map.json", "additional_special_tokens", [7]),
        ("special_tokens_map.json", "mask_token", True),
    ],
)  # fmt: skip
def test_what_the_reference_cannot_use_is_not_taken_for_what_is_left_out(file, name, value, world, tmp_path):
    shutil.copytree(world.tokenizer, tmp_path / "tokenizer")
    config = json.loads((tmp_path / "tokenizer/tokenizer_config.json").read_text())
    if file != "tokenizer_config.json":
        del config["added_tokens_decoder"]  # beside which the other file is not read
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    load_tokenizer(tmp_path / "tokenizer")
    given = config if file == "tokenizer_config.json" else {}
    (tmp_path / "tokenizer" / file).write_text(json.dumps(given | {name: value}))
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path / "tokenizer")
    assert (caught.value.path, caught.value.field) == (str(tmp_path / "tokenizer" / file), name)
