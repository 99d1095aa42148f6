"""Table 2 of the paper: a toy on reviews and questions, with a second step."""

import json
import shutil
from pathlib import Path

import pytest
from flax import nnx

from distilbert_jax.base.config_io import from_json
from distilbert_jax.cli import main as cli
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError
from distilbert_jax.finetuning import paper_scores as module
from distilbert_jax.finetuning.paper_scores import PUBLISHED, PaperScores, lines, paper_scores, remarks
from distilbert_jax.finetuning.spread import Spread
from distilbert_jax.models import DistilBertForMaskedLM, DistilBertForQuestionAnswering
from distilbert_jax.text.tokenizer import load_tokenizer, save_tokenizer
from tests.finetuning.kinds.test_answers import questions
from tests.runs import STUDENT, WORDS, change, refused, write_split, write_tokenizer


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """Folder of IMDb's and SQuAD's files, at toy size, and of a model of one layer."""
    path = tmp_path_factory.mktemp("paper")
    reviews = lambda rows: {
        "text": [f"red{'ab'[i % 2]} goes" for i in range(rows)],
        "label": [i % 2 for i in range(rows)],
    }
    for split, rows in (("train", 24), ("test", 8)):
        write_split(path, "imdb", split, reviews(rows))
    for split, rows in (("train", 12), ("validation", 6)):
        write_split(path, "squad", split, questions(rows, rows))
    tokenizer = load_tokenizer(world.tokenizer)
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(path / "model", tokenizer)
    return path


@pytest.mark.slow
def test_a_model_is_fine_tuned_on_both_tasks_and_beside_a_teacher_and_stands_beside_the_papers_rows(
    data, tmp_path, capfd
):
    given = ["paper", "--table", "2", "--model", str(data / "model"), "--data", str(data), "--epochs", "1"]
    given += ["--out", str(tmp_path / "runs")]
    cli.main([*given, "--tasks", "squad"])
    teacher = next((tmp_path / "runs").glob("*/squad/model"))
    cli.main([*given, "--teacher", str(teacher)])
    scores = from_json(PaperScores, next((tmp_path / "runs").glob("*/scores.json")).read_text()).scores
    assert {name: (one.train_rows, one.scored_rows, one.epochs) for name, one in scores.items()} == {
        "squad_distilled": (12, 6, 1),
        "imdb": (24, 8, 1),
        "squad": (12, 6, 1),
    }
    config = json.loads((teacher.parents[1] / "squad_distilled/config.json").read_text())
    assert (config["distill"]["teacher"], config["distill"]["alpha"], config["distill"]["temperature"]) == (
        str(teacher),
        0.5,
        2.0,
    )
    assert config["optimizer"]["learning_rate"] == 3e-5
    table = (tmp_path / "runs/paper.md").read_text()
    assert f"{data / 'model'}, second step" in table
    assert f"| {scores['imdb'].metrics['accuracy']:.2f} | {scores['squad'].metrics['exact_match']:.1f} |" in table
    assert all(name in table and f"{f1:.1f}" in table for name, _, _, f1 in PUBLISHED)
    assert "(paper)" in capfd.readouterr().out


def made_up(model, *, length=512, diverged=()):
    failed = {str(seed): "diverged: step 4: the loss is not finite" for seed in diverged}
    values = [0.0 if seed in diverged else 90.0 + seed for seed in range(3)]
    spread = Spread(
        task="imdb",
        title="imdb",
        kind="classification",
        model=model,
        median=sorted(values)[1],
        min=min(values),
        max=max(values),
        scores={str(seed): value for seed, value in enumerate(values)},
        failed=failed,
        majority=50.0,
        metrics={"accuracy": sorted(values)[1]},
        split="test",
        train_rows=24,
        scored_rows=8,
        cut_share=0.0,
        epochs=3,
        train_seconds=1.0,
        saved="",
    )
    return PaperScores(model=model, scores={"imdb": spread}, lengths={"imdb": length})


def test_a_table_names_the_seeds_that_diverged_and_what_models_were_trained_otherwise():
    models = [made_up("a"), made_up("b", length=128, diverged=(1,)), made_up("c", diverged=(0, 1, 2))]
    said = remarks(models)
    assert [line for line in said if "tokens" in line] == [
        "IMDb of a, c: 24 rows of train, 8 scored, 3 epochs, 512 tokens.",
        "IMDb of b: 24 rows of train, 8 scored, 3 epochs, 128 tokens.",
    ]
    assert [line.partition(" failed")[0] for line in said[2:]] == [
        "b, IMDb: seed 1",
        *(f"c, IMDb: seed {seed}" for seed in range(3)),
    ]
    assert [line[1] for line in lines(models)[1:4]] == ["91.00", "90.00", "diverged"]


def test_a_table_of_which_each_seed_diverged_is_shown_and_fails(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(module, "paper_scores", lambda *given, **options: [made_up("c", diverged=(0, 1, 2))])
    with pytest.raises(DivergedError):
        cli.main(["paper", "--table", "2", "--model", "c", "--out", str(tmp_path)])
    assert "(paper)" in capfd.readouterr().out


def test_a_directory_that_holds_something_else_is_called_by_the_option_of_the_command(
    world, data, tmp_path, monkeypatch
):
    (tmp_path / "out/teacher/imdb").mkdir(parents=True)
    (tmp_path / "out/teacher/imdb/notes.txt").write_text("mine")
    (tmp_path / "teacher").symlink_to(world.teacher)
    monkeypatch.chdir(tmp_path)
    asked = ["paper", "--table", "2", "--model", "teacher", "--data", str(data), "--tasks", "imdb", "--seeds", "0"]
    refused(lambda: cli.main([*asked, "--out", "out"]), "another --out", path="out/teacher/imdb")


def test_what_is_not_there_or_has_no_effect_is_refused_before_any_data_are_read(world, data, tmp_path):
    run = lambda models, **options: paper_scores(models, FinetuneConfig(), out=tmp_path, **options)
    refused(lambda: run([]), field="--model")
    refused(lambda: run([world.teacher, world.teacher]), field="--model")
    refused(lambda: run([world.teacher], seeds=(0, 0)), field="--seeds")
    refused(lambda: run([world.teacher], tasks=["imdb"], teacher=world.teacher), field="--teacher")
    refused(lambda: run([world.teacher, str(tmp_path / "none")]), path="none")
    refused(lambda: run([str(tmp_path / "none")]), path="none")
    refused(lambda: run([world.teacher], data=str(tmp_path)), path="train.parquet")
    for given, field in (("--table 2 --length 32", "--length"), ("--seeds 1", "--seeds"), ("--out elsewhere", "--out")):
        refused(lambda given=given: cli.main(["paper", "--model", world.teacher, *given.split()]), field=field)
    assert not list(Path(tmp_path).iterdir())


@pytest.fixture
def asked(monkeypatch):
    """Model, column, length and teacher of each fine-tuning that was asked for."""
    calls = []

    def finetune_spread(config, seeds):
        place = Path(config.run.directory)
        place.mkdir(parents=True, exist_ok=True)
        calls.append((Path(config.model).name, place.name, config.length, Path(config.distill.teacher).name))
        return change(
            made_up(config.model).scores["imdb"], metrics=dict.fromkeys(("accuracy", "exact_match", "f1"), 90.0)
        )

    monkeypatch.setattr(module, "finetune_spread", finetune_spread)
    return calls


def test_a_model_reads_as_many_tokens_as_its_tokenizer_takes(data, asked, tmp_path):
    shutil.copytree(data / "model", tmp_path / "short")
    save_tokenizer(load_tokenizer(data / "model"), tmp_path / "short", model_max_length=20)
    models = [str(data / "model"), str(tmp_path / "short")]
    given = {"out": tmp_path / "out", "data": str(data)}
    lengths = [one.lengths for one in paper_scores(models, FinetuneConfig(), **given)]
    assert lengths == [{"imdb": 32, "squad": 32}, {"imdb": 20, "squad": 20}]
    assert [length for _, _, length, _ in asked] == [32, 32, 20, 20]
    DistilBertForQuestionAnswering(STUDENT, rngs=nnx.Rngs(1)).save_pretrained(
        tmp_path / "taught", load_tokenizer(data / "model")
    )
    save_tokenizer(load_tokenizer(data / "model"), tmp_path / "taught", model_max_length=24)
    taught = paper_scores(models, FinetuneConfig(), teacher=str(tmp_path / "taught"), **given)
    assert [one.lengths["squad_distilled"] for one in taught] == [24, 20]
    assert asked[4:7] == [
        ("model", "squad_distilled", 24, "taught"),
        ("model", "imdb", 32, ""),
        ("model", "squad", 32, ""),
    ]


def test_every_model_is_looked_at_before_the_first_is_trained(world, data, asked, tmp_path):
    first, given = str(data / "model"), {"out": tmp_path / "out", "data": str(data)}
    other = load_tokenizer(write_tokenizer(tmp_path / "tokenizer", ["other", *(one for one in WORDS if one != "reda")]))
    DistilBertForQuestionAnswering(STUDENT, rngs=nnx.Rngs(1)).save_pretrained(tmp_path / "other", other)
    shutil.copytree(data / "model", tmp_path / "empty")
    (tmp_path / "empty/model.safetensors").unlink()
    run = lambda *models, **options: paper_scores([first, *models], FinetuneConfig(), **given, **options)
    refused(lambda: run(str(tmp_path / "empty")), path="empty")
    refused(lambda: run(teacher=str(tmp_path / "other")), field="--teacher", path="other")
    refused(lambda: run(teacher=world.teacher), field="distill.teacher", path="teacher")
    assert asked == []
