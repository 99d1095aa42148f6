"""Live against torch and transformers: the triple loss with its gradients, and ten steps of the optimiser."""

import functools

import jax
import numpy as np
import pytest

from distilbert_jax.config import MaskingConfig, ModelConfig, OptimizerConfig, PretrainConfig
from distilbert_jax.models import BertForMaskedLM, BertForPreTraining, DistilBertForMaskedLM
from distilbert_jax.models.hf_format import hf_name
from distilbert_jax.models.params import split
from distilbert_jax.pretraining import objectives
from distilbert_jax.pretraining.masking import log_weights
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.training import step
from distilbert_jax.training.optimizer import adamw, decayed
from tests import runs
from tests.models.common import build
from tests.pretraining.examples import MASK, SPECIAL, pack, quick_jit, random_pairs
from tests.training.test_sharding import mesh_of

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, ROWS, LENGTH, STEPS = 80, 6, 24, 10
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": LENGTH,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
INPUTS_OF_PAIRS = ("input_ids", "segment_ids", "token_type_ids", "next_sentence_label")
LOSS = runs.loss(kl=5.0, mlm=2.0, cos=1.0, mse=0.1)


@pytest.fixture(scope="module")
def models():
    teacher = build(BertForMaskedLM, ModelConfig.bert_base(**SIZES), seed=0)
    # The student is shallower, as it always is.
    student = build(DistilBertForMaskedLM, ModelConfig.distilbert_base(**SIZES | {"num_hidden_layers": 1}), seed=1)
    return teacher, student


@pytest.fixture
def references(models, tmp_path):
    """The same two in transformers, through a directory."""
    found = []
    for model in models:
        model.save_pretrained(tmp_path / model.config.model_type)
        cls = getattr(transformers, type(model).__name__)
        found.append(cls.from_pretrained(tmp_path / model.config.model_type, attn_implementation="eager"))
    return found


def objective(models, config):
    (teacher, _), (student, _) = map(split, models)
    weights = log_weights(np.arange(VOCAB), SPECIAL, MaskingConfig())
    run = PretrainConfig(objective="distillation", loss=config)
    return objectives.distillation(Given(student, teacher, weights, MASK, run))


def batch(seed):
    """One sequence a row, of every length from 3 up, padded."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, LENGTH + 1, ROWS)
    return pack([[np.array([2, *rng.integers(5, VOCAB, length - 2), 3])] for length in lengths], LENGTH)


def labels_of(prepared, ids):
    """Labels [B, T] as the reference takes them: −100 where nothing was drawn."""
    labels = torch.full_like(ids, -100)
    for row, (positions, true, weights) in enumerate(
        zip(prepared["positions"], prepared["labels"], prepared["masked_weights"], strict=True)
    ):
        drawn = np.asarray(weights) > 0
        labels[row, np.asarray(positions)[drawn]] = torch.tensor(np.asarray(true)[drawn]).long()
    return labels


def original_loss(student, teacher, prepared, config):
    """The parts of the loss in torch: tokens picked by boolean masks, means by torch's own criteria."""
    ids = torch.tensor(np.array(prepared["input_ids"])).long()
    attention_mask = torch.tensor(np.array(prepared["segment_ids"])).long()
    labels = labels_of(prepared, ids)
    run = functools.partial(dict, input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
    s = student(**run())
    with torch.no_grad():
        t = teacher(**run())
    real, drawn = attention_mask.bool(), labels != -100
    at = real if config.kl.tokens == "all" else drawn
    s_logits, t_logits = s.logits[at], t.logits[at]
    T, functional = config.kl.temperature, torch.nn.functional
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    s_hidden, t_hidden = s.hidden_states[-1][real], t.hidden_states[-1][real]
    return {
        "loss_ce": divergence(functional.log_softmax(s_logits / T, -1), functional.softmax(t_logits / T, -1)) * T**2,
        "loss_mlm": torch.nn.CrossEntropyLoss(ignore_index=-100)(s.logits.view(-1, VOCAB), labels.view(-1)),
        "loss_cos": torch.nn.CosineEmbeddingLoss(reduction="mean")(s_hidden, t_hidden, torch.ones(len(s_hidden))),
        # The original divides by the rows; a mean over the tokens, as the other terms are, does not depend on packing.
        "loss_mse": torch.nn.MSELoss(reduction="sum")(s_logits, t_logits) / len(s_logits),
    }


def weighted(parts, config):
    terms = {"loss_ce": config.kl, "loss_mlm": config.mlm, "loss_cos": config.cos, "loss_mse": config.mse}
    return sum(terms[name].weight * value for name, value in parts.items())


def in_our_names(model, reference, value_of):
    """`value_of` each parameter of the reference as float64 under our paths and in our layout."""
    theirs = dict(reference.named_parameters(remove_duplicate=False))
    found = {}
    for path in split(model)[1]:
        value = value_of(theirs[hf_name(model.family.parameters, path)]).detach().numpy().astype(np.float64)
        found[path] = value.T if path.endswith(".kernel") else value
    return found


def assert_gradients_of(grads, model, reference):
    """`grads` by our paths are those that `backward` has left in the reference."""
    expected = in_our_names(model, reference, lambda parameter: parameter.grad)
    total = np.sqrt(sum((value**2).sum() for value in expected.values()))
    for name, value in expected.items():
        if name.endswith("key.bias"):
            assert np.linalg.norm(grads[name]) <= 1e-6 * total  # the softmax does not see it: rounding noise
        else:
            assert abs(np.float64(grads[name]) - value).max() <= 1e-5 * abs(value).max(), name


@pytest.mark.parametrize(("tokens", "chunk"), [("all", 0), ("all", 5), ("masked", 0)])
def test_triple_loss_and_gradients_are_the_originals(tokens, chunk, models, references):
    config = runs.loss(mse=0.1, tokens=tokens, chunk=chunk)
    (_, frozen), (_, params) = map(split, models)
    ours = objective(models, config)
    prepared, totals = quick_jit(ours.prepare)(jax.random.split(jax.random.key(0), ROWS), batch(0))
    grad = quick_jit(jax.value_and_grad(ours.loss, has_aux=True))
    (loss, parts), grads = grad(params, frozen, {**prepared, "rngs": None}, totals)

    teacher, student = references
    expected_parts = original_loss(student, teacher, prepared, config)
    expected = weighted(expected_parts, config)
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    assert parts.keys() == expected_parts.keys()
    for name in parts:
        np.testing.assert_allclose(parts[name], expected_parts[name].item(), rtol=1e-5, err_msg=name)
    assert_gradients_of(grads, models[1], student)


def test_loss_of_pairs_and_its_gradients_are_the_references(tmp_path):
    model = build(BertForPreTraining, ModelConfig.bert_base(**SIZES), seed=4)
    model.save_pretrained(tmp_path)
    reference = transformers.BertForPreTraining.from_pretrained(tmp_path, attn_implementation="eager")
    graphdef, params = split(model)
    weights = log_weights(np.arange(VOCAB), SPECIAL, MaskingConfig())
    ours = objectives.masked_lm_nsp(Given(graphdef, None, weights, MASK, PretrainConfig()))
    given = random_pairs(np.random.default_rng(5), ROWS, LENGTH, VOCAB)
    prepared, totals = quick_jit(ours.prepare)(jax.random.split(jax.random.key(0), ROWS), given)
    grad = quick_jit(jax.value_and_grad(ours.loss, has_aux=True))
    (loss, parts), grads = grad(params, {}, {**prepared, "rngs": None}, totals)
    ids, mask, types, label = (torch.tensor(np.array(prepared[name])).long() for name in INPUTS_OF_PAIRS)
    output = reference(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=types,
        labels=labels_of(prepared, ids),
        next_sentence_label=label,
    )
    output.loss.backward()
    np.testing.assert_allclose(loss, output.loss.item(), rtol=1e-5)
    right = output.seq_relationship_logits.argmax(-1) == label
    np.testing.assert_allclose(parts["nsp_accuracy"], right.float().mean().item(), rtol=1e-6)
    assert_gradients_of(grads, model, reference)


@pytest.mark.parametrize("clip_norm", [5.0, 340.0])  # every step is clipped, some are
def test_ten_steps_are_those_of_torchs_adamw(clip_norm, models, references):
    config = OptimizerConfig(warmup=0.2, weight_decay=0.01, clip_norm=clip_norm)
    mesh = mesh_of()
    (_, frozen), (_, params) = map(split, models)
    ours, optimizer = objective(models, LOSS), adamw(config, STEPS)
    state = step.init_state(params, optimizer, 3, mesh)
    train = step.make_train_step(ours, optimizer, state, frozen, mesh)
    # The same corrupted tokens for both: those which the step will draw.
    prepare = quick_jit(lambda at, rows: ours.prepare(step.row_keys(jax.random.key(3), at, ROWS), rows)[0])

    teacher, student = references
    theirs = {hf_name(models[1].family.parameters, path): decays for path, decays in decayed(params).items()}
    groups = {True: [], False: []}
    for name, parameter in student.named_parameters(remove_duplicate=False):
        if name in theirs:
            groups[theirs[name]].append(parameter)
    assert sum(map(len, groups.values())) == len(params)
    adam = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )
    schedule = transformers.get_linear_schedule_with_warmup(adam, 2, STEPS)

    norms = []
    for i in range(STEPS):
        rows = batch(i)
        prepared = prepare(i, rows)
        state, metrics = train(state, frozen, rows)
        adam.zero_grad()
        expected = weighted(original_loss(student, teacher, prepared, LOSS), LOSS)
        expected.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(student.parameters(), clip_norm).item())
        adam.step()
        schedule.step()
        np.testing.assert_allclose(metrics["loss"], expected.item(), rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], norms[-1], rtol=1e-5)
    assert max(norms) > clip_norm
    assert (min(norms) < clip_norm) == (clip_norm == 340.0)
    expected = in_our_names(models[1], student, lambda parameter: parameter.data)
    for name, value in expected.items():
        if not name.endswith(
            "key.bias"
        ):  # it has no gradient but rounding noise, which Adam turns into ± the learning rate
            assert abs(np.float64(state.params[name]) - value).max() <= 1e-5, name
            assert abs(value - np.float64(params[name])).max() > 1e-3, name
