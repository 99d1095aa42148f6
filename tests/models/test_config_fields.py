"""What a directory says, obeyed or refused: fields of config.json, sizes beside the tensors' headers, files that an index names."""

import dataclasses
import json
import os
import time
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from distilbert_jax import families
from distilbert_jax.base.file_fields import Treatment
from distilbert_jax.config import Activation, student_config
from distilbert_jax.errors import InputError
from distilbert_jax.models import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    DistilBertForMaskedLM,
    MaskedLM,
)
from distilbert_jax.models.config_fields import CONFIG_FIELDS
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.layers import ACTIVATIONS, dropout
from distilbert_jax.models.params import split
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.training import sharding
from tests.models.common import build

CLASSES = {"bert": BertForMaskedLM, "distilbert": DistilBertForMaskedLM}
WORD = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def saved(tiny_bert, tiny_distilbert, tmp_path_factory):
    """Family → the content of config.json, tensors and parameters of a masked LM."""
    result = {}
    for config in (tiny_bert, tiny_distilbert):
        path, model = tmp_path_factory.mktemp(config.model_type), build(CLASSES[config.model_type], config)
        model.save_pretrained(path)
        content = json.loads((path / "config.json").read_text())
        result[config.model_type] = content, load_file(path / "model.safetensors"), split(model)[1]
    return result


@pytest.fixture
def directory(saved, tmp_path):
    """A function that writes a model with fields of its config.json and tensors set otherwise; None: left out."""

    def write(family="bert", config=(), tensors=(), without=()):
        content, weights, _ = saved[family]
        content = {name: value for name, value in (content | dict(config)).items() if name not in without}
        weights = {name: value for name, value in (weights | dict(tensors)).items() if name not in without}
        (tmp_path / "config.json").write_text(json.dumps(content))
        save_file(weights, tmp_path / "model.safetensors")
        return tmp_path

    return write


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return caught.value


def assert_params(model, expected):
    found = split(model)[1]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# Fields


def test_a_config_without_model_type_is_of_the_family_whose_class_loads_it(directory, saved, tmp_path):
    path = directory(without=["model_type"])
    model = BertForMaskedLM.from_pretrained(path)
    assert_params(model, saved["bert"][2])
    assert BertForMaskedLM.is_whole(path)
    assert error_of(lambda: MaskedLM.from_pretrained(path)).field == "model_type"
    model.save_pretrained(tmp_path / "again")
    assert_params(MaskedLM.from_pretrained(tmp_path / "again"), saved["bert"][2])


def test_every_activation_has_its_function():
    assert {*get_args(Activation)} == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", get_args(Activation))
def test_an_activation_is_read_under_each_of_its_names_and_written_back(name, directory):
    path = directory(config={"hidden_act": name})
    model = BertForMaskedLM.from_pretrained(path)
    assert model.config.hidden_act == model.encoder.layers[0].activation == name
    model.save_pretrained(path)
    assert json.loads((path / "config.json").read_text())["hidden_act"] == name


def test_names_of_one_activation_are_one_function():
    x = jnp.linspace(-4.0, 4.0, 33)
    for names in (("gelu", "gelu_python"), ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), ("silu", "swish")):
        first, *others = (ACTIVATIONS[name](x) for name in names)
        for other in others:
            np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_decoder_of_its_own_is_read_used_and_written(family, saved, directory, tmp_path):
    copy = "cls.predictions.decoder.weight" if family == "bert" else "vocab_projector.weight"
    decoder = np.random.default_rng(5).normal(size=(99, 32)).astype(np.float32)
    own = {copy: decoder}
    if family == "bert":
        own["cls.predictions.decoder.bias"] = np.arange(99, dtype=np.float32)
    path = directory(family, {"tie_word_embeddings": False}, own)
    first = MaskedLM.from_pretrained(path)
    first.save_pretrained(tmp_path / "again")
    for model in (first, MaskedLM.from_pretrained(tmp_path / "again")):
        params, head = split(model)[1], model.head
        np.testing.assert_array_equal(params["head.decoder"], decoder)
        np.testing.assert_array_equal(params["encoder.embeddings.word"], saved[family][2]["encoder.embeddings.word"])
        hidden = jnp.asarray(np.random.default_rng(6).normal(size=(1, 2, 32)), jnp.float32)
        x = head.norm(ACTIVATIONS["gelu"](head.transform(hidden)))
        np.testing.assert_allclose(model.logits(hidden), x @ decoder.T + head.bias[...], rtol=1e-4, atol=1e-4)
    tensors = load_file(tmp_path / "again" / "model.safetensors")
    np.testing.assert_array_equal(tensors[copy], decoder)
    if family == "bert":
        np.testing.assert_array_equal(split(first)[1]["head.bias"], own["cls.predictions.decoder.bias"])
        # The reference asks for this one too; before transformers 5 it was the decoder's bias.
        np.testing.assert_array_equal(tensors["cls.predictions.bias"], own["cls.predictions.decoder.bias"])
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False


def test_an_untied_word_embedding_is_not_taken_from_the_decoder(directory, saved):
    word = saved["bert"][1][WORD]
    untied = {"tie_word_embeddings": False}
    path = directory(config=untied, tensors={"cls.predictions.decoder.weight": word}, without=[WORD])
    error_of(lambda: BertForMaskedLM.from_pretrained(path))


def test_a_decoder_that_contradicts_the_config_is_refused_with_what_to_set(directory):
    path = directory(tensors={"cls.predictions.decoder.weight": np.ones((99, 32), np.float32)})
    error = error_of(lambda: BertForMaskedLM.from_pretrained(path))
    assert "tie_word_embeddings" in str(error)
    BertForSequenceClassification.from_pretrained(path)


def test_a_students_decoder_is_its_teachers(tiny_bert):
    untied = dataclasses.replace(tiny_bert, tie_word_embeddings=False)
    for teacher_config, student in ((untied, untied), (tiny_bert, untied), (untied, tiny_bert)):
        teacher = build(BertForPreTraining, teacher_config)
        config = student_config(student, 1)
        params, source = split(student_from_teacher(teacher, config))[1], split(teacher)[1]
        np.testing.assert_array_equal(params["encoder.embeddings.word"], source["encoder.embeddings.word"])
        if config.tie_word_embeddings:
            assert "head.decoder" not in params
        else:
            expected = source.get("head.decoder", source["encoder.embeddings.word"])
            np.testing.assert_array_equal(params["head.decoder"], expected)


def test_a_decoder_of_its_own_is_sharded_and_padded_as_the_word_embedding():
    assert sharding.spec("head.decoder") == sharding.spec("encoder.embeddings.word")
    padded = sharding.pad_vocabulary({"head.decoder": jnp.ones((99, 4))})["head.decoder"]
    assert padded.shape == (128, 4)
    assert not padded[99:].any()
    assert sharding.cut_vocabulary({"head.decoder": padded}, 99)["head.decoder"].shape == (99, 4)


def test_distilberts_sizes_have_other_names_too_which_go_first(directory):
    config = {"num_hidden_layers": 1, "num_attention_heads": 2}
    read = read_config(directory("distilbert", config))
    assert (read.num_hidden_layers, read.num_attention_heads) == (1, 2)


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 3}, ("a", "b", "c")),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 2}, ("LABEL_0", "LABEL_1")),
        ({"id2label": None, "num_labels": 1}, ("LABEL_0",)),
        ({"id2label": None, "label2id": {"a": 0, "b": 1, "c": 2}}, ("LABEL_0", "LABEL_1")),
    ],
)
def test_labels_are_those_that_the_reference_reads(said, labels, directory):
    assert read_config(directory(config=said)).labels == labels


@pytest.mark.parametrize(("value", "expected"), [(None, 0), (5, 5), (-1, 98), (-99, 0)])
def test_a_padding_token_is_counted_as_torch_counts(value, expected, directory):
    assert read_config(directory(config={"pad_token_id": value})).pad_token_id == expected


REFUSED = [(row.name, value) for row in CONFIG_FIELDS if row.treatment is Treatment.REFUSED for value in row.flips]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_cannot_be_obeyed_is_refused(name, value, directory):
    path = directory(config={name: value})
    error = error_of(lambda: BertForMaskedLM.from_pretrained(path))
    assert (error.path, error.field) == (str(path / "config.json"), name)


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("distilbert", "dropout", "0.1"),
        ("distilbert", "dropout", 1.5),
        ("distilbert", "n_layers", True),
        ("distilbert", "dim", None),
        ("distilbert", "n_heads", 5),
        ("distilbert", "activation", "prelu"),
        ("bert", "hidden_dropout_prob", None),
        ("bert", "hidden_dropout_prob", [0.1]),
        ("bert", "classifier_dropout", "x"),
        ("bert", "layer_norm_eps", -1.0),
        ("bert", "vocab_size", 99.0),
        ("bert", "hidden_size", None),
        ("bert", "hidden_act", 3),
        ("bert", "hidden_act", None),
        ("bert", "pad_token_id", 99),
        ("bert", "tie_word_embeddings", "no"),
        ("bert", "tie_word_embeddings", None),
        ("bert", "output_attentions", "no"),
        ("bert", "problem_type", "multi_label"),
        ("bert", "problem_type", ["regression"]),
        ("bert", "id2label", {"0": ["a"]}),
        ("bert", "num_labels", "3"),
        ("bert", "hidden_act", "x" * 100_000),
        ("bert", "model_type", "x" * 100_000),
        ("bert", "vocab_size", -(10**4000)),
        ("bert", "id2label", {"1" * 4000: "a", "2" * 4000: "b"}),
        ("bert", "num_labels", 0),
        ("bert", "num_labels", None),
        ("bert", "tie_word_embeddings", ""),
        ("bert", "architectures", [[1]]),
        ("bert", "architectures", -1),
        ("bert", "dtype", True),
        ("bert", "torch_dtype", "float33"),
        ("bert", "use_cache", None),
        ("bert", "is_decoder", None),
        ("distilbert", "sinusoidal_pos_embds", 2),
        ("distilbert", "eos_token_id", [True]),
        ("distilbert", "rope_scaling", "x"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_that_no_model_has_is_named_with_its_file_and_its_name_there(family, name, value, directory):
    path = directory(family, {name: value})
    error = error_of(lambda: MaskedLM.from_pretrained(path))
    assert (error.path, error.field) == (str(path / "config.json"), name)
    assert name in str(error)


def test_a_field_of_ones_own_is_passed_over(directory, saved, capfd):
    path = directory(config={"my_note": {"a": [1]}, "vocabulary": 3})
    assert_params(BertForMaskedLM.from_pretrained(path), saved["bert"][2])
    assert capfd.readouterr() == ("", "")


def test_a_call_gives_what_the_config_says_where_it_does_not_say_itself(directory):
    path = directory(config={"output_hidden_states": True})
    model = BertForMaskedLM.from_pretrained(path)
    said, asked = model([[2, 5, 3]]), model([[2, 5, 3]], output_hidden_states=False, output_attentions=True)
    assert len(said.hidden_states) == 3
    assert said.attentions is None
    assert asked.hidden_states is None
    assert len(asked.attentions) == 2


def test_question_answering_is_saved_with_the_two_labels_that_the_reference_needs(tiny_bert, tmp_path):
    model = build(BertForQuestionAnswering, dataclasses.replace(tiny_bert, labels=("a", "b", "c")))
    model.save_pretrained(tmp_path)
    assert len(json.loads((tmp_path / "config.json").read_text())["id2label"]) == 2


def test_everything_is_dropped_at_a_rate_of_one():
    x = jnp.ones((2, 8))
    for rate in (1.0, 0.9999999):
        assert not dropout(x, rate, jax.random.split(jax.random.key(0), 2)).any()


def test_every_field_that_is_read_is_in_the_table_as_obeyed():
    for family in (families.BERT, families.DISTILBERT):
        obeyed = {
            row.name
            for row in CONFIG_FIELDS
            if row.treatment is Treatment.OBEYED and (not row.families or family.name in row.families)
        }
        read = {*family.config_fields.values(), *family.config_aliases}
        assert obeyed == read | {"model_type", "id2label", "num_labels", "problem_type"}
        rows = [row.name for row in CONFIG_FIELDS if not row.families or family.name in row.families]
        assert len(rows) == len(set(rows))


# Sizes


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("distilbert", "n_layers", 100_000),
        ("distilbert", "n_layers", 10**30),
        ("bert", "num_hidden_layers", 52),
        ("bert", "vocab_size", 10**12),
        ("bert", "vocab_size", 10**30),
        ("bert", "hidden_size", 4 * 10**30),
        ("bert", "intermediate_size", 10**30),
        ("bert", "max_position_embeddings", 10**9),
        ("bert", "type_vocab_size", 10**9),
        ("bert", "num_labels", 10**9),
        ("bert", "num_labels", 10**30),
    ],
)
def test_a_size_beyond_the_tensors_is_refused_before_a_model_is_made(family, name, value, directory):
    path = directory(family, {name: value, "id2label": None})
    for load in (MaskedLM.from_pretrained, MaskedLM.is_whole):
        start = time.monotonic()
        error = error_of(lambda load=load: load(path))
        assert error.field == name
        assert len(str(error)) < 400 + len(str(path))
        assert time.monotonic() - start < 5.0


def test_a_missing_table_does_not_make_way_for_any_size(directory):
    path = directory(config={"vocab_size": 10**30}, without=[WORD])
    assert error_of(lambda: BertForMaskedLM.from_pretrained(path)).field == "vocab_size"


def test_only_the_first_few_faults_are_listed(directory):
    path = directory(config={"hidden_size": 16})
    error = error_of(lambda: BertForMaskedLM.from_pretrained(path))
    assert "more" in str(error)
    path = directory(tensors={f"more{i}": np.ones(1, np.float32) for i in range(1000)})
    assert str(error_of(lambda: BertForMaskedLM.from_pretrained(path))).endswith(" … and 994 more")


# Tensors


def raw(path, dtype, size):
    """A safetensors file with one tensor of a type that NumPy has not."""
    header = json.dumps({WORD: {"dtype": dtype, "shape": [99, 32], "data_offsets": [0, 99 * 32 * size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(99 * 32 * size))


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)])
def test_a_type_of_tensors_that_is_not_read_is_named(dtype, size, directory):
    path = directory()
    raw(path / "model.safetensors", dtype, size)
    for load in (BertForMaskedLM.from_pretrained, BertForMaskedLM.is_whole):
        error = error_of(lambda load=load: load(path))
        assert (error.path, error.field) == (str(path / "model.safetensors"), WORD)
        assert dtype in str(error)


def test_weights_of_whole_numbers_are_refused(directory, saved):
    path = directory(tensors={WORD: saved["bert"][1][WORD].astype(np.int8)})
    assert "int8" in str(error_of(lambda: BertForMaskedLM.from_pretrained(path)))


def in_shards(path, name_of):
    """Two shards; `name_of` gives each its name."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    shards = {name: name_of(i % 2) for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        (path / shard).parent.mkdir(exist_ok=True, parents=True)
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, path / shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def test_shards_in_a_folder_are_read(directory, saved):
    path = directory()
    in_shards(path, "parts/{}.safetensors".format)
    assert_params(BertForMaskedLM.from_pretrained(path), saved["bert"][2])


def test_a_snapshot_in_the_hubs_cache_links_to_what_stands_beside_it(directory, saved, tmp_path):
    path = directory()
    in_shards(path, "{}.safetensors".format)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in path.glob("*.*"):
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert_params(BertForMaskedLM.from_pretrained(snapshot), saved["bert"][2])


@pytest.mark.parametrize(
    "how", ["parent", "absolute", "within and out", "link", "linked folder", "null byte", "long", "circle"]
)
def test_an_index_does_not_lead_out_of_its_directory(how, directory, tmp_path_factory):
    path, other = directory(), tmp_path_factory.mktemp("other")
    (path / "model.safetensors").rename(other / "x.safetensors")
    name = {
        "parent": f"../{other.name}/x.safetensors",
        "absolute": str(other / "x.safetensors"),
        "within and out": f"sub/../../{other.name}/x.safetensors",
        "link": "link.safetensors",
        "linked folder": "folder/x.safetensors",
        "null byte": "a\0b",
        "long": "a" * 10_000,
        "circle": "circle",
    }[how]
    (path / "link.safetensors").symlink_to(other / "x.safetensors")
    (path / "folder").symlink_to(other)
    (path / "circle").symlink_to("circle")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {WORD: name}}))
    assert error_of(lambda: BertForMaskedLM.from_pretrained(path)).path.startswith(str(path))


@pytest.mark.parametrize("what", ["directory", "pipe"])
@pytest.mark.parametrize("name", ["sub", "model.safetensors", "model.safetensors.index.json"])
def test_what_is_no_file_is_named(what, name, directory):
    path = directory()
    (path / "model.safetensors").unlink()
    (path / name).mkdir() if what == "directory" else os.mkfifo(path / name)
    if name == "sub":
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {WORD: "sub"}}))
    assert error_of(lambda: BertForMaskedLM.from_pretrained(path)).path == str(path / name)


def test_a_tensor_that_stands_in_two_shards_is_refused(directory):
    path = directory()
    in_shards(path, "{}.safetensors".format)
    for i in range(2):
        tensors = load_file(path / f"{i}.safetensors")
        save_file(tensors | {WORD: np.full((99, 32), i, np.float32)}, path / f"{i}.safetensors")
    assert error_of(lambda: BertForMaskedLM.from_pretrained(path)).field == WORD


def test_a_runs_directory_is_answered_with_its_model(directory, tmp_path):
    model = directory()
    for config in (None, "{}", '{"task": "sst2"}'):
        run = tmp_path / f"run of {config}"[:12].replace("{", "").replace('"', "")
        run.mkdir(exist_ok=True)
        (run / "model").mkdir(exist_ok=True)
        (run / "model" / "config.json").write_text((model / "config.json").read_text())
        if config is not None:
            (run / "config.json").write_text(config)
        for kind in (MaskedLM, BertForMaskedLM):
            error = error_of(lambda run=run, kind=kind: kind.from_pretrained(run))
            assert (error.path, error.hint) == (str(run), str(run / "model"))


# What a caller gives


def test_an_argument_that_is_none_is_answered_with_the_nearest(directory):
    path = directory()
    error = error_of(lambda: BertForSequenceClassification.from_pretrained(path, num_labels=3))
    assert (error.field, error.hint) == ("num_labels", "did you mean 'labels'?")
    for name, value in (("config", 3), ("rngs", 3), ("labels", 3), ("hidden_dropout", "0.1"), ("vocab_size", "9")):
        error = error_of(lambda name=name, value=value: BertForMaskedLM.from_pretrained(path, **{name: value}))
        assert error.field == name
    assert BertForSequenceClassification.from_pretrained(path, labels=["a", "b", "c"]).config.labels == ("a", "b", "c")


@pytest.mark.parametrize("dtype", ["float99", "int8", "float8_e4m3fn", None, object], ids=str)
def test_a_dtype_that_weights_cannot_have_is_refused(dtype, directory, tmp_path):
    path = directory()
    assert error_of(lambda: BertForMaskedLM.from_pretrained(path, dtype=dtype)).field == "dtype"
    model = BertForMaskedLM.from_pretrained(path)
    assert error_of(lambda: model.save_pretrained(tmp_path / "new", dtype=dtype)).field == "dtype"
    assert not (tmp_path / "new").exists()


def test_one_name_to_initialise_anew_is_one_name(directory, saved):
    model = BertForMaskedLM.from_pretrained(directory(), reinitialise="head.transform")
    params = split(model)[1]
    for name, value in saved["bert"][2].items():
        assert np.array_equal(params[name], value) == (not name.startswith("head.transform"))


@pytest.mark.parametrize(
    "given",
    ["hello", ["hello", "you"], [[1, 2], [3]], [[1.0, 2.0]], {"input_ids": [1]}, np.ones((1, 3)), b"ab", object()],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_row_of_ids_is_refused(given, tiny_bert):
    model = build(BertForMaskedLM, tiny_bert)
    assert error_of(lambda: model(given)).field == "input_ids"
    for name in ("token_type_ids", "position_ids"):
        assert error_of(lambda name=name: model([[1, 2, 3]], **{name: given})).field == name


def test_no_ids_and_a_mask_of_words_are_refused(tiny_bert):
    model = build(BertForMaskedLM, tiny_bert)
    assert error_of(lambda: model(None)).field == "input_ids"
    assert error_of(lambda: model([[1, 2, 3]], "all")).field == "attention_mask"


def test_a_text_is_no_multiple_choice(tiny_bert):
    model = build(BertForMultipleChoice, tiny_bert)
    assert error_of(lambda: model("hello")).field == "input_ids"


def test_ids_of_torch_and_of_bool_masks_are_taken(tiny_bert):
    model = build(BertModel, tiny_bert)
    plain = model([[2, 5, 3]]).last_hidden_state
    masked = model(np.array([[2, 5, 3]], np.int64), np.ones((1, 3), bool)).last_hidden_state
    np.testing.assert_allclose(plain, masked, atol=1e-6)
