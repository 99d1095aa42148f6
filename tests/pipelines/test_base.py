"""What holds for every pipeline: order, batches and lengths, compilations, iterators, what is told."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.models.params import split
from distilbert_jax.pipelines import FeatureExtraction, FillMask
from distilbert_jax.pipelines.base import Forward
from distilbert_jax.text.tokenizer import Row
from tests.models.common import call, deviation
from tests.runs import refused


@pytest.fixture(scope="module")
def rows():
    """Rows of 3 to 40 tokens."""
    lengths = [3, 40, 17, 3, 16, 40, 16, 3, 16, 3, 17, 40, 3]
    rng = np.random.default_rng(0)
    return [Row(rng.integers(5, 48, n), rng.integers(0, 2, n)) for n in lengths]


def last_hidden_state(model, batch, *options):
    return model.encoder(
        batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"]
    ).last_hidden_state


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_results_depend_on_neither_batch_nor_padding(model, rows, batch_size):
    forward = Forward(model, last_hidden_state, pad_id=0, batch_size=batch_size)
    found = dict(forward(rows))
    assert sorted(found) == list(range(len(rows)))
    for i, row in enumerate(rows):
        alone = call(model, row.ids[None], token_type_ids=row.type_ids[None]).last_hidden_state[0]
        assert deviation(found[i][: len(row.ids)], alone) < 1e-5


def test_weights_are_cast_once_and_no_bit_changes(directory):
    text = "red and blue [MASK] stones"
    for pipeline in (FillMask, FeatureExtraction):
        made = pipeline(directory, dtype="bfloat16")
        _, params = split(made.model)
        held = {name: value.dtype for name, value in made._forward._params.items()}
        assert {held[name] for name in held if name.endswith(".kernel")} == {jnp.dtype("bfloat16")}
        assert {held[name] for name in held if not name.endswith(".kernel")} == {jnp.dtype("float32")}
        assert {value.dtype for value in params.values()} == {jnp.dtype("float32")}, "the model's own stay"
        found = np.asarray(made(text)) if pipeline is FeatureExtraction else [one["score"] for one in made(text)]
        made._forward._params = params
        again = np.asarray(made(text)) if pipeline is FeatureExtraction else [one["score"] for one in made(text)]
        np.testing.assert_array_equal(found, again)


def test_few_shapes_are_compiled(model, rows):
    shapes = []

    def compute(model, batch, *options):  # called once a compilation
        shapes.append((*batch["input_ids"].shape, *batch.get("positions", np.empty((0, 0))).shape[1:], *options))
        return last_hidden_state(model, batch)

    forward = Forward(model, compute, pad_id=0, batch_size=8)
    for chosen in (rows, rows[::-1], rows[:5], rows[1:2], rows[:1], rows[4:5]):
        list(forward(chosen))
    assert sorted(shapes) == [(1, 16, 0), (1, 40, 0), (8, 16, 0), (8, 40, 0)]
    shapes.clear()
    list(forward(rows[:4], [[0], [1, 2, 3], [0, 5], [1]], ("a",)))
    list(forward(rows[:4], [[0], [1, 2, 3, 4], [0, 5], [1]], ("a",)))
    assert sorted(shapes) == [(1, 32, 2, "a"), (1, 40, 4, "a"), (8, 16, 1, "a")]
    shapes.clear()
    list(Forward(model, compute, pad_id=0, batch_size=100_000)(rows[:1] * 9))
    assert [rows for rows, *_ in shapes] == [64], "not as many as the largest batch"


@pytest.mark.parametrize("batch_size", [2, 5])
def test_lists_and_iterators_keep_their_order_across_windows(directory, batch_size):
    texts = [f"red{a} " * n + "[MASK]" for n, a in itertools.product((3, 1, 20, 2, 24), "abcdefgh")]
    features = FeatureExtraction(directory, batch_size=batch_size)
    found = features(texts, "cls")
    assert found.shape == (40, 32)
    for i in (0, 7, 19, 39):
        assert deviation(found[i], features(texts[i], "cls")) < 1e-5
    for lazy in (features(iter(texts), "cls"), features((text for text in texts), "cls")):
        assert iter(lazy) is lazy
        np.testing.assert_allclose(list(lazy), found, atol=1e-5)
    assert features(np.array(texts), "cls").shape == (40, 32)


def test_an_iterator_is_read_as_its_results_are_taken(directory):
    fill, read = FillMask(directory, batch_size=2), []

    def texts():
        for n in itertools.count():
            read.append(n)
            yield f"red{'abcdefgh'[n % 8]} [MASK]"

    results = fill(texts())
    assert read == []
    next(results)
    assert len(read) == 2
    for n in range(1, 60):
        next(results)
        assert len(read) <= n + 1 + 16


def test_a_list_longer_than_a_batch_shows_progress(directory, monkeypatch):
    told = []

    class Shown:
        def __init__(self, description, total):
            told.append((description, total))

        def __enter__(self):
            return told.append

        def __exit__(self, *error):
            pass

    monkeypatch.setattr("distilbert_jax.pipelines.base.progress", Shown)
    fill = FillMask(directory, batch_size=2)
    fill("reda [MASK]")
    fill(["reda [MASK]"] * 2)
    assert told == []
    fill(["reda [MASK]"] * 9)
    assert told == [("filling masks", 9), 2, 6, 9]
    told.clear()
    list(fill(iter(["reda [MASK]"] * 3)))
    assert told == [("filling masks", None), 2, 3]


def test_texts_that_were_cut_are_told_of_once(directory, capfd):
    features = FeatureExtraction(directory, batch_size=2)
    capfd.readouterr()
    texts = ["goes", "goes " * 50, "to", "to " * 60, "goes to"]
    assert [len(states) for states in features(texts)] == [3, 40, 3, 40, 4]
    assert capfd.readouterr().err == "2 of 5 texts are longer than 40 tokens; what is beyond them was cut off\n"
    assert len(features("goes " * 50)) == 40
    assert capfd.readouterr().err == "the text is longer than 40 tokens; what is beyond them was cut off\n"
    lazy = features(iter(texts))
    next(lazy)
    assert capfd.readouterr().err == ""
    list(lazy)
    assert capfd.readouterr().err == "2 of 5 texts are longer than 40 tokens; what is beyond them was cut off\n"
    features(texts[::2])
    assert capfd.readouterr().err == ""


def test_what_is_no_text_is_refused(fill):
    refused(lambda: fill(["reda [MASK]", " "]), by="text.tokenizer.BertTokenizer.encodings", row=2)
    refused(lambda: fill(["reda [MASK]", 3.5]), "3.5", by="text.tokenizer.check_text")
    refused(lambda: list(fill(iter(["reda [MASK]"] * 40 + [None]))), "41", by="text.tokenizer.check_text")
    refused(lambda: fill(["reda [MASK] \ud800"]), by="text.tokenizer.check_text")
    for given in (None, 3, b"reda [MASK]", {"text": "reda [MASK]"}):
        refused(lambda given=given: fill(given), type(given).__name__, by="text.objects.several_texts", field="texts")


def test_a_batch_has_at_least_one_row(directory):
    for given in (0, 2.5, "8", True):
        refused(
            lambda given=given: FillMask(directory, batch_size=given),
            by="pipelines.base._batch_size",
            field="batch_size",
        )


def test_a_pipeline_is_shown_in_a_line(directory, fill, model):
    size = f"{model.num_parameters():,} parameters"
    assert repr(fill) == f"FillMask({str(directory)!r}, BertForMaskedLM, {size}, float32)"
