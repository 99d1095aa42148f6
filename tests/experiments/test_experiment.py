"""A whole experiment, from text to the table, at toy size; and what it refuses."""

import dataclasses
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from distilbert_jax import config as c
from distilbert_jax.base.config_io import load_config, to_json
from distilbert_jax.base.files import sha256_of, write_json
from distilbert_jax.cli.main import main
from distilbert_jax.config import ExperimentConfig, Variant, student_config
from distilbert_jax.configs.miniature import MODELS, TIERS
from distilbert_jax.errors import InputError
from distilbert_jax.experiments import experiment
from distilbert_jax.experiments.experiment import check_tuned, run_experiment
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import BertForSequenceClassification, BertModel
from distilbert_jax.models.hf_format import fingerprint, has_weights
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.glue import examples
from tests.runs import BERT, change, pretraining, refused

TASKS = ("sst2",)  # each takes compilations of its own


def toy(world, path: Path) -> ExperimentConfig:
    """The miniature's variants: a teacher from an encoder without a head, a student of one layer, two without a step."""
    run = lambda name: path / "toy" / name
    corpora = {"data__corpus": str(path / "corpus"), "data__heldout": str(path / "heldout"), "steps": 20}
    source = {"init__source": str(path / "encoder"), "init__unigram_bias": True}
    teacher = pretraining(world, run("teacher"), model=BERT, **corpora, **source)
    model = str(run("teacher") / "model")
    triple = pretraining(
        world,
        run("triple"),
        **corpora,
        model=student_config(BERT, 1),
        objective="distillation",
        teacher=model,
        init=c.InitConfig(source=model, layers=(1,)),
        run__seed=1,
    )
    place = lambda config, name, **changes: change(config, run__directory=str(run(name)), **changes)
    variants = {
        "teacher": teacher,
        "triple": triple,
        "cut": place(
            triple,
            "cut",
            objective="masked_lm",
            teacher="",
            steps=0,
            init=c.InitConfig(layers=(1,), **{k[6:]: v for k, v in source.items()}),
        ),
    }
    return ExperimentConfig(
        directory=str(path / "toy"),
        variants=(
            *(
                Variant(name, (0, 1) if name == "triple" else (0,), pretrain=config)
                for name, config in variants.items()
            ),
            Variant("encoder", (0,), model=str(path / "encoder")),
        ),
        teacher="teacher",
        student="triple",
        tokenizer=str(path / "encoder"),
        tasks=TASKS,
        sweep=c.SweepConfig(learning_rate=(1e-3, 5e-3)),
        glue=change(c.FinetuneConfig(), length=16, batch_size=16, epochs=1, save_model=False),
        vmap_seeds=True,
        heldout_rows=8,
    )


def write(config: ExperimentConfig, file: Path) -> str:
    file.with_suffix(".json").write_text(to_json(config))
    file.write_text(
        "from pathlib import Path\nfrom distilbert_jax.base.config_io import from_json\n"
        "from distilbert_jax.config import ExperimentConfig\n\n\ndef get_config():\n"
        '    return from_json(ExperimentConfig, Path(__file__).with_suffix(".json").read_text())\n'
    )
    return str(file)


@pytest.fixture(scope="module")
def prepared(world, tmp_path_factory):
    """An encoder without a head, text, and a task."""
    path = tmp_path_factory.mktemp("experiment")
    BertModel(BERT, rngs=nnx.Rngs(5)).save_pretrained(path / "encoder", load_tokenizer(world.tokenizer))
    for name in ("corpus", "heldout"):
        shutil.copy(world.path / f"{name}.txt", path / f"{name}.txt")
    choose = random.Random(0)
    for split, rows in (("train", 160), ("validation", 48)):
        blue = [choose.randrange(2) for _ in range(rows)]
        texts = [runs.sentence(choose, 6, ("red", "blue")[one]) for one in blue]
        runs.write_split(path / "glue", "sst2", split, {"sentence": texts, "label": blue})
    return path


@pytest.fixture(scope="module")
def done(world, prepared):
    """The config of an experiment that has been run from its command line, and its command."""
    file = write(toy(world, prepared), prepared / "experiment.py")
    line = [
        file, "--text", f"{prepared}/corpus.txt", "--heldout-text", f"{prepared}/heldout.txt", "--data", f"{prepared}/glue",
    ]  # fmt: skip
    main(["experiment", *line])
    return toy(world, prepared), line


@pytest.mark.slow
def test_an_experiment_goes_from_text_to_one_table(done):
    config, _ = done
    out = Path(config.directory)
    found = json.loads((out / "results.json").read_text())
    assert list(found) == ["teacher", "triple", "cut", "encoder"]
    for name, row in found.items():
        assert set(row["tasks"]) == set(TASKS)
        assert row["score"] == pytest.approx(np.mean(list(row["tasks"].values())))
        assert row["tuning_flops"] > 0
        assert ("mlm_loss" in row) == (name != "encoder"), "an encoder without a head is asked for words"
    assert (found["teacher"]["steps"], found["cut"]["steps"], found["encoder"]["steps"]) == (20, 0, None)
    results = json.loads((out / "triple" / "glue" / "sst2-1" / "results.json").read_text())
    assert results["together"] == 2
    without = 20 * step_flops(config.variants[1].pretrain, None)
    assert found["triple"]["train_flops"] > without > 0, "the teacher's pass counts"
    assert (found["triple"]["against"], found["teacher"]["of_teacher"]) == (None, None)
    assert found["teacher"]["speed"] == found["encoder"]["speed"] == {}, "the teacher's own architecture was timed"
    assert found["triple"]["speed"] == found["cut"]["speed"]
    assert found["triple"]["speed"]["latency"]["ratio"] > 0
    text = (out / "report.md").read_text().splitlines()
    lines = dict(line.strip("|\n ").split(" | ", 1) for line in text if line.startswith("| "))
    assert lines["layers"] == "2 | 1 | 1 | 2 | –", "the last column is the majority class"
    assert any(line.startswith("- ") and "chosen from 2 runs" in line for line in text)
    assert lines["minus triple"].split(" | ")[1] == "–"
    for png in ("curves", "differences"):
        assert (out / f"{png}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_differences_are_those_of_the_scores(done):
    found = json.loads((Path(done[0].directory) / "results.json").read_text())
    for name, row in found.items():
        if name != "triple":
            difference = row["against"]["difference"]
            assert difference["value"] == pytest.approx(row["score"] - found["triple"]["score"])
            assert difference["low"] <= difference["high"]
        if name != "teacher":
            assert row["of_teacher"]["share"]["value"] == pytest.approx(100 * row["score"] / found["teacher"]["score"])


@pytest.mark.slow
def test_each_model_chooses_its_settings_and_has_seeds_of_its_own(done):
    for variant in done[0].variants:
        runs_of = {path.name for path in (done[0].run_of(variant) / "glue").glob("*-*")}
        assert runs_of == {f"{task}-{seed}" for task in TASKS for seed in variant.seeds}
        tried = {path.name for path in (done[0].run_of(variant) / "glue/choice/sst2").iterdir()}
        assert tried == {"learning-rate-0.001-0", "learning-rate-0.005-0", "choice.json"}


@pytest.mark.slow
def test_models_without_a_step_are_what_they_were(done, prepared):
    encoder = load_file(prepared / "encoder/model.safetensors")
    same = load_file(Path(done[0].directory) / "encoder/model/model.safetensors")
    assert {name: value.tobytes() for name, value in same.items()} == {k: v.tobytes() for k, v in encoder.items()}
    cut = load_file(Path(done[0].directory) / "cut/model/model.safetensors")
    own = cut["distilbert.transformer.layer.0.ffn.lin1.weight"]
    assert np.array_equal(own, encoder["encoder.layer.1.intermediate.dense.weight"])


@pytest.mark.slow
def test_a_sweep_of_fine_tuning_tunes_the_students_model_anew(done):
    config, line = done
    main(["experiment", line[0], *line[5:], "--stages", "pretrain", "glue", "--sweep", "glue.freeze", "encoder"])
    student, swept = (Path(config.directory) / name for name in ("triple", "glue.freeze=encoder"))
    assert fingerprint(swept / "model") == fingerprint(student / "model")
    found = {path: json.loads((path / "glue/sst2-1/config.json").read_text()) for path in (student, swept)}
    assert (found[student]["freeze"], found[swept]["freeze"]) == ("nothing", "encoder")
    assert {path.name for path in (swept / "glue").glob("sst2-*")} == {"sst2-0", "sst2-1"}


@pytest.mark.slow
def test_called_again_it_finds_everything(done, monkeypatch, capsys):
    monkeypatch.setattr("distilbert_jax.pretraining.run._train", lambda *_: pytest.fail("it trains"))
    monkeypatch.setattr("distilbert_jax.finetuning.tuning.Tuning.train", lambda *_: pytest.fail("it fine-tunes"))
    monkeypatch.setattr(experiment, "report", lambda *_, **__: None)
    main(["experiment", *done[1]])
    said = capsys.readouterr()
    assert said.out.count("finished before") == 3
    assert said.err.count("finished before") == sum(
        (len(variant.seeds) + 2) * len(TASKS) for variant in done[0].variants
    )


def test_the_command_reads_its_config(world, prepared, tmp_path):
    file = write(toy(world, tmp_path), tmp_path / "e.py")
    shutil.copytree(prepared / "encoder", tmp_path / "encoder")
    refused(lambda: main(["experiment", file]), "--text", path=f"{tmp_path}/corpus")


def test_stages_and_variants_can_be_chosen(world, prepared, monkeypatch):
    called = []
    for stage in ("build_corpora", "make", "tune"):
        monkeypatch.setattr(experiment, stage, lambda config, *variant, stage=stage: called.append((stage, *variant)))
    monkeypatch.setattr(experiment, "check", lambda *_: None)
    monkeypatch.setattr(experiment, "compare", lambda _, variants: called.append(("compare", *variants)))
    config = toy(world, prepared)
    run_experiment(config, ("glue",), ("cut", "teacher"))
    assert called == [("tune", config.variants[0]), ("tune", config.variants[2])]
    called.clear()
    run_experiment(config, ("pretrain", "report"), ("triple",))
    assert called == [("make", config.variants[1]), ("compare", config.variants[1])]


def test_the_report_is_of_what_is_there(world, prepared, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(experiment, "report", lambda paths, *_, **beside: asked.append((paths, beside)))
    shutil.copytree(prepared / "encoder", tmp_path / "encoder")
    config = toy(world, tmp_path)
    refused(
        lambda: experiment.compare(config, config.variants), by="experiments.experiment.compare", path=f"{tmp_path}/toy"
    )
    for name in ("teacher", "encoder"):
        shutil.copytree(prepared / "encoder", tmp_path / "toy" / name / "model")
    experiment.compare(config, config.variants)
    assert "not there yet, and left out: triple, cut" in capsys.readouterr().err
    paths, beside = asked[0]
    assert paths == [f"{tmp_path}/toy/teacher", f"{tmp_path}/toy/encoder"]
    assert (beside["teacher"], beside["against"]) == (f"{tmp_path}/toy/teacher", "")


def test_what_lies_there_is_compared_with_the_config_at_every_stage(world, prepared, tmp_path, monkeypatch):
    asked, compared = [], []
    monkeypatch.setattr(experiment, "tune", lambda _, variant: asked.append(variant.name))
    monkeypatch.setattr(experiment, "report", lambda *_, only, **__: compared.append(only))
    monkeypatch.setattr(experiment, "check_finished", lambda config, run: asked.append(config.run.directory))
    for place in ("encoder", "toy/encoder/model", "toy/teacher/model"):
        shutil.copytree(prepared / "encoder", tmp_path / place)
    texts = [f"red {i}" for i in range(100)]  # of which some are held out
    runs.write_split(tmp_path / "glue", "sst2", "train", {"sentence": texts, "label": [0] * 100})
    runs.write_split(tmp_path / "glue", "sst2", "validation", {"sentence": ["red"], "label": [0]})
    config = change(toy(world, tmp_path), glue__data=str(tmp_path / "glue"))
    run_experiment(config, ("glue", "report"), ("encoder",))
    assert asked == [f"{tmp_path}/toy/teacher", "encoder"], "the others are compared with the teacher"
    assert compared[0][tmp_path / "toy/triple"] == [("sst2", 0), ("sst2", 1)]
    tuning = change(config.glue, task="sst2", optimizer__learning_rate=5e-3, data="moved")
    file = tmp_path / "toy/encoder/glue/sst2-0/config.json"
    file.parent.mkdir(parents=True)
    file.write_text(to_json(tuning))
    ask = lambda stage: run_experiment(config, (stage,), ("encoder",))
    ask("report")
    for field, value in (("length", 8), ("optimizer.learning_rate", 0.5), ("epochs", 2)):
        file.write_text(to_json(change(tuning, **{field.replace(".", "__"): value})))
        for stage in ("glue", "report"):
            refused(
                lambda stage=stage: ask(stage),
                by="experiments.experiment.check_settings",
                path="encoder/glue/sst2-0",
                field=field,
            )
    file.write_text(to_json(tuning))
    tried = [{"learning_rate": rate, "score": 50.0} for rate in (5e-3, 1e-3)]
    choice = {"runs": 2, "chosen": {"learning_rate": 5e-3}, "settings": tried, "seeds": [0]}
    place = tmp_path / "toy/encoder/glue/choice/sst2"
    place.mkdir(parents=True)
    write_json(place / "choice.json", choice)
    config, narrow = change(config, sweep__learning_rate=(5e-3, 1e-3, 2e-2)), config
    ask("glue")  # chooses again
    refused(lambda: ask("report"), by="glue.sweep.check_chosen", path="choice/sst2", field="sweep")
    config = narrow
    shutil.rmtree(tmp_path / "encoder")
    BertModel(BERT, rngs=nnx.Rngs(6)).save_pretrained(tmp_path / "encoder", load_tokenizer(world.tokenizer))
    for stage in ("glue", "report"):
        refused(lambda stage=stage: ask(stage), by="experiments.experiment._check_copy", path="toy/encoder/model")


def test_a_report_is_of_runs_that_fine_tuning_would_find_as_they_are(world, tmp_path):
    """The setting chosen among those that the sweep has now, from the rows and with the teacher that are there now."""
    config, rows = toy(world, tmp_path), {"sentence": ["red"], "label": [0]}
    folder, taught = tmp_path / "glue", tmp_path / "taught"
    files = {split: runs.write_split(folder, "sst2", split, rows) for split in ("train", "validation")}
    BertModel(BERT, rngs=nnx.Rngs(5)).save_pretrained(taught)
    config = change(config, glue__data=str(folder), glue__distill__teacher=str(taught))
    variant = next(one for one in config.variants if one.name == "encoder")
    one = examples.run(config.run_of(variant) / "glue", "sst2", 0, 9)
    tuned = change(config.glue, task="sst2", optimizer__learning_rate=5e-3, run__directory=str(one.directory))
    (one.directory / "config.json").write_text(to_json(tuned))
    inputs = {f"data ({split})": sha256_of(file) for split, file in files.items()} | {
        "distill.teacher": fingerprint(taught)
    }
    write_json(one.directory / "inputs.json", {"run": "1" * 64, **inputs})
    place = one.directory.parent / "choice/sst2"
    place.mkdir(parents=True)
    tried = [{"learning_rate": rate, "score": 50.0} for rate in (5e-3, 1e-3)]
    choice = {"runs": 2, "chosen": {"learning_rate": 5e-3}, "settings": tried, "seeds": [0]}
    write_json(place / "choice.json", choice)
    ask = lambda **sweep: check_tuned(dataclasses.replace(config, sweep=c.SweepConfig(**sweep)), variant)
    rates = {"learning_rate": (1e-3, 5e-3)}
    ask(**rates)
    for sweep in (
        {"learning_rate": (1e-3, 5e-3, 2e-2)},
        {"learning_rate": (5e-3, 2e-2)},
        {"learning_rate": (5e-3,)},
        {**rates, "epochs": (1, 2)},
        {**rates, "seeds": (0, 1)},
        {**rates, "seeds": (1,)},
    ):
        refused(lambda sweep=sweep: ask(**sweep), by="glue.sweep.check_chosen", path="choice/sst2", field="sweep")
    write_json(place / "choice.json", {name: choice[name] for name in ("runs", "chosen")})
    ask(**rates, seeds=(1,))  # of an earlier version nothing more is known
    for split, file in files.items():
        before = file.read_bytes()
        runs.write_split(folder, "sst2", split, {"sentence": ["blue"], "label": [1]})
        refused(lambda: ask(**rates), by="finetuning.identity.check_read", path="sst2-0", field=f"data ({split})")
        file.unlink()
        ask(**rates)  # a report needs no data
        file.write_bytes(before)
    BertModel(BERT, rngs=nnx.Rngs(6)).save_pretrained(taught)
    refused(lambda: ask(**rates), by="finetuning.identity.check_read", path="sst2-0", field="distill.teacher")


@pytest.mark.slow
def test_text_is_not_changed_under_variants_that_have_read_it(done, tmp_path, monkeypatch):
    config, line = done
    monkeypatch.setattr(experiment, "build_corpus", lambda *_, **__: pytest.fail("it builds"))
    corpus = {path: path.read_bytes() for path in Path(line[2]).parent.glob("corpus/*") if path.is_file()}
    other = tmp_path / "corpus.txt"
    other.write_text(Path(line[2]).read_text() + "\n\nred blue\n")
    for texts in ((other,), (Path(line[2]), other)):
        refused(
            lambda texts=texts: experiment.build_corpora(config, texts, (Path(line[4]),)),
            "teacher, triple, cut",
            by="experiments.experiment._check_text",
            path="corpus",
        )
    assert {path: path.read_bytes() for path in corpus} == corpus
    built = []
    monkeypatch.setattr(
        experiment, "build_corpus", lambda files, *_: built.append(files) or SimpleNamespace(manifest=manifest)
    )
    place = Path(line[2]).parent / "corpus/manifest.json"
    manifest = Corpus.open(place.parent).manifest
    try:
        place.write_text("[]")
        experiment.build_corpora(config, (Path(line[2]),), (Path(line[4]),))
    finally:
        place.write_bytes(corpus[place])
    assert len(built) == 2, "a damaged manifest is made again"


def test_what_does_not_fit_is_refused_before_any_work(world, prepared, tmp_path, monkeypatch):
    for stage in ("make", "tune", "report", "build_corpus"):
        monkeypatch.setattr(experiment, stage, lambda *_, **__: pytest.fail("it works"))
    config = toy(world, tmp_path)
    shutil.copytree(prepared / "encoder", tmp_path / "encoder")
    run = lambda *args, **options: run_experiment(config, *args, **options)
    (tmp_path / "e.txt").write_text("text")
    refused(
        lambda: run(variants=("tripel",)),
        by="experiments.experiment.run_experiment",
        field="--variants",
        hint="'triple'",
    )
    refused(
        lambda: main(["experiment", "miniature", "--data", f"{tmp_path}/no"]),
        by="cli.experiments.experiment",
        field="--data",
    )
    refused(lambda: run(text=(tmp_path / "no.txt",)), by="experiments.experiment.run_experiment", path="no.txt")
    refused(lambda: run(), "--text", by="experiments.experiment.build_corpora", path=f"{tmp_path}/corpus")
    refused(
        lambda: run(text=(tmp_path / "e.txt",)),
        "--heldout-text",
        by="experiments.experiment.build_corpora",
        path=f"{tmp_path}/heldout",
    )
    refused(lambda: main(["experiment", f"{tmp_path}/f.py"]), by="base.config_io.find_config")
    other = dataclasses.replace(
        config.variants[1], pretrain=change(config.variants[1].pretrain, data__corpus="elsewhere")
    )
    refused(lambda: run(variants=("triple", "triple")), by="experiments.experiment.run_experiment", field="--variants")
    refused(lambda: run(stages=()), by="experiments.experiment.run_experiment", field="--stages")
    own = change(config.glue, data=f"{prepared}/glue")
    for changes, stage, told in (
        ({"tasks": ("ax",)}, "glue", {"by": "glue.sweep.available", "field": "task"}),
        ({"tasks": ("rte",)}, "glue", {"by": "glue.sweep.available", "path": f"{prepared}/glue"}),
        (
            {"glue": change(config.glue, length=999, data=f"{prepared}/glue")},
            "glue",
            {"by": "glue.sweep.check_shape", "field": "glue.length"},
        ),
        (
            {"glue": change(config.glue, freeze="encoder", layer_decay=0.5, data=f"{prepared}/glue")},
            "glue",
            {"field": "layer_decay"},
        ),
        (
            {
                "sweep": c.SweepConfig(batch_size=(8, 6)),
                "glue": change(config.glue, optimizer__accumulate=4, data=f"{prepared}/glue"),
            },
            "glue",
            {"by": "training.sharding.check_batch", "field": "batch_size"},
        ),
        (
            {
                "sweep": c.SweepConfig(batch_size=(8, 16)),
                "glue": change(config.glue, select=True, data=f"{prepared}/glue"),
            },
            "glue",
            {"by": "glue.sweep._check_runs", "field": "select"},
        ),
        (
            {"variants": (*config.variants, Variant("later", (0,), model="/no/such"))},
            "report",
            {"by": "base.hub.locate", "path": "/no/such"},
        ),
        (
            {"variants": (change(config.variants[0], glue=change(own, length=999)), *config.variants[1:])},
            "glue",
            {"by": "glue.sweep.check_shape", "field": "glue.length"},
        ),
        (
            {"variants": (change(config.variants[0], glue=change(own, select=True)), *config.variants[1:])},
            "glue",
            {"by": "glue.sweep._check_runs", "field": "select"},
        ),
    ):
        changes = {"glue": change(config.glue, data=f"{prepared}/glue"), **changes}
        given = dataclasses.replace(config, **changes)
        refused(lambda given=given, stage=stage: run_experiment(given, (stage,)), **told)
    refused(lambda: run(("pretrain",)), "--stages", by="experiments.experiment.check", path=f"{tmp_path}/corpus")
    copy = Variant("copy", (0,), model=f"{tmp_path}/toy/triple/model")
    given = dataclasses.replace(config, variants=(*config.variants, copy))
    refused(
        lambda: run_experiment(given, ("pretrain",), ("copy",)),
        "--variants triple",
        by="experiments.experiment.check",
        path="copy",
    )
    refused(lambda: run_experiment(given, ("pretrain",)), "--stages", path=f"{tmp_path}/corpus")
    by_copy = change(
        config.variants[1].pretrain, teacher=f"{tmp_path}/toy/copy/model", run__directory=f"{tmp_path}/toy/late"
    )
    copy, late = dataclasses.replace(copy, model=f"{tmp_path}/toy/teacher/model"), Variant("late", (0,), by_copy)
    given = dataclasses.replace(config, variants=(*config.variants, copy, late))
    refused(lambda: run_experiment(given), "--text", by="experiments.experiment.build_corpora")
    refused(
        lambda: run(("pretrain",), ("triple",)),
        "--stages",
        "--variants",
        by="experiments.experiment.check",
        path="triple",
    )
    several = dataclasses.replace(config, variants=(config.variants[0], other))
    refused(lambda: run_experiment(several), by="experiments.experiment.build_corpora", path="--text")


def test_terms_that_a_teacher_cannot_serve_are_told_before_any_work(world, prepared, tmp_path, monkeypatch):
    for stage in ("make", "tune", "report", "build_corpus"):
        monkeypatch.setattr(experiment, stage, lambda *_, **__: pytest.fail("it works"))
    config = toy(world, tmp_path)
    shutil.copytree(prepared / "encoder", tmp_path / "encoder")
    texts = {name: (prepared / f"{file}.txt",) for name, file in (("text", "corpus"), ("heldout_text", "heldout"))}
    teacher, triple, *others = config.variants
    seven = c.MiniLMv2Config(1.0, relation_heads=7)

    def asked(variant=triple, stages=("corpus", "pretrain"), **changes):
        pretrain = change(variant.pretrain, **changes)
        given = dataclasses.replace(pretrain, init=c.InitConfig()) if "teacher" in changes else pretrain
        variants = (teacher, dataclasses.replace(variant, pretrain=given), *others)
        return run_experiment(dataclasses.replace(config, variants=variants), stages, **texts)

    refused(lambda: asked(loss__minilmv2=seven), field="loss.minilmv2.relation_heads")
    refused(lambda: asked(loss__hidden=c.HiddenConfig(1.0, teacher_layers=(9,))), field="loss.hidden.teacher_layers")
    for bare in ("encoder", "toy/encoder/model"):  # the second is yet to be copied
        refused(lambda bare=bare: asked(teacher=str(tmp_path / bare)), field="teacher")
    made = config.run_of(teacher) / "model"  # that is yet to be trained, however it is spelled
    for spelled in (f"{made}/", f"{made.parent}/../teacher/model"):
        with pytest.raises(pytest.fail.Exception):  # no mistake is found, and the work begins
            asked(teacher=spelled, stages=("corpus", "pretrain"))
        refused(
            lambda spelled=spelled: asked(teacher=spelled, loss__minilmv2=seven), field="loss.minilmv2.relation_heads"
        )
    # The second step, while fine-tuning: of a teacher that is there.
    labels = find_task("sst2").labels
    head = BertForSequenceClassification(change(BERT, labels=labels), rngs=nnx.Rngs(3))
    head.save_pretrained(tmp_path / "tuned", load_tokenizer(world.tokenizer))
    distill = c.DistillConfig(str(tmp_path / "tuned"), minilmv2=seven)
    tuning = change(config.glue, data=str(prepared / "glue"), distill=distill)
    second = dataclasses.replace(config, glue=tuning)
    refused(lambda: run_experiment(second, ("glue",), ("triple",)), field="distill.minilmv2.relation_heads")
    # … and of a task that there are no data of, and so no teacher.
    head.save_pretrained(tmp_path / "of-sst2", load_tokenizer(world.tokenizer))
    distill = c.DistillConfig(f"{tmp_path}/of-{{task}}", hidden=c.HiddenConfig(1.0))
    lacking = dataclasses.replace(second, tasks=("sst2", "rte"), glue=change(tuning, distill=distill))
    with pytest.raises(pytest.fail.Exception):  # no mistake is found, and the work begins
        run_experiment(lacking, ("glue",), ("triple",))


def test_variants_that_do_not_fit_are_refused(world, prepared):
    config = toy(world, prepared)
    refused(lambda: dataclasses.replace(config, student="tripel"), "'triple'", by="config.require", field="student")
    refused(
        lambda: dataclasses.replace(config, variants=(*config.variants, config.variants[0])),
        by="config.require",
        field="variants",
    )
    refused(lambda: dataclasses.replace(config, directory="elsewhere"), by="config.require", field="pretrain")
    for name in ("triple", "copy"):
        early = Variant("copy", (0,), model=f"{config.directory}//{name}/model")
        refused(
            lambda early=early: dataclasses.replace(config, variants=(early, *config.variants)),
            name,
            by="config.require",
            field="model",
        )
    refused(lambda: Variant("a", (0,)), by="config.require", field="model")
    refused(lambda: Variant("a", (), model="m"), by="config.require", field="seeds")
    for seed in (-1, 2**32):
        refused(lambda seed=seed: Variant("a", (seed,), model="m"), by="config.require", field="seeds")
    for name in ("", "..", "a/b", "a\nb"):
        refused(lambda name=name: Variant(name, (0,), model="m"), by="config.require", field="name")
    for field, value in (("tasks", ()), ("tasks", ("sst2", "sst2")), ("heldout_rows", 0)):
        refused(
            lambda field=field, value=value: dataclasses.replace(config, **{field: value}),
            by="config.require",
            field=field,
        )


def test_a_variant_of_another_model_than_it_has_is_refused(world, prepared, tmp_path):
    config = toy(world, prepared)
    variant = dataclasses.replace(config.variants[-1], name="given")
    shutil.copytree(prepared / "encoder", tmp_path / "encoder")
    given = dataclasses.replace(
        config, directory=str(tmp_path / "toy"), variants=(variant,), teacher="given", student="given"
    )
    model = experiment.make(given, dataclasses.replace(variant, model=str(tmp_path / "encoder")))
    assert experiment.make(given, dataclasses.replace(variant, model=str(tmp_path / "encoder"))) == model
    BertModel(BERT, rngs=nnx.Rngs(99)).save_pretrained(tmp_path / "encoder")
    refused(
        lambda: experiment.make(given, dataclasses.replace(variant, model=str(tmp_path / "encoder"))),
        by="experiments.experiment._check_copy",
    )


def test_a_variant_may_have_its_weights_in_several_files_and_must_have_some(world, prepared, tmp_path):
    tensors = load_file(prepared / "encoder/model.safetensors")
    given, half = tmp_path / "given", len(tensors) // 2
    shutil.copytree(prepared / "encoder", given, ignore=shutil.ignore_patterns("model.safetensors"))
    config = dataclasses.replace(
        toy(world, tmp_path),
        variants=(Variant("variant", (0,), model=str(given)),),
        teacher="variant",
        student="variant",
    )
    refused(lambda: experiment.make(config, config.variants[0]), by="models.hf_format._weight_files", path=f"{given}")
    parts = {"1": list(tensors)[:half], "2": list(tensors)[half:]}
    files = {f"{part}/model.safetensors": names for part, names in parts.items()}
    for file, names in files.items():
        (given / file).parent.mkdir()
        save_file({name: tensors[name] for name in names}, given / file)
    index = {"weight_map": {name: file for file, names in files.items() for name in names}}
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    tokenizer = (given / "tokenizer.json").read_bytes()
    (given / "tokenizer.json").unlink()
    refused(
        lambda: experiment.make(config, config.variants[0]),
        "tokenizer.json",
        path=f"{given}",
    )
    assert not (tmp_path / "toy/variant/model").exists()
    (given / "tokenizer.json").write_bytes(tokenizer)
    model = experiment.make(config, config.variants[0])
    assert has_weights(model)
    listed = lambda directory: sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    assert listed(model) == listed(given)


def test_a_model_that_is_not_there_yet_is_not_tuned(world, prepared, tmp_path):
    config = toy(world, tmp_path)
    refused(
        lambda: experiment.tune(config, config.variants[0]),
        "--stages",
        by="experiments.experiment.tune",
        path="toy/teacher",
    )


MAY_DIFFER = {
    "mlm": ("objective", "teacher"),
    "random": ("objective", "teacher", "init", "optimizer"),
    "cut": ("objective", "teacher", "init", "steps"),
    "no": ("loss",),
}


@pytest.mark.parametrize("tier", TIERS)
def test_the_miniature_differs_in_what_it_says_it_differs_in(tier):
    found = load_config(f"miniature:{tier}", ExperimentConfig)
    variants = {variant.name: variant.pretrain for variant in found.variants}
    triple = variants["triple"]
    assert triple.init.layers == (0, 2, 5)
    assert triple.teacher == triple.init.source == f"runs/miniature/{tier}/teacher/model"
    for name, config in variants.items():
        if config and name not in ("teacher", "triple"):
            differs = {"run": change(triple.run, directory=f"runs/miniature/{tier}/{name}")}
            differs |= {field: getattr(config, field) for field in MAY_DIFFER[name.split("_")[0]]}
            assert config == dataclasses.replace(triple, **differs), name
    assert triple.run.seed == 1
    rates = {variants[name].optimizer.learning_rate for name in ("random_triple", "random_mlm")}
    assert rates == {2 * triple.optimizer.learning_rate}
    assert [name for name, config in variants.items() if config and not config.init.source] == [
        "random_triple",
        "random_mlm",
    ]
    assert {name for name, config in variants.items() if config and config.teacher} == {
        "triple", "random_triple", *(name for name in variants if name.startswith("no_")),
    }  # fmt: skip
    assert variants["cut"].steps == 0
    for name in variants:
        if name != "minilm":  # each stage on its own
            assert load_config(f"miniature:{tier}/{name}", c.PretrainConfig) == variants[name]
    assert set(variants) <= {*MODELS, "minilm"}


def test_a_tier_that_is_not_there_is_named():
    with pytest.raises(InputError) as caught:
        load_config("miniature:gpus", ExperimentConfig)
    assert "'gpu'" in caught.value.hint
