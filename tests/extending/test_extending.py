"""The examples of CONTRIBUTING: files outside the package that bring a term, an objective, a task, a callback, run as commands."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import train as train_script
from distilbert_jax.base.config_io import load_config
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.experiments.report import report
from distilbert_jax.finetuning import tasks
from distilbert_jax.pretraining import objective_table
from distilbert_jax.training import callbacks, terms
from tests import runs

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is forgotten after it."""
    for registry in (terms.TERMS, objective_table.OBJECTIVES, tasks.TASKS, callbacks.CALLBACKS):
        monkeypatch.setattr(registry, "_rows", dict(registry._rows))
        monkeypatch.setattr(registry, "_files", dict(registry._files))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder that has nothing of the repository, where commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(world, **more):
    """Options of a run that a test can afford."""
    sizes = {
        f"model.{name.replace('_', '-')}": value for name, value in vars(runs.STUDENT).items() if name in runs.SIZES
    }
    options = {
        **sizes,
        "model.num-hidden-layers": 1,
        "steps": 8,
        "data.corpus": world.corpus,
        "data.heldout": world.heldout,
        "data.length": 32,
        "data.batch-size": 8,
        "masking.weighting": "uniform",
        "run.directory": "run",
        "run.save-every": 4,
        "run.log-every": 4,
        **more,
    }
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def edited(name, old, new):
    text = (HERE / name).read_text()
    assert old in text
    return text.replace(old, new)


def command(file, *options):
    train_script.main([file, *options])


def copy(name):
    return str(shutil.copy(HERE / name, name))


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_term_of_ones_own_trains_and_is_logged_on_the_terminal_and_held_out(world, outside, capfd):
    command(copy("own_term.py"), *tiny(world, teacher=world.teacher))
    entries = runs.entries(outside / "run")
    train, held = ([entry for entry in entries if entry["kind"] == kind] for kind in ("train", "eval"))
    for entry in train:
        parts = 5 * entry["loss_ce"] + 2 * entry["loss_mlm"] + entry["loss_cos"] + 0.1 * entry["loss_norm"]
        assert entry["loss"] == pytest.approx(parts, rel=1e-5)
    assert train[0]["loss_norm"] > 0 < held[-1]["loss_norm"]
    assert f"norm {train[-1]['loss_norm']:.3f}" in capfd.readouterr().err
    assert "term norm" in json.loads((outside / "run" / "inputs.json").read_text())
    rows = report(["run"], "out", length=16)
    assert rows["run"].heldout_parts["loss_norm"] == held[-1]["loss_norm"]
    assert "norm, held out in the run" in Path("out/report.md").read_text()


def test_a_term_of_ones_own_has_a_flag_for_its_weight(world, outside, capsys):
    file = copy("own_term.py")
    with pytest.raises(SystemExit) as left:
        train_script.main([file, "--help"])
    assert left.value.code == 0
    assert "--loss.own.norm" in capsys.readouterr().out


def test_an_edited_term_is_refused_when_the_run_goes_on(world, outside):
    options = tiny(world, teacher=world.teacher, **{"data.heldout": ""})
    command(copy("own_term.py"), *options)
    shutil.rmtree("run/model")
    Path("own_term.py").write_text(edited("own_term.py", "a sum over the tokens", "the sum"))  # a docstring
    command("own_term.py", *options)
    Path("own_term.py").write_text(edited("own_term.py", "jnp.square(ours - theirs)", "jnp.abs(ours - theirs)"))
    assert "term norm" in str(refusal(command, "own_term.py", *options)), "of a finished run"
    shutil.rmtree("run/model")
    assert "term norm" in str(refusal(command, "own_term.py", *options))


TERM = "    return jnp.sum(at.weights * jnp.square(ours - theirs))"
ROW = (HERE / "own_term.py").read_text().splitlines().index(TERM) + 1


@pytest.mark.parametrize(
    ("instead", "row"),
    [
        ("    return at.weights * ours", None),
        ("    return at.weights.sum().astype(jnp.bfloat16)", None),
        ("    return 1", None),
        ("    return undefined", ROW),
        ("    return jnp.sum(ours @ theirs @ ours)", ROW),
        ("    return student.logits.sum()", ROW),
        ("    raise SystemExit", ROW),
        ("    return ours.sum() if ours.sum() > 0 else theirs.sum()", ROW),
    ],
)
def test_a_term_that_breaks_its_promise_is_named_with_its_file_before_any_step(world, outside, instead, row):
    Path("own_term.py").write_text(edited("own_term.py", TERM, instead))
    error = refusal(command, "own_term.py", *tiny(world, teacher=world.teacher))
    assert (Path(error.path).name, error.field, error.row) == ("own_term.py", "term 'norm'", row)
    assert len(str(error)) < len(error.path) + 250
    assert ("needs" in (error.hint or "")) == ("logits" in instead)
    assert not Path("run/metrics.jsonl").exists()


@pytest.mark.parametrize(
    "instead",
    [
        "    return jnp.sum(at.weights * jnp.log(ours - ours - 1.0))",
        "    return jnp.sum(at.weights * jnp.sqrt(ours - ours))",  # its gradient alone is not finite
    ],
)
def test_a_term_that_is_not_finite_at_the_first_step_is_named_with_its_file(world, outside, instead):
    Path("own_term.py").write_text(edited("own_term.py", TERM, instead))
    error = refusal(command, "own_term.py", *tiny(world, teacher=world.teacher))
    assert "own_term.py" in str(error)
    assert "term 'norm'" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"norm", needs', '"kl", needs', "kl"),
        ('"norm", needs', '"a b", needs', "a b"),
        ('("last_hidden_state",)', '("hidden",)', "needs"),
        ('("last_hidden_state",)', '("labels",)', "over"),
        ('over="tokens"', 'over="words"', "over"),
    ],
)
def test_a_term_that_cannot_be_registered_is_refused_with_its_file(outside, old, new, field):
    Path("own_term.py").write_text(edited("own_term.py", old, new))
    error = refusal(load_config, "own_term.py", PretrainConfig)
    assert (Path(error.path).name, error.field) == ("own_term.py", field)


def test_an_unknown_term_is_answered_with_the_nearest(world, outside):
    Path("own_term.py").write_text(edited("own_term.py", '{"norm"', '{"nrom"'))
    error = refusal(command, "own_term.py", *tiny(world, teacher=world.teacher))
    assert (error.field, error.hint) == ("loss.own.nrom", "did you mean 'norm'?")


def test_an_objective_of_ones_own_trains_and_is_evaluated_on_held_out_text(world, outside):
    options = tiny(world)
    command(copy("own_objective.py"), *options)
    entries = runs.entries(outside / "run")
    for entry in entries[:8]:
        assert entry["loss"] == pytest.approx(0.9 * entry["loss_mlm"] + 0.1 * entry["loss_uniform"], rel=1e-5)
    held = entries[-1]
    assert held["kind"] == "eval"
    assert held["loss_mlm"] > 0 < held["loss_uniform"] < 20
    shutil.rmtree("run/model")
    Path("own_objective.py").write_text(edited("own_objective.py", "SMOOTHING = 0.1", "SMOOTHING = 0.2"))
    assert "objective smoothed_masked_lm" in str(refusal(command, "own_objective.py", *options))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return Objective(given.prepare, sums, parts)", "return sums"),
        ('Part("masked", SMOOTHING)', 'Part("words", SMOOTHING)'),
        ('"loss_uniform": jnp.sum', '"loss_smooth": jnp.sum'),
        ('jnp.sum(batch["masked_weights"] * uniform)', "uniform"),
        ('batch["labels"], batch["masked_weights"]', 'batch["labels"], batch["weights"]'),
        ("1.0 - SMOOTHING", "0.0 * SMOOTHING"),
    ],
)
def test_an_objective_that_breaks_its_promise_is_named_with_its_file_before_any_step(world, outside, old, new):
    text = edited("own_objective.py", old, new)
    Path("own_objective.py").write_text(text.replace("SMOOTHING = 0.1", "SMOOTHING = 0.0") if "0.0 *" in new else text)
    error = refusal(command, "own_objective.py", *tiny(world))
    assert Path(error.path).name == "own_objective.py"
    assert error.field.startswith("objective 'smoothed_masked_lm'")
    assert not Path("run/metrics.jsonl").exists()


def test_a_task_of_ones_own_is_fine_tuned_and_scored(world, outside):
    for split, rows in {"train": 16, "validation": 8}.items():
        texts = [f"{'red' if i % 2 else 'blue'}a goes to redb" for i in range(rows)]
        runs.write_split(Path("data"), "weather", split, {"text": texts, "label": [i % 2 for i in range(rows)]})
    options = [
        "--model",
        world.teacher,
        "--epochs",
        "1",
        "--length",
        "16",
        "--batch-size",
        "8",
        "--run.directory",
        "run",
    ]
    command(copy("own_task.py"), *options, "--no-save-model")
    result = json.loads(Path("run/results.json").read_text())
    assert (result["task"], set(result["scores"]["validation"])) == ("weather", {"accuracy", "score"})
    Path("own_task.py").write_text(edited("own_task.py", '("dry", "rain")', '("dry", "wet")'))
    assert "task" in str(refusal(command, "own_task.py", *options, "--save-model"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('("accuracy",)', '("acuracy",)'),
        ('("accuracy",)', "()"),
        ('("accuracy",)', '("pearson",)'),
        ('labels=("dry", "rain")', "labels=()"),
        ('columns=("text",)', "columns=()"),
        ('Task("weather"', 'Task("rte"'),
    ],
)
def test_a_task_that_cannot_be_is_refused_with_its_file(outside, old, new):
    Path("own_task.py").write_text(edited("own_task.py", old, new))
    error = refusal(load_config, "own_task.py", FinetuneConfig)
    assert (Path(error.path).name, error.field) == ("own_task.py", "rte" if "rte" in new else "weather")


def test_a_callback_of_ones_own_is_called_with_the_state_every_so_often_and_at_the_end(world, outside):
    command(copy("own_callback.py"), *tiny(world))
    lines = [line.split() for line in Path("run/norms.txt").read_text().splitlines()]
    assert [(step, kind) for step, kind, _ in lines] == [("5", "train"), ("8", "train"), ("8", "eval")]
    assert float(lines[0][2]) > 0
    assert [entry["step"] for entry in runs.entries(Path("run"))] == [*range(1, 9), 8]
    weights = runs.weights(Path("run/model"))
    command("own_callback.py", *tiny(world, **{"run.directory": "without"}), "--run.callbacks")
    assert runs.weights(Path("without/model")) == weights


def test_a_callback_that_raises_is_named_with_its_file_and_the_run_goes_on_without_it(world, outside):
    Path("own_callback.py").write_text(edited("own_callback.py", "encoder.embeddings.word", "word"))
    error = refusal(command, "own_callback.py", *tiny(world))
    assert (Path(error.path).name, error.field, error.row) == ("own_callback.py", "callback 'embedding-norm'", 10)
    command("own_callback.py", *tiny(world), "--run.callbacks")
    assert [entry["step"] for entry in runs.entries(Path("run"))] == [*range(1, 9), 8]


def test_an_unknown_callback_is_answered_with_the_nearest(world, outside):
    copy("own_callback.py")
    error = refusal(command, "own_callback.py", *tiny(world), "--run.callbacks", "embeding-norm")
    assert (error.field, error.hint) == ("run.callbacks", "did you mean 'embedding-norm'?")
    assert not Path("run").exists()


def test_without_wandb_a_run_that_asks_for_it_says_how_to_install_it(world, outside, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = runs.pretraining(world, outside / "run", run__wandb="project")
    error = refusal(runs.train, config)
    assert (error.field, error.hint) == ("run.wandb", "pip install wandb")
    assert not Path("run").exists()


def test_wandb_has_every_step_once_also_of_a_run_that_goes_on(world, outside, monkeypatch):
    logged, begun, ended = [], [], []

    class Run:
        step = 0

        def log(self, values, step):
            logged.append((step, next(iter(values)).partition("/")[0]))

        def finish(self):
            ended.append(True)

    def init(**given):
        begun.append(given)
        there = Run()
        there.step = logged[-1][0] + 1 if logged else 0
        return there

    fake = SimpleNamespace(init=init, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = runs.pretraining(
        world, outside / "run", steps=8, data__heldout="", run__wandb="project", run__log_every=2, run__save_every=4
    )
    runs.train(config)
    assert logged == [(step, "train") for step in (2, 4, 6, 8)]
    # As if killed after step 6, whose checkpoint is that of step 4.
    shutil.rmtree("run/checkpoints/8")
    shutil.rmtree("run/model")
    del logged[3:]
    runs.train(dataclasses.replace(config))
    assert logged == [(step, "train") for step in (2, 4, 6, 8)]
    assert begun[0]["project"] == "project"
    assert begun[0]["config"]["steps"] == 8
    assert begun[0]["id"] == begun[1]["id"]
    assert begun[0]["reinit"] == "create_new", "else the runs of a process are the first of them"
    assert ended == [True, True]
