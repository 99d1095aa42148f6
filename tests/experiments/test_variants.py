"""Variants of one field: what they are, in which groups they train, and the settings in which a report says they differ."""

from pathlib import Path

import pytest

from distilbert_jax.cli import experiments as command
from distilbert_jax.config import (
    ExperimentConfig,
    FinetuneConfig,
    InitConfig,
    KLConfig,
    LossConfig,
    MaskingConfig,
    PretrainConfig,
    RunConfig,
    Schedule,
    SweepConfig,
    Variant,
    student_config,
)
from distilbert_jax.experiments import experiment, views
from distilbert_jax.experiments.figures import ComparisonWith, SeedFigures
from distilbert_jax.experiments.variants import swept
from distilbert_jax.glue.results import Comparison, Interval
from tests import runs
from tests.runs import BERT, change, refused

OUT = "runs/variants"
TEACHER = PretrainConfig(BERT, run=RunConfig(directory=f"{OUT}/teacher"), data=change(PretrainConfig().data, length=16))
STUDENT = change(
    TEACHER,
    model=student_config(BERT, 1),
    objective="distillation",
    teacher=f"{OUT}/teacher/model",
    init=InitConfig(source=f"{OUT}/first/model"),
    run__directory=f"{OUT}/student",
)
FIRST = change(STUDENT, init=InitConfig(), run__directory=f"{OUT}/first")
OTHER = change(STUDENT, init=InitConfig(), run__directory=f"{OUT}/other", loss=runs.loss(1.0))
PLAIN = change(TEACHER, run__directory=f"{OUT}/plain")


def variant(name, config):
    return Variant(name, (0, 1), pretrain=config)


GIVEN = ExperimentConfig(
    directory=OUT,
    variants=(
        variant("teacher", TEACHER),
        variant("plain", PLAIN),
        variant("first", FIRST),
        variant("other", OTHER),
        variant("student", STUDENT),
    ),
    teacher="teacher",
    student="student",
    tokenizer="tokenizer",
    tasks=("sst2",),
)


def sweep(field, *values, given=GIVEN):
    return swept(given, field, values, command._with_options)


def made(field, *values):
    """The new variants: {name: config}."""
    names = {one.name for one in GIVEN.variants}
    return {one.name: one.pretrain for one in sweep(field, *values).variants if one.name not in names}


def test_a_sweep_makes_a_variant_of_each_value_and_keeps_what_it_needs():
    result = sweep("loss.kl.weight", "1", "2", "5", "linear:5:1")
    assert [one.name for one in result.variants] == [
        "teacher",
        "first",
        "student",
        "kl.weight=1",
        "kl.weight=2",
        "kl.weight=linear:5:1",
    ], "5 is the student's own; plain and other are not needed"
    weights = [one.pretrain.loss.kl.weight for one in result.variants[2:]]
    assert weights == [5.0, 1.0, 2.0, Schedule("linear", 5.0, 1.0)]
    for one in result.variants[3:]:
        assert one.seeds == (0, 1)
        assert one.pretrain.run.directory == f"{OUT}/{one.name}"
        loss = change(one.pretrain.loss, kl=KLConfig())
        assert change(one.pretrain, run=STUDENT.run, loss=loss) == STUDENT, "nothing else has changed"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("optimizer.learning-rate", "1e-3", change(STUDENT, optimizer__learning_rate=1e-3)),
        ("masking.probability", "0.3", change(STUDENT, masking=MaskingConfig(probability=0.3))),
        ("steps", "7", change(STUDENT, steps=7)),
        ("init.layers", "0,1", change(STUDENT, init__layers=(0, 1))),
        ("init.fold_token_type", "false", change(STUDENT, init__fold_token_type=False)),
        ("loss.own.norm", "2", change(STUDENT, loss=LossConfig(own={"norm": 2.0}))),
        ("run.seed", "3", change(STUDENT, run__seed=3)),
    ],
)
def test_any_field_of_the_students_config_can_be_swept(field, value, expected):
    ((name, config),) = made(field, value).items()
    assert name == f"{'.'.join(field.split('.')[-2:])}={value}"
    assert change(config, run__directory=STUDENT.run.directory) == expected


@pytest.mark.parametrize(
    ("field", "values", "hint"),
    [
        ("loss.kl.wieght", ("1",), "loss.kl.weight"),
        ("los.kl.weight", ("1",), "loss.kl.weight"),
        ("run.directory", ("a",), ""),
        ("loss.kl.weight", (), ""),
        ("loss.kl.weight", ("1", "1"), ""),
        ("loss.kl.weight", ("2", "2.0"), ""),
        ("run.log_every", ("1", "2"), ""),
        ("data.corpus", ("a/b", "a_b"), ""),
        ("init.fold_token_type", ("maybe",), ""),
    ],
)
def test_a_field_that_is_not_there_is_answered_with_the_nearest(field, values, hint):
    refused(lambda: sweep(field, *values), field, field="--sweep", hint=hint)


def test_a_field_behind_glue_is_of_the_fine_tuning_of_the_students_model():
    teacher = "runs/{task}-0/model"
    result = sweep("glue.distill.teacher", "", teacher)
    assert [one.name for one in result.variants] == [
        "teacher",
        "first",
        "student",
        "glue.distill.teacher=runs_{task}-0_model",
    ]
    student, taught = result.variants[2:]
    assert (taught.pretrain, taught.model, taught.seeds) == (None, f"{OUT}/student/model", (0, 1))
    assert result.glue_of(student) == GIVEN.glue
    assert result.glue_of(taught) == change(GIVEN.glue, distill__teacher=teacher)
    assert names(experiment.side_by_side(result, result.variants)) == [[one.name] for one in result.variants]
    plain = change(GIVEN, variants=(GIVEN.variants[0], Variant("student", (0,), model="somewhere")))
    frozen = sweep("glue.freeze", "encoder", given=plain).variants[-1]
    assert (frozen.name, frozen.model, frozen.glue.freeze) == ("glue.freeze=encoder", "somewhere", "encoder")
    assert sweep("glue.select", "true", "false").variants[-1].name == "glue.select=true"
    assert sweep("glue.run.dtype", "bfloat16").variants[-1].name != sweep("run.dtype", "bfloat16").variants[-1].name
    of_its_own = change(GIVEN, variants=(*GIVEN.variants[:-1], change(GIVEN.variants[-1], glue=frozen.glue)))
    assert sweep("loss.kl.weight", "1", given=of_its_own).variants[-1].glue == frozen.glue


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("glue.distil.alpha", "1", "glue.distill.alpha"),
        ("glue.model", "a", "says it of each variant"),
        ("glue.task", "rte", "says it of each variant"),
        ("glue.run.seed", "1", "says it of each variant"),
        ("glue.save_model", "false", "changes nothing"),
        ("glue.optimizer.learning-rate", "1e-4", "0.001, 0.005"),
    ],
)
def test_fields_of_fine_tuning_that_make_no_variants_are_told(field, value, says):
    given = change(GIVEN, sweep=SweepConfig(learning_rate=(1e-3, 5e-3)))
    refused(lambda: sweep(field, value, given=given), field, says, field="--sweep")


def test_a_field_of_fine_tuning_without_effect_is_told_as_on_the_command_line():
    refused(lambda: sweep("glue.distill.temperature", "3"), "--distill.teacher", field="--distill.temperature")


def test_a_value_that_does_not_fit_is_told_as_on_the_command_line():
    refused(lambda: sweep("loss.kl.weight", "high"), "'high'", field="--loss.kl.weight")
    refused(lambda: sweep("data.length", "1024"), "1024")


def test_a_student_that_is_not_trained_has_no_fields():
    only = Variant("student", (0,), model="somewhere")
    given = change(GIVEN, variants=(GIVEN.variants[0], only))
    refused(lambda: sweep("loss.kl.weight", "1", given=given), "student", field="--sweep")


def names(groups):
    return [[one.name for one in group] for group in groups]


def test_students_of_one_teacher_train_side_by_side_after_what_they_begin_with():
    groups = experiment.side_by_side(GIVEN, GIVEN.variants)
    assert names(groups) == [["teacher"], ["plain"], ["first", "other"], ["student"]]
    assert names(experiment.side_by_side(GIVEN, GIVEN.variants[3:])) == [["other", "student"]]
    apart = change(GIVEN, together=False)
    assert names(experiment.side_by_side(apart, GIVEN.variants)) == [[one.name] for one in GIVEN.variants]


def test_those_that_cannot_are_named_with_the_field_and_train_in_turn(capsys, monkeypatch):
    odd = variant("odd", change(OTHER, run__directory=f"{OUT}/odd", data__batch_size=8))
    groups = experiment.side_by_side(GIVEN, (*GIVEN.variants[2:4], odd))
    assert names(groups) == [["first", "other"], ["odd"]]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("odd: ")
    assert "data.batch_size: 32 → 8" in line
    taken = []
    monkeypatch.setattr(
        experiment, "pretrain_together", lambda configs: taken.append([one.run.directory for one in configs])
    )
    monkeypatch.setattr(experiment, "pretrain", lambda config: taken.append(config.run.directory))
    for group in groups:
        experiment.train(GIVEN, group)
    assert taken == [[f"{OUT}/first", f"{OUT}/other"], f"{OUT}/odd"]


def test_a_report_shows_the_settings_in_which_runs_differ():
    scheduled = change(
        OTHER, loss__kl=KLConfig(Schedule("linear", 5.0, 1.0)), run__directory="elsewhere", run__log_every=9
    )
    table = views.settings({"first": FIRST, "scheduled": scheduled, "model": None})
    assert table == [["", "first", "scheduled", "model"], ["loss.kl.weight", "5.0", "linear:5:1", "–"]]
    assert views.settings({"first": FIRST, "again": change(FIRST, run__directory="again")}) == []
    text = views.markdown({}, [], {"first": FIRST, "other": OTHER})
    assert text.count("loss.kl.weight") == 1


def test_a_report_shows_in_what_the_fine_tuning_of_runs_differs():
    plain, frozen = (
        FinetuneConfig(task="rte", freeze=one, save_model=one == "nothing") for one in ("nothing", "encoder")
    )
    tunings = {"a": [plain, change(plain, task="sst2", epochs=3)], "b": [frozen, change(frozen, run__seed=1)], "c": []}
    assert views.settings(dict.fromkeys(tunings), tunings) == [
        ["", "a", "b", "c"],
        ["glue.epochs", "several", "–", "–"],
        ["glue.freeze", "nothing", "encoder", "–"],
    ]


def test_intervals_of_what_is_equal_have_no_sign():
    nothing = Comparison(
        share=Interval(100 - 1e-14, 100.0, 100.0), difference=Interval(-1e-14, -1e-14, 1e-14), tasks={}
    )
    against = ComparisonWith(**vars(nothing), name="other")
    lines = views.over_seeds({"a": SeedFigures(runs=("a", "b"), score=50.0, of_teacher=nothing, against=against)})
    assert lines[1][1:] == ["50.0", "100.0 (100.0 to 100.0)", "+0.0 (+0.0 to +0.0)"]


def test_every_metric_has_a_curve(tmp_path, monkeypatch):
    lines = [
        '{"kind": "train", "step": 1, "loss": 3.0, "loss_ce": 1.0, "loss_mlm": 2.0, "kl_weight": 5.0, "tokens": 9, "seconds": 1}',
        '{"kind": "eval", "step": 1, "mlm_loss": 2.5, "kl_to_teacher": 0.5, "loss_ce": 1.5, "perplexity": 12.0, "tokens": 3}',
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text("\n".join(lines) + "\n")
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set",
        lambda self, title, **_: drawn.append((title, [tuple(line.get_ydata()) for line in self.lines])),
    )
    views.curves([Path(tmp_path / "run")], tmp_path / "curves.png")
    assert dict(drawn) == {
        "masked-LM loss, nats a token": [(2.0,), (2.5,)],
        "KL to the teacher, nats a masked token": [(0.5,)],
        "loss": [(3.0,)],
        "ce": [(1.0,), (1.5,)],
        "kl weight": [(5.0,)],
        "perplexity": [(12.0,)],
    }
