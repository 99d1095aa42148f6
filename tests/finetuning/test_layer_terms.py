"""Terms of layers while fine-tuning: a teacher of other width and depth, packed examples, seeds side by side, meshes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distilbert_jax import config as c
from distilbert_jax.finetuning import objective
from distilbert_jax.finetuning.runs import finetune, finetune_seeds
from distilbert_jax.finetuning.tuning import Tuning
from distilbert_jax.models import DistilBertForMaskedLM, SequenceClassification
from distilbert_jax.models.params import merge, split
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training.cost import forward_flops
from distilbert_jax.training.projections import draw_projections
from tests.finetuning.conftest import WIDER
from tests.finetuning.test_objective import classifier, examples_of, kind_with, packed
from tests.finetuning.test_runs import losses_of
from tests.runs import BERT, STUDENT, change, metrics, refused

LAYERS = {
    "distill__hidden": c.HiddenConfig(0.5),
    "distill__embeddings": c.EmbeddingsConfig(1.0),
    "distill__attention_scores": c.AttentionScoresConfig(0.1),
    "distill__attention_probabilities": c.AttentionProbabilitiesConfig(2.0),
    "distill__minilmv2": c.MiniLMv2Config(1.5, relation_heads=8),
}


def weights_of(config):
    return {one.term.metric: one.weight for one in objective.layer_terms(config.distill)}


def tuning(taught, directory, **changes):
    base = c.FinetuneConfig(
        model=str(taught / "student"),
        task="sst2",
        data=str(taught),
        length=16,
        batch_size=8,
        epochs=2,
        distill=c.DistillConfig(teacher=str(taught / "{task}" / "t"), alpha=0.3),
        optimizer=c.OptimizerConfig(learning_rate=1e-3, warmup=0.1),
        run=c.RunConfig(directory=str(directory), log_every=10),
    )
    given = {**({} if "distill" in changes else LAYERS), **changes}
    return change(base, **given)


def test_what_lies_within_packed_examples_is_that_of_each_alone():
    """Of two terms, by the formulas on examples one by one, without a row that is packed."""
    examples = examples_of(24, 3)
    packing, batch = packed(examples)
    student = classifier(change(STUDENT, num_hidden_layers=2), 3, 1)
    teacher = classifier(change(WIDER, num_hidden_layers=3), 3, 2)
    config = c.DistillConfig(
        teacher="x",
        alpha=1.0,
        hidden=c.HiddenConfig(1.0, teacher_layers=(2, 0)),
        attention_probabilities=c.AttentionProbabilitiesConfig(1.0, (1,), (1,)),
    )
    (graphdef, params), (of_teacher, frozen) = split(student), split(teacher)
    params |= draw_projections(objective.layer_terms(config), student.config, teacher.config, 0)
    given = objective.supervised(kind_with(3), graphdef, of_teacher, config)
    keys = jax.random.split(jax.random.key(0), len(batch["input_ids"]))
    ready, counts = given.prepare(keys, batch)
    parts = jax.jit(lambda params: given.loss(params, frozen, {**ready, "rngs": None}, counts)[1])(params)

    rows, squares, divergences = [examples.rows[index] for index in packing.indices], [], []
    # Each in a row of its own, padded to one length: another would be another program.
    padded = lambda values: np.stack([np.pad(value, (0, 20 - len(value))) for value in values])
    ids, types = (padded([getattr(row, name) for row in rows]) for name in ("ids", "type_ids"))
    asked = {"attention_mask": padded([np.ones_like(row.ids) for row in rows])}
    asked |= {"output_hidden_states": True, "output_attentions": True}
    ours, theirs = student.encoder(ids, **asked), teacher.encoder(ids, token_type_ids=types, **asked)
    for index, row in enumerate(rows):
        n = len(row.ids)
        for mine, other in ((0, 2), (1, 0)):
            kernel = params[f"projection.hidden.{mine}.kernel"]
            states = np.float64(ours.hidden_states[mine + 1][index, :n]) @ np.float64(kernel)
            squares.append(np.mean((states - np.float64(theirs.hidden_states[other + 1][index, :n])) ** 2, -1).sum())
        p, q = (np.float64(one.attentions[1][index, :, :n, :n]) for one in (theirs, ours))
        divergences.append(np.sum(p * np.log(p / q), -1).mean(0).sum())
    tokens = sum(len(row.ids) for row in rows)
    assert float(counts["tokens"]) == tokens
    np.testing.assert_allclose(parts["loss_hidden"], np.sum(squares) / tokens, rtol=1e-5)
    np.testing.assert_allclose(parts["loss_attention_probabilities"], np.sum(divergences) / tokens, rtol=1e-4)


@pytest.mark.parametrize(("task", "answers"), [("sst2", "loss_ce"), ("stsb", "loss_mse")])
def test_a_teacher_of_other_sizes_teaches_its_layers_and_projections_stay_out_of_the_model(
    taught, tmp_path, capfd, task, answers
):
    config = tuning(taught, tmp_path / "run", task=task, epochs=4)
    finetune(config)
    logged = [entry for entry in metrics(tmp_path / "run/metrics.jsonl") if entry["kind"] == "train"]
    weights = weights_of(config)
    assert len(weights) == 5
    for entry in logged:
        layers = sum(weight * entry[name] for name, weight in weights.items())
        assert entry["loss"] == pytest.approx(0.7 * entry["loss_labels"] + 0.3 * entry[answers] + layers, rel=1e-5)
    assert all(logged[-1][name] < logged[0][name] for name in ("loss_hidden", "loss_embeddings", "loss_minilmv2"))
    capfd.readouterr()
    model = SequenceClassification.from_pretrained(tmp_path / "run/model", new_head=False)
    assert capfd.readouterr().err == "", "every tensor is used, none is missing"
    assert not any("projection" in name for name in split(model)[1])
    assert "attention_scores" in (tmp_path / "run/config.json").read_text()


@pytest.fixture(scope="module")
def cooled(taught, tmp_path_factory):
    """The config of a run in which the weight of a term falls over the steps."""
    cooling = c.HiddenConfig(c.Schedule("linear", 2.0, 0.5))
    path = tmp_path_factory.mktemp("cooled") / "run"
    config = tuning(taught, path, epochs=1, distill__hidden=cooling, save_model=False)
    finetune(config)
    return config


def test_a_weight_of_layers_may_change_over_the_steps(cooled):
    logged = [entry for entry in metrics(Path(cooled.run.directory) / "metrics.jsonl") if entry["kind"] == "train"]
    assert [entry["hidden_weight"] for entry in logged] == pytest.approx([2.0, 1.625, 1.25, 0.875, 0.5])
    entry, weights = logged[1], {**weights_of(cooled), "loss_hidden": 1.625}
    layers = sum(weight * entry[name] for name, weight in weights.items())
    assert entry["loss"] == pytest.approx(0.7 * entry["loss_labels"] + 0.3 * entry["loss_ce"] + layers, rel=1e-5)


@pytest.mark.slow
def test_neither_mesh_nor_micro_batches_change_the_losses(cooled, tmp_path):
    given = {"mesh": c.MeshConfig(data=2, fsdp=2, tensor=2), "optimizer__accumulate": 2}
    cut = change(cooled, run__directory=str(tmp_path / "cut"), **given)
    finetune(cut)
    np.testing.assert_allclose(losses_of(cut), losses_of(cooled), rtol=1e-4)


@pytest.mark.slow
def test_layers_come_first_and_then_answers_where_layers_have_epochs_of_their_own(taught, tmp_path):
    """Also of seeds beside each other, which have the losses of the same seeds in turn. What is scheduled of answers changes over
    the steps of these."""
    config = tuning(
        taught,
        tmp_path / "0",
        distill__layer_epochs=2,
        epochs=1,
        distill__hidden=c.HiddenConfig(0.5),
        distill__alpha=c.Schedule("linear", 0.5, 0.1),
        distill__temperature=c.Schedule("linear", 5.0, 1.0),
    )
    of_seed = lambda seed, place: change(config, run__seed=seed, run__directory=str(tmp_path / place))
    apart = [config, of_seed(3, "3")]
    result, _ = finetune_seeds(apart)
    logged = [entry for entry in metrics(tmp_path / "0/metrics.jsonl") if entry["kind"] == "train"]
    first, second = logged[:10], logged[10:]
    assert [entry["step"] for entry in logged] == list(range(1, result.steps + 1))
    assert len(second) == 5
    for entry in first:
        layers = sum(weight * entry[name] for name, weight in weights_of(config).items())
        assert entry["loss"] == pytest.approx(layers, rel=1e-5)
        assert "loss_labels" not in entry
    shares = [entry["distill_alpha"] for entry in second]
    assert shares == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])
    assert [entry["distill_temperature"] for entry in second] == pytest.approx([5, 4, 3, 2, 1])
    for alpha, entry in zip(shares, second, strict=True):
        assert entry["loss"] == pytest.approx((1 - alpha) * entry["loss_labels"] + alpha * entry["loss_ce"], rel=1e-5)
        assert "loss_hidden" not in entry
    rates = [entry["learning_rate"] for entry in logged]
    assert max(rates[:10]) == max(rates[10:]) == pytest.approx(1e-3), "each stage warms up and decays"
    assert sum(entry["examples"] for entry in first) == 2 * 40
    rows, length, _ = Tuning(config).placed_shape
    student, teacher = (forward_flops(one, length, 0.0) for one in (STUDENT, WIDER))
    assert result.flops == pytest.approx(rows * length * (15 * 3 * student + 10 * teacher)), "asked once for answers"
    card = (tmp_path / "0/model/README.md").read_text()
    assert "2 epochs of layers and then 1 epoch, 15 steps" in card
    assert "(1 − α) · labels + α · teacher + " in card
    assert ", α linear:0.5:0.1, temperature linear:5:1." in card
    beside = [of_seed(seed, f"beside{seed}") for seed in (0, 3)]
    finetune_seeds(beside, together=True)
    for one, other in zip(beside, apart, strict=True):
        np.testing.assert_allclose(losses_of(one), losses_of(other), rtol=1e-4)
    assert losses_of(apart[0])[0] != losses_of(apart[1])[0]


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"distill__teacher": ""}, "distill.teacher", "--distill.teacher"),
        (
            {"distill": c.DistillConfig(teacher="x", layer_epochs=1)},
            "distill.layer_epochs",
            "--distill.layer-epochs 0",
        ),
        (
            {"distill__hidden": c.HiddenConfig(1.0, (1,))},
            "distill.hidden.student_layers",
            "--distill.hidden.student-layers 0",
        ),
        (
            {"distill__minilmv2": c.MiniLMv2Config(1.0)},
            "distill.minilmv2.relation_heads",
            "--distill.minilmv2.relation-heads 16",
        ),
        (
            {"model": "heads", "distill__attention_scores": c.AttentionScoresConfig(1.0)},
            "distill.attention_scores.weight",
            "--distill.attention-scores.weight 0",
        ),
        ({"freeze": "encoder"}, "distill.hidden.weight", "--distill.hidden.weight 0"),
        ({"freeze": "encoder", "distill__layer_epochs": 2}, "distill.layer_epochs", "--distill.layer-epochs 0"),
        (
            {"freeze": "encoder", "distill": c.DistillConfig(), "layer_decay": 0.5},
            "layer_decay",
            "--layer-decay 1",
        ),
    ],
    ids=[
        "no teacher",
        "epochs without layers",
        "a layer that is not there",
        "relation heads",
        "heads",
        "terms of frozen layers",
        "epochs of frozen layers",
        "rates of frozen layers",
    ],
)
def test_terms_that_two_models_cannot_have_are_refused_before_a_step(taught, tmp_path, changes, field, hint):
    if changes.get("model"):
        other = change(STUDENT, num_attention_heads=2)
        DistilBertForMaskedLM(other, rngs=nnx.Rngs(3)).save_pretrained(
            tmp_path / "heads", load_tokenizer(taught / "student")
        )
        changes = {**changes, "model": str(tmp_path / "heads")}
    refused(lambda: finetune(tuning(taught, tmp_path / "run", **changes)), field=field, hint=hint)
    assert not Path(tmp_path / "run").exists()


def test_without_weights_nothing_within_is_read():
    """The step is that of logits alone: the teacher's layers give no scores, and no tokens are counted."""
    student, teacher = classifier(STUDENT, 3, 1), classifier(BERT, 3, 2)
    (graphdef, params), (of_teacher, frozen) = split(student), split(teacher)
    _, batch = packed(examples_of(24, 3))
    given = objective.supervised(kind_with(3), graphdef, of_teacher, c.DistillConfig(teacher="x"))
    ready, counts = given.prepare(jax.random.split(jax.random.key(0), len(batch["input_ids"])), batch)
    assert set(counts) == {"examples"}
    assert set(given.parts) == {"loss_labels", "loss_ce"}
    assert jnp.isfinite(given.loss(params, frozen, {**ready, "rngs": None}, counts)[0])
    assert merge(graphdef, params).config == student.config
