"""Models in which everything matters, and how far two arrays are apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distilbert_jax import models
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM, attention, encoder, heads, layers
from distilbert_jax.models.layers import dropout
from distilbert_jax.models.params import merge, split

CLASSES = {
    name: getattr(models, name)
    for family, own in (("Bert", ("ForNextSentencePrediction", "ForPreTraining")), ("DistilBert", ()))
    for head in (
        "Model",
        "ForMaskedLM",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForMultipleChoice",
        *own,
    )
    if (name := family + head)
}


def masked_lm(config, **options):
    """The masked LM of the config's family, with `random_params`."""
    return build({"bert": BertForMaskedLM, "distilbert": DistilBertForMaskedLM}[config.model_type], config, **options)


def build(cls, config, *, dtype=jnp.float32, activations="auto", seed=0):
    """A model of class `cls` with `random_params`."""
    graphdef, params = _shapes(cls, config, dtype, activations)
    return merge(graphdef, random_params(params, seed))


@functools.cache
def _shapes(cls, config, dtype, activations):
    return split(nnx.eval_shape(lambda: cls(config, dtype=dtype, activations=activations, rngs=nnx.Rngs(0))))


def random_params(params, seed=0):
    """Weights far from their initial values: with these, a bias or a LayerNorm that is left out shows."""
    rng = np.random.default_rng(seed)
    fresh = {}
    for path in sorted(params):
        noise = rng.normal(size=params[path].shape).astype(np.float32)
        if path.endswith("norm.scale"):
            fresh[path] = 1.0 + 0.2 * noise
        elif path.endswith("bias"):
            fresh[path] = 0.2 * noise
        else:
            fresh[path] = noise / np.sqrt(params[path].shape[0] if path.endswith("kernel") else 1.0)
    return {path: jnp.asarray(value) for path, value in fresh.items()}


def call(model, *arguments, **inputs):
    """`model(*arguments, **inputs)`, compiled: operation by operation it takes ten times as long."""
    graphdef, params = split(model)
    flags = tuple((name, inputs.pop(name)) for name in list(inputs) if name.startswith("output_"))
    return _call(graphdef, flags, params, arguments, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _call(graphdef, flags, params, arguments, inputs):
    return merge(graphdef, params)(*arguments, **inputs, **dict(flags))


def predictions(output):
    """The arrays that a head computed, by the reference's names; of a bare model its hidden states and pooled output."""
    found = {name: value for name, value in vars(output).items() if name.endswith("logits")}
    if found:
        return found
    pooled = {} if output.pooler_output is None else {"pooler_output": output.pooler_output}
    return {"last_hidden_state": output.last_hidden_state, **pooled}


def deviation(found, expected):
    """Largest difference, as a share of the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def record_dropout(monkeypatch):
    """A list that from now on gets (shape, rate, key data) of every dropout that a model applies, in its order."""
    sites = []

    def recorded(x, rate, rngs):
        if rate > 0.0 and rngs is not None:
            sites.append((x.shape, rate, jax.random.key_data(rngs)))
        return dropout(x, rate, rngs)

    for module in (attention, encoder, heads, layers):
        monkeypatch.setattr(module, "dropout", recorded)
    return sites
