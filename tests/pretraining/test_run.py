import json
import math
import os
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from distilbert_jax.base.config_io import to_json
from distilbert_jax.base.files import write_json
from distilbert_jax.config import InitConfig, MiniLMv2Config
from distilbert_jax.experiments.report import report
from distilbert_jax.models import BertForMaskedLM, BertModel, MaskedLM
from distilbert_jax.models.layers import sinusoids
from distilbert_jax.models.params import digest, split
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.evaluate import evaluate_mlm
from distilbert_jax.pretraining.packing import pack
from distilbert_jax.pretraining.setup import set_up
from distilbert_jax.text.tokenizer import fingerprint, load_tokenizer
from distilbert_jax.training import run_directory
from tests import runs
from tests.runs import BERT, STUDENT, change, distilling, metrics, pretraining, refused


def logged(config, kind="train"):
    return [entry for entry in metrics(Path(config.run.directory) / "metrics.jsonl") if entry["kind"] == kind]


def falls(values, by):
    return statistics.fmean(values[:5]) - statistics.fmean(values[-5:]) > by


def test_masked_lm_learns(finished):
    assert falls([entry["loss_mlm"] for entry in logged(finished)], by=0.5)
    held_out = [entry["mlm_loss"] for entry in logged(finished, "eval")]
    assert len(held_out) == 2
    assert max(held_out) < math.log(48) - 1.0, "it has learned only what it was shown"


def test_distillation_learns_on_the_triple_loss(distilled):
    entries = logged(distilled)
    for entry in entries:
        parts = 5.0 * entry["loss_ce"] + 2.0 * entry["loss_mlm"] + 1.0 * entry["loss_cos"]
        assert entry["loss"] == pytest.approx(parts, rel=1e-5)
    assert falls([entry["loss"] for entry in entries], by=0.05)


@pytest.mark.parametrize(("describe", "reference"), [(pretraining, "finished"), (distilling, "distilled")])
def test_the_same_seed_gives_the_same_bits_in_an_hf_directory(describe, reference, world, tmp_path, request, capsys):
    expected = Path(request.getfixturevalue(reference).run.directory)
    runs.train(describe(world, tmp_path / "again"))
    model = tmp_path / "again/model"
    assert runs.weights(model) == runs.weights(expected / "model")
    assert runs.entries(tmp_path / "again") == runs.entries(expected)
    told = capsys.readouterr()
    assert "diverged" not in told.err
    told = told.out.splitlines()[-1]
    loaded = MaskedLM.from_pretrained(model)
    assert told == f"{model}: written; weights {digest(split(loaded)[1])[:16]}"
    assert loaded.config == STUDENT
    assert fingerprint(load_tokenizer(model)) == fingerprint(load_tokenizer(world.tokenizer))


def test_another_seed_gives_other_weights_and_other_batches(world, finished, tmp_path):
    runs.train(pretraining(world, tmp_path / "other", run__seed=1, data__heldout=""))
    other = runs.entries(tmp_path / "other")
    assert runs.weights(tmp_path / "other/model") != runs.weights(Path(finished.run.directory) / "model")
    assert other[0]["loss"] != logged(finished)[0]["loss"]


def test_a_finished_run_is_found(finished, monkeypatch, capsys):
    before = (Path(finished.run.directory) / "metrics.jsonl").stat().st_mtime_ns
    monkeypatch.setattr("distilbert_jax.pretraining.run.fit", lambda *_, **__: pytest.fail("it trains again"))
    runs.train(finished)
    assert f"{finished.run.directory}: finished before" in capsys.readouterr().out
    assert (Path(finished.run.directory) / "metrics.jsonl").stat().st_mtime_ns == before


def cut_short(file):
    os.truncate(file, 300)


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flip_a_bit),
        ("model.safetensors", cut_short),  # without it the run has not finished: it is written again
        ("config.json", cut_short),
        ("config.json", Path.unlink),
        ("tokenizer.json", cut_short),
        ("tokenizer.json", Path.unlink),
        ("tokenizer_config.json", flip_a_bit),
        ("tokenizer_config.json", Path.unlink),
    ],
)
def test_a_finished_run_whose_model_is_damaged_says_so(finished, name, damage, tmp_path, monkeypatch):
    shutil.copytree(finished.run.directory, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    damage(tmp_path / "run/model" / name)
    monkeypatch.setattr("distilbert_jax.pretraining.run.fit", lambda *_, **__: pytest.fail("it trains again"))
    config = change(finished, run__directory=str(tmp_path / "run"))
    message = f"remove the directory {tmp_path / 'run/model'}, and the same command writes it again"
    refused(lambda: runs.train(config), name, message, by="pretraining.run.check_finished")


def test_a_checkpoint_of_another_run_is_refused(world, finished, tmp_path):
    config = pretraining(world, tmp_path / "run", run__seed=1, data__heldout="", steps=2, run__eval_every=0)
    runs.train(config)
    for name in ("model", "checkpoints"):
        shutil.rmtree(tmp_path / "run" / name)
    shutil.copytree(Path(finished.run.directory) / "checkpoints", tmp_path / "run/checkpoints")
    newest = str(tmp_path / "run/checkpoints/30")
    refused(lambda: runs.train(config), by="training.checkpoint.Checkpoints._check_run", path=newest)
    assert not (tmp_path / "run/model").exists()


@pytest.mark.parametrize("version", ["this", "the last"])
def test_the_log_of_another_run_is_not_gone_on_with(version, finished, tmp_path):
    """Its steps are those of the run; only the checkpoint, or before that the list of what the run left, knows better."""
    shutil.copytree(finished.run.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    if version == "the last":
        drop_from_checkpoints(tmp_path / "run", "metrics.sha256")
    log = tmp_path / "run/metrics.jsonl"
    log.write_text(log.read_text().replace('"loss": ', '"loss": 1'))
    config = change(finished, run__directory=str(tmp_path / "run"))
    refused(lambda: runs.train(config), path="metrics.jsonl")
    assert not (tmp_path / "run/model").exists()


def drop_from_checkpoints(run, *names):
    """Remove files of a run's checkpoints, and their digests."""
    for name in names:
        for file in (run / "checkpoints").rglob(name):
            digests = json.loads((file.parent / "sha256.json").read_text())
            del digests[file.name]
            (file.parent / "sha256.json").write_text(json.dumps(digests))
            file.unlink()


def test_a_run_of_an_earlier_version_goes_on(world, finished, tmp_path, monkeypatch):
    """Neither its checkpoints nor its inputs.json had the digest of the run, and of its model nothing was recorded."""
    shutil.copytree(finished.run.directory, tmp_path / "run")
    drop_from_checkpoints(tmp_path / "run", "run.sha256", "metrics.sha256")
    inputs = json.loads((tmp_path / "run/inputs.json").read_text())
    del inputs["run"]
    (tmp_path / "run/inputs.json").write_text(json.dumps(inputs))
    (tmp_path / "run/outputs.json").unlink()
    config = change(finished, run__directory=str(tmp_path / "run"))
    runs.train(config)  # finished before
    shutil.rmtree(tmp_path / "run/model")
    runs.train(config)  # from its last checkpoint
    assert runs.weights(tmp_path / "run/model") == runs.weights(Path(finished.run.directory) / "model")


def test_a_teacher_is_told_apart_by_its_config_too(world, tmp_path):
    """The same weights with other heads are another teacher."""
    shutil.copytree(world.teacher, tmp_path / "teacher")
    config = distilling(world, tmp_path / "run", teacher=str(tmp_path / "teacher"))
    before = set_up(config).fingerprints
    values = json.loads((tmp_path / "teacher/config.json").read_text())
    (tmp_path / "teacher/config.json").write_text(json.dumps({**values, "num_attention_heads": 2}))
    changed = {name for name, digest in set_up(config).fingerprints.items() if digest != before[name]}
    assert changed == {"teacher's config"}


def test_a_teacher_with_rows_for_no_token_teaches_as_without_them(world, padded, tmp_path):
    given = {"teacher": padded, "init__source": padded}
    setup, expected = set_up(distilling(world, tmp_path / "run", **given)), set_up(distilling(world, tmp_path / "b"))
    assert setup.fingerprints == expected.fingerprints
    assert setup.teacher.config == expected.teacher.config


def test_refused_beside_another_process_a_run_changes_nothing(world, tmp_path):
    config = pretraining(world, tmp_path / "run")
    run_directory.enter(config, tmp_path / "run")  # has begun, and not yet taken a step
    before = (tmp_path / "run/config.json").read_bytes()
    with run_directory.alone(tmp_path / "run"):
        other = change(config, optimizer__learning_rate=0.5)
        refused(lambda: runs.train(other), by="training.run_directory._lock")
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_a_changed_corpus_is_refused(world, finished, tmp_path):
    shutil.copytree(finished.run.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    runs.write_corpus(tmp_path / "corpus", Path(world.tokenizer), 20, seed=5)
    (tmp_path / "run/config.json").write_text(
        (tmp_path / "run/config.json").read_text().replace(f'"{world.corpus}"', f'"{tmp_path / "corpus"}"')
    )
    config = pretraining(world, tmp_path / "run", data__corpus=str(tmp_path / "corpus"))
    message = refused(lambda: runs.train(config), by="training.run_directory.check_inputs", path=str(tmp_path / "run"))
    assert "weights" not in message


def test_a_changed_held_out_corpus_is_refused(world, tmp_path):
    heldout = tmp_path / "heldout"
    shutil.copytree(world.heldout, heldout)
    config = pretraining(world, tmp_path / "run", data__heldout=str(heldout), steps=2)
    runs.train(config)
    shutil.rmtree(tmp_path / "run/model")
    shutil.rmtree(heldout)
    runs.write_corpus(heldout, Path(world.tokenizer), 6, seed=5)
    refused(lambda: runs.train(config), by="training.run_directory.check_inputs", path=str(tmp_path / "run"))


def test_a_finished_run_is_not_found_for_another_corpus(world, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    shutil.copytree(world.corpus, corpus)
    config = pretraining(world, tmp_path / "run", data__corpus=str(corpus), steps=2)
    runs.train(config)
    recorded = (tmp_path / "run/inputs.json").read_bytes()
    shutil.rmtree(corpus)
    runs.train(config)
    assert "finished before" in capsys.readouterr().out, "the corpus may be gone"
    runs.write_corpus(corpus, Path(world.tokenizer), 20, seed=5)
    refused(lambda: runs.train(config), by="training.run_directory.check_inputs", path=str(tmp_path / "run"))
    assert (tmp_path / "run/inputs.json").read_bytes() == recorded


@pytest.fixture
def taught(world, distilled, tmp_path):
    """The config of a run that has ended, whose teacher and corpus are copies of their own."""
    for name in ("teacher", "corpus"):
        shutil.copytree(getattr(world, name), tmp_path / name)
    ignored = shutil.ignore_patterns("checkpoints", "tensorboard")
    shutil.copytree(distilled.run.directory, tmp_path / "run", ignore=ignored)
    teacher = str(tmp_path / "teacher")
    given = {"teacher": teacher, "init__source": teacher, "data__corpus": str(tmp_path / "corpus")}
    config = distilling(world, tmp_path / "run", **given)
    (tmp_path / "run/config.json").write_text(to_json(config))
    return config


def other_weights(world, directory):
    BertForMaskedLM(BERT, rngs=nnx.Rngs(8)).save_pretrained(directory, load_tokenizer(world.tokenizer))


def forget_files(run):
    """As an earlier version left it."""
    recorded = json.loads((run / "inputs.json").read_text())
    kept = {name: value for name, value in recorded.items() if not name.endswith("'s files")}
    assert len(kept) == len(recorded) - 2
    write_json(run / "inputs.json", kept)


@pytest.mark.parametrize("version", ["now", "earlier"])
def test_a_finished_run_is_not_found_for_another_teacher(version, taught, world, tmp_path, capsys):
    if version == "earlier":
        forget_files(tmp_path / "run")
    recorded = (tmp_path / "run/inputs.json").read_bytes()
    other_weights(world, tmp_path / "teacher")
    refused(
        lambda: runs.train(taught), "initial weights", "teacher", by="training.run_directory.check_inputs", path="run"
    )
    assert (tmp_path / "run/inputs.json").read_bytes() == recorded
    shutil.rmtree(tmp_path / "teacher")
    runs.train(taught)
    assert "finished before" in capsys.readouterr().out, "the teacher may be gone"
    shutil.copytree(world.teacher, tmp_path / "teacher")
    runs.train(taught)
    assert "teacher's files" in run_directory.recorded_inputs(tmp_path / "run")


def test_a_finished_run_is_found_where_its_teacher_is_the_same_in_other_files(taught, tmp_path, monkeypatch):
    file = tmp_path / "teacher/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_name_or_path": "elsewhere"}))
    runs.train(taught)
    monkeypatch.setattr(
        "distilbert_jax.pretraining.run.weights_now", lambda *_, **__: pytest.fail("known by its files")
    )
    runs.train(taught)


def test_without_its_corpus_a_finished_run_knows_what_it_began_with_by_the_files(taught, world, tmp_path):
    other_weights(world, tmp_path / "other")
    config = change(taught, init__source=str(tmp_path / "other"))
    (tmp_path / "run/config.json").write_text(to_json(config))
    refused(lambda: runs.train(config), "initial weights", by="training.run_directory.check_inputs", path="run")
    shutil.rmtree(tmp_path / "corpus")
    refused(lambda: runs.train(config), "init.source", by="training.run_directory.check_inputs", path="run")


@pytest.fixture(scope="module")
def padded(world, tmp_path_factory):
    """The teacher with a vocabulary that is padded to 64 rows."""
    directory = tmp_path_factory.mktemp("padded") / "teacher"
    runs.pad_vocabulary(world.teacher, directory, 64)
    return str(directory)


@pytest.fixture(scope="module")
def odd(world, tmp_path_factory):
    """Teachers and corpora that do not fit, by what is odd about them."""
    path = tmp_path_factory.mktemp("odd")
    tokenizer = load_tokenizer(world.tokenizer)
    for name, changes in {
        "narrow": {"hidden_size": 16},
        "short": {"max_position_embeddings": 16},
        "few": {"vocab_size": 40},
    }.items():
        BertForMaskedLM(change(BERT, **changes), rngs=nnx.Rngs(0)).save_pretrained(path / name, tokenizer)
    BertModel(BERT, rngs=nnx.Rngs(0)).save_pretrained(path / "headless", tokenizer)
    other = runs.write_tokenizer(path / "tokenizer", runs.WORDS[::-1])
    runs.write_corpus(path / "foreign-corpus", other, 2, seed=0)
    shutil.copytree(world.teacher, path / "foreign")
    for file in other.iterdir():
        shutil.copy(file, path / "foreign")
    shutil.copytree(world.corpus, path / "unfinished")
    (path / "unfinished/manifest.json").unlink()
    return runs.World(path)


def flipped(world, directory):
    """A copy of the corpus with one bit of its packed rows turned."""
    copy = Path(shutil.copytree(world.corpus, directory.parent / "flipped"))
    (file,) = Path(pack(copy, 32).path).glob("*.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return str(copy)


def retokenized(world, odd, directory):
    """A copy of the corpus in which another tokenizer of the same size lies."""
    copy = Path(shutil.copytree(world.corpus, directory.parent / "retokenized"))
    shutil.copytree(odd.tokenizer, copy / "tokenizer", dirs_exist_ok=True)
    return str(copy)


def miscounted(world, directory):
    """A copy of the corpus with one bit of its token counts turned."""
    copy = Path(shutil.copytree(world.corpus, directory.parent / "miscounted"))
    data = bytearray((copy / "token_counts.npy").read_bytes())
    data[-8] ^= 1
    (copy / "token_counts.npy").write_bytes(data)
    return str(copy)


OPEN = "pretraining.corpus.Corpus.open"
REFUSED = {
    "a tokenizer that did not make the corpus": (
        lambda w, o, d: pretraining(w, d, data__corpus=retokenized(w, o, d)),
        {"by": "pretraining.corpus.Corpus.tokenizer", "path": "retokenized/tokenizer"},
    ),
    "a bit turned in the token counts": (
        lambda w, o, d: pretraining(w, d, data__corpus=miscounted(w, d)),
        {"by": "pretraining.corpus.Corpus.token_counts", "path": "miscounted/token_counts.npy"},
    ),
    "a bit turned in packed rows": (
        lambda w, o, d: pretraining(w, d, data__corpus=flipped(w, d)),
        {"by": "pretraining.packing.PackedRows.verify", "path": "flipped/packed-32-line/00000.npy"},
    ),
    "no corpus named": (lambda w, o, d: pretraining(w, d, data__corpus=""), {"field": "data.corpus"}),
    "no such corpus": (lambda w, o, d: pretraining(w, d, data__corpus=o.nowhere), {"by": OPEN, "path": "nowhere"}),
    "unfinished corpus": (
        lambda w, o, d: pretraining(w, d, data__corpus=o.unfinished),
        {"by": OPEN, "path": "unfinished"},
    ),
    "no such held-out corpus": (
        lambda w, o, d: pretraining(w, d, data__heldout=o.nowhere),
        {"by": OPEN, "path": "nowhere"},
    ),
    "held-out corpus of another tokenizer": (
        lambda w, o, d: pretraining(w, d, data__heldout=getattr(o, "foreign-corpus")),
        {"by": "pretraining.evaluate.heldout", "field": "data.heldout"},
    ),
    "small vocabulary": (
        lambda w, o, d: pretraining(w, d, model__vocab_size=40),
        {"field": "model.vocab_size"},
    ),
    "layers of no model": (
        lambda w, o, d: pretraining(w, d, init__layers=(0,)),
        {"by": "pretraining.setup.initial_model", "field": "init.layers"},
    ),
    "length beyond the positions": (
        lambda w, o, d: pretraining(w, d, data__length=64),
        {"by": "config.require", "field": "length"},
    ),
    "length beyond the teacher's positions": (
        lambda w, o, d: distilling(w, d, teacher=o.short),
        {"field": "data.length"},
    ),
    "teacher without a head": (
        lambda w, o, d: distilling(w, d, teacher=o.headless),
        {"path": "headless", "field": "teacher", "hint": "--loss.kl.weight 0"},
    ),
    "layer that the teacher has not": (
        lambda w, o, d: distilling(w, d, loss__minilmv2=MiniLMv2Config(1.0, relation_heads=4, teacher_layer=2)),
        {"field": "loss.minilmv2.teacher_layer", "hint": "--loss.minilmv2.teacher-layer 1"},
    ),
    "no such teacher": (
        lambda w, o, d: distilling(w, d, teacher=o.nowhere),
        {"by": "base.hub.locate", "path": "nowhere"},
    ),
    "teacher of another tokenizer": (
        lambda w, o, d: distilling(w, d, teacher=o.foreign),
        {"by": "pretraining.setup._with_vocabulary", "field": "teacher"},
    ),
    "teacher of fewer rows": (
        lambda w, o, d: distilling(w, d, init__source="", model__vocab_size=60),
        {"by": "pretraining.setup._check_pair", "field": "teacher"},
    ),
    "tokenizer beyond the embedding": (
        lambda w, o, d: distilling(w, d, teacher=o.few),
        {"by": "text.tokenizer.check_fit", "path": "few"},
    ),
    "hidden states of two sizes": (
        lambda w, o, d: distilling(w, d, teacher=o.narrow),
        {"field": "loss.cos.weight", "hint": "--loss.cos.weight 0"},
    ),
    "source of another tokenizer": (
        lambda w, o, d: distilling(w, d, init__source=o.foreign),
        {"by": "pretraining.setup._with_vocabulary", "field": "init.source"},
    ),
    "layer that is not there": (
        lambda w, o, d: distilling(w, d, init__layers=(2,)),
        {"by": "models.student.chosen_layers", "field": "init.layers"},
    ),
    "wrong number of layers": (
        lambda w, o, d: distilling(w, d, init__layers=(0, 1)),
        {"by": "models.student.chosen_layers", "field": "init.layers"},
    ),
    "source of another architecture": (
        lambda w, o, d: pretraining(w, d, model=change(BERT, num_hidden_layers=1), init__source=w.teacher),
        {"by": "pretraining.setup.initial_model", "field": "init.source"},
    ),
    "pairs for a DistilBERT": (
        lambda w, o, d: pretraining(w, d, data__sequences="pair"),
        {"by": "config.require", "field": "sequences"},
    ),
    "pairs without token types": (
        lambda w, o, d: pretraining(w, d, model=change(BERT, type_vocab_size=1), data__sequences="pair"),
        {"by": "config.require", "field": "type_vocab_size"},
    ),
    "pairs with a teacher": (
        lambda w, o, d: distilling(w, d, model=BERT, data__sequences="pair"),
        {"field": "objective", "hint": "masked_lm_nsp"},
    ),
    "mesh of too many devices": (lambda w, o, d: pretraining(w, d, mesh__data=16), {"field": "mesh"}),
    "mesh of too few devices": (
        lambda w, o, d: pretraining(w, d, mesh__data=1, mesh__tensor=4),
        {"field": "mesh"},
    ),
    "batch beside the devices": (
        lambda w, o, d: pretraining(w, d, data__batch_size=13, mesh__data=8),
        {"field": "data.batch_size"},
    ),
    "heads beside the tensor axis": (
        lambda w, o, d: pretraining(w, d, mesh__tensor=8, model__num_attention_heads=2),
        {"field": "model.num_attention_heads"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_any_step(case, world, odd, tmp_path, capfd):
    describe, told = REFUSED[case]
    refused(lambda: runs.train(describe(world, odd, tmp_path / "run")), **told)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert not (tmp_path / "run/checkpoints").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_hidden_states_of_two_sizes_are_no_matter_without_the_cosine_loss(world, odd, tmp_path, monkeypatch):
    config = distilling(world, tmp_path / "run", teacher=odd.narrow, loss__cos__weight=0.0)
    monkeypatch.setattr("distilbert_jax.pretraining.run.fit", lambda *_, **__: (_ for _ in ()).throw(LookupError))
    with pytest.raises(LookupError):
        runs.train(config)


@pytest.mark.parametrize("positions", ["frozen", "sinusoidal"])
def test_positions_that_are_held_come_out_as_they_began(positions, world, tmp_path):
    config = runs.train(
        distilling(world, tmp_path / "run", init__positions=positions, optimizer__weight_decay=0.1, steps=3)
    )
    path = "encoder.embeddings.position"
    teacher = split(MaskedLM.from_pretrained(world.teacher))[1]
    expected = {
        "frozen": teacher[path] + teacher["encoder.embeddings.token_type"][0],
        "sinusoidal": sinusoids(*teacher[path].shape),
    }[positions]
    found = split(MaskedLM.from_pretrained(tmp_path / "run/model"))[1]
    np.testing.assert_array_equal(found[path], expected)
    assert (found["encoder.embeddings.word"] != teacher["encoder.embeddings.word"]).any()
    assert config.init.positions == positions


@pytest.mark.slow
def test_bert_learns_masked_lm_with_next_sentence_and_can_teach(world, tmp_path, capfd):
    config = pretraining(
        world,
        tmp_path / "run",
        model=BERT,
        objective="masked_lm_nsp",
        data__sequences="pair",
        init__source=world.teacher,
        steps=40,
    )
    runs.train(config)
    written = capfd.readouterr()
    said = written.err
    assert "newly initialised: bert.pooler.dense.bias" in said
    assert "cls.seq_relationship.weight" in said
    train, held = logged(config), logged(config, "eval")
    assert {"loss_mlm", "loss_nsp", "nsp_accuracy"} <= train[0].keys() & held[-1].keys()
    assert held[-1]["loss_mlm"] == pytest.approx(held[-1]["mlm_loss"], rel=1e-6)
    assert held[-1]["mlm_loss"] < held[0]["mlm_loss"] < 3.9
    kinds = json.loads((tmp_path / "run/model/config.json").read_text())["architectures"]
    assert kinds == ["BertForPreTraining"]
    direct = evaluate_mlm(str(tmp_path / "run/model"), world.heldout, length=32, sequences="pair")
    for name in ("mlm_loss", "loss_nsp", "nsp_accuracy"):
        assert getattr(direct, name) == pytest.approx(held[-1][name], rel=1e-5)
    found = report([config.run.directory], str(tmp_path / "out"), heldout=world.heldout)["run"]
    assert found.loss_nsp == pytest.approx(direct.loss_nsp)
    assert f"{found.parameters:,} parameters" in written.out
    assert "next-sentence accuracy" in capfd.readouterr().out
    MaskedLM.from_pretrained(tmp_path / "run/model")
    assert "not used here: bert.pooler.dense, cls.seq_relationship" in capfd.readouterr().err
    runs.train(distilling(world, tmp_path / "student", teacher=str(tmp_path / "run/model"), steps=2))


def test_without_a_step_the_model_is_what_it_begins_as(world, tmp_path):
    config = runs.train(distilling(world, tmp_path / "run", steps=0, data__heldout=world.heldout))
    begun = set_up(config)
    found = split(MaskedLM.from_pretrained(tmp_path / "run/model"))[1]
    assert digest(found) == begun.fingerprints["initial weights"]
    assert not metrics(tmp_path / "run/metrics.jsonl")
    runs.train(config)  # and is found


def test_a_head_that_is_drawn_may_begin_at_the_frequencies_of_the_tokens(world, tmp_path):
    BertModel(BERT, rngs=nnx.Rngs(1)).save_pretrained(tmp_path / "bare", load_tokenizer(world.tokenizer))
    trained = BertForMaskedLM(BERT, rngs=nnx.Rngs(1))
    trained.head.bias[...] = np.arange(BERT.vocab_size, dtype=np.float32)
    trained.save_pretrained(tmp_path / "trained", load_tokenizer(world.tokenizer))
    counts = Corpus.open(world.corpus).token_counts
    frequencies = np.log((counts + 1) / (counts + 1).sum())

    def bias(model, source, unigram=True):
        init = InitConfig(source=source and str(tmp_path / source), unigram_bias=unigram)
        config = pretraining(world, tmp_path / "run", model=model, init=init)
        return set_up(config).state.params["head.bias"][: model.vocab_size]

    for model in (BERT, STUDENT):
        for source in ("", "bare"):
            np.testing.assert_allclose(bias(model, source), frequencies, rtol=1e-5)
            assert not bias(model, source, unigram=False).any()
        np.testing.assert_array_equal(bias(model, "trained"), np.arange(BERT.vocab_size))


def test_a_head_that_is_drawn_is_that_of_the_runs_seed(world, tmp_path):
    BertModel(BERT, rngs=nnx.Rngs(1)).save_pretrained(tmp_path / "bare", load_tokenizer(world.tokenizer))

    def begun(seed):
        init = InitConfig(source=str(tmp_path / "bare"))
        return set_up(pretraining(world, tmp_path / "run", model=STUDENT, init=init, run__seed=seed)).state.params

    first, again, other = map(begun, (0, 0, 1))
    drawn = {name for name in first if not np.array_equal(first[name], other[name])}
    assert {name for name in first if not np.array_equal(first[name], again[name])} == set()
    assert drawn == {"head.transform.kernel"}


def test_a_run_that_ends_above_its_beginning_says_so(world, tmp_path, capsys):
    """One that ends well does not: `test_the_same_seed_gives_the_same_bits_in_an_hf_directory`."""
    runs.train(pretraining(world, tmp_path / "short", data__heldout="", steps=4, optimizer__learning_rate=30.0))
    assert "diverged" not in capsys.readouterr().err
    runs.train(pretraining(world, tmp_path / "bad", optimizer__learning_rate=30.0, data__heldout=""))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert line.startswith(f"{tmp_path}/bad: the loss of the last steps, ")


@pytest.mark.parametrize(
    ("run", "loss", "said"),
    [
        (runs.distilling, {"kl__tokens": "all"}, False),
        (runs.distilling, {"kl__tokens": "masked"}, True),
        (runs.distilling, {"kl__weight": 0.0}, True),
        (runs.pretraining, {}, True),
    ],
)
def test_pieces_of_the_length_that_change_nothing_are_told_of(run, loss, said, world, tmp_path, capsys):
    set_up(run(world, tmp_path / "run", loss__chunk=4, **{f"loss__{name}": value for name, value in loss.items()}))
    assert ("loss.chunk = 4 changes nothing" in capsys.readouterr().err) == said


def test_rows_without_a_piece_are_told_of(world, tmp_path, capsys):
    set_up(pretraining(world, tmp_path / "run", model__vocab_size=STUDENT.vocab_size + 3))
    assert f"model.vocab_size = {STUDENT.vocab_size + 3}: 3 rows more" in capsys.readouterr().err
