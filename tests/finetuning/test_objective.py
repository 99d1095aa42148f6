"""Packed rows beside padded ones: the same logits, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distilbert_jax.config import DistillConfig, MeshConfig, Schedule
from distilbert_jax.finetuning import objective
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape, wide_enough
from distilbert_jax.finetuning.kinds import KINDS
from distilbert_jax.finetuning.kinds.sentences import SentenceExamples
from distilbert_jax.finetuning.predictor import packed_outputs, predictor
from distilbert_jax.finetuning.preparation import Teacher, taught
from distilbert_jax.models import SequenceClassification
from distilbert_jax.models.params import merge, split
from distilbert_jax.text.tokenizer import Row, stack
from distilbert_jax.training import losses, sharding
from tests.models.common import deviation
from tests.runs import BERT, STUDENT, change

SIZE, DRY = 16, {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}


def examples_of(count, labels, longest=20, seed=0):
    """Pairs of random tokens, 0 (which is padding) among them never."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, longest + 1, count)
    rows = [
        Row(rng.integers(1, 48, n).astype(np.int32), (np.arange(n) >= rng.integers(2, n)).astype(np.int32))
        for n in lengths
    ]
    answers = rng.normal(size=count).astype(np.float32) if labels == 1 else rng.integers(0, labels, count)
    return SentenceExamples(rows, answers.astype(np.float32 if labels == 1 else np.int32), cut=0)


def kind_with(labels):
    return KINDS["regression" if labels == 1 else "classification"]


def build_head(head, config, seed, names):
    return head.of_family(config.model_type)(change(config, labels=names, **DRY), rngs=nnx.Rngs(seed))


def classifier(config, labels, seed):
    names = ("score",) if labels == 1 else tuple(map(str, range(labels)))
    model = SequenceClassification(change(config, labels=names, **DRY), rngs=nnx.Rngs(seed))
    model.classifier.bias[...] = jnp.arange(labels) / 3
    return model


def padded_logits(model, examples, indices):
    batch = stack([examples.rows[index] for index in indices], 0)
    types = {"token_type_ids": batch["token_type_ids"]} if model.config.type_vocab_size else {}
    return model(batch["input_ids"], batch["attention_mask"], **types).logits


def packed(examples):
    """A batch that takes what an earlier one had no room for, and the padded one of the same examples."""
    shape = packed_shape(examples.lengths, SIZE)
    batches = RandomBatches(examples.lengths, SIZE, 3, shape)
    packing = max((batches.batch(k) for k in range(batches.batches_per_epoch)), key=lambda one: len(one.indices))
    shape = shape.for_mesh(4)
    return packing, examples.packed(packing, shape, 0)


def asked(kind, examples, teacher):
    """Examples with what a teacher says of them."""
    given, mesh = Teacher(*split(teacher), teacher.config), sharding.make_mesh(MeshConfig())
    outputs = packed_outputs(kind, given.graphdef, packed_shape(examples.lengths, SIZE), 0, mesh)
    return taught(examples, kind, given, outputs, mesh, "x")


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    ("config", "distilled", "once"),
    [(BERT, False, False), (STUDENT, True, False), (STUDENT, True, True)],
    ids=["bert", "distilbert", "distilbert-once"],
)
def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(config, distilled, once, labels):
    examples = examples_of(100, labels)
    model, teacher = classifier(config, labels, 1), classifier(BERT, labels, 2)
    packing, batch = packed(asked(kind_with(labels), examples, teacher) if once else examples)
    assert batch["segment_ids"].max() > 1
    (graphdef, params), (of_teacher, frozen) = split(model), split(teacher)
    frozen = {} if once else frozen
    distill = DistillConfig(teacher="x", alpha=0.3, temperature=1.5)
    given = objective.supervised(kind_with(labels), graphdef, of_teacher if distilled else None, distill)
    keys = jax.random.split(jax.random.key(0), len(batch["input_ids"]))

    def packed_loss(params):
        ready, counts = given.prepare(keys, batch)
        return given.loss(params, frozen, {**ready, "rngs": None}, counts)[0]

    assert given.prepare(keys, batch)[1]["examples"] == len(packing.indices)

    def padded_loss(params):
        logits, answers = (
            padded_logits(merge(graphdef, params), examples, packing.indices),
            examples.labels[packing.indices],
        )
        theirs = padded_logits(teacher, examples, packing.indices)
        if labels == 1:
            own, other = jnp.mean((logits[:, 0] - answers) ** 2), jnp.mean((logits - theirs) ** 2)
        else:
            own = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(answers)), answers])
            other = losses.distillation(logits, theirs, jnp.ones(len(answers)), 1.5) / len(answers)
        return 0.7 * own + 0.3 * other if distilled else own

    (loss, grads), (expected, wanted) = (jax.jit(jax.value_and_grad(one))(params) for one in (packed_loss, padded_loss))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(value**2)) for value in wanted.values()))
    for name, value in wanted.items():
        scale = max(float(jnp.linalg.norm(value)), 0.01 * norm)  # key biases have no gradient, only noise
        assert float(jnp.linalg.norm(grads[name] - value)) <= 1e-5 * scale, name


def test_share_and_temperature_of_the_teacher_may_change_over_the_steps():
    """At each step value and gradient are those of the numbers of that step; what does not change is no value."""
    _, batch = packed(examples_of(40, 3))
    (graphdef, params), (of_teacher, frozen) = split(classifier(STUDENT, 3, 1)), split(classifier(BERT, 3, 2))
    keys = jax.random.split(jax.random.key(0), len(batch["input_ids"]))

    def at(step, alpha, temperature):
        config = DistillConfig("x", alpha, temperature)
        given = objective.supervised(kind_with(3), graphdef, of_teacher, config, start=5, steps=11)
        values = given.values(jnp.int32(step))
        ready, counts = given.prepared(keys, batch, values)
        lost = lambda params: given.loss(params, frozen, {**ready, "rngs": None}, counts)[0]
        return {name: float(value) for name, value in values.items()}, *jax.value_and_grad(lost)(params)

    for step, alpha, temperature in ((5, 0.0, 1.0), (10, 0.5, 2.0), (15, 1.0, 3.0)):
        values, loss, grads = at(step, Schedule("linear", 0.0, 1.0), Schedule("cosine", 1.0, 3.0))
        assert values == pytest.approx(
            {"distill_alpha": alpha, "labels_weight": 1 - alpha, "distill_temperature": temperature}
        )
        none, wanted, expected = at(step, alpha, temperature)
        assert none == {}
        assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
        for name, value in expected.items():
            np.testing.assert_allclose(grads[name], value, atol=1e-6, err_msg=name)
    assert set(at(0, 0.5, Schedule("cosine", 1.0, 3.0))[0]) == {"distill_temperature"}


def test_predictions_are_those_of_padded_rows_in_the_order_of_the_split():
    """Also of examples that are longer than any of train."""
    model, mesh = classifier(BERT, 3, 1), sharding.make_mesh(MeshConfig())
    graphdef, params = split(model)
    examples = examples_of(70, 3, longest=31, seed=1)
    shape = wide_enough(packed_shape(examples_of(100, 3).lengths, SIZE), examples.lengths)
    logits = np.stack(predictor(kind_with(3), graphdef, shape, 0, mesh, "model")(params, examples))
    assert logits.dtype == np.float32
    assert deviation(logits, padded_logits(model, examples, range(70))) < 1e-5


def test_what_lies_beside_an_example_does_not_change_it():
    examples = examples_of(100, 3)
    packing, batch = packed(examples)
    model = classifier(BERT, 3, 1)
    logits = lambda batch: packing.of_examples(
        np.asarray(jax.jit(lambda b: objective.outputs_of(kind_with(3), model, b, None))(batch))
    )
    chosen = batch["segment_ids"] == 2
    other = {**batch, "input_ids": np.where(chosen, (batch["input_ids"] + 7) % 48, batch["input_ids"])}
    changed = np.abs(logits(batch) - logits(other)).max(-1) > 0
    np.testing.assert_array_equal(changed, packing.segment == 2)
