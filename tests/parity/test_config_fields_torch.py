"""Every field of config.json beside transformers: given another value, and after a round trip through this package."""

import contextlib
import dataclasses
import inspect
import json
import re
import shutil
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.base.file_fields import FileField, Treatment
from distilbert_jax.errors import InputError
from distilbert_jax.models.config_fields import CONFIG_FIELDS
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.layers import ACTIVATIONS
from distilbert_jax.pipelines import TextClassification
from tests.models.common import CLASSES, deviation, predictions

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.fuzzing import LAXER, VALUES  # noqa: E402  (needs transformers)
from tests.golden import record  # noqa: E402  (needs torch)

FAMILIES = {"bert": "Bert", "distilbert": "DistilBert"}
SIZES = {
    "bert": {**record.SHARED, **record.BERT},
    "distilbert": {**record.SHARED, **record.DISTILBERT},
}
OF_CLASSIFIERS = {"id2label", "num_labels", "problem_type", "label2id", "classifier_dropout", "seq_classif_dropout"}
# Written as another value that means the same: null and negative ids of padding, a dropout that is that of the hidden states.
SAME = {("pad_token_id", "null"): 0, ("pad_token_id", "-1"): 98, ("classifier_dropout", "null"): 0.1}
SHAPES = {
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("dim", "n_layers", "n_heads", "hidden_dim"),
}
CASES = [
    pytest.param(family, row, value, id=f"{family} {row.name} {json.dumps(value)}")
    for row in CONFIG_FIELDS
    for family in FAMILIES
    if not row.families or family in row.families
    for value in row.flips
]


def reference_fields(family: str) -> set[str]:
    """The fields that the installed transformers has or asks for."""
    kind = getattr(transformers, f"{FAMILIES[family]}Config")
    modeling = inspect.getmodule(getattr(transformers, f"{FAMILIES[family]}Model"))
    assert modeling is not None
    taken = inspect.getsource(transformers.PreTrainedConfig.__post_init__)
    read = inspect.getsource(modeling)
    return {
        *(field.name for field in dataclasses.fields(kind)),
        *kind.attribute_map,
        *re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', taken),
        *re.findall(r"\bconfig\.([a-z]\w*)", read),
        *re.findall(r'(?:getattr|hasattr)\((?:self\.)?config, "(\w+)"', read),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_has_every_field_of_the_installed_transformers(family):
    known = {row.name for row in CONFIG_FIELDS if not row.families or family in row.families}
    fields = reference_fields(family)
    assert {"hidden_dropout_prob", "layer_norm_eps"} <= fields or {"qa_dropout", "dropout"} <= fields
    assert {"torch_dtype", "num_labels", "output_attentions", "problem_type", "hidden_size"} <= fields
    assert fields - known == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_value_of_a_field_is_read_that_the_reference_refuses(family, tmp_path):
    kind = getattr(transformers, f"{FAMILIES[family]}Config")
    content = json.loads(kind().to_json_string())
    laxer = []
    for row in CONFIG_FIELDS:
        for value in (*VALUES, [[1]], ["a", 1], [None]) if not row.families or family in row.families else ():
            (tmp_path / "config.json").write_text(json.dumps({**content, row.name: value}))
            with contextlib.suppress(InputError):
                read_config(tmp_path)
                try:
                    with warnings.catch_warnings(action="ignore"):  # a deprecated field is read
                        kind.from_pretrained(tmp_path)
                except Exception as error:
                    if not any(part in str(error) for part in LAXER):
                        laxer.append((row.name, value, str(error)[:100]))
    assert laxer == []


def test_activations_and_their_gradients_are_the_references():
    from transformers.activations import ACT2CLS, ACT2FN

    assert {*ACT2CLS} - {*ACTIVATIONS} == {"prelu", "xielu"}, "those with parameters of their own"
    x = np.linspace(-12.0, 12.0, 481, dtype=np.float32) + 0.01
    for name, function in ACTIVATIONS.items():
        given = torch.tensor(x, requires_grad=True)
        expected = ACT2FN[name](given)
        expected.sum().backward()
        value, gradient = jax.vmap(jax.value_and_grad(function))(jnp.asarray(x))
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(gradient, given.grad, rtol=1e-5, atol=5e-6, err_msg=name)


@pytest.fixture(scope="module")
def given():
    return {family: record.inputs(f"{name}Model") for family, name in FAMILIES.items()}


@pytest.fixture
def write(tmp_path, plain):
    """A function that writes a model of the reference whose config.json has a field set otherwise, with tensors that fit it."""

    def make(family, head, field, value, *, fit):
        path = tmp_path / "reference"
        content = json.loads((plain(family, head) / "config.json").read_text()) | {field: value}
        if fit:
            name = f"{FAMILIES[family]}{head}"
            kind = getattr(transformers, f"{FAMILIES[family]}Config")
            config = kind.from_dict(dict(content))
            config._attn_implementation = "eager"
            record.randomise(getattr(transformers, name)(config).eval(), 1).save_pretrained(path)
        else:
            shutil.copytree(plain(family, head), path)
        (path / "config.json").write_text(json.dumps(content))
        return path

    return make


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Family, head → the directory of a model of the reference; each is made once."""
    made = {}

    def directory(family, head):
        if (family, head) not in made:
            made[family, head] = tmp_path_factory.mktemp(family)
            record.build(f"{FAMILIES[family]}{head}", seed=1).save_pretrained(made[family, head])
        return made[family, head]

    return directory


def reference(path, name, given):
    """The reference's model of a directory, and what it gives."""
    model = getattr(transformers, name).from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model, model(**{key: torch.tensor(value).long() for key, value in given.items()}, return_dict=True)


@pytest.fixture(scope="module")
def plain_logits(plain, given):
    """Family, head → the logits of that model of the reference."""
    logits = {}

    def ask(family, head):
        if (family, head) not in logits:
            logits[family, head] = reference(plain(family, head), f"{FAMILIES[family]}{head}", given[family])[1].logits
        return logits[family, head]

    return ask


def outputs(model, given, new_shapes):
    """What our model gives. A program is compiled for new shapes; else it runs operation by operation, which all fields share."""
    with contextlib.nullcontext() if new_shapes else jax.disable_jit():
        return model(**given)


def scores(model, logits, *, theirs):
    """The label of each score that a text-classification pipeline makes of a row of logits."""
    pipeline = SimpleNamespace(model=model)
    if theirs:
        found = transformers.TextClassificationPipeline.postprocess(
            pipeline, {"logits": logits[None]}, top_k=None, _legacy=False
        )
    else:
        apply = TextClassification._function(pipeline, None)
        found = TextClassification._answers(pipeline, "", apply(np.asarray(logits)), None)
    return {answer["label"]: answer["score"] for answer in found}


def assert_same(found, expected):
    ours, theirs = predictions(found), record.predictions(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert deviation(ours[key], value) < 2e-5, key
    for kind in ("hidden_states", "attentions"):
        assert (getattr(found, kind) is None) == (getattr(expected, kind) is None), kind
        for one, other in zip(getattr(found, kind) or (), getattr(expected, kind) or (), strict=True):
            assert deviation(one, other) < 2e-5, kind


def cases(*treatments):
    """Family, row, value of the rows that are so treated."""
    return pytest.mark.parametrize(
        ("family", "row", "value"), [case for case in CASES if case.values[1].treatment in treatments]
    )


def head_of(row: FileField) -> str:
    return "ForSequenceClassification" if row.name in OF_CLASSIFIERS else "ForMaskedLM"


@cases(Treatment.OBEYED)
def test_a_field_does_what_it_does_in_transformers(family, row, value, write, given, tmp_path):
    name = f"{FAMILIES[family]}{head_of(row)}"
    path = write(family, head_of(row), row.name, value, fit=True)
    before, expected = reference(path, name, given[family])
    model = CLASSES[name].from_pretrained(path)
    found = outputs(model, given[family], row.name in SHAPES)
    assert_same(found, expected)
    model.save_pretrained(tmp_path / "ours")
    again, after = reference(tmp_path / "ours", name, given[family])
    assert_same(found, after)
    value_of = lambda model: getattr(model.config, row.name)
    assert value_of(again) == SAME.get((row.name, json.dumps(value)), value_of(before))
    if row.name in OF_CLASSIFIERS:
        ours = scores(model, found.logits[0], theirs=False)
        for one, output in ((before, expected), (again, after)):
            assert ours == pytest.approx(scores(one, output.logits[0], theirs=True), rel=1e-4, abs=1e-6)


@cases(Treatment.REFUSED)
def test_a_field_that_cannot_be_obeyed_is_refused(family, row, value, write):
    path = write(family, head_of(row), row.name, value, fit=False)
    with pytest.raises(InputError) as caught:
        CLASSES[f"{FAMILIES[family]}{head_of(row)}"].from_pretrained(path)
    assert caught.value.field == row.name


@cases(Treatment.WITHOUT_EFFECT)
def test_a_field_without_effect_has_none_in_transformers_either(family, row, value, write, plain, plain_logits, given):
    """There the outputs stay as they are; here the config does, and so all that is made from it."""
    head = head_of(row)
    path, name = write(family, head, row.name, value, fit=False), f"{FAMILIES[family]}{head}"
    _, found = reference(path, name, given[family])
    assert deviation(found.logits, plain_logits(family, head)) < 2e-5
    assert read_config(path) == read_config(plain(family, head))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_decoders_are_read_under_every_name_that_transformers_reads(family, tied, given, tmp_path):
    """The word embedding or the decoder may be left out where they are one table; where they are two, both are read."""
    from safetensors.torch import load_file, save_file

    name = f"{FAMILIES[family]}ForMaskedLM"
    kind = getattr(transformers, f"{FAMILIES[family]}Config")
    model = getattr(transformers, name)(kind(**SIZES[family], tie_word_embeddings=tied)).eval()
    record.randomise(model, 2).save_pretrained(tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    ours = CLASSES[name].family
    decoder = ours.parameters["head.decoder"]
    variants = {"as it is": tensors}
    if tied:
        variants["decoder alone"] = {key: value for key, value in tensors.items() if key != ours.word} | {
            decoder: tensors[ours.word]
        }
        variants["both"] = tensors | {decoder: tensors[ours.word].clone()}
    for variant, content in variants.items():
        path = tmp_path / variant
        shutil.copytree(tmp_path / "whole", path)
        save_file(content, path / "model.safetensors", metadata={"format": "pt"})
        _, expected = reference(path, name, given[family])
        loaded = CLASSES[name].from_pretrained(path)
        found = outputs(loaded, given[family], new_shapes=False)
        assert_same(found, expected)
        loaded.save_pretrained(tmp_path / f"{variant} again")
        again, after = reference(tmp_path / f"{variant} again", name, given[family])
        assert_same(found, after)
        assert again.config.tie_word_embeddings == tied
