import json
import random

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from distilbert_jax.text.tokenizer import check_fit, fingerprint, load_tokenizer, same_ids, save_tokenizer, special_ids
from distilbert_jax.text.tokenizer_files import bert_tokenizer
from distilbert_jax.text.wordpiece import train_wordpiece
from tests.runs import refused

TEXT = "the tokenizer reads words and writes pieces of words; reading, writing, rereading: Äpfel, naïve café"
WORDS = TEXT.split()


def sentences(count=400, seed=0):
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=9)) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(iter(sentences()), 80)


def test_special_tokens_come_first_and_wrap_a_pair(tokenizer):
    ids = special_ids(tokenizer)
    assert (ids.pad, ids.unk, ids.cls, ids.sep, ids.mask) == (0, 1, 2, 3, 4)
    pair = tokenizer.encode("The WORDS", "cafe ☃")
    assert pair.tokens[0] == "[CLS]"
    assert pair.tokens.count("[SEP]") == 2
    assert pair.tokens[-2:] == ["[UNK]", "[SEP]"]
    assert pair.type_ids == [0] * 4 + [1] * (len(pair.ids) - 4)
    assert tokenizer.decode(tokenizer.encode("Rereading CAFÉ").ids) == "rereading cafe"


@pytest.mark.parametrize("frequency", [2, 1200])
def test_vocabulary_has_the_entries_that_the_plain_trainer_finds(frequency):
    # No two merges of this text are tied, so that the plain trainer's order of ids does not matter to its choice.
    texts = [
        "abcd " * 2600 + "abcf " * 1300 + "abcg " * 600 + "abce " * 32 + "xyz " * 17 + "xyw " * 9 + "qr " * 5 + "m n"
    ]
    reference = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    reference.normalizer = normalizers.BertNormalizer()
    reference.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    reference.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(vocab_size=64, special_tokens=special, min_frequency=frequency, show_progress=False),
    )
    assert set(train_wordpiece(iter(texts), 64, min_frequency=frequency).get_vocab()) == set(reference.get_vocab())


def test_same_text_in_any_order_gives_the_same_ids(tokenizer):
    shuffled = sentences()
    random.Random(1).shuffle(shuffled)
    assert train_wordpiece(iter(shuffled), 80).get_vocab() == tokenizer.get_vocab()
    assert train_wordpiece(iter(sentences(seed=3)[:50]), 80).get_vocab() != tokenizer.get_vocab()


def test_case_and_accents_are_kept_on_request():
    cased = train_wordpiece(iter(sentences()), 80, lowercase=False)
    assert cased.decode(cased.encode("Äpfel café").ids) == "Äpfel café"


def test_saved_tokenizer_loads_equal(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "new", model_max_length=64)
    loaded = load_tokenizer(tmp_path / "new")
    assert fingerprint(loaded) == fingerprint(load_tokenizer(tmp_path / "new" / "tokenizer.json"))
    assert fingerprint(loaded) == fingerprint(tokenizer)
    assert loaded.encode("the café", "words").ids == tokenizer.encode("the café", "words").ids
    settings = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 64
    assert settings["do_lower_case"] is True
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_truncation_and_padding_of_a_file_are_switched_off_and_do_not_count(tokenizer, tmp_path):
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=8)
    cutting.save(str(tmp_path / "tokenizer.json"))
    assert fingerprint(cutting) == fingerprint(tokenizer)
    assert len(load_tokenizer(tmp_path).encode("the words " * 10).ids) == 22
    assert cutting.truncation is not None


def test_fingerprint_changes_with_what_decides_ids(tokenizer):
    cased = Tokenizer.from_str(tokenizer.to_str())
    cased.normalizer = normalizers.BertNormalizer(lowercase=False)
    grown = Tokenizer.from_str(tokenizer.to_str())
    grown.add_tokens(["snowman"])
    assert len({fingerprint(one) for one in (tokenizer, cased, grown)}) == 3


def changed(tokenizer, change):
    parts = json.loads(tokenizer.to_str())
    change(parts)
    return Tokenizer.from_str(json.dumps(parts))


def replacing(parts):
    replace = {"type": "Replace", "pattern": {"String": "reading"}, "content": "writing"}
    parts["normalizer"] = {"type": "Sequence", "normalizers": [parts["normalizer"], replace]}


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts["normalizer"].update(lowercase=False),
        lambda parts: parts["normalizer"].update(strip_accents=False),
        lambda parts: parts["model"].update(max_input_chars_per_word=6),
        replacing,
    ],
)
def test_tokenizers_that_give_some_text_other_ids_are_told_apart(tokenizer, change):
    assert not same_ids(tokenizer, changed(tokenizer, change))


def test_case_tells_tokenizers_apart_whatever_their_vocabulary():
    """Of these words none is in a text that one would try them with."""
    vocabulary = {token: i for i, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ACG", "TTT"))}
    one, other = (bert_tokenizer(vocabulary, normalizers.BertNormalizer(lowercase=lower)) for lower in (True, False))
    assert not same_ids(one, other)


def nested(parts):
    parts["normalizer"] = {"type": "Sequence", "normalizers": [parts["normalizer"] | {"strip_accents": True}]}


@pytest.mark.parametrize("change", [nested, lambda parts: parts.update(added_tokens=[])])
def test_tokenizers_that_are_written_otherwise_are_the_same(tokenizer, change):
    other = changed(tokenizer, change)
    assert fingerprint(other) != fingerprint(tokenizer)
    assert same_ids(tokenizer, other)


@pytest.mark.parametrize("lowercase", [None, True, False])
def test_directory_with_only_a_vocabulary_file_respects_its_case(tmp_path, lowercase):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "cafe", "Café", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    if lowercase is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    tokenizer = load_tokenizer(tmp_path)
    word = 7 if lowercase is False else 6
    assert tokenizer.encode("Cafés" if lowercase is None else "Café").ids == [2, word, *[8] * (lowercase is None), 3]
    assert special_ids(tokenizer).mask == 4


def test_what_cannot_be_loaded_is_named(tmp_path):
    refused(lambda: load_tokenizer(tmp_path / "nowhere"), by="base.hub.locate", path="nowhere")
    refused(lambda: load_tokenizer(tmp_path), by="text.tokenizer_files._from_others", path=str(tmp_path))
    (tmp_path / "vocab.txt").write_text("one\ntwo\n")
    refused(lambda: load_tokenizer(tmp_path), by="text.tokenizer_files._berts", path="vocab.txt")
    (tmp_path / "vocab.txt").write_text("\ufeff[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\none\n", encoding="utf-8")
    refused(lambda: load_tokenizer(tmp_path), by="text.tokenizer_files._read_vocabulary", path="vocab.txt")
    for broken, by in (
        ('{"version": "1.0"', "base.files.parse_json"), ('{"version": "1.0"}', "text.tokenizer_files.told_in_a_line")
    ):  # fmt: skip
        (tmp_path / "tokenizer.json").write_text(broken)
        refused(lambda: load_tokenizer(tmp_path), by=by, path="tokenizer.json")


def test_what_cannot_be_trained_or_used_is_named(tokenizer):
    refused(lambda: train_wordpiece(iter(["", " \t"]), 100), by="text.wordpiece.train_wordpiece")
    refused(lambda: train_wordpiece(iter(["text"]), 20), by="text.wordpiece.check_vocab_size", field="vocab_size")
    refused(
        lambda: special_ids(Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))),
        "[CLS]",
        "[SEP]",
        "[MASK]",
        by="text.tokenizer.special_ids",
    )


def test_a_tokenizer_fits_an_embedding_that_has_a_row_for_every_id(tokenizer):
    size = tokenizer.get_vocab_size()
    check_fit(tokenizer, size, "m")
    refused(
        lambda: check_fit(tokenizer, size - 1, "m"), str(size), str(size - 1), by="text.tokenizer.check_fit", path="m"
    )
    described = json.loads(tokenizer.to_str())
    word = max(described["model"]["vocab"], key=lambda piece: described["model"]["vocab"][piece])
    described["model"]["vocab"][word] = 999  # not more pieces, but a larger id
    refused(
        lambda: check_fit(Tokenizer.from_str(json.dumps(described)), size, "m"),
        "1000",
        by="text.tokenizer.check_fit",
        path="m",
    )


def test_a_tokenizer_without_cls_and_sep_around_a_text_is_no_berts(tokenizer):
    bare = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"post_processor": None}))
    refused(lambda: check_fit(bare, 10_000, "m"), "[CLS]", "[SEP]", by="text.tokenizer.check_frame", path="m")
