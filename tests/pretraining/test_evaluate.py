import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from distilbert_jax.models import MaskedLM
from distilbert_jax.models.params import merge, split
from distilbert_jax.pretraining.evaluate import MASKING, SEED, evaluate_mlm, heldout, mlm_evaluation
from distilbert_jax.pretraining.masking import corrupt
from distilbert_jax.pretraining.setup import corpus_rows, set_up
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training import sharding
from tests import runs
from tests.models.common import call, masked_lm
from tests.runs import BERT, STUDENT, change, refused


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]).reshape(-1, 1, 1), ("data", "fsdp", "tensor"))


@pytest.fixture(scope="module")
def rows(world):
    return corpus_rows(world.heldout, 32, "line")[0]


@pytest.fixture(scope="module")
def student():
    return masked_lm(STUDENT, seed=1)


@pytest.fixture(scope="module")
def teacher():
    return masked_lm(BERT, seed=2)


def evaluate(model, rows, *, batch_size=8, devices=1, **options):
    graphdef, params = split(model)
    return mlm_evaluation(graphdef, rows, rows.corpus.specials, batch_size, mesh(devices), **options)(params)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def questions(rows):
    """All rows with uniform masks drawn from the number of each row, at once."""
    ids, segments, positions = np.moveaxis(rows.read(np.arange(len(rows))).astype(np.int32), 1, 0)
    weights = jnp.zeros(rows.corpus.vocab_size).at[jnp.array([*vars(rows.corpus.specials).values()])].set(-jnp.inf)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(SEED), row) for row in range(len(rows))])
    masked = corrupt(keys, jnp.asarray(ids), jnp.asarray(segments > 0), weights, rows.corpus.specials.mask, MASKING)
    return masked, {"segment_ids": segments, "position_ids": positions}


def brute_force(model, rows, teacher=None, taken=None):
    """The figures from whole logits in float64, one drawn token after the other, of all rows or those that are taken."""
    masked, inputs = questions(rows)
    ours = log_softmax(call(model, masked.input_ids, None, **inputs).logits)
    theirs = log_softmax(call(teacher, masked.input_ids, None, **inputs).logits) if teacher else None
    losses, right, divergences = [], [], []
    for row in range(len(ours)) if taken is None else taken:
        places, labels, weights = (np.asarray(values[row]) for values in masked[1:])
        for position, label in zip(places[weights > 0], labels[weights > 0], strict=True):
            losses.append(-ours[row, position, label])
            right.append(ours[row, position].argmax() == label)
            if teacher:
                p = np.exp(theirs[row, position])
                divergences.append(np.sum(p * (theirs[row, position] - ours[row, position])))
    found = {"mlm_loss": np.mean(losses), "mlm_accuracy": np.mean(right), "tokens": len(losses)}
    found["perplexity"] = np.exp(found["mlm_loss"])
    return {**found, "kl_to_teacher": np.mean(divergences)} if teacher else found


@pytest.fixture(scope="module")
def figures(rows, student, teacher):
    """Of the student beside the teacher, on one device, eight rows at once."""
    return evaluate(student, rows, teacher=split(teacher))


def test_figures_are_those_of_a_computation_token_by_token(rows, student, teacher, figures):
    assert figures == pytest.approx(brute_force(student, rows, teacher), rel=1e-5)


def test_every_model_is_asked_the_same_questions(rows, teacher, figures):
    found = evaluate(teacher, rows)
    assert found == pytest.approx(brute_force(teacher, rows), rel=1e-5)
    assert found["tokens"] == figures["tokens"]
    assert 0.15 <= found["tokens"] / (rows.read(np.arange(len(rows)))[:, 1] > 0).sum() < 0.2


@pytest.mark.parametrize(("batch_size", "devices"), [(100, 1), (5, 8)])
def test_figures_depend_on_neither_batch_size_nor_mesh(rows, student, teacher, figures, batch_size, devices):
    found = evaluate(student, rows, teacher=split(teacher), batch_size=batch_size, devices=devices)
    assert found == pytest.approx(figures, rel=1e-5)
    assert found["tokens"] == figures["tokens"]


@pytest.mark.parametrize("number", [3, 1000])
def test_of_a_large_corpus_evenly_spaced_rows_can_be_taken(rows, student, number):
    n = len(rows)
    taken = [0, n // 3, 2 * n // 3] if number == 3 else range(n)
    assert evaluate(student, rows, max_rows=number) == pytest.approx(brute_force(student, rows, taken=taken), rel=1e-5)


def test_a_model_does_not_diverge_from_itself(rows, student):
    assert abs(evaluate(student, rows, teacher=split(student))["kl_to_teacher"]) < 1e-6


def test_an_hf_directory_is_evaluated_on_all_devices(world, tmp_path, rows, student, monkeypatch):
    monkeypatch.setattr(sharding, "make_mesh", sharding.make_mesh.__wrapped__)
    student.save_pretrained(tmp_path / "student", load_tokenizer(world.tokenizer))
    found = evaluate_mlm(str(tmp_path / "student"), world.heldout, teacher=world.teacher, length=32, batch_size=8)
    expected = brute_force(student, rows)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found.kl_to_teacher > 0


def test_figures_that_are_not_finite_are_refused_with_the_models_name(world, tmp_path, student):
    params = split(student)[1]
    name = "encoder.layers.0.ffn_out.kernel"
    model = merge(split(student)[0], {**params, name: jnp.full_like(params[name], 3e38)})
    model.save_pretrained(tmp_path, load_tokenizer(world.tokenizer))
    refused(
        lambda: evaluate_mlm(str(tmp_path), world.heldout, length=32),
        by="models.ranges.check_finite",
        path=str(tmp_path),
    )


def test_vocabularies_are_compared_without_the_rows_that_pad_them(world, tmp_path, rows, student, teacher):
    student.save_pretrained(tmp_path / "student", load_tokenizer(world.tokenizer))
    teacher.save_pretrained(tmp_path / "teacher", load_tokenizer(world.tokenizer))
    runs.pad_vocabulary(str(tmp_path / "teacher"), tmp_path / "padded", 64)
    asked = {"length": 32, "batch_size": 8}
    found = evaluate_mlm(str(tmp_path / "student"), world.heldout, teacher=str(tmp_path / "padded"), **asked)
    assert found.kl_to_teacher == pytest.approx(brute_force(student, rows, teacher)["kl_to_teacher"], rel=1e-5)
    other = evaluate_mlm(str(tmp_path / "padded"), world.heldout, teacher=str(tmp_path / "teacher"), **asked)
    assert abs(other.kl_to_teacher) < 1e-6


def test_refused_in_one_line(world, tmp_path):
    shutil.copytree(world.teacher, tmp_path / "foreign")
    other = runs.write_tokenizer(tmp_path / "tokenizer", runs.WORDS[::-1])
    for file in other.iterdir():
        shutil.copy(file, tmp_path / "foreign")
    short = tmp_path / "short"
    masked_lm(change(BERT, max_position_embeddings=16)).save_pretrained(short, load_tokenizer(world.tokenizer))
    distil = tmp_path / "distil"
    masked_lm(STUDENT).save_pretrained(distil, load_tokenizer(world.tokenizer))
    pairs = lambda: evaluate_mlm(str(distil), world.heldout, length=32, sequences="pair")
    refused(pairs, str(distil), by="pretraining.evaluate.evaluate_mlm", field="--sequences")
    ask = lambda model, corpus=world.heldout, **options: (
        lambda: evaluate_mlm(model, corpus, **{"length": 32, **options})
    )
    refused(
        ask(world.teacher, length=64),
        "64",
        "32",
        world.teacher,
        by="pretraining.evaluate.evaluate_mlm",
        field="--length",
    )
    refused(
        ask(world.teacher, teacher=str(short)),
        "32",
        "16",
        str(short),
        by="pretraining.evaluate.evaluate_mlm",
        field="--length",
    )
    refused(ask(world.teacher, batch_size=0), "--batch-size", by="pretraining.evaluate.evaluate_mlm")
    refused(ask(world.teacher, max_rows=0), "--max-rows", by="pretraining.evaluate.evaluate_mlm")
    refused(ask(str(tmp_path / "foreign")), by="pretraining.setup._with_vocabulary", field="--model")
    refused(
        ask(world.teacher, teacher=str(tmp_path / "foreign")),
        by="pretraining.setup._with_vocabulary",
        field="--teacher",
    )
    refused(ask(str(tmp_path / "nowhere")), by="base.hub.locate", path="nowhere")
    refused(ask(world.teacher, corpus=str(tmp_path)), by="pretraining.corpus.Corpus.open", path=str(tmp_path))
    refused(ask(world.teacher, corpus=""), by="pretraining.setup.corpus_rows")
    assert not list(Path(world.heldout).glob("packed-64*"))


def test_a_run_with_a_teacher_has_the_parts_of_its_loss_on_heldout_text(world, rows, tmp_path):
    config = runs.distilling(
        world, tmp_path, data__heldout=world.heldout, init__source="", run__seed=5, loss=runs.loss(mse=0.5)
    )
    setup = set_up(config)
    found = heldout(setup)(setup.state.params)
    assert found["loss_mlm"] == pytest.approx(found["mlm_loss"], rel=1e-6)
    assert found["kl_to_teacher"] > 0

    # By hand: all rows at once, the same masks, in float64.
    masked, inputs = questions(rows)
    params = sharding.cut_vocabulary(jax.device_get(setup.state.params), config.model.vocab_size)
    models = merge(setup.graphdef, params), MaskedLM.from_pretrained(world.teacher)
    (s, h), (t, g) = (
        (np.float64(model.logits(hidden)), np.float64(hidden))
        for model in models
        for hidden in [call(model.encoder, masked.input_ids, None, **inputs).last_hidden_state]
    )
    real = inputs["segment_ids"] > 0
    kl = 4 * (np.exp(log_softmax(t / 2)) * (log_softmax(t / 2) - log_softmax(s / 2))).sum(-1)
    cosine = (h * g).sum(-1) / np.linalg.norm(h, axis=-1) / np.linalg.norm(g, axis=-1)
    assert found["loss_ce"] == pytest.approx(kl[real].mean(), rel=1e-4)
    assert found["loss_cos"] == pytest.approx((1 - cosine)[real].mean(), rel=1e-4)
    assert found["loss_mse"] == pytest.approx(((s - t) ** 2).sum(-1)[real].mean(), rel=1e-4)
