import dataclasses
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    MaskedLM,
    PreTraining,
)
from distilbert_jax.models.hf_format import fingerprint, hf_name, loaded_files, read_config
from distilbert_jax.models.params import count, split
from tests.models.common import CLASSES, build
from tests.runs import refused


def family(request, name):
    config = request.getfixturevalue("tiny_distilbert" if name.startswith("Distil") else "tiny_bert")
    labels = ("no", "yes") if name.endswith("QuestionAnswering") else ("no", "yes", "maybe")
    return CLASSES[name], dataclasses.replace(config, labels=labels, hidden_dropout=0.15)


def base(cls):
    """The class that chooses the family by the directory."""
    return cls.__mro__[1]


def assert_equal_params(found, expected):
    found, expected = split(found)[1], split(expected)[1]
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == jnp.float32
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.fixture
def bert(tiny_bert):
    return build(BertForMaskedLM, tiny_bert)


@pytest.fixture
def directory(bert, tmp_path):
    """A BERT with a masked-LM head, as `save_pretrained` writes it."""
    bert.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def rewrite(directory, change):
    """Apply `change` to the tensors of a directory."""
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors) or tensors, directory / "model.safetensors")


# Round trip


def shard_into(directory, folder):
    """The weights in two files in a sub-folder, and their index."""
    (directory / folder).mkdir()
    tensors, places = load_file(directory / "model.safetensors"), {}
    for half in (0, 1):
        names = sorted(tensors)[half::2]
        places |= dict.fromkeys(names, f"{folder}/{half}.safetensors")
        save_file({name: tensors[name] for name in names}, directory / folder / f"{half}.safetensors")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_a_fingerprint_covers_shards_in_whatever_folder(directory, bert):
    shard_into(directory, "weights")
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    before = fingerprint(directory)
    assert "weights/0.safetensors" in loaded_files(directory)
    file = directory / "weights/1.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert fingerprint(directory) != before
    (directory.parent / "outside.safetensors").write_bytes(b"")
    places = {
        "a": "../outside.safetensors",
        "b": str(directory.parent / "outside.safetensors"),
        "c": "weights/0.safetensors",
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert [name for name in loaded_files(directory) if "safetensors" in name] == [
        "model.safetensors.index.json",
        "weights/0.safetensors",
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_a_saved_model_comes_back_bit_for_bit(name, request, tmp_path, capfd):
    cls, config = family(request, name)
    model = build(cls, config)
    model.save_pretrained(tmp_path / "model")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model"]
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    for loader in (cls, base(cls)):
        again = loader.from_pretrained(tmp_path / "model")
        assert type(again) is cls
        assert again.config == config
        assert_equal_params(again, model)
    again.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", CLASSES)
def test_files_have_the_references_names_and_orientation(name, request, tmp_path):
    cls, config = family(request, name)
    model = build(cls, config)
    model.save_pretrained(tmp_path)
    tensors, params = load_file(tmp_path / "model.safetensors"), split(model)[1]
    assert len(tensors) == len(params)
    assert sum(tensor.size for tensor in tensors.values()) == count(params)
    layer, feed_forward = {
        "bert": ("bert.encoder.layer.1", "intermediate.dense"),
        "distilbert": ("distilbert.transformer.layer.1", "ffn.lin1"),
    }[config.model_type]
    if name.endswith("Model"):
        layer = layer.partition(".")[2]  # the reference gives its bare models no prefix
    weight = tensors[f"{layer}.{feed_forward}.weight"]
    assert weight.shape == (config.intermediate_size, config.hidden_size)
    np.testing.assert_array_equal(weight.T, params["encoder.layers.1.ffn_in.kernel"])
    assert not any("decoder.weight" in name or name == "vocab_projector.weight" for name in tensors), (
        "tied: stored once"
    )
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == [name]
    assert content["id2label"] == {str(i): label for i, label in enumerate(config.labels)}
    assert content["label2id"] == {label: i for i, label in enumerate(config.labels)}


def test_saving_replaces_an_older_model_and_keeps_what_else_is_there(directory, tiny_bert):
    (directory / "notes.txt").write_text("mine")
    newer = build(BertForMaskedLM, tiny_bert, seed=1)
    newer.save_pretrained(directory)
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), newer)
    assert (directory / "notes.txt").read_text() == "mine"


def test_a_model_is_saved_into_the_working_directory(bert, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bert.save_pretrained(".")
    assert_equal_params(BertForMaskedLM.from_pretrained("."), bert)


def test_a_failed_save_leaves_the_older_model_whole(directory, bert, monkeypatch):
    before = (directory / "model.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        build(BertForMaskedLM, bert.config, seed=1).save_pretrained(directory)
    assert (directory / "model.safetensors").read_bytes() == before


def test_weights_can_be_read_by_whom_the_config_can(directory):
    assert (directory / "model.safetensors").stat().st_mode == (directory / "config.json").stat().st_mode


def test_a_file_is_not_replaced_by_a_directory(bert, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(lambda: bert.save_pretrained(tmp_path / "file"), by="base.hub.write_directory", path=str(tmp_path / "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_a_dtype_without_fractions_is_refused(dtype, directory):
    refused(
        lambda: BertForMaskedLM.from_pretrained(directory, dtype=dtype),
        field="dtype",
    )


# What checkpoints in the wild look like


def legacy_layer_norms(tensors):
    swap = lambda name: re.sub(r"(LayerNorm)\.weight", r"\1.gamma", re.sub(r"(LayerNorm)\.bias", r"\1.beta", name))
    return {swap(name): value for name, value in tensors.items()}


def no_prefix(tensors):
    return {name.removeprefix("bert."): value for name, value in tensors.items()}


def tied_decoder(tensors):
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()


def decoder_bias_alone(tensors):
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")


def position_ids(tensors):
    tensors["bert.embeddings.position_ids"] = np.arange(40, dtype=np.int64)[None]
    tensors["bert.embeddings.token_type_ids"] = np.zeros((1, 40), np.int64)


def no_prefix_position_ids(tensors):
    return no_prefix(tensors) | {"embeddings.position_ids": np.arange(40, dtype=np.int64)[None]}


@pytest.mark.parametrize(
    "change",
    [legacy_layer_norms, no_prefix, tied_decoder, decoder_bias_alone],
    ids=lambda change: change.__name__,
)
def test_checkpoints_in_the_wild_load_without_a_word(change, directory, bert, capfd):
    rewrite(directory, change)
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (position_ids, "bert.embeddings.position_ids, bert.embeddings.token_type_ids"),
        (no_prefix_position_ids, "bert.embeddings.position_ids"),
    ],
    ids=["full names", "no prefix"],
)
def test_buffers_are_skipped_and_named(change, named, directory, bert, capfd):
    rewrite(directory, change)
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    assert capfd.readouterr().err == f"{directory}: not used here: {named}\n"


LEGACY, NO_PREFIX = "bert.embeddings.LayerNorm.gamma", "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("name", "other"),
    [(LEGACY, "bert.embeddings.LayerNorm.weight"), (NO_PREFIX, f"bert.{NO_PREFIX}")],
    ids=["gamma", "no prefix"],
)
def test_two_tensors_of_one_name_are_refused_unless_they_are_equal(name, other, directory, bert):
    rewrite(directory, lambda tensors: tensors | {name: tensors[other].copy()})
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    rewrite(directory, lambda tensors: tensors | {name: tensors[other] * 3})
    refused(
        lambda: BertForMaskedLM.from_pretrained(directory),
        name,
        other,
        by="models.hf_format._check_names",
        path=str(directory),
        field=other,
    )


def test_tied_projector_of_distilbert_loads(tiny_distilbert, tmp_path, capfd):
    model = build(DistilBertForMaskedLM, tiny_distilbert)
    model.save_pretrained(tmp_path)
    word = "distilbert.embeddings.word_embeddings.weight"
    rewrite(tmp_path, lambda tensors: tensors | {"vocab_projector.weight": tensors[word].copy()})
    assert_equal_params(DistilBertForMaskedLM.from_pretrained(tmp_path), model)
    assert capfd.readouterr() == ("", "")


def test_a_decoder_that_is_not_the_embedding_is_refused_by_the_masked_lm_alone(directory, capfd):
    rewrite(directory, lambda tensors: tied_decoder(tensors) or tensors["cls.predictions.decoder.weight"].fill(0.5))
    refused(lambda: BertForMaskedLM.from_pretrained(directory), "cls.predictions.decoder.weight", path=str(directory))
    BertForSequenceClassification.from_pretrained(directory)


def test_a_decoders_bias_that_differs_from_the_one_it_is_a_copy_of_is_refused(directory):
    rewrite(directory, lambda tensors: tensors | {"cls.predictions.decoder.bias": np.ones(99, np.float32)})
    refused(
        lambda: BertForMaskedLM.from_pretrained(directory),
        "cls.predictions.decoder.bias",
        "cls.predictions.bias",
        path=str(directory),
    )


def test_a_word_embedding_that_stands_in_the_file_as_the_decoder_alone_is_read(directory, bert, capfd):
    word = "bert.embeddings.word_embeddings.weight"
    rewrite(directory, lambda tensors: tensors | {"cls.predictions.decoder.weight": tensors.pop(word)})
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    assert capfd.readouterr() == ("", "")


def test_a_parameter_that_the_familys_table_lacks_is_named():
    with pytest.raises(InputError) as caught:
        hf_name(BertForMaskedLM.family.parameters, "encoder.layers.3.gate.kernel")
    assert caught.value.field == "encoder.layers.{i}.gate"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_file_comes_back_in_its_own_dtype_bit_for_bit(dtype, directory, bert, tmp_path):
    bert.save_pretrained(directory, dtype=dtype)
    content = (directory / "model.safetensors").read_bytes()
    found = BertForMaskedLM.from_pretrained(directory)
    for path, value in split(found)[1].items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, split(bert)[1][path].astype(dtype).astype(jnp.float32))
    found.save_pretrained(tmp_path / "again", dtype=dtype)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == content
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == dtype


def test_shards_are_read_by_their_index(directory, bert):
    tensors = load_file(directory / "model.safetensors")
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, directory / shard)
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    (directory / "model-1.safetensors").unlink()
    missing = str(directory / "model-1.safetensors")
    refused(lambda: BertForMaskedLM.from_pretrained(directory), by="models.hf_format._shard", path=missing)


# A head that the file lacks, or that another class needs


@pytest.mark.parametrize(
    ("origin", "to"),
    [
        (origin, to)
        for origin in ("BertForPreTraining", "BertModel", "DistilBertForMaskedLM", "DistilBertModel")
        for to in CLASSES
        if origin.startswith("Distil") == to.startswith("Distil")
    ],
)
def test_a_file_made_for_one_class_loads_into_another(origin, to, request, tmp_path, capfd):
    cls, config = family(request, origin)
    model = build(cls, config)
    model.save_pretrained(tmp_path)
    found, source = split(CLASSES[to].from_pretrained(tmp_path))[1], split(model)[1]
    for path in found.keys() & source.keys():
        np.testing.assert_array_equal(found[path], source[path], err_msg=path)
    said = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in said] == (
        ["not used here"] * bool(source.keys() - found.keys())
        + ["newly initialised"] * bool(found.keys() - source.keys())
    )


def test_a_bare_model_without_its_pooler_is_silent_about_it(directory, bert, capfd):
    model = BertModel.from_pretrained(directory, add_pooling_layer=False)
    assert set(split(model)[1]) == {path for path in split(bert)[1] if path.startswith("encoder.")}
    assert model([[2, 5, 3]]).pooler_output is None
    assert capfd.readouterr().err.splitlines() == [
        f"{directory}: not used here: cls.predictions, cls.predictions.transform.LayerNorm, cls.predictions.transform.dense"
    ]


def test_other_heads_are_named_in_one_line(tiny_bert, directory, bert, capfd):
    def more_heads(tensors):
        for name in ("bert.pooler.dense", "cls.seq_relationship", "qa_outputs"):
            tensors |= {f"{name}.weight": np.ones((2, 32), np.float32), f"{name}.bias": np.ones(2, np.float32)}

    rewrite(directory, more_heads)
    assert_equal_params(BertForMaskedLM.from_pretrained(directory), bert)
    expected = f"{directory}: not used here: bert.pooler.dense, cls.seq_relationship, qa_outputs\n"
    assert capfd.readouterr() == ("", expected)


@pytest.mark.parametrize(
    ("lm", "classifier", "unused", "fresh"),
    [
        (
            BertForMaskedLM,
            BertForSequenceClassification,
            "cls.predictions, cls.predictions.transform.LayerNorm, cls.predictions.transform.dense",
            "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight",
        ),
        (
            DistilBertForMaskedLM,
            DistilBertForSequenceClassification,
            "vocab_layer_norm, vocab_projector, vocab_transform",
            "classifier.bias, classifier.weight, pre_classifier.bias, pre_classifier.weight",
        ),
    ],
    ids=["bert", "distilbert"],
)
def test_a_new_classifier_is_reported_and_follows_the_seed(lm, classifier, unused, fresh, request, tmp_path, capfd):
    _, config = family(request, lm.__name__)
    model = build(lm, config)
    model.save_pretrained(tmp_path)
    first, again, other = (
        classifier.from_pretrained(tmp_path, seed=seed, labels=("a", "b", "c", "d")) for seed in (1, 1, 2)
    )
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"{tmp_path}: not used here: {unused}", f"{tmp_path}: newly initialised: {fresh}"], "told once"
    assert_equal_params(first, again)
    assert first.config.labels == ("a", "b", "c", "d")
    first, other, source = split(first)[1], split(other)[1], split(model)[1]
    assert first["classifier.kernel"].shape == (32, 4)
    assert first["classifier.kernel"].std() == pytest.approx(0.02, rel=0.3)
    for path, value in first.items():
        if path.startswith("encoder."):
            np.testing.assert_array_equal(value, source[path])
        elif path.endswith("kernel"):
            assert (value != other[path]).all()


# Refusals


def test_sizes_are_not_those_of_the_last_of_two_tensors_of_one_name(directory):
    """Under its name without the prefix, a larger table would let config.json ask for more than is loaded."""

    def double(tensors):
        tensors["embeddings.word_embeddings.weight"] = np.ones((10**4, 32), np.float32)

    rewrite(directory, double)
    told = {"path": str(directory), "field": "bert.embeddings.word_embeddings.weight"}
    refused(lambda: BertForMaskedLM.from_pretrained(directory), by="models.hf_format._check_names", **told)
    refused(lambda: BertForMaskedLM.is_whole(directory), by="models.hf_format._check_names", **told)


def test_all_that_does_not_fit_is_listed_at_once(directory):
    def spoil(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.embeddings.LayerNorm.weight"] = np.ones(31, np.float32)
        tensors["bert.encoder.layer.0.intermediate.dense.weight"] = np.ones((32, 48), np.float32)
        tensors["bert.encoder.layer.2.output.dense.bias"] = np.ones(32, np.float32)
        tensors["adapter.weight"] = np.ones(1, np.float32)

    rewrite(directory, spoil)
    shown = (
        *("5 tensors", "bert.encoder.layer.1.output.dense.bias", "bert.embeddings.LayerNorm.weight", "(31,)", "(32,)"),
        *("bert.encoder.layer.0.intermediate.dense.weight", "(32, 48)", "(48, 32)"),
        *("bert.encoder.layer.2.output.dense.bias", "adapter.weight"),
    )
    refused(lambda: BertForMaskedLM.from_pretrained(directory), *shown, path=str(directory))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value, directory):
    tensors = load_file(directory / "model.safetensors")
    name = next(name for name in tensors if name.endswith("attention.self.query.weight"))
    tensors[name] = tensors[name].copy()
    tensors[name][1, 2] = value
    save_file(tensors, directory / "model.safetensors")
    refused(lambda: BertForMaskedLM.from_pretrained(directory), name, path=str(directory))


def test_a_pickle_is_refused_with_the_way_to_convert_it(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refused(lambda: BertForMaskedLM.from_pretrained(directory), "save_pretrained", path="pytorch_model.bin")


@pytest.mark.parametrize("size", [0, 5, 2000, -1])
def test_a_truncated_file_is_named(size, directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refused(lambda: BertForMaskedLM.from_pretrained(directory), by="models.hf_format._opened", path=str(file))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": ["a"]}'])
def test_an_index_that_is_none_is_named(content, directory):
    (directory / "model.safetensors").unlink()
    index = directory / "model.safetensors.index.json"
    index.write_text(content)
    refused(lambda: BertForMaskedLM.from_pretrained(directory), path=str(index))


def test_what_is_missing_is_named(directory, tmp_path):
    (directory / "model.safetensors").unlink()
    load = BertForMaskedLM.from_pretrained
    refused(lambda: load(directory), "model.safetensors", by="models.hf_format._weight_files", path=str(directory))
    (directory / "config.json").unlink()
    refused(lambda: load(directory), "config.json", by="models.hf_format.read_config", path=str(directory))
    refused(lambda: load(tmp_path / "none"), by="base.hub.locate", path=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("content", "row", "field", "shown"),
    [
        ("{", 1, None, ""),
        ("[]", None, None, ""),
        ("{}", None, "model_type", "import the module"),
        ('{"model_type": "electra"}', None, "model_type", "import the module"),
        ('{"model_type": ["bert"]}', None, "model_type", "import the module"),
        ('{"model_type": "bert", "hidden_size": 100}', None, "num_attention_heads", ""),
        ('{"model_type": "bert", "hidden_size": "big"}', None, "hidden_size", ""),
        ('{"model_type": "bert", "hidden_act": "sillu"}', None, "hidden_act", "'silu'"),
        ('{"model_type": "bert", "vocab_size": 30522.0}', None, "vocab_size", ""),
        ('{"model_type": "bert", "id2label": {"0": "a", "2": "b"}}', None, "id2label", ""),
        ('{"model_type": "bert", "id2label": ["a", "b"]}', None, "id2label", ""),
        ('{"model_type": "bert", "id2label": {"a": "b"}}', None, "id2label", ""),
    ],
)
def test_a_config_that_cannot_be_used_is_named(content, row, field, shown, directory):
    file = directory / "config.json"
    file.write_text(content)
    refused(lambda: MaskedLM.from_pretrained(directory), shown, path=str(file), row=row, field=field)


def test_a_config_that_is_not_text_is_named(directory):
    file = directory / "config.json"
    file.write_bytes(b"\xff\xfe")
    refused(lambda: BertForMaskedLM.from_pretrained(directory), by="base.files._decoded", path=str(file), row=1)


def test_the_other_family_is_refused_by_a_familys_own_class(directory):
    refused(lambda: DistilBertForMaskedLM.from_pretrained(directory), "DistilBertForMaskedLM", field="model_type")


@pytest.mark.parametrize("name", CLASSES)
def test_a_config_of_the_other_family_is_refused(name, tiny_bert, tiny_distilbert):
    config = tiny_bert if name.startswith("Distil") else tiny_distilbert
    refused(lambda: CLASSES[name](config, rngs=nnx.Rngs(0)), name, config.model_type, field="model_type")


# config.json


def config_of(tmp_path, **content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    return read_config(tmp_path)


def test_a_minimal_config_means_the_references_defaults(tmp_path):
    assert config_of(tmp_path, model_type="bert") == ModelConfig.bert_base()
    assert config_of(tmp_path, model_type="distilbert") == ModelConfig.distilbert_base()


def test_fields_have_the_names_of_their_family(tmp_path):
    shared = {"vocab_size": 99, "max_position_embeddings": 40, "initializer_range": 0.03, "pad_token_id": 1}
    bert = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "type_vocab_size": 3,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.3,
        "classifier_dropout": 0.4,
    }
    assert config_of(tmp_path, model_type="bert", **shared, **bert) == ModelConfig(
        "bert", 99, 32, 3, 4, 48, 40, 3, "relu", 1e-5, 0.03, 0.2, 0.3, 0.4, 0.0, 1
    )
    distilbert = {
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 48,
        "activation": "relu",
        "dropout": 0.2,
        "attention_dropout": 0.3,
        "seq_classif_dropout": 0.4,
        "qa_dropout": 0.5,
    }
    assert config_of(tmp_path, model_type="distilbert", **shared, **distilbert) == ModelConfig(
        "distilbert", 99, 32, 3, 4, 48, 40, 0, "relu", 1e-12, 0.03, 0.2, 0.3, 0.4, 0.5, 1
    )


def test_berts_classifier_dropout_falls_back_to_the_hidden_one(tmp_path):
    common = {"model_type": "bert", "hidden_dropout_prob": 0.25}
    assert config_of(tmp_path, **common).classifier_dropout == 0.25
    assert config_of(tmp_path, **common, classifier_dropout=None).classifier_dropout == 0.25
    assert config_of(tmp_path, **common, classifier_dropout=0.0).classifier_dropout == 0.0


def test_labels_come_in_the_order_of_their_ids(tmp_path):
    many = {str(i): f"label {i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert config_of(tmp_path, model_type="bert", id2label=many).labels == tuple(f"label {i}" for i in range(11))
    assert config_of(tmp_path, model_type="bert", num_labels=3).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert config_of(tmp_path, model_type="bert", id2label={"0": "score"}).labels == ("score",)


# Sizes


def sizes(cls, config):
    """Parameters of a model and of its heads, counted without allocating them."""
    params = split(nnx.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0))))[1]
    assert all(isinstance(value, jax.ShapeDtypeStruct) for value in params.values())
    part = lambda start: count({path: value for path, value in params.items() if path.startswith(start)})
    return count(params), part("encoder."), part("pooler."), part("classifier.")


def test_models_have_the_published_numbers_of_parameters():
    whole, encoder, *_ = sizes(DistilBertForMaskedLM, ModelConfig.distilbert_base())
    assert (whole, encoder) == (66_985_530, 66_362_880)
    whole, encoder, pooler, classifier = sizes(BertForSequenceClassification, ModelConfig.bert_base())
    assert encoder + pooler == whole - classifier == 109_482_240


def test_a_directory_is_whole_for_a_class_whose_every_parameter_it_holds(tiny_bert, tmp_path):
    build(BertModel, tiny_bert).save_pretrained(tmp_path / "bare")
    build(BertForMaskedLM, tiny_bert).save_pretrained(tmp_path / "lm")
    build(BertForPreTraining, tiny_bert).save_pretrained(tmp_path / "both")
    whole = lambda kind: [kind.is_whole(tmp_path / name) for name in ("bare", "lm", "both")]
    assert whole(MaskedLM) == [False, True, True]
    assert whole(PreTraining) == [False, False, True]

    refused(lambda: DistilBertForMaskedLM.is_whole(tmp_path / "lm"), field="model_type")


def test_a_runs_directory_in_the_place_of_its_model_is_answered_with_the_model(tmp_path):
    (tmp_path / "config.json").write_text('{"optimizer": {}, "model": {}}')
    with pytest.raises(InputError) as caught:
        read_config(tmp_path)
    assert (caught.value.path, caught.value.hint) == (str(tmp_path), str(tmp_path / "model"))


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path.name)]
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "shard"])
def test_what_is_no_regular_file_of_a_model_is_refused_at_once(name, make, directory):
    if name == "shard":
        index = {"weight_map": {"bert.embeddings.LayerNorm.bias": name}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / (name if name == "config.json" else "model.safetensors")).unlink()
    make(directory / name)
    with pytest.raises((InputError, OSError)) as caught:
        BertForMaskedLM.from_pretrained(directory)
    assert str(directory) in str(caught.value)
