"""Live against the pipelines of transformers, on small models with random weights and a small tokenizer."""

import numpy as np
import pytest

from distilbert_jax.pipelines import FeatureExtraction, FillMask, TextClassification, TokenClassification
from distilbert_jax.pipelines.tokens import STRATEGIES
from distilbert_jax.text.tokenizer import BertTokenizer, load_tokenizer
from tests.models.common import CLASSES, build, deviation
from tests.runs import BERT, STUDENT, change

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

both = pytest.mark.parametrize("family", ["Bert", "DistilBert"])
TEXTS = ["reda [MASK] redc", "[MASK] goes to bluea, redb!", "goess to [MASK]", "Reda GOES " * 10 + "[MASK] redq"]
PAIRS = [("reda goes", "to blueb"), ("redb", "redc redd rede goes to redf")]


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    """Class, labels → the directory of such a model, with a tokenizer."""

    def save(name, labels=("no", "yes", "maybe")):
        config = change(STUDENT if name.startswith("Distil") else BERT, labels=labels)
        directory = tmp_path_factory.mktemp(name) / "model"
        build(CLASSES[name], config, seed=2).save_pretrained(directory, load_tokenizer(world.tokenizer))
        return str(directory)

    return save


@pytest.fixture(scope="module")
def fillers(saved):
    """Family → ours and the reference's fill-mask."""
    made = {}
    for family in ("Bert", "DistilBert"):
        directory = saved(f"{family}ForMaskedLM")
        made[family] = FillMask(directory), transformers.pipeline("fill-mask", directory, device="cpu")
    return made


def assert_same(found, expected):
    """Answers with equal tokens and strings, and scores within 1e-5."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, list):
            assert_same(ours, theirs)
            continue
        assert {key: ours[key] for key in theirs if key != "score"} == {k: v for k, v in theirs.items() if k != "score"}
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4, abs=1e-5)


@both
@pytest.mark.parametrize("top_k", [1, 5, 48])
def test_one_mask_is_filled_as_by_the_reference(family, top_k, fillers):
    ours, theirs = fillers[family]
    assert_same(ours(TEXTS, top_k=top_k), theirs(TEXTS, top_k=top_k))
    assert_same(ours(TEXTS[0], top_k=top_k), theirs(TEXTS[0], top_k=top_k))


@both
def test_several_masks_are_filled_as_by_the_reference(family, fillers):
    ours, theirs = fillers[family]
    text = "reda [MASK] goes [MASK] [MASK]"
    assert_same(ours(text, top_k=3), theirs(text, top_k=3))
    assert_same(ours(text, top_k=3, targets=["reda", "to"]), theirs(text, top_k=3, targets=["reda", "to"]))


@both
def test_targets_are_scored_as_by_the_reference(family, fillers, capfd):
    ours, theirs = fillers[family]
    for targets in (["goes", "redb", "goes", "##s"], ["GOESS", "to", "Reda", "☃"], "bluea"):
        for top_k in (2, 5):
            assert_same(ours(TEXTS, top_k, targets), theirs(TEXTS, top_k=top_k, targets=targets))
    assert "'GOESS' by 'goes', 'Reda' by 'reda', '☃' by '[UNK]'" in capfd.readouterr().err


@both
def test_what_is_refused_the_reference_refuses(family, fillers):
    ours, theirs = fillers[family]
    for text in ("reda goes", "reda [mask]"):
        for fill in (ours, theirs):
            with pytest.raises(Exception, match=r"\[MASK\]"):
                fill(text)


@both
def test_features_are_the_references(family, saved):
    directory = saved(f"{family}Model")
    theirs = transformers.pipeline("feature-extraction", directory, device="cpu")
    expected = [np.array(states[0]) for states in theirs(TEXTS)]
    for states, reference in zip(FeatureExtraction(directory)(TEXTS), expected, strict=True):
        assert deviation(states, reference) < 1e-5


@both
@pytest.mark.parametrize("labels", [("no", "yes", "maybe"), ("score",)])
def test_labels_are_the_references(family, labels, saved):
    directory = saved(f"{family}ForSequenceClassification", labels)
    theirs = transformers.pipeline("text-classification", directory, device="cpu")
    ours = TextClassification(directory)
    assert_same(ours(TEXTS, None), theirs(TEXTS, top_k=None))
    pairs = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    assert_same(ours(PAIRS, None), theirs(pairs, top_k=None))


ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
ODD_TEXTS = [
    *TEXTS,
    "REDAS goess bluea-redb, blueas redcs redds to (goes)!",
    "Re\u0301da r\u00e9db 😀 \U0001f469\u200d\U0001f680 \u0301goes bl\u200bueas redq\x01s \u4e2d\u6587to",
    f"reda {'x' * 101} {'reda' * 30} goes\n\t to  redbs ... 'redc' ##s [SEP] [UNK] [CLS]to",
    " redas",
    "?",
    "goes " * 40 + "redas",
]


@both
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_the_references(family, strategy, saved):
    directory = saved(f"{family}ForTokenClassification", ENTITIES)
    theirs = transformers.pipeline("token-classification", directory, device="cpu", aggregation_strategy=strategy)
    ours = TokenClassification(directory)
    for ignored in (["O"], [], ["PER", "B-LOC"]):
        expected = theirs(ODD_TEXTS, ignore_labels=ignored)
        assert sum(map(len, expected)) > len(ODD_TEXTS)
        assert_same(ours(ODD_TEXTS, strategy, ignored), expected)
    assert_same(ours(ODD_TEXTS[4], strategy), theirs(ODD_TEXTS[4]))


def test_encoded_texts_are_the_references(saved):
    directory = saved("BertModel")
    ours, theirs = BertTokenizer.from_pretrained(directory), transformers.AutoTokenizer.from_pretrained(directory)
    first, second = zip(*PAIRS, strict=True)
    long = [text * 20 for text in first]
    for given in ((TEXTS,), (first, second), (long,), (long, second)):
        expected = theirs(*map(list, given), padding=True, truncation=True, return_tensors="np")
        found = ours(*given)
        assert expected["input_ids"].shape == found["input_ids"].shape
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name])


@pytest.fixture(scope="module")
def tokenizers(saved):
    """Ours and the reference's, of one directory."""
    directory = saved("DistilBertModel")
    return BertTokenizer.from_pretrained(directory), transformers.AutoTokenizer.from_pretrained(directory)


def test_padding_and_truncation_are_the_references(tokenizers):
    ours, theirs = tokenizers
    long = [*TEXTS, "reda goes " * 30]
    for given, options in (
        ((TEXTS,), {"padding": "longest"}),
        ((long,), {"padding": "max_length", "truncation": True, "max_length": 12}),
        ((long,), {"padding": "max_length", "truncation": "longest_first"}),
        ((long, long[::-1]), {"padding": True, "truncation": True, "max_length": 9}),
        ((TEXTS[:1],), {"padding": False, "truncation": False}),
        ((TEXTS[0],), {"max_length": 5, "truncation": True}),
    ):
        expected, found = theirs(*given, **options, return_tensors="np"), ours(*given, **options, return_tensors="np")
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_what_a_tokenizer_tells_of_itself_is_the_references(tokenizers):
    ours, theirs = tokenizers
    for name in ("vocab_size", "model_max_length"):
        assert getattr(ours, name) == getattr(theirs, name)
    for kind in ("pad", "unk", "cls", "sep", "mask"):
        for name in (f"{kind}_token", f"{kind}_token_id"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())


def test_pieces_ids_and_texts_are_the_references(tokenizers):
    ours, theirs = tokenizers
    texts = [*TEXTS, "Réda, goess ☃ [SEP] to", "", "a" * 200]
    for text in texts:
        assert ours.tokenize(text) == theirs.tokenize(text)
        for special in (True, False):
            assert ours.encode(text, add_special_tokens=special) == theirs.encode(text, add_special_tokens=special)
        ids = theirs.encode(text)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
            tokens = theirs.convert_ids_to_tokens(ids, skip_special_tokens=skip)
            assert ours.convert_ids_to_tokens(ids, skip_special_tokens=skip) == tokens
    assert ours.encode("reda", "goes to") == theirs.encode("reda", "goes to")
    tokens = ["reda", "[MASK]", "☃", "##s"]
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids("goes") == theirs.convert_tokens_to_ids("goes")
    assert ours.convert_ids_to_tokens(7) == theirs.convert_ids_to_tokens(7)
    batch = theirs(TEXTS, padding=True, return_tensors="np")["input_ids"]
    for skip in (True, False):
        found = ours.batch_decode(batch, skip_special_tokens=skip)
        assert found == theirs.batch_decode(batch, skip_special_tokens=skip)


def test_the_reference_loads_what_a_tokenizer_saves(tokenizers, tmp_path):
    ours, theirs = tokenizers
    ours.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == theirs.get_vocab()
    assert loaded.model_max_length == ours.model_max_length
    assert loaded(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]
