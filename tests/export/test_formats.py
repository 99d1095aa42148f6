"""Exports compute what the models compute, on rows of odd lengths with padding, and say what they lack."""

import json
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from jax import export as jax_export

from distilbert_jax.cli import main
from distilbert_jax.export import formats, graph
from distilbert_jax.export.graph import ACTIVATIONS, onnx_model
from distilbert_jax.export.names import Head
from distilbert_jax.models import MaskedLM, MultipleChoice, layers
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import CLASSES, build, masked_lm
from tests.runs import BERT, STUDENT, change, refused

SMALL = {"num_hidden_layers": 1, "max_position_embeddings": 40, "vocab_size": 50}
HEADS = [name for name in CLASSES if not name.endswith(("NextSentencePrediction", "PreTraining"))]


def small(name, **changes):
    config = STUDENT if name.startswith("DistilBert") else BERT
    return build(CLASSES[name], change(config, **{**SMALL, **changes}))


def in_onnxruntime(model):
    session = onnxruntime.InferenceSession(onnx_model(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, dict(given)), strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_onnx_of_every_head_equals_the_model(name):
    model = small(name, labels=("a", "b")) if "Question" in name else small(name, labels=("a", "b", "c"))
    assert formats.difference(model, in_onnxruntime(model)) < formats.SCALE


def test_heads_have_one_name_each():
    assert {"", *formats.HEADS} == set(get_args(Head))
    assert {*formats.HEADS.values()} == {*graph.HEADS, MultipleChoice}


def test_onnx_of_an_untied_decoder_and_of_every_activation_equals_the_model():
    assert ACTIVATIONS.keys() == layers.ACTIVATIONS.keys()
    model = small("BertForMaskedLM", tie_word_embeddings=False)
    assert formats.difference(model, in_onnxruntime(model)) < formats.SCALE
    import jax.numpy as jnp

    from distilbert_jax.export.graph import Graph

    x = np.linspace(-12.0, 12.0, 97, dtype=np.float32)[None]
    for name, write in ACTIVATIONS.items():
        g = Graph({})
        made = g.model({}, {"y": (write(g, g.constant(x)), ["batch", 97])})
        onnx.checker.check_model(made)
        (y,) = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {})
        expected = np.asarray(layers.ACTIVATIONS[name](jnp.asarray(x)))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


@pytest.fixture(scope="module")
def directory(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model"
    masked_lm(change(BERT, **SMALL)).save_pretrained(path, load_tokenizer(world.tokenizer))
    return path


def test_a_folder_has_what_other_programs_look_for(directory, tmp_path):
    result = formats.export(str(directory), str(tmp_path / "out"), int8=True)
    assert result.files == ("onnx/model.onnx", "onnx/model_quantized.onnx")
    assert result.difference["onnx/model.onnx"] < formats.SCALE < result.difference["onnx/model_quantized.onnx"] < 0.2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert load_tokenizer(tmp_path / "out").get_vocab() == load_tokenizer(directory).get_vocab()
    quantised = onnx.load(tmp_path / "out" / "onnx" / "model_quantized.onnx").graph.initializer
    weights = [onnx.numpy_helper.to_array(one) for one in quantised if one.data_type == onnx.TensorProto.INT8]
    assert 32 < max(np.abs(one.astype(int)).max() for one in weights) <= 64, (
        "with more, sums overflow where there is no VNNI"
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "onnx" / "model.onnx"))
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]


def test_stablehlo_is_called_with_rows_of_any_size(directory, tmp_path, capsys):
    main.main(["export", str(directory), "--out", str(tmp_path / "out"), "--format", "stablehlo", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["difference"]["model.stablehlo"] < formats.SCALE
    exported = jax_export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    ids = np.full((2, 5), 7, np.int32)
    logits = exported.call(ids, np.ones_like(ids), np.zeros_like(ids))["logits"]
    expected = MaskedLM.from_pretrained(directory)(ids).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("pooler", [True, False])
def test_an_encoder_goes_with_its_pooler_or_without(world, directory, tmp_path, pooler):
    if pooler:
        small("BertModel").save_pretrained(tmp_path / "model", load_tokenizer(world.tokenizer))
    source = tmp_path / "model" if pooler else directory  # a masked LM has none
    for kind in ("onnx", "stablehlo"):
        told = formats.export(str(source), str(tmp_path / kind), format=kind, head="encoder")
        assert max(told.difference.values()) < formats.SCALE
    names = {"last_hidden_state", *(["pooler_output"] if pooler else [])}
    assert {one.name for one in onnx.load(tmp_path / "onnx/onnx/model.onnx").graph.output} == names
    exported = jax_export.deserialize(bytearray((tmp_path / "stablehlo/model.stablehlo").read_bytes()))
    ids = np.full((2, 5), 7, np.int32)
    assert exported.call(ids, np.ones_like(ids), np.zeros_like(ids)).keys() == names


def test_what_differs_is_not_kept(directory, tmp_path, monkeypatch):
    monkeypatch.setitem(graph.ACTIVATIONS, "gelu", graph.ACTIVATIONS["relu"])
    refused(lambda: formats.export(str(directory), str(tmp_path / "out")), field="model.onnx")
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_no_numbers_differ():
    model = small("BertForMaskedLM")
    none = lambda given: {"logits": np.full((*given["input_ids"].shape, 50), np.nan, np.float32)}
    value = formats.difference(model, none)
    assert np.isnan(value)
    refused(lambda: formats._checked(value, "model.onnx"), field="model.onnx")


def test_a_directory_that_holds_something_is_left_as_it_is(directory, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    refused(lambda: formats.export(str(directory), str(tmp_path / "out")), field="--out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "config.json"]


def test_what_cannot_be_exported_is_told(directory, tmp_path):
    out = str(tmp_path / "out")
    refused(lambda: formats.export(str(directory), out, format="stablehlo", int8=True), field="--int8")
    refused(lambda: formats.export(str(directory), out, head="lm"), field="--head")  # pyright: ignore[reportArgumentType]
    refused(lambda: formats.export(str(directory), out, head="token-classification"))  # it has no such head
    refused(lambda: onnx_model(build(CLASSES["BertForPreTraining"], change(BERT, **SMALL))), field="head")
    assert not (tmp_path / "out").exists()
