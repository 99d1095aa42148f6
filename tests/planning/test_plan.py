import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from distilbert_jax.base.config_io import from_json, to_json
from distilbert_jax.cli import main
from distilbert_jax.config import (
    AugmentConfig,
    DataConfig,
    DistillConfig,
    EmbeddingsConfig,
    FinetuneConfig,
    HiddenConfig,
    ModelConfig,
    PretrainConfig,
)
from distilbert_jax.errors import Interrupted
from distilbert_jax.finetuning.tuning import Tuning
from distilbert_jax.planning import compile as compiling
from distilbert_jax.planning import plan as planning
from distilbert_jax.planning import report
from distilbert_jax.planning.compile import Compiled
from distilbert_jax.planning.estimate import Work, plan_of
from distilbert_jax.planning.hlo import Operation
from distilbert_jax.planning.runs import FeaturesConfig, run_of
from distilbert_jax.planning.targets import CHIPS, parse_target
from tests.runs import ROOT, refused, write_split

GB = 10**9


def operation(scope="", *, cycles=0, bytes=0.0, flops=0.0, **more):
    return Operation("one", scope, 1, cycles, bytes, flops, **more)


def compiled(*operations, temporary=1 * GB, clock=1.5e9):
    return Compiled(
        operations=operations,
        argument_bytes=2 * GB,
        output_bytes=GB,
        temporary_bytes=temporary,
        aliased_bytes=GB,
        clock=clock,
        clock_calibrated=False,
        trace_seconds=1.0,
        compile_seconds=2.0,
        versions="jax",
    )


MODELS = "DistilBERT, 6 layers × 768, taught by BERT, 12 layers × 768; matmuls in bfloat16"
WORK = Work(models=MODELS, mesh="data 1", batch_size=64, length=128, accumulate=1, steps=1000, model_flops=1.97e12)
STEP = (
    operation("jit(step)/jvp(encoder)/dot_general", cycles=15_000_000, bytes=1e9, flops=1e12),
    operation("jit(step)/transpose(jvp(encoder))/dropout/ge", cycles=3_000_000, bytes=2e9),
    operation("jit(step)/jvp(vocabulary)/dot_general", cycles=6_000_000, bytes=3e9, flops=9e11),
    operation("jit(step)/kernel", flops=1.97e11, bytes=8.19e8),
    operation("", bytes=5e8, asynchronous=True),
    operation("", collective="all-reduce", sent=9e7, group=4),
    operation("", collective="all-reduce", sent=9e7, group=4, asynchronous=True),
)


def test_a_step_takes_the_cycles_of_its_parts_and_the_bounds_of_what_has_none():
    plan = plan_of(compiled(*STEP), parse_target("v5e:1x1"), WORK, price_per_chip_hour=2.0)
    parts = {part.name: part for part in plan.parts}
    assert {name: round(1e3 * part.seconds, 6) for name, part in parts.items()} == {
        "encoder": 10.0,
        "vocabulary and losses": 4.0,
        "dropout": 2.0,
        "other": 1.0,  # the kernel: its FLOPs at the peak, or its bytes at full bandwidth; the copy beside it takes none
        "collectives": 1.5,  # 2 · 3/4 of 90 MB over a link both ways
    }
    assert [part.name for part in plan.parts][:2] == ["encoder", "vocabulary and losses"]
    assert plan.seconds == pytest.approx(0.0185)
    assert plan.share_of_peak == pytest.approx(1.97e12 / (197e12 * 0.0185))
    assert plan.hours == pytest.approx(18.5 / 3600)
    assert plan.cost == pytest.approx(2 * 18.5 / 3600)
    assert plan.tokens_per_second == pytest.approx(64 * 128 / 0.0185)
    assert plan.hbm_bytes == pytest.approx(1e9 + 2e9 + 3e9 + 8.19e8 + 5e8)
    assert [(one.kind, one.group, one.overlapped) for one in plan.collectives] == [
        ("all-reduce", 4, False),
        ("all-reduce", 4, True),
    ]


def test_a_gpu_s_step_is_bounded_by_its_matmuls_and_by_its_bytes():
    gpu = parse_target("h100:1")
    moved = plan_of(compiled(operation(bytes=6.7e9), clock=None), gpu, WORK)
    assert moved.seconds == pytest.approx(2e-3)
    assert moved.method.startswith("bound")
    computed = plan_of(compiled(operation(bytes=1.0), clock=None), gpu, WORK)
    assert computed.share_of_peak == pytest.approx(1.0)
    wide = plan_of(compiled(operation(bytes=1.0), clock=None), gpu, dataclasses.replace(WORK, dtype="float32"))
    assert wide.seconds == pytest.approx(989 / 67 * computed.seconds)
    assert wide.share_of_peak == pytest.approx(1.0)
    assert wide.ridge == pytest.approx(67e12 / 3350e9)
    assert "float32" in wide.method
    tpu = parse_target("v5e:1x1")  # which has no other matmuls than those of bfloat16
    shares = {
        plan_of(compiled(*STEP), tpu, dataclasses.replace(WORK, dtype=dtype)).share_of_peak
        for dtype in ("float32", "bfloat16")
    }
    assert len(shares) == 1


@pytest.mark.parametrize(("temporary", "fits"), [(14 * GB, True), (14 * GB + 1, False)])
def test_a_step_fits_where_its_memory_does(temporary, fits):
    assert plan_of(compiled(temporary=temporary), parse_target("v5e:1x1"), WORK).fits is fits


def test_share_of_peak_is_a_fraction_and_the_first_share_of_the_json():
    plan = plan_of(compiled(*STEP), parse_target("v5e:1x1"), WORK)
    shares = [name for name in json.loads(to_json(plan)) if "share" in name]
    assert shares[0] == "share_of_peak"
    assert from_json(type(plan), to_json(plan)) == plan
    shown = report.lines(plan)
    for line in shown.splitlines():
        if any(unit in line for unit in (" ms", "tokens/s", "hours")) and not line.startswith(" "):
            assert "estimate" in line or line.startswith(("where", "collectives"))
    tokens = WORK.steps * WORK.batch_size * WORK.length / 1e9
    assert f"{tokens:,.2f} G tokens" in shown
    assert shown.count("(estimated)") == 3  # of the parts, of the collectives, of the run
    assert "taught by BERT" in shown
    assert "(8 chips)" in report.lines(plan_of(compiled(*STEP), parse_target("v5e:2x4"), WORK))
    table = report.comparison([plan])
    assert "v5e:1x1" in table
    assert "ms a step (estimated)" in table


def test_a_gpu_s_figures_are_called_bounds():
    plan = plan_of(compiled(*STEP, clock=None), parse_target("h100:1"), WORK)
    assert "estimate" not in report.lines(plan)
    assert "at least" in report.lines(plan)
    assert "hours (bound)" in report.comparison([plan])


def test_a_roofline_is_drawn(tmp_path):
    plan = plan_of(compiled(*STEP), parse_target("v5e:1x1"), WORK)
    report.roofline([plan, plan], 197e12, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def distilling():
    return PretrainConfig(
        model=ModelConfig.distilbert_base(),
        objective="distillation",
        teacher="bert-base-uncased",
        data=DataConfig(length=128, batch_size=64),
    )


@pytest.fixture
def compiler(monkeypatch):
    """A compiler whose program takes 1 GB and 0.3 GB a row; the batch sizes that it was asked for."""
    asked = []

    def compile_step(job):
        devices = parse_target(job.target).devices
        asked.append((job.run.batch_size, job.run.accumulate))
        rows = job.run.rows // job.run.accumulate / devices
        return compiled(*STEP, temporary=int(rows * 0.3 * GB) - GB)

    monkeypatch.setattr(planning, "compile_step", compile_step)
    return asked


def test_the_largest_batch_that_fits_is_found_by_four_compilations_at_most(distilling, compiler):
    plan = planning.largest_batch(distilling, "v5e:2x2")
    assert (plan.batch_size, plan.fits) == (4 * 48, True)  # 1 + 48 · 0.3 = 15.4 GB of 16
    assert len(compiler) <= 4
    assert compiler[-1][0] == 4 * 48


def test_the_fewest_micro_batches_that_fit_are_found(distilling, compiler):
    whole = dataclasses.replace(distilling, data=DataConfig(length=128, batch_size=240))
    plan = planning.fewest_micro_batches(whole, "v5e:1x1")
    assert (plan.accumulate, plan.batch_size, plan.fits) == (5, 240, True)  # 48 rows at a time; 60 would take 19 GB
    assert len(compiler) <= 4


def test_a_step_that_fits_at_no_batch_is_told(distilling, monkeypatch):
    monkeypatch.setattr(planning, "compile_step", lambda job: compiled(*STEP, temporary=20 * GB))
    refused(lambda: planning.largest_batch(distilling, "v5e:1x1"), "22.0", field="--target")


def test_a_batch_for_which_the_compiler_finds_no_program_is_one_that_does_not_fit(distilling, monkeypatch):
    asked = []

    def compile_step(job):
        asked.append(rows := job.run.batch_size)
        if rows > 40:
            said = f"the total memory required for HLO temporaries ({rows * 0.38:.2f}G) exceeds available HBM (15.75G)."
            raise compiling._refusal(
                f"x\nRESOURCE_EXHAUSTED: Ran out of memory on HBM, {said}\n", parse_target(job.target)
            )
        return compiled(*STEP, temporary=int(rows * 0.4 * GB) - 2 * GB)

    monkeypatch.setattr(planning, "compile_step", compile_step)
    assert planning.largest_batch(distilling, "v5e:1x1").batch_size == 32
    assert len(asked) <= 4
    with pytest.raises(compiling.DoesNotFitError) as told:
        planning.plan(distilling, "v5e:1x1")
    assert told.value.needed == pytest.approx(64 * 0.38 * 2**30)
    refused(lambda: planning.plan(distilling, "v5e:1x1"), "26.1", field="--target", hint="auto")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("error: mesh: it does not divide", "mesh: it does not divide"),
        ("Traceback\nValueError: what the compiler said", "ValueError: what the compiler said"),
        ("The TPU is already in use by another process: libtpu lockfile", "another process holds libtpu"),
        ("", "no word"),
    ],
)
def test_what_ends_the_compiler_s_process_is_told_in_a_line(said, shown):
    error = compiling._refusal(said, parse_target("v5e:1x1"))
    assert shown in str(error)
    assert "\n" not in str(error)
    assert error.field == "--target"


def test_a_libtpu_of_another_series_than_jax_asks_for_is_named(monkeypatch):
    monkeypatch.setattr(compiling.importlib.metadata, "requires", lambda name: ["libtpu==9.9.9.*; extra == 'tpu'"])
    monkeypatch.setattr(compiling.importlib.metadata, "version", lambda name: "9.9.90.1")
    refused(lambda: compiling.check_installed(CHIPS["v5e"]), "9.9.90.1", field="--target", hint="libtpu==9.9.9.*")


def test_the_teacher_s_shape_is_that_of_its_directory_or_of_its_name(distilling, world):
    teacher_of = lambda config: run_of(config).teacher
    assert teacher_of(distilling) == ModelConfig.bert_base()
    cased = dataclasses.replace(distilling, teacher="bert-base-cased")
    assert teacher_of(cased).vocab_size == 28996
    assert teacher_of(dataclasses.replace(distilling, teacher=world.teacher)).hidden_size == 32
    assert teacher_of(PretrainConfig()) is None
    refused(lambda: run_of(dataclasses.replace(distilling, teacher="")), field="teacher")
    refused(lambda: run_of(dataclasses.replace(distilling, teacher="bert-base-uncasd")), "uncased", field="teacher")


def test_students_side_by_side_have_one_teacher(distilling, monkeypatch):
    one, five = run_of(distilling), run_of(distilling, 5)
    teacher = (5 * one.flops() - five.flops()) / 4
    alone = run_of(dataclasses.replace(distilling, objective="masked_lm", teacher=""))
    assert 0 < teacher < one.flops() < five.flops()
    refused(lambda: run_of(alone.config, 2), field="--students")
    monkeypatch.setattr(planning, "compile_step", lambda job: compiled(*STEP))
    plan = planning.plan(distilling, "v5e:1x1", seeds=5)
    assert plan.model_flops == five.flops()
    assert "5 students × 64 rows" in report.lines(plan)


TUNING = FinetuneConfig(model="distilbert-base-uncased", task="mrpc")


def test_fine_tuning_is_planned_by_the_rows_of_its_task_without_data(monkeypatch):
    jobs = []
    monkeypatch.setattr(planning, "compile_step", lambda job: jobs.append(job) or compiled(*STEP))
    plan = planning.plan(TUNING, "v5e:2x2", seeds=5)
    (job,) = jobs
    assert from_json(type(job), to_json(job)) == job
    assert (job.run.rows, job.run.length, job.run.segments, job.run.seeds) == (32, 128, 1, 5)
    assert job.run.model.labels == ("not_equivalent", "equivalent")
    assert (plan.kind, plan.seeds, plan.steps) == ("fine-tuning", 5, 5 * 115)  # ⌈3,668 / 32⌉
    of_a_token = 6 * 2 * (4 * 768**2 + 2 * 768 * 3072) + 6 * 4 * 128 * 768
    assert plan.model_flops == 5 * 3 * 32 * 128 * of_a_token
    assert plan.tokens_per_second == pytest.approx(5 * 32 * 128 / plan.seconds)


def test_fine_tuning_on_data_at_hand_is_planned_in_its_packed_shape(world, monkeypatch, tmp_path):
    for split, rows in (("train", 40), ("validation", 2)):
        texts = [" ".join(["reda"] * (1 + row % 9)) for row in range(rows)]
        write_split(tmp_path / "data", "rte", split, {"sentence1": texts, "sentence2": texts, "label": [0] * rows})
    monkeypatch.setattr(planning, "compile_step", lambda job: compiled(*STEP))
    config = FinetuneConfig(model=world.teacher, task="rte", data=str(tmp_path / "data"), length=32, batch_size=8)
    tuning = Tuning(config)
    plan = planning.plan(config, "v5e:2x2", seeds=2)
    assert plan.steps == tuning.steps
    assert (plan.batch_size, plan.length) == tuning.shape.for_mesh(4)[:2]


def test_a_teacher_s_pass_is_counted_and_has_the_labels_of_the_task():
    alone = run_of(TUNING)
    of = lambda **distill: run_of(dataclasses.replace(TUNING, distill=DistillConfig("bert-base-uncased", **distill)))
    taught, layers = of(), of(hidden=HiddenConfig(1.0))
    first, low = of(hidden=HiddenConfig(1.0), layer_epochs=1), of(embeddings=EmbeddingsConfig(1.0), layer_epochs=1)
    assert taught.teacher.num_hidden_layers == 12
    assert layers.flops() == first.flops() > 1.6 * alone.flops()
    assert taught.flops() == low.flops() == alone.flops()
    assert [one.stage for one in (alone, taught, layers, first, low)] == [*3 * ["together"], "layers", "answers"]
    assert [one.asks_once for one in (alone, taught, layers, first, low)] == [False, True, False, False, True]
    assert all("asked for answers once" in one.models for one in (taught, low))
    assert "asked for" not in layers.models + first.models


def test_copies_of_rows_and_epochs_of_layers_are_planned_too():
    more = dataclasses.replace(
        TUNING,
        distill=DistillConfig("bert-base-uncased", hidden=HiddenConfig(1.0), layer_epochs=1),
        augment=AugmentConfig(2, model="bert-base-uncased"),
    )
    assert run_of(more).steps == (1 + 5) * -(-3 * 3668 // 32)
    assert "1 epoch of layers alone" in run_of(more).models
    assert "epoch" not in run_of(TUNING).models
    for held_out in ({"select": True}, {"selection_split": True}):
        assert run_of(dataclasses.replace(TUNING, **held_out)).steps == 5 * -(-(3668 - 366) // 32)


def test_a_task_of_unknown_size_is_planned_for_the_rows_that_are_named(monkeypatch):
    generated = dataclasses.replace(TUNING, task="demo-topic")
    refused(lambda: run_of(generated), field="task", hint="--max-train-rows")
    assert run_of(dataclasses.replace(generated, max_train_rows=640)).steps == 3 * 20


def test_features_are_planned_for_one_device(monkeypatch):
    jobs = []
    monkeypatch.setattr(planning, "compile_step", lambda job: jobs.append(job) or compiled(*STEP))
    config = FeaturesConfig(model="distilbert-base-uncased", batch_size=32, length=100, texts=1000)
    plan = planning.plan(config, "v5e:1x1")
    assert (plan.kind, plan.length, plan.steps) == ("features", 128, 32)
    assert from_json(type(jobs[0]), to_json(jobs[0])) == jobs[0]
    refused(lambda: planning.plan(config, "v5e:2x2"), field="--target", hint="v5e:1x1")
    refused(lambda: planning.fewest_micro_batches(config, "v5e:1x1"), field="--optimizer.accumulate")
    refused(lambda: run_of(dataclasses.replace(config, length=513)), field="length")
    assert planning.largest_batch(config, "v5e:1x1").fits


def test_the_compilers_process_leaves_with_the_one_that_waits_for_it(tmp_path):
    folder = tmp_path / "of one job"
    folder.mkdir()
    gone = f"from {compiling.__name__} import _end_with; from pathlib import Path; _end_with(0, Path({str(folder)!r}))"
    assert subprocess.run([sys.executable, "-c", gone], cwd=ROOT, check=False).returncode == 1
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ([], "--target"),
        (["--target", "v5x:2x2"], "--target"),
        (["--target", "v5e:2x2", "--mesh.tensor", "3"], "--target"),
        (["--target", "v5e:2x2", "--data.batch-size", "30"], "data.batch_size"),
        (["--target", "v5e:2x2", "--compare", "4,1"], "--compare"),
        (["--target", "v5e:2x2", "--compare", "4,1,1", "3,3,1"], "--compare"),
        (["--target", "v5e:32x32", "--data.batch-size", "1024"], "--target"),
        (["--target", "v5e:2x2", "--out", __file__], "--out"),
        (["--target", "v5e:2x2", "--students", "0"], "--students"),
        (["--target", "v5e:2x2", "--data.batch-size", "auto", "--optimizer.accumulate=auto"], "--optimizer.accumulate"),
        (["--target", "v5e:1x1", "--objective", "nsp"], "objective"),
    ],
)
def test_a_mistake_is_told_before_anything_is_compiled(options, field, monkeypatch):
    monkeypatch.setattr(planning, "compile_step", None)
    given = ["plan", "distilbert_base", "--teacher", "bert-base-uncased", *options]
    refused(lambda: main.main(given), field=field)


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "compile_step", None)

    def refuse(self, *arguments, **options):  # as a file system does whose modes allow it
        raise FileNotFoundError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    given = ["plan", "distilbert_base", "--teacher", "bert-base-uncased", "--target", "v5e:1x1"]
    with pytest.raises(FileNotFoundError):  # a line and status 1 of the command
        main.main([*given, "--out", str(tmp_path / "out")])


def test_ctrl_c_says_that_nothing_of_a_plan_is_kept(distilling, monkeypatch):
    monkeypatch.setattr(compiling, "check_installed", lambda chip: None)

    def interrupted(*command, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling.subprocess, "run", interrupted)
    with pytest.raises(Interrupted, match="nothing"):
        planning.plan(distilling, "v5e:1x1")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (["distilbert_base"], "--target"),
        (["distilbert_base", "--target", "v5e-8"], "--target"),
        (["distilbert_base", "--target", "v5e:1x1", "--price-per-chip-hour", "nan"], "--price-per-chip-hour"),
        (["distilbert_base", "--target", "v5e:2x4", "--data.batch-size", "2001"], "data.batch_size"),
        (["glue", "--target", "v5e:1x1"], "model"),
        (["glue", "--target", "v5e:1x1", "--model", "bert-base-uncased", "--seeds", "0"], "--seeds"),
        (["glue", "--target", "v5e:2x2", "--model", "bert-base-uncased", "--batch-size", "30"], "batch_size"),
        (["features", "--target", "v5e:2x2", "--model", "bert-base-uncased"], "--target"),
        (["features", "--target", "v5e:1x1", "--model", "bert-base-uncased", "--length", "513"], "length"),
        (["miniature:experiment", "--target", "v5e:1x1"], None),
    ],
)
def test_a_rude_command_is_told_what_is_wrong(given, field, monkeypatch):
    monkeypatch.setattr(planning, "compile_step", None)
    refused(lambda: main.main(["plan", *given]), field=field)


def test_help_says_what_a_newcomer_asks(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["plan", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for answer in (
        "v5e:2x4",
        "--price-per-chip-hour",
        "over all chips together",
        "auto",
        "chip-hours",
        "estimate",
        "[plan]",
    ):
        assert answer in shown


@pytest.mark.parametrize("given", [["own.py:small"], ["--with", "own.py", "distilbert_base"]], ids=["config", "with"])
def test_the_compiler_s_process_runs_the_files_that_this_one_has_run(given, tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text(
        "from distilbert_jax.config import DataConfig, PretrainConfig\n"
        "def get_config(word='small'):\n    return PretrainConfig(data=DataConfig(batch_size=8))\n"
    )
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(planning, "compile_step", lambda job: jobs.append(job) or compiled(*STEP))
    options = ["--teacher", "bert-base-uncased", "--data.batch-size", "8"] if "--with" in given else []
    before, config = given[:-1], given[-1]
    main.main([*before, "plan", config, "--target", "v5e:1x1", *options])
    assert "own.py" in [Path(file).name for file in jobs[0].files]
    assert "v5e:1x1" in capsys.readouterr().out


def test_a_compiler_that_is_not_installed_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(compiling, "_version", lambda name: "")
    for target, extra in (("v5e:1x1", "[plan]"), ("h100:1", "[plan-gpu]")):
        refused(
            lambda target=target: compiling.check_installed(parse_target(target).chip), field="--target", hint=extra
        )


def test_every_chip_has_what_a_plan_needs():
    for chip in CHIPS.values():
        assert chip.kind == "gpu" or chip.generation
        assert min(chip.peak, chip.memory, chip.bandwidth, chip.link) > 0


def test_what_fine_tuning_refuses_is_not_planned():
    config = FinetuneConfig(model="bert-base-uncased", task="sst2", freeze="encoder", layer_decay=0.5)
    refused(lambda: run_of(config), field="layer_decay", hint="--layer-decay 1")
    assert run_of(dataclasses.replace(config, layer_decay=1.0)).steps > 0
