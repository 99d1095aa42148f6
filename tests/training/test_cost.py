import re

import jax
import numpy as np
import pytest
from flax import nnx

import train as train_script
from distilbert_jax import config as c
from distilbert_jax.models import BertModel, DistilBertForMaskedLM
from distilbert_jax.models.params import split
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.pretraining.masking import masked_count
from distilbert_jax.pretraining.objectives import Given, distillation
from distilbert_jax.pretraining.run import Estimate, dry_run, estimate
from distilbert_jax.pretraining.setup import new_projections, set_up
from distilbert_jax.training import cost
from tests import runs
from tests.pretraining.examples import quick_jit


@pytest.mark.parametrize("tokens", ["all", "masked"])
def test_flops_of_a_step_are_those_that_xla_counts(world, tmp_path, tokens):
    wide = {"hidden_size": 64, "intermediate_size": 256}  # so that matmuls are most of it
    changes = {f"model__{name}": value for name, value in wide.items()}
    config = runs.distilling(world, tmp_path, init__source="", loss=runs.loss(cos=0.0, tokens=tokens), **changes)
    setup = set_up(config)
    batch = next(setup.batches(0, 1))
    counted = setup.train_step.lower(setup.state, setup.frozen, batch).compile().cost_analysis()["flops"]
    expected = setup.step_flops
    # XLA counts the optimiser, softmaxes and norms too, a share that shrinks with the width.
    assert expected < counted < 1.6 * expected


WIDE = {"hidden_act": "relu", "hidden_dropout": 0.0, "attention_dropout": 0.0, "num_attention_heads": 4}
UNTAUGHT = {"kl": c.KLConfig(0.0), "mlm": c.MLMConfig(0.0), "cos": c.CosConfig(0.0)}


@pytest.mark.parametrize(
    "terms",
    [
        {"minilmv2": c.MiniLMv2Config(1.0, relation_heads=8, student_layer=0, teacher_layer=1)},
        {"minilm": c.MiniLMConfig(1.0), "mlm": c.MLMConfig(1.0)},
        {"hidden": c.HiddenConfig(1.0), "embeddings": c.EmbeddingsConfig(1.0)},
        {"attention_scores": c.AttentionScoresConfig(1.0, (0,), (2,))},
    ],
    ids="-".join,
)
def test_flops_of_terms_of_layers_are_those_that_xla_counts(terms):
    """Nothing is computed: sizes at which matmuls are nearly all of it cost no time."""
    student = runs.change(runs.STUDENT, hidden_size=256, intermediate_size=1024, num_hidden_layers=2, **WIDE)
    teacher = runs.change(runs.BERT, hidden_size=320, intermediate_size=1280, num_hidden_layers=3, **WIDE)
    loss = c.LossConfig(**UNTAUGHT | terms)
    config = c.PretrainConfig(
        model=student,
        objective="distillation",
        teacher="teacher",
        loss=loss,
        data=c.DataConfig(length=32, batch_size=4),
    )
    ours, params = split(nnx.eval_shape(lambda: DistilBertForMaskedLM(student, rngs=nnx.Rngs(0))))
    theirs, frozen = split(nnx.eval_shape(lambda: BertModel(teacher, rngs=nnx.Rngs(0))))
    params |= jax.eval_shape(lambda: new_projections(config, teacher))
    objective = distillation(Given(ours, theirs, np.zeros(48, np.float32), 4, config))

    def step(params, frozen, batch):
        prepared, counts = objective.prepare(jax.random.split(jax.random.key(0), 4), batch)
        return jax.grad(objective.loss, has_aux=True)(params, frozen, prepared, counts)

    batch = {name: jax.ShapeDtypeStruct((4, 32), np.int32) for name in ("input_ids", "segment_ids", "position_ids")}
    counted = quick_jit(step).lower(params, frozen, batch).compile().cost_analysis()["flops"]
    assert step_flops(config, teacher) < counted < 1.05 * step_flops(config, teacher)


def test_a_teacher_that_is_asked_for_hidden_states_alone_gives_no_logits(world, tmp_path):
    flops = lambda **loss: step_flops(runs.distilling(world, tmp_path, loss=runs.loss(**loss)), runs.BERT)
    config = runs.distilling(world, tmp_path)
    logits = [cost.forward_flops(runs.BERT, config.data.length, share) for share in (0.0, 1.0)]
    drawn = masked_count(config.data.length, config.masking.probability) / config.data.length
    head = drawn * (logits[1] - logits[0]) * config.data.batch_size * config.data.length
    assert flops(tokens="masked") - flops(kl=0.0) == pytest.approx(head)


def test_flops_by_hand():
    config = runs.change(runs.BERT, num_hidden_layers=3)  # D 32, F 48, V 48
    layer = 2 * (4 * 32 * 32 + 2 * 32 * 48) + 4 * 16 * 32
    head = 2 * (32 * 32 + 32 * 48)
    assert cost.forward_flops(config, 16, 1.0) == 3 * layer + head
    assert cost.forward_flops(config, 16, 0.25) == 3 * layer + head / 4


def test_flops_of_fine_tuning_count_the_places_of_its_rows():
    ours, teacher = cost.forward_flops(runs.BERT, 16, 0.0), runs.change(runs.BERT, num_hidden_layers=6)
    theirs = 6 * ours / runs.BERT.num_hidden_layers
    assert cost.tuning_flops(runs.BERT, 5, 16) == 5 * 3 * 16 * ours
    assert cost.tuning_flops(runs.BERT, 5, 16, teacher) == 5 * 16 * (3 * ours + theirs)
    layers = c.Reads(hidden_states=(0,)), c.Reads(hidden_states=(2,))
    below = (3 / runs.BERT.num_hidden_layers * ours) + theirs / 2
    assert cost.tuning_flops(runs.BERT, 5, 16, teacher, layers) == pytest.approx(5 * 16 * below)


@pytest.mark.parametrize(
    ("kind", "dtype", "share"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 0.5),
        ("NVIDIA H100 80GB HBM3", "float32", 989 / 67 / 2),
        ("TPU v5 lite", "bfloat16", 989 / 197 / 2),
        ("TPU v5", "bfloat16", 989 / 459 / 2),
        ("TPU v5", "float32", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_utilisation_is_known_where_the_peak_is(kind, dtype, share, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [type("Device", (), {"device_kind": kind})()] * 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    found = cost.utilisation(989e12, dtype)
    assert found is None if share is None else np.isclose(found, share)


def test_a_dry_run_tells_what_a_run_takes_and_writes_nothing(world, tmp_path, capsys):
    config = runs.distilling(world, tmp_path / "run")
    taken = dry_run(config)
    assert not (tmp_path / "run").exists()
    assert taken.parameters == 11_296
    assert taken.tokens == 30 * 8 * 32
    assert taken.hours == pytest.approx(30 * taken.seconds_per_step / 3600)
    assert taken.memory_bytes > 3 * 4 * taken.parameters
    assert taken.mfu is None
    train_script.main([runs.write_config(config, tmp_path / "config.py"), "--dry-run"])
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()] == [
        line.split("  ")[0] for line in estimate(taken).splitlines()
    ]
    assert "11,296, its teacher" in said
    assert not (tmp_path / "run").exists()


def test_an_estimate_shows_limit_and_share_where_they_are_known():
    taken = Estimate(
        parameters=10, teacher_parameters=0, flops_per_token=6e9, tokens=100, epochs=2.0, memory_bytes=2 * 10**9,
        memory_limit=8 * 10**9, seconds_per_step=0.5, tokens_per_second=7.0, mfu=0.25, hours=3.0,
    )  # fmt: skip
    said = estimate(taken)
    assert "2.00 of 8.0 GB" in said
    assert "25.0% of the devices' peak" in said
    assert "teacher" not in said


def test_a_profile_holds_a_trace_of_steps_past_the_compilation(world, tmp_path, capfd):
    config = runs.pretraining(world, tmp_path / "run", data__heldout="", steps=12)
    train_script.main([runs.write_config(config, tmp_path / "config.py"), "--profile"])
    assert re.search(r"run/profile: a trace of steps 6 to 10", capfd.readouterr().err)
    assert len(list((tmp_path / "run/profile").rglob("perfetto_trace.json.gz"))) == 1
    assert len(list((tmp_path / "run/profile").rglob("*.xplane.pb"))) == 1


def test_the_log_says_what_steps_take(finished):
    entries = runs.metrics(runs.Path(finished.run.directory) / "metrics.jsonl")
    train = [entry for entry in entries if entry["kind"] == "train"]
    for entry in train:
        assert entry["tokens_per_second"] == pytest.approx(
            entry["tokens"] / entry["seconds"], rel=1e-3, abs=0.06
        )  # rounded to 0.1
        assert entry["memory_bytes"] > 50e6
