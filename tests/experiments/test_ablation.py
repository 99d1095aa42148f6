import json
from pathlib import Path

import pytest
from flax import nnx

from distilbert_jax.base.config_io import read_config
from distilbert_jax.config import DataConfig, FinetuneConfig, ModelConfig, PretrainConfig, RunConfig
from distilbert_jax.errors import InputError
from distilbert_jax.experiments import ablation
from distilbert_jax.models import BertModel
from distilbert_jax.pretraining.evaluate import HeldoutFigures
from tests import runs
from tests.glue.examples import run


def test_a_change_is_that_of_pairs_of_one_seed():
    row = lambda score, **more: ablation.AblationRun(score=score, tasks={"sst2": score}, **more)
    found = ablation.changes(
        {
            "full": [row(80.0, mlm_loss=2.0), row(70.0, mlm_loss=3.0), row(60.0, mlm_loss=4.0)],
            "no_ce": [row(79.0, mlm_loss=2.5), row(71.0, mlm_loss=3.5), row(57.0, mlm_loss=4.5)],
        }
    )
    assert found["full"].change == 0.0
    lost = found["no_ce"]
    assert (lost.score, lost.change, lost.change_min, lost.change_max) == (71.0, -1.0, -3.0, 1.0)
    assert (lost.paper, lost.mlm_loss, lost.kl_to_teacher, lost.seeds) == (-2.96, 3.5, None, 3)
    lines = dict(line.strip("| ").split(" | ", 1) for line in ablation.markdown(found).splitlines()[2:])
    assert lines == {
        "score": "70.0 | 71.0",
        "change, mean": "+0.00 | -1.00",
        "lowest": "+0.00 | -3.00",
        "highest": "+0.00 | +1.00",
        "paper's change": "– | -2.96",
        "sst2": "70.0 | 71.0",
        "masked-LM loss": "3.000 | 3.500",
        "KL to the teacher": "– | –",
    }


def test_variants_without_a_reference_or_with_nothing_beside_it_are_refused(tmp_path):
    for names in (("no_ce", "no_cos"), ("full",), ()):
        with pytest.raises(InputError) as caught:
            ablation.run_ablation({name: PretrainConfig() for name in names}, FinetuneConfig(), tmp_path / "out")
        assert caught.value.field == "config"


def test_tasks_are_looked_for_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "pretrain", lambda *_: pytest.fail("something was trained"))
    configs = {"full": PretrainConfig(), "no_ce": PretrainConfig()}
    for name in ("sst2", "mrpc"):
        (tmp_path / name).mkdir()
    (tmp_path / "sst2/train.parquet").touch()
    (tmp_path / "mrpc/validation.parquet").touch()
    glue = FinetuneConfig(data=str(tmp_path))
    ask = lambda *tasks: ablation.run_ablation(configs, glue, tmp_path / "out", tasks)
    runs.refused(lambda: ask("sst2", "rt"), "'rt'", by="finetuning.tasks.find_task", field="task", hint="'rte'")
    for task in ("rte", "mrpc"):  # no folder; none to train on
        runs.refused(lambda task=task: ask("sst2", task), task, by="experiments.ablation._check", path=f"{tmp_path}")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ("sst2", "rte")}, {"by": "finetuning.datasets._file", "path": "rte/validation.parquet"}),
        ({"tasks": ("sst2", "cola")}, {"path": "cola/train.parquet", "field": "sentence"}),
        ({"length": 64}, {"by": "glue.sweep.check_shape", "field": "glue.length"}),
        ({"freeze": "encoder", "layer_decay": 0.5}, {"field": "layer_decay"}),
        ({"batch_size": 6, "optimizer__accumulate": 4}, {"by": "training.sharding.check_batch", "field": "batch_size"}),
        ({"run__callbacks": ("none",)}, {"field": "run.callbacks"}),
        ({"glue_seeds": (0, -1)}, {"field": "seed"}),
        ({"seeds": (0, -1)}, {"field": "seed"}),
        ({"distill__teacher": "none/{task}-{seed}", "glue_seeds": (3,)}, {"path": "none/sst2-3"}),
    ],
    ids=[
        "no dev",
        "columns",
        "length",
        "no effect",
        "micro-batches",
        "callbacks",
        "seeds of fine-tuning",
        "seeds",
        "teacher",
    ],
)
def test_what_fine_tuning_would_refuse_is_refused_before_anything_is_trained(changes, told, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "pretrain", lambda *_: pytest.fail("something was trained"))
    model = runs.change(ModelConfig.bert_base(), max_position_embeddings=32)
    where = lambda name: PretrainConfig(
        model, data=DataConfig(length=32), run=RunConfig(directory=str(tmp_path / name))
    )
    rows = {"sentence": ["red"], "label": [0]}
    for split in ("train", "validation"):
        runs.write_split(tmp_path, "sst2", split, rows)
        runs.write_split(tmp_path, "cola", split, {"text": ["red"], "label": [0]})
    runs.write_split(tmp_path, "rte", "train", {"sentence1": ["red"], "sentence2": ["red"], "label": [0]})
    asked = {
        name: changes.get(name, usual) for name, usual in (("tasks", ("sst2",)), ("seeds", (0,)), ("glue_seeds", (0,)))
    }
    of_config = {name: value for name, value in changes.items() if name not in asked}
    glue = runs.change(FinetuneConfig(data=str(tmp_path)), **{"length": 16, **of_config})
    configs = {"full": where("a"), "no_ce": where("b")}
    runs.refused(lambda: ablation.run_ablation(configs, glue, tmp_path / "out", **asked), **told)


def test_what_is_asked_for_is_checked_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "pretrain", lambda *_: pytest.fail("something was trained"))
    where = lambda directory: runs.change(PretrainConfig(), run__directory=str(directory))
    configs = {"full": where(tmp_path / "a"), "no_ce": where(tmp_path / "b")}
    (tmp_path / "tuning.py").write_text("")

    def ask(tasks=("sst2",), seeds=(0,), glue_seeds=(0,), out=tmp_path / "out"):
        ablation.run_ablation(configs, FinetuneConfig(), out, tasks, seeds, glue_seeds)

    runs.refused(lambda: ask(tasks=()), by="experiments.ablation._check", field="--tasks")
    runs.refused(lambda: ask(tasks=("sst2", "sst2")), "sst2", by="experiments.ablation._check", field="--tasks")
    runs.refused(lambda: ask(glue_seeds=()), by="experiments.ablation._check", field="--glue-seeds")
    runs.refused(lambda: ask(glue_seeds=(1, 1)), by="experiments.ablation._check", field="--glue-seeds")
    runs.refused(lambda: ask(seeds=(1, 1)), by="experiments.ablation._check", field="--seeds")
    runs.refused(
        lambda: ask(out=tmp_path / "tuning.py"), by="base.files.check_writable", path="tuning.py", field="--out"
    )
    configs["no_ce"] = where(f"{tmp_path}/b/../a")
    runs.refused(ask, by="experiments.ablation._check", path="a-0", field="run.directory")
    configs["no_ce"] = where("")
    runs.refused(ask, by="experiments.ablation._directory", field="run.directory")


def test_every_config_has_every_seed_of_pre_training_in_a_directory_of_its_own(tmp_path, monkeypatch):
    trained = []

    def pretrain(config):
        trained.append((Path(config.run.directory).name, config.run.seed))
        return Path(config.run.directory) / "model"

    def run_sweep(config, tasks, seeds):
        assert config.model == f"{Path(config.run.directory).parent}/model"
        return [run(Path(config.run.directory), task, seed, 5 + trained[-1][1]) for task in tasks for seed in seeds]

    monkeypatch.setattr(ablation, "pretrain", pretrain)
    monkeypatch.setattr(ablation, "run_sweep", run_sweep)
    where = lambda name: runs.change(PretrainConfig(), run__directory=str(tmp_path / name))
    configs = {name: where(name) for name in ("full", "no_ce")}
    ablation.run_ablation(configs, FinetuneConfig(), tmp_path / "out", ("sst2",), (1, 2), (0,))
    assert trained == [("full-1", 1), ("no_ce-1", 1), ("full-2", 2), ("no_ce-2", 2)]
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["score"] for row in found["runs"]["full"]] == pytest.approx([60.0, 70.0])
    assert "mlm_loss" not in found["runs"]["full"][0], "there is no held-out text"
    assert found["changes"]["full"]["mlm_loss"] is None
    assert read_config(ablation.AblationResults, tmp_path / "out/results.json").changes["no_ce"].seeds == 2


def test_a_teacher_that_terms_cannot_be_computed_with_is_told_before_anything_is_trained(world, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "pretrain", lambda *_: pytest.fail("something was trained"))
    BertModel(runs.BERT, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "bare")
    for split in ("train", "validation"):
        runs.write_split(tmp_path, "sst2", split, {"sentence": ["red"], "label": [0]})
    where = lambda name, teacher: runs.change(
        PretrainConfig(runs.BERT, data=DataConfig(length=16)),
        objective="distillation",
        teacher=teacher,
        run__directory=str(tmp_path / name),
    )
    configs = {"full": where("full", str(world.path / "teacher")), "other": where("other", str(tmp_path / "bare"))}
    runs.refused(
        lambda: ablation.run_ablation(
            configs, FinetuneConfig(length=16, data=str(tmp_path)), tmp_path / "out", ("sst2",)
        ),
        field="teacher",
        path=str(tmp_path / "bare"),
    )
    # One that another variant is, and that is yet to be trained.
    configs = {"full": where("full", str(world.path / "teacher")), "other": where("other", f"{tmp_path}/full-0/model/")}
    with pytest.raises(pytest.fail.Exception):  # no mistake is found, and the work begins
        ablation.run_ablation(
            configs, FinetuneConfig(length=16, data=str(tmp_path)), tmp_path / "out", ("sst2",), (0,), (0,)
        )


def test_held_out_figures_of_variants_are_of_one_text_read_in_one_way(tmp_path, monkeypatch):
    asked = []
    held = HeldoutFigures(mlm_loss=2.0, mlm_accuracy=0.5, perplexity=7.4, tokens=9)
    monkeypatch.setattr(ablation, "pretrain", lambda config: Path(config.run.directory) / "model")
    monkeypatch.setattr(ablation, "run_sweep", lambda config, *_: [run(Path(config.run.directory), "sst2", 0, 9)])
    monkeypatch.setattr(ablation, "evaluate_mlm", lambda model, *heldout, **how: asked.append((*heldout, how)) or held)
    monkeypatch.setattr(ablation, "check_teacher_at", lambda *_: None)
    where = lambda name, **changes: runs.change(
        PretrainConfig(),
        **{"run__directory": str(tmp_path / name), "data__heldout": "held", "data__length": 64, **changes},
    )
    full = where("full", objective="distillation", teacher="bert")
    other = where("other", objective="distillation", teacher="small", data__length=16)
    ask = lambda other: ablation.run_ablation({"full": full, "other": other}, FinetuneConfig(), tmp_path, ("sst2",))
    ask(other)
    assert asked == 2 * [("held", {"teacher": "bert", "length": 64, "sequences": "line"})]
    monkeypatch.setattr(ablation, "pretrain", lambda *_: pytest.fail("something was trained"))
    for field, changes in (
        ("data.heldout", {"data__heldout": "other"}),
        ("data.heldout", {"data__heldout": ""}),
        ("model.max_position_embeddings", {"data__length": 16, "model__max_position_embeddings": 32}),
    ):
        refused = lambda changes=changes: ask(where("other", **changes))
        runs.refused(refused, by="experiments.ablation._check_heldout", field=field)
    full = where("full", objective="masked_lm_nsp", data__sequences="pair", model=ModelConfig.bert_base())
    student = where("other", model=ModelConfig.distilbert_base())
    runs.refused(lambda: ask(student), by="experiments.ablation._check_heldout", field="data.sequences")


@pytest.mark.slow
def test_every_config_is_trained_tuned_and_compared_and_found_again(world, tmp_path, capsys):
    (tmp_path / "glue").mkdir()
    full = runs.distilling(world, tmp_path / "full", data__heldout=world.heldout, steps=4)
    # What differs is no part of the program, which is compiled once.
    slow = runs.change(full, optimizer__learning_rate=1e-4, run__directory=str(tmp_path / "slow"))
    configs = {"full": full, "slow": slow}
    sentences = {"sentence": ["reda redb", "bluea blueb"] * 8, "label": [0, 1] * 8}
    for split in ("train", "validation"):
        runs.write_split(tmp_path / "glue", "sst2", split, sentences)
    tuning = FinetuneConfig(data=str(tmp_path / "glue"), length=16, batch_size=8, epochs=1)
    ask = lambda: ablation.run_ablation(configs, tuning, tmp_path / "out", ("sst2",), (1,), (0,))
    ask()
    first = json.loads((tmp_path / "out/results.json").read_text())
    assert {name: len(rows) for name, rows in first["runs"].items()} == {"full": 1, "slow": 1}
    assert set(first["changes"]["slow"]["tasks"]) == {"sst2"}
    assert first["changes"]["slow"]["kl_to_teacher"] > 0
    capsys.readouterr()
    ask()
    said = capsys.readouterr()
    assert (said.out.count("finished before"), said.err.count("finished before")) == (2, 2)
    assert json.loads((tmp_path / "out/results.json").read_text()) == first
