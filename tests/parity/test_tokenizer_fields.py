"""Live against transformers' AutoTokenizer: every field of a tokenizer's files, flipped once, before and after a round trip."""

import copy
import inspect
import json
import re

import numpy as np
import pytest

from distilbert_jax.base.file_fields import Treatment
from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import BertTokenizer
from distilbert_jax.text.tokenizer_fields import ADDED, CONFIG, FIELDS, SPECIAL_MAP, TOKENIZER, rows_of

WITHOUT = Treatment.WITHOUT_EFFECT
pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

VOCABULARY = """
[PAD] [UNK] [CLS] [SEP] [MASK] <s> </s> a b red Red sea the The cafe café CAFÉ Paris paris ##side ##s is we don ' t
, . ! ? [ ] E1 new 中 国 中国 straße STRASSE İ i ##̇ ñ n Я я ##я мир é É e ##e - RED don't #s @@s ocean Ocean river
"""
WORDS = VOCABULARY.split()
TEXTS = (
    ("The red SEA, Red Paris!", "we don't [MASK] it ."),
    ("CAFÉ café cafe 中国 中 мир Яя", "straße İi ñ É Redsea seas"),
    ("[E1] Red [CLS] <s> red [SEP] </s>", "RED new [ E1 ]"),
    (" the   sea\tseaside .", "is"),
)
SETTINGS = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", **ROLES}
BASES = {
    "vocabulary": (False, SETTINGS, True),
    "cased vocabulary": (False, SETTINGS | {"do_lower_case": False}, False),
    "tokenizer.json": (True, SETTINGS | ROLES, True),
    "as it stands": (True, GENERIC, False),
}


def parts_of(lowercase):
    special = [{"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False} for i, token in enumerate(WORDS[:5])]  # fmt: skip
    piece = lambda token, kind: {"SpecialToken": {"id": token, "type_id": kind}}
    text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    one = [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)]
    ends = {token: {"id": token, "ids": [WORDS.index(token)], "tokens": [token]} for token in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": one, "pair": [*one, text("B", 1), piece("[SEP]", 1)],
                           "special_tokens": ends},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {token: i for i, token in enumerate(WORDS)}},
    }  # fmt: skip


def written(directory, base, model_type="bert"):
    """A directory of this base, its files open to changes: file → content."""
    with_json, settings, lowercase = BASES[base]
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 99}))
    files = {CONFIG: copy.deepcopy(settings)}
    if with_json:
        files[TOKENIZER] = parts_of(lowercase)
    else:
        (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return files


def flipped(files, row, value):
    """The files with one field set."""
    if row.name == "*":
        return files | {row.file: value}
    content, *inner = files.setdefault(row.file, {}), *row.name.replace("*_token", "image_token").split(".")
    for name in inner[:-1]:
        content = content[name]
    content[inner[-1]] = value
    return files


def write(directory, files):
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))


def shown(tokenizer, ours):
    """Ids, token types, what is left of a cut, and decoded texts."""
    result = []
    for pair in TEXTS:
        for given in (pair[:1], pair):
            for options in ({"truncation": True}, {"truncation": True, "max_length": 8}):
                batch = tokenizer(*([text] for text in given), **options) if ours else tokenizer(
                    *given, return_tensors="np", **options
                )  # fmt: skip
                ids = np.asarray(batch["input_ids"])[0].tolist()
                types = np.asarray(batch.get("token_type_ids", np.zeros((1, len(ids)), int)))[0].tolist()
                result.append((tokenizer.convert_ids_to_tokens(ids), ids, types))
            texts = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
            result.append((*texts, tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True)))
            result.append(tokenizer.tokenize(pair[0]))
    roles = {name: getattr(tokenizer, name) for role in ROLES for name in (role, f"{role}_id")}
    return [*result, roles]


def of_ours(directory):
    return shown(BertTokenizer.from_pretrained(directory), ours=True)


def of_theirs(directory):
    return shown(transformers.AutoTokenizer.from_pretrained(directory), ours=False)


def compared(directory, tmp_path):
    """What is the same of a directory here and there, before and after a round trip; raises InputError where it is refused."""
    tokenizer = BertTokenizer.from_pretrained(directory)
    expected = of_theirs(directory)
    assert shown(tokenizer, ours=True) == expected
    again = tmp_path / "again"
    tokenizer.save_pretrained(again)
    (again / "config.json").write_bytes((directory / "config.json").read_bytes())
    for name in (SPECIAL_MAP, ADDED):  # what an older tokenizer may have left there
        (again / name).write_text(json.dumps({"mask_token": "red"} if name == SPECIAL_MAP else {"red": 99}))
    assert of_theirs(again) == expected, "after a round trip, there"
    assert of_ours(again) == expected, "after a round trip, here"


# Refused as they contradict each other: a class without its file, a template without the tokens that the config names.
CONTRADICTIONS = (
    *((base, "tokenizer_class", "PreTrainedTokenizerFast") for base in ("vocabulary", "cased vocabulary")),
    *(("as it stands", *field) for field in (("cls_token", "<s>"), ("sep_token", "</s>"), ("post_processor", None))),
)


def at(row):
    return f"{row.file}: {row.name}"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("row", [row for row in FIELDS if row.flips and row.treatment is not WITHOUT], ids=at)
def test_each_field_is_obeyed_as_by_the_reference_or_refused(row, base, tmp_path):
    if row.file == TOKENIZER and not BASES[base][0]:
        pytest.skip("a directory without tokenizer.json")
    for i, value in enumerate(row.flips):
        place = tmp_path / str(i)
        place.mkdir()
        write(place / "model", flipped(written(place / "model", base), row, value))
        if row.treatment is not Treatment.REFUSED and (base, row.name, value) not in CONTRADICTIONS:
            compared(place / "model", place)
            continue
        with pytest.raises(InputError) as refusal:
            BertTokenizer.from_pretrained(place / "model")
        assert row.treatment is not Treatment.REFUSED or refusal.value.field == row.name


@pytest.mark.parametrize("base", BASES)
def test_fields_without_effect_have_none(base, tmp_path):
    files = written(tmp_path / "model", base)
    write(tmp_path / "model", files)
    expected = of_theirs(tmp_path / "model")
    for row in FIELDS:
        if row.treatment is WITHOUT and row.file == CONFIG:
            files = flipped(files, row, row.flips[0])
    write(tmp_path / "model", files)
    assert of_theirs(tmp_path / "model") == expected
    compared(tmp_path / "model", tmp_path)


def fields_that_are_read():
    """Names that the reference takes out of tokenizer_config.json, by its source and its signatures."""
    from transformers import tokenization_utils_base as base
    from transformers import tokenization_utils_tokenizers as backend
    from transformers.models.auto import tokenization_auto as auto

    names = set(base.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
    for cls in (transformers.BertTokenizer, transformers.DistilBertTokenizer):
        kinds = inspect.signature(cls.__init__).parameters.values()
        names |= {kind.name for kind in kinds if kind.kind is kind.POSITIONAL_OR_KEYWORD} - {"self"}
    for function in (
        base.PreTrainedTokenizerBase.__init__,
        base.PreTrainedTokenizerBase.from_pretrained,
        base.PreTrainedTokenizerBase._from_pretrained,
        backend.TokenizersBackend.__init__,
        backend.TokenizersBackend.convert_to_native_format,
        transformers.BertTokenizer.__init__,
        auto.AutoTokenizer.from_pretrained,
    ):
        source = inspect.getsource(function)
        where = r"(?:init_kwargs|local_kwargs|tokenizer_config|(?<!_)kwargs)"
        for pattern in (rf"{where}\.(?:pop|get|setdefault)\(\s*\"(\w+)\"", rf"{where}\[\"(\w+)\"\]",
                        rf"\"(\w+)\"(?: not)? in {where}\b", r"key == \"(\w+)\""):  # fmt: skip
            names |= set(re.findall(pattern, source))
    return names


# Arguments of a call of from_pretrained, which no file can give.
ARGUMENTS = {"config", "_from_auto", "use_fast", "tokenizer_type", "code_revision", "mistral_format", "revision", "token",
             "cache_dir", "proxies", "subfolder", "_from_pipeline", "file_id", "force_download"}  # fmt: skip


def test_the_table_has_every_field_that_the_reference_reads():
    known = {row.name for row in rows_of(CONFIG)}
    assert fields_that_are_read() - ARGUMENTS - known == set()
    parts = parts_of(lowercase=True)
    names = {name for name in parts if name != "model"} | {f"model.{name}" for name in parts["model"]}
    assert names == {row.name for row in rows_of(TOKENIZER)}
    from tokenizers import Tokenizer, models

    saved = json.loads(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).to_str())
    assert {*saved} - {"model"} | {f"model.{name}" for name in saved["model"]} == names
    special = {row.name for row in rows_of(SPECIAL_MAP)}
    assert {*transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES, "extra_special_tokens"} <= special
