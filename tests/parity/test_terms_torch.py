"""Live against torch and transformers: the terms of layers and relations, and their gradients, on packed rows.

The reference has every sequence alone, in a forward pass without padding, and writes the formulas of the papers out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax import config as c
from distilbert_jax.models import BertModel, DistilBertForMaskedLM
from distilbert_jax.models.hf_format import hf_name
from distilbert_jax.models.params import split
from distilbert_jax.pretraining import objectives
from distilbert_jax.pretraining.masking import log_weights
from distilbert_jax.pretraining.objectives import Given
from distilbert_jax.pretraining.setup import new_projections
from tests.models.common import build
from tests.pretraining.examples import MASK, SPECIAL, quick_jit, random_batch

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, ROWS, LENGTH = 60, 4, 24
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "vocab_size": VOCAB, "max_position_embeddings": LENGTH}
TEACHER = c.ModelConfig.bert_base(
    hidden_size=48, num_attention_heads=4, num_hidden_layers=4, intermediate_size=56, **STILL
)
STUDENT = c.ModelConfig.distilbert_base(
    hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=40, **STILL
)
UNTAUGHT = {"kl": c.KLConfig(0.0), "mlm": c.MLMConfig(0.0), "cos": c.CosConfig(0.0)}
# What the papers do; and layers by number, in no order.
LOSSES = {
    "default": c.LossConfig(
        **UNTAUGHT,
        hidden=c.HiddenConfig(1.0),
        embeddings=c.EmbeddingsConfig(1.0),
        attention_scores=c.AttentionScoresConfig(1.0),
        attention_probabilities=c.AttentionProbabilitiesConfig(1.0),
        minilm=c.MiniLMConfig(1.0),
        minilmv2=c.MiniLMv2Config(1.0, relation_heads=8),
    ),
    "chosen": c.LossConfig(
        **UNTAUGHT,
        hidden=c.HiddenConfig(1.0, (1, 0), (2, 3)),
        attention_scores=c.AttentionScoresConfig(1.0, (0,)),
        attention_probabilities=c.AttentionProbabilitiesConfig(1.0, (1, 1), (0, 2)),
        minilm=c.MiniLMConfig(1.0, 0, 2),
        minilmv2=c.MiniLMv2Config(1.0, 16, 0.5, 0.0, 2.0, 0, 1),
    ),
}
# Of those the pairs of layers (student, teacher) of each term.
PAIRS = {
    "default": {
        "hidden": [(0, 1), (1, 3)],
        "attention_scores": [(0, 1), (1, 3)],
        "attention_probabilities": [(0, 1), (1, 3)],
        "minilm": [(1, 3)],
        "minilmv2": [(1, 3)],
    },
    "chosen": {
        "hidden": [(1, 2), (0, 3)],
        "attention_scores": [(0, 1)],
        "attention_probabilities": [(1, 0), (1, 2)],
        "minilm": [(0, 2)],
        "minilmv2": [(0, 1)],
    },
}


@functools.cache
def models():
    return build(BertModel, TEACHER, seed=0), build(DistilBertForMaskedLM, STUDENT, seed=1)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The same two in transformers, through a directory."""
    result = []
    for model in models():
        directory = tmp_path_factory.mktemp(model.config.model_type)
        model.save_pretrained(directory)
        theirs = getattr(transformers, type(model).__name__)
        result.append(theirs.from_pretrained(directory, attn_implementation="eager"))
    return result


@functools.cache
def measured(name):
    """(corrupted rows, segments, projections, {term: value}, {term: gradients}) of our step in one program."""
    run = c.PretrainConfig(
        model=STUDENT, objective="distillation", teacher="t", loss=LOSSES[name], data=c.DataConfig(length=LENGTH)
    )
    (teacher, frozen), (student, params) = map(split, models())
    projections = new_projections(run, TEACHER)
    ours = objectives.distillation(
        Given(student, teacher, log_weights(np.arange(VOCAB), SPECIAL, run.masking), MASK, run)
    )
    rows = random_batch(np.random.default_rng(2), ROWS, LENGTH, VOCAB)
    prepared, counts = quick_jit(ours.prepare)(jax.random.split(jax.random.key(0), ROWS), rows)
    batch, names = {**prepared, "rngs": None}, list(ours.parts)

    def values(params, batch):
        _, parts = ours.loss(params, frozen, batch, counts)
        return jnp.stack([parts[metric] for metric in names]), parts

    jacobian, parts = quick_jit(jax.jacrev(values, has_aux=True))(params | projections, batch)
    by_term = lambda metric: metric.removeprefix("loss_")
    grads = {by_term(metric): {k: np.float64(v[i]) for k, v in jacobian.items()} for i, metric in enumerate(names)}
    ids, segments = np.asarray(prepared["input_ids"]), rows["segment_ids"]
    return ids, segments, projections, {by_term(metric): float(parts[metric]) for metric in names}, grads


def sequences(ids, segments):
    for row, segment in zip(ids, segments, strict=True):
        yield from (torch.tensor(row[segment == number])[None] for number in range(1, segment.max() + 1))


def traced(model, ids):
    """Hidden states (embeddings first) and the queries, keys and values of every layer, of one sequence: [T, D]."""
    kinds, kept = ("q_lin", "k_lin", "v_lin") if "Distil" in type(model).__name__ else ("query", "key", "value"), {}
    hooks = [
        module.register_forward_hook(lambda module, given, out, name=name: kept.update({name: out[0]}))
        for name, module in model.named_modules()
        if name.endswith(kinds)
    ]
    output = model(input_ids=ids.long(), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    flat = list(kept.values())
    return [states[0] for states in output.hidden_states], [flat[i : i + 3] for i in range(0, len(flat), 3)]


def kl(teacher, student):
    """Mean over heads, sum over queries, of KL(softmax(teacher) ‖ softmax(student)) of scores [heads, T, T]."""
    log_softmax = torch.nn.functional.log_softmax
    each = torch.nn.functional.kl_div(
        log_softmax(student, -1), log_softmax(teacher, -1), log_target=True, reduction="none"
    )
    return each.sum(-1).mean(0).sum()


def cut(x, heads):
    return x.reshape(len(x), heads, -1).transpose(0, 1)


def scores(qkv, heads=4):
    q, k = cut(qkv[0], heads), cut(qkv[1], heads)
    return q @ k.transpose(1, 2) / q.shape[-1] ** 0.5


def relation(x, heads):
    x = cut(x, heads)
    return x @ x.transpose(1, 2) / x.shape[-1] ** 0.5


def formulas(name, student, teacher, ids, projections):
    """{term: its sum over the tokens of a sequence}."""
    (s_hidden, s_qkv), pairs, config = traced(student, ids), PAIRS[name], LOSSES[name]
    with torch.no_grad():
        t_hidden, t_qkv = traced(teacher, ids)
    mse = lambda place, s, t: torch.nn.functional.mse_loss(s @ projections[place], t) * len(s)
    v2 = config.minilmv2
    alphas, R = (v2.queries, v2.keys, v2.values), v2.relation_heads
    (m_s, m_t), (v_s, v_t) = pairs["minilm"][0], pairs["minilmv2"][0]
    result = {
        "hidden": sum(mse(f"hidden.{s}", s_hidden[s + 1], t_hidden[t + 1]) for s, t in pairs["hidden"]),
        "attention_scores": sum(
            torch.nn.functional.mse_loss(scores(s_qkv[s]), scores(t_qkv[t])) * ids.shape[1]
            for s, t in pairs["attention_scores"]
        ),
        "attention_probabilities": sum(
            kl(scores(t_qkv[t]), scores(s_qkv[s])) for s, t in pairs["attention_probabilities"]
        ),
        "minilm": kl(scores(t_qkv[m_t]), scores(s_qkv[m_s]))
        + kl(relation(t_qkv[m_t][2], 4), relation(s_qkv[m_s][2], 4)),
        "minilmv2": sum(
            alpha * kl(relation(t, R), relation(s, R))
            for alpha, s, t in zip(alphas, s_qkv[v_s], t_qkv[v_t], strict=True)
        ),
    }
    if config.embeddings.weight:
        result["embeddings"] = mse("embeddings.embeddings", s_hidden[0], t_hidden[0])
    return result


@pytest.fixture(scope="module")
def expected(references):
    """name → ({term: its mean in torch}, the student's parameters, the projections)."""

    @functools.cache
    def of_loss(name):
        ids, segments, projections, _, _ = measured(name)
        teacher, student = references
        kernels = {
            path.removeprefix("projection.").removesuffix(".kernel"): torch.tensor(np.array(value), requires_grad=True)
            for path, value in projections.items()
        }
        totals = {}
        for sequence in sequences(ids, segments):
            for term, value in formulas(name, student, teacher, sequence, kernels).items():
                totals[term] = totals.get(term, 0.0) + value / (segments > 0).sum()
        return totals, dict(student.named_parameters(remove_duplicate=False)), kernels

    return of_loss


@pytest.mark.parametrize("term", ["embeddings", *PAIRS["default"]])
@pytest.mark.parametrize("name", LOSSES)
def test_a_term_of_layers_or_relations_and_its_gradient_are_the_formula(name, term, expected):
    _, _, _, values, grads = measured(name)
    totals, named, kernels = expected(name)
    assert values.keys() == totals.keys()
    if term not in totals:
        assert (name, term) == ("chosen", "embeddings")  # which have no layers to choose
        return
    np.testing.assert_allclose(values[term], totals[term].item(), rtol=1e-5)
    for parameter in (*named.values(), *kernels.values()):
        parameter.grad = None
    totals[term].backward(retain_graph=True)
    check_gradients(term, grads[term], named, kernels)


def check_gradients(term, grads, named, kernels):
    expected = {}
    for path, value in grads.items():
        short = path.removeprefix("projection.").removesuffix(".kernel")
        parameter = kernels.get(short) if path.startswith("projection.") else None
        if parameter is None:
            parameter = named[hf_name(models()[1].family.parameters, path)]
        gradient = np.zeros(value.shape) if parameter.grad is None else parameter.grad.numpy().astype(np.float64)
        own = path.startswith("projection.")
        expected[path] = gradient.T if path.endswith(".kernel") and not own and parameter.grad is not None else gradient
    total = np.sqrt(sum((value**2).sum() for value in expected.values()))
    assert total > 0
    for path, value in expected.items():
        # The softmax over keys does not see a key's bias: rounding noise is all there is.
        noise = 1e-6 * total if path.endswith("key.bias") else 1e-8 * total
        assert abs(grads[path] - value).max() <= max(1e-5 * abs(value).max(), noise), (term, path)
