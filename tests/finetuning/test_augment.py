"""Augmentation: which words a masked LM replaces, what stays, which rows are copied, and what is learned from copies."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from distilbert_jax import config as c
from distilbert_jax.finetuning import preparation as module
from distilbert_jax.finetuning.augment import augmented, load_proposer, pieces_of
from distilbert_jax.finetuning.kinds.sentences import SentenceExamples
from distilbert_jax.finetuning.runs import finetune
from distilbert_jax.models import BertForMaskedLM
from distilbert_jax.text.tokenizer import Row, load_tokenizer
from tests import runs
from tests.finetuning.test_layer_terms import tuning
from tests.runs import BERT, change, metrics, refused

TEXTS = ["reda goes to redb", "redas bluea", "redas bluebs", "redc ! redd (rede)"]


@pytest.fixture(scope="module")
def proposer(world, tmp_path_factory):
    """A masked LM, its directory and tokenizer."""
    path = tmp_path_factory.mktemp("proposer")
    BertForMaskedLM(change(BERT, num_hidden_layers=1), rngs=nnx.Rngs(9)).save_pretrained(
        path, load_tokenizer(world.tokenizer)
    )
    tokenizer = load_tokenizer(path)
    return path, load_proposer(c.AugmentConfig(1, model=str(path)), tokenizer, 16), tokenizer


def examples_of(texts, tokenizer):
    encodings = tokenizer.encode_batch(texts)
    rows = [Row(np.asarray(one.ids, np.int32), np.asarray(one.type_ids, np.int32)) for one in encodings]
    return SentenceExamples(rows, np.arange(len(texts), dtype=np.int32), cut=0)


def copied(proposer, texts=TEXTS, **changes):
    path, model, tokenizer = proposer
    config = dataclasses.replace(c.AugmentConfig(2, 0.5, str(path)), **changes)
    given = examples_of(texts, tokenizer)
    return given, augmented(given, config, model, tokenizer)


def test_words_of_one_piece_are_told_from_the_others(proposer):
    _, model, tokenizer = proposer
    pieces = pieces_of(tokenizer, model.config.vocab_size)
    count, single = pieces.words(np.array(tokenizer.encode("redas goes blueb ! redc").ids))
    tokens = tokenizer.encode("redas goes blueb ! redc").tokens
    assert (count, [tokens[place] for place in single]) == (4, ["goes", "blueb", "redc"])


def test_special_and_added_tokens_are_no_words_whatever_they_are_called(world, tmp_path):
    tokens = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["<pad>", "[UNK]", "<s>", "</s>", "<mask>", "[unused7]", *runs.WORDS])
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]", **tokens})
    )
    marked = load_tokenizer(world.tokenizer)
    marked.add_special_tokens(["<e1>", "##e2"])
    marked.add_tokens(["e3"])
    for tokenizer in (load_tokenizer(tmp_path), marked):
        vocabulary = tokenizer.get_vocab()
        pieces = pieces_of(tokenizer, len(vocabulary))
        words = {piece for piece, index in vocabulary.items() if pieces.begins[index] or pieces.continues[index]}
        assert words == set(runs.WORDS)
        count, single = pieces.words(np.array(tokenizer.encode("reda <e1> redb ##e2 e3").ids))
        assert tokenizer is not marked or (count, [*single]) == (2, [1, 3])


def test_copies_differ_from_their_row_in_words_of_one_piece_alone(proposer):
    _, model, tokenizer = proposer
    given, result = copied(proposer)
    assert len(result) == len(given) + 2 * 3, "the third text has no word of one piece: it is not copied"
    np.testing.assert_array_equal(result.labelled, [True] * 4 + [False] * 6)
    np.testing.assert_array_equal(result.labels, [0, 1, 2, 3, 0, 1, 3, 0, 1, 3])
    pieces = pieces_of(tokenizer, model.config.vocab_size)
    for made_of, row in zip([0, 1, 3, 0, 1, 3], result.rows[4:], strict=True):
        original = given.rows[made_of]
        places = np.flatnonzero(row.ids != original.ids)
        words, single = pieces.words(original.ids)
        assert len(places) == min(max(1, round(0.5 * words)), len(single))
        assert set(places) <= set(single)
        assert pieces.begins[row.ids[places]].all()
    assert any((a.ids != b.ids).any() for a, b in zip(result.rows[4:7], result.rows[7:], strict=True)), "copies differ"


def test_the_words_are_among_those_that_the_masked_lm_finds_likeliest(proposer):
    _, model, tokenizer = proposer
    given, result = copied(proposer, texts=TEXTS[:1], copies=8, candidates=2)
    pieces, mask = pieces_of(tokenizer, model.config.vocab_size), tokenizer.token_to_id("[MASK]")
    for row in result.rows[1:]:
        places = np.flatnonzero(row.ids != given.rows[0].ids)
        masked = given.rows[0].ids.copy()
        masked[places] = mask
        logits = np.where(pieces.begins, np.asarray(model(masked[None]).logits[0]), -np.inf)
        for place in places:
            best = [word for word in np.argsort(-logits[place], kind="stable") if word != given.rows[0].ids[place]]
            assert row.ids[place] in best[:2]


def test_a_masked_lm_whose_scores_are_not_finite_proposes_nothing(proposer):
    path, model, tokenizer = proposer
    broken = type(model).from_pretrained(path)
    broken.encoder.layers[0].ffn_norm.scale[...] = 3e38
    told = {"by": "models.ranges.check_finite", "path": str(path)}
    refused(lambda: copied((path, broken, tokenizer)), **told)


def test_copies_are_the_same_every_time_and_those_of_a_row_do_not_depend_on_the_others(proposer):
    (_, once), (_, again), (_, fewer) = copied(proposer), copied(proposer), copied(proposer, texts=TEXTS[:2])
    for one, other in zip(once.rows, again.rows, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(once.rows[4].ids, fewer.rows[2].ids)


def augmenting(taught, proposer, directory, **changes):
    given = {"augment__copies": 2, "augment__share": 0.3, "augment__model": str(proposer[0]), "save_model": False}
    base = tuning(taught, directory)
    plain = change(base, distill=c.DistillConfig(teacher=base.distill.teacher, alpha=0.3))
    return change(plain, **{**given, **changes})


def test_rows_that_are_scored_are_not_copied_and_copies_stay_on_their_side(taught, proposer, tmp_path, monkeypatch):
    made = []

    def kept(examples, *given):
        made.append((examples, augmented(examples, *given)))
        return made[-1][1]

    monkeypatch.setattr(module, "augmented", kept)
    result = finetune(augmenting(taught, proposer, tmp_path / "run", selection_split=True, epochs=1))
    ((given, all_rows),) = made
    assert result.train_rows == len(given) == 40 - result.dev_rows["selection_split"]
    assert result.added_rows == len(all_rows) - len(given) == 2 * len(given)
    assert result.steps == -(-3 * len(given) // 8)
    assert json.loads((tmp_path / "run/results.json").read_text())["added_rows"] == result.added_rows


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_of_copies_the_teacher_alone_is_learned(taught, proposer, tmp_path, task):
    """With labels that could not be wronger on copies, nothing changes."""
    config = augmenting(taught, proposer, tmp_path / "run", task=task, epochs=1)
    finetune(config)

    def wrong(*given):
        result = augmented(*given)
        return dataclasses.replace(result, labels=np.where(result.labelled, result.labels, 1 - result.labels))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "augmented", wrong)
        finetune(change(config, run__directory=str(tmp_path / "wrong")))
    assert runs.entries(tmp_path / "run") == runs.entries(tmp_path / "wrong")
    logged = [entry for entry in metrics(tmp_path / "run/metrics.jsonl") if entry["kind"] == "train"]
    assert sum(entry["examples"] for entry in logged) == 3 * 40


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"distill": c.DistillConfig()}, "distill.teacher"),
        ({"augment__model": ""}, "augment.model"),
        ({"augment__model": "nowhere"}, None),
        ({"augment__model": "classifier"}, "augment.model"),
        ({"augment__model": "other"}, "augment.model"),
        ({"distill__alpha": 0.0}, "distill.alpha"),
    ],
)
def test_what_cannot_propose_words_is_refused_before_a_step(taught, proposer, tmp_path, changes, field):
    if changes.get("augment__model") == "classifier":
        changes = {"augment__model": str(taught / "sst2/t")}
    elif changes.get("augment__model") == "other":
        words_of = [word for word in runs.WORDS if word != "reda"]
        other = load_tokenizer(runs.write_tokenizer(tmp_path / "tokenizer", ["other", *words_of]))
        proposer[1].save_pretrained(tmp_path / "other", other)
        changes = {"augment__model": str(tmp_path / "other")}
    refused(lambda: finetune(augmenting(taught, proposer, tmp_path / "run", **changes)), field=field)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("copies", -1), ("share", 0.0), ("share", 1.5), ("candidates", 0)])
def test_options_out_of_range_are_refused(name, value):
    refused(lambda: c.AugmentConfig(**{name: value}), field=name)
