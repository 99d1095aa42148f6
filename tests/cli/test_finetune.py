"""Rows of one's own, from the command line: fine-tuned, scored, predicted."""

import csv
import json
import random
import shutil

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from distilbert_jax.base.config_io import read_config
from distilbert_jax.cli.main import main
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError
from distilbert_jax.finetuning import runs as module
from distilbert_jax.finetuning.files import Table, open_table
from distilbert_jax.finetuning.results import read_result
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.scoring import predictions, score_rows
from distilbert_jax.finetuning.spread import Spread, told
from distilbert_jax.finetuning.tuning import Tuning
from distilbert_jax.models import (
    DistilBertForMaskedLM,
    EncoderModel,
    SequenceClassification,
)
from distilbert_jax.models.params import split
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.runs import STUDENT, refused


def write_reviews(path, rows, seed):
    choose = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "review", "verdict"])
        for i in range(rows):
            good = choose.randrange(2)
            text = runs.sentence(choose, choose.randint(2, 9), ("red", "blue")[good])
            writer.writerow([i, text, ("thumbs down", "thumbs up")[good]])


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(path / "start", load_tokenizer(world.tokenizer))
    write_reviews(path / "train.csv", 160, 0)
    write_reviews(path / "new.csv", 40, 1)
    return path


def command(folder, out, *more):
    return [
        "finetune", "--model", str(folder / "start"), "--train", str(folder / "train.csv"), "--text", "review",
        "--label", "verdict", "--out", str(out), "--seeds", "2", "--epochs", "4", "--learning-rate", "5e-3",
        "--batch-size", "16", *more,  # 32 tokens, all that the model has positions for
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(folder):
    main(command(folder, folder / "out"))
    return folder / "out"


def test_a_model_its_score_and_its_spread(done):
    spread = read_config(Spread, done / "spread.json")
    assert list(spread.scores) == ["0", "1"]
    assert spread.min <= spread.median <= spread.max
    assert spread.median > 90 > spread.majority
    assert spread.failed == {}
    assert spread.train_rows + spread.scored_rows == 160
    assert any("50% of the rows were cut at 32 tokens" in line for line in told(runs.change(spread, cut_share=0.5), 32))
    config = SequenceClassification.from_pretrained(done / "model").config
    assert config.labels == ("thumbs down", "thumbs up")
    written = json.loads((done / "model/config.json").read_text())
    assert written["id2label"] == {"0": "thumbs down", "1": "thumbs up"}
    assert not (done / "seed-1/model").exists()


def test_the_first_seed_alone_is_the_same_run(folder, done, monkeypatch, capsys):
    monkeypatch.setattr(module, "Tuning", lambda *_: pytest.fail("it trains again"))
    main([*command(folder, done), "--seeds", "1", "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)["scores"] == {"0": read_config(Spread, done / "spread.json").scores["0"]}
    main(command(folder, done))


def test_other_rows_are_another_run(folder, done, tmp_path):
    (tmp_path / "train.csv").write_text((folder / "train.csv").read_text() + "160,red a,thumbs down\n")
    other = command(folder, done)
    other[4] = str(tmp_path / "train.csv")
    refused(lambda: main(other), "--out", path=str(done), field="task")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (["--text", "reviw"], "reviw"),
        (["--delimiter", ";;"], "--delimiter"),
        (["--seeds", "0"], "--seeds"),
        (["--epochs", "0"], "epochs"),
        (["--batch-size", "0"], "batch_size"),
        (["--kind", "regression"], "verdict"),
        (["--dev", "none.csv"], "--dev"),
        (["--tokens", "review"], "--tokens"),
        (["--out", "/dev/null"], "--out"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(folder, more, field, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Tuning", lambda *_: pytest.fail("it loads a model"))
    refused(lambda: main(command(folder, tmp_path / "out", *more)), field=field)
    assert not (tmp_path / "out").exists()


def test_the_epoch_that_is_best_on_a_tenth_of_train_is_kept(folder, done, tmp_path, monkeypatch):
    scores = iter([1.0, 3.0, 3.0, 2.0])
    given = []
    monkeypatch.setattr(
        Tuning, "_selected", lambda self, params: given.append(np.array(params["classifier.kernel"])) or next(scores)
    )
    main([*command(folder, tmp_path), "--seeds", "1", "--select"])
    chosen = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    chosen = [line["selection/score"] for line in chosen if "selection/score" in line]
    assert chosen == [1.0, 3.0, 3.0, 2.0]
    saved = split(SequenceClassification.from_pretrained(tmp_path / "model"))[1]["classifier.kernel"]
    assert np.array_equal(saved, given[1])
    assert not np.array_equal(given[1], given[2])
    result = read_result(tmp_path / "results.json")
    assert result.train_rows < read_config(Spread, folder / "out/spread.json").train_rows


def test_a_frozen_encoder_keeps_its_bits(folder, tmp_path):
    options = ["--seeds", "1", "--epochs", "1", "--freeze", "encoder", "--class-weights", "balanced"]
    main([*command(folder, tmp_path), *options])
    before, after = (EncoderModel.from_pretrained(place) for place in (folder / "start", tmp_path / "model"))
    for (name, value), (_, other) in zip(split(before)[1].items(), split(after)[1].items(), strict=True):
        assert np.array_equal(value, other), name
    config = read_config(FinetuneConfig, tmp_path / "config.json")
    assert (config.freeze, config.class_weights) == ("encoder", "balanced")


def rows_of(kind):
    """Rows of a kind of task in three words that stand beside "red" or "blue", and the options that name their columns."""
    colours = [("red", "blue")[i % 2] for i in range(48)]
    if kind == "tokens":
        rows = [{"words": [f"{one}a", "goes"], "tags": [one, "other"]} for one in colours]
        return rows, ["--tokens", "words", "--tags", "tags"]
    if kind == "answers":
        rows = [{"q": f"{one}a", "c": f"goes {one}b to", "a": f"{one}b"} for one in colours]
        return rows, ["--question", "q", "--context", "c", "--answers", "a"]
    if kind == "choices":
        rows = [{"t": f"{one}a", "x": "redb", "y": "blueb", "which": "x" if one == "red" else "y"} for one in colours]
        return rows, ["--text", "t", "--choices", "x", "y", "--label", "which"]
    value = {"amount": lambda i: i / 7, "several": lambda i: ["red"] if i % 2 else ["red", "blue"]}[kind]
    rows = [{"t": f"{one}a goes {'to ' * (i % 3)}", "of": value(i)} for i, one in enumerate(colours)]
    return rows, ["--text", "t", "--label", "of"]


@pytest.mark.parametrize("kind", ["tokens", "answers", "choices", "amount", "several"])
def test_every_kind_of_task_is_distilled_from_a_model_of_its_own(folder, tmp_path, kind):
    rows, columns = rows_of(kind)
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    start, usual = str(folder / "start"), ["--train", str(file), *columns, "--epochs", "1", "--batch-size", "16"]
    asked = ["finetune", "--model", start, *usual, "--dev", str(file)]
    main([*asked, "--out", str(tmp_path / "teacher")])
    layers = [
        "--distill.hidden.weight",
        "0.5",
        "--distill.minilmv2.weight",
        "1",
        "--distill.minilmv2.relation-heads",
        "2",
    ]
    copies = [] if kind == "choices" else ["--augment.copies", "1", "--augment.model", start]
    teacher = str(tmp_path / "teacher/model")
    main([*asked, "--out", str(tmp_path / "out"), "--teacher", teacher, "--distill.alpha", "0.7", *layers, *copies])
    config = read_config(FinetuneConfig, tmp_path / "out/config.json")
    assert (config.distill.teacher, config.distill.alpha, config.augment.copies) == (teacher, 0.7, len(copies) // 4)
    logged = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    assert 0 < logged["loss_hidden"] < 0.2, "they began alike, and one has dropout"
    assert 0 < logged["loss_minilmv2"] < 0.2
    result = read_result(tmp_path / "out/results.json")
    assert (result.added_rows or 0) == (0 if kind == "choices" else len(rows))


def test_options_of_distilling_without_a_teacher_or_with_two_are_refused(folder, tmp_path):
    asked = command(folder, tmp_path / "out")
    for more, field in (
        (["--distill.alpha", "0.7"], "--distill.alpha"),
        (["--distill.hidden.weight", "1"], "--distill.hidden.weight"),
        (["--augment.share", "0.5"], "--augment.share"),
        (["--teacher", "a", "--distill.hidden.student-layers", "0"], "--distill.hidden.student-layers"),
        (["--teacher", "a", "--distill.teacher", "b"], "--teacher"),
        (["--teacher", str(folder / "start"), "--distill.alpha", "0"], "distill.teacher"),
        (["--teacher", str(folder / "start")], "distill.teacher"),  # it has no head
    ):
        refused(lambda more=more: main([*asked, *more]), field=field)
    assert not (tmp_path / "out").exists()


COLUMNS = ["--text", "review"]


def test_a_model_is_scored_by_the_names_of_its_labels(folder, done, tmp_path, capsys):
    asked = ["score", "--model", str(done / "model"), *COLUMNS, "--label", "verdict", "--json", "--data"]
    main([*asked, str(folder / "new.csv")])
    score = json.loads(capsys.readouterr().out)
    assert score["rows"] == 40
    assert score["score"] == score["metrics"]["accuracy"] > 90
    text = (folder / "new.csv").read_text()
    (tmp_path / "ids.csv").write_text(text.replace("thumbs down", "0").replace("thumbs up", "1"))
    (tmp_path / "names.csv").write_text(text.replace("thumbs down", "Thumbs_Down").replace("thumbs up", "THUMBS-UP"))
    for name in ("ids.csv", "names.csv"):
        main([*asked, str(tmp_path / name)])
        assert json.loads(capsys.readouterr().out)["score"] == score["score"]
    (tmp_path / "other.csv").write_text(text.replace("thumbs up", "great"))
    refused(lambda: main([*asked, str(tmp_path / "other.csv")]), "great", "thumbs down", field="verdict")


def test_the_order_of_a_models_labels_makes_no_difference(folder, done, tmp_path):
    shutil.copytree(done / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    names = list(config["id2label"].values())[::-1]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model/model.safetensors")
    swapped = {name: np.ascontiguousarray(weights[name][::-1]) for name in ("classifier.weight", "classifier.bias")}
    save_file(weights | swapped, tmp_path / "model/model.safetensors")
    roles = Roles(text="review", label=("verdict",))
    ours, theirs = (score_rows(str(path / "model"), folder / "new.csv", roles=roles) for path in (done, tmp_path))
    assert ours.metrics == theirs.metrics
    assert ours.labels == theirs.labels[::-1]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_predictions_stand_beside_what_went_in(folder, done, name, tmp_path):
    asked = ["predict", "--model", str(done / "model"), *COLUMNS, "--data", str(folder / "new.csv"), "--out"]
    main([*asked, str(tmp_path / name)])
    given = [row for _, row in open_table(folder / "new.csv").rows()]
    rows = [row for _, row in open_table(tmp_path / name).rows()]
    assert [{column: row[column] for column in given[0]} for row in rows] == given
    assert sum(row["predicted"] == row["verdict"] for row in rows) > 36
    for row in rows:
        scores = json.loads(row["scores"]) if name == "out.csv" else row["scores"]
        assert scores[row["predicted"]] == pytest.approx(float(row["score"]))
        assert sum(scores.values()) == pytest.approx(1.0)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_memory_does_not_grow_with_the_rows_that_are_predicted(done, monkeypatch):
    read, ahead = 0, []

    def rows(columns):
        nonlocal read
        for number in range(1, 2001):
            read += 1
            yield number, {"review": "red a"}

    table = Table("counting", ("review",), rows, lambda columns: "")
    for written, _ in enumerate(predictions(str(done / "model"), table, roles=Roles(text="review")), 1):
        ahead.append(read - written)
    assert (read, len(ahead)) == (2000, 2000)
    assert max(ahead) <= 64


def test_rows_that_cannot_be_predicted_leave_no_file(folder, done, tmp_path):
    asked = ["predict", "--model", str(done / "model"), *COLUMNS, "--out", str(tmp_path / "out.csv"), "--data"]
    (tmp_path / "in.csv").write_text('review\nred a\n" "\n')
    refused(lambda: main([*asked, str(tmp_path / "in.csv")]), field="review", row=3)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    refused(
        lambda: main([*asked[:-3], "--out", str(folder / "new.csv"), "--data", str(folder / "new.csv")]), field="--out"
    )


@pytest.fixture(scope="module")
def tagged(folder):
    """A model of words, a tag by their colour, and the sentences that it learned from."""
    choose = random.Random(0)
    with (folder / "train.conll").open("w") as file:
        for _ in range(60):
            for _ in range(choose.randint(2, 8)):
                colour = choose.choice(("red", "blue"))
                file.write(f"{colour}{choose.choice('abcdef')} {'B-HOT' if colour == 'red' else 'O'}\n")
            file.write("\n")
    words = [
        *command(folder, folder / "tags")[:3],
        "--train",
        str(folder / "train.conll"),
        "--tokens",
        "tokens",
        "--tags",
        "tags",
    ]
    main([*words, *command(folder, folder / "tags")[9:], "--seeds", "1", "--dev", str(folder / "train.conll")])
    return folder / "tags"


def test_words_are_tagged_scored_and_predicted(folder, tagged, tmp_path, capsys):
    spread = read_config(Spread, tagged / "spread.json")
    assert (spread.kind, list(spread.metrics)) == ("tokens", ["f1", "precision", "recall", "accuracy"])
    assert spread.median > 90
    words = ["--model", str(tagged / "model"), "--data", str(folder / "train.conll"), "--tokens", "tokens"]
    main(["score", *words, "--tags", "tags", "--json"])
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(spread.median)
    main(["predict", *words, "--out", str(tmp_path / "out.jsonl")])
    rows = [row for _, row in open_table(tmp_path / "out.jsonl").rows()]
    assert len(rows) == 60
    assert all(len(row["predicted"]) == len(row["scores"]) == len(row["tokens"]) for row in rows)
    right = [tag == true for row in rows for tag, true in zip(row["predicted"], row["tags"], strict=True)]
    assert sum(right) > 0.9 * len(right)
    for row in rows:
        hot = [place for place, tag in enumerate(row["predicted"]) if tag == "B-HOT"]
        of = lambda place, row=row: {
            "entity_group": "HOT",
            "score": pytest.approx(row["scores"][place]),
            "word": row["tokens"][place],
            "start": place,
            "end": place + 1,
        }
        assert row["entities"] == [of(place) for place in hot]
    for name in ("out.csv", "out.parquet"):
        main(["predict", *words, "--out", str(tmp_path / name)])
        again = [row["entities"] for _, row in open_table(tmp_path / name).rows()]
        again = [json.loads(one) for one in again] if name == "out.csv" else again
        assert again == [row["entities"] for row in rows]
    texts = [{"text": " ".join(row["tokens"])} for row in rows]
    spans = [
        row["predicted"] for row in predictions(str(tagged / "model"), open_table(texts), roles=Roles(text="text"))
    ]
    for text, of_text, row in zip(texts, spans, rows, strict=True):
        hot = [word for word, tag in zip(row["tokens"], row["predicted"], strict=True) if tag == "B-HOT"]
        assert [text["text"][span["start"] : span["end"]] for span in of_text] == hot


def test_a_row_may_have_several_labels(folder, tmp_path):
    rows = [json.dumps({"text": f"red {'ab'[i % 2]} blue", "tags": ["x", "y"][: i % 3]}) for i in range(60)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    file, options = str(tmp_path / "train.jsonl"), command(folder, tmp_path / "out")
    options = [*options[:3], "--train", file, "--dev", file, "--text", "text", "--label", "tags", *options[9:]]
    main([*options, "--epochs", "1", "--seeds", "1"])
    config = SequenceClassification.from_pretrained(tmp_path / "out/model").config
    assert (config.labels, config.problem_type) == (("x", "y"), "multi_label_classification")
    roles = Roles(text="text", label=("tags",))
    spread = read_config(Spread, tmp_path / "out/spread.json")
    assert score_rows(str(tmp_path / "out/model"), file, roles=roles).score == pytest.approx(spread.median)
    for row in predictions(str(tmp_path / "out/model"), open_table(file), roles=roles):
        assert row["predicted"] == [label for label in row["scores"] if row["scores"][label] > 0.5]


def test_of_long_rows_so_many_tokens_are_read_as_are_asked_for(folder, done, tmp_path, capsys):
    words = ["red", "a", "blue", "b", "red", "c", "blue", "d", "blue", "e"]
    long, cut = ([{"review": " ".join(words[:count])}] for count in (10, 6))
    said = lambda rows, **how: next(
        predictions(str(done / "model"), open_table(rows), roles=Roles(text="review"), **how)
    )
    assert said(long, length=8)["scores"] == said(cut)["scores"] != said(long)["scores"]
    of_score = ["--data", str(folder / "new.csv"), "--label", "verdict", "--length", "8"]
    main(["score", "--model", str(done / "model"), *COLUMNS, *of_score])
    assert "of the rows were cut at 8 tokens" in capsys.readouterr().err
    asked = ["predict", "--model", str(done / "model"), *COLUMNS, "--data", str(folder / "new.csv")]
    refused(lambda: main([*asked, "--out", str(tmp_path / "out.csv"), "--length", "7"]), field="length")


def test_where_each_seed_diverges_the_command_fails_and_its_results_are_kept(folder, tmp_path):
    options = command(folder, tmp_path, "--seeds", "1", "--epochs", "1", "--learning-rate", "1e38")
    with pytest.raises(DivergedError) as caught:
        main(options)
    assert caught.value.path == str(tmp_path)
    assert read_config(Spread, tmp_path / "spread.json").failed.keys() == {"0"}


def test_answers_are_learned_and_predicted_with_their_place(folder, tmp_path, capsys):
    rows = [{"q": f"red {'abc'[i % 3]}", "c": "blue a red b blue c", "a": "red b"} for i in range(48)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file, options = str(tmp_path / "train.jsonl"), command(folder, tmp_path / "out")
    roles = ["--question", "q", "--context", "c", "--answers", "a"]
    main([*options[:3], "--train", file, "--dev", file, *roles, *options[9:], "--epochs", "2", "--seeds", "1"])
    spread = read_config(Spread, tmp_path / "out/spread.json")
    assert list(spread.metrics) == ["f1", "exact_match"]
    card = (tmp_path / "out/model/README.md").read_text(encoding="utf-8")
    assert "rows that it was trained on" in card
    assert "| tokens of a window |" in card, "contexts are not cut"
    assert "of the questions too long and cut" in capsys.readouterr().err
    for row in predictions(str(tmp_path / "out/model"), open_table(rows), roles=Roles(question="q", context="c")):
        assert row["predicted"] == row["c"][row["start"] : row["end"]] != ""
        assert row["score"] > 0


@pytest.mark.parametrize(("positions", "of_texts", "of_questions"), [(512, 128, 384), (200, 128, 200), (32, 32, 32)])
def test_as_many_tokens_are_read_as_are_usual_of_a_text_or_a_question(
    world, tmp_path, positions, of_texts, of_questions, monkeypatch
):
    config, start = runs.change(STUDENT, max_position_embeddings=positions), tmp_path / "start"
    DistilBertForMaskedLM(config, rngs=nnx.Rngs(3)).save_pretrained(start, load_tokenizer(world.tokenizer))
    rows = [{"q": f"red {i}", "c": f"blue a red b {i}", "a": "red b", "n": i % 2} for i in range(48)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = []

    def stop(config, *_, **__):
        given.append(config.length)
        raise KeyboardInterrupt

    monkeypatch.setattr("distilbert_jax.finetuning.spread.finetune_spread", stop)
    asked = [
        "finetune",
        "--model",
        str(start),
        "--train",
        str(tmp_path / "train.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    questions = ["--question", "q", "--context", "c", "--answers", "a"]
    for columns in (["--text", "c", "--label", "n"], questions, [*questions, "--length", "24"]):
        with pytest.raises(KeyboardInterrupt):
            main([*asked, *columns])
    assert given == [of_texts, of_questions, 24]


def test_one_of_several_texts_is_chosen(folder, tmp_path):
    rows = [
        {"q": "red a", "one": "red b", "two": "blue b", "right": "one"},
        {"q": "blue a", "one": "red c", "two": "blue c", "right": "two"},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows * 24)))
    file, options = str(tmp_path / "train.jsonl"), command(folder, tmp_path / "out")
    roles = ["--text", "q", "--choices", "one", "two", "--label", "right"]
    main([*options[:3], "--train", file, "--dev", file, *roles, *options[9:], "--epochs", "2", "--seeds", "1"])
    spread = read_config(Spread, tmp_path / "out/spread.json")
    assert spread.kind == "choices"
    asked = Roles(text="q", choices=("one", "two"), label=("right",))
    model = str(tmp_path / "out/model")
    assert score_rows(model, file, roles=asked).score == pytest.approx(spread.median)
    said = list(predictions(model, open_table(file), roles=asked))
    right = sum(row["predicted"] == row["right"] for row in said)
    assert 100 * right / len(said) == pytest.approx(spread.median)
    assert all(row["scores"][row["predicted"]] == row["score"] >= 0.5 for row in said)
