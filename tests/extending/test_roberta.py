"""A family from outside of the package: RoBERTa, as `roberta.py` beside this file brings it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer as Pieces
from tokenizers import models, pre_tokenizers, trainers

from distilbert_jax import config as c
from distilbert_jax import families
from distilbert_jax.errors import InputError
from distilbert_jax.models import EncoderModel, MaskedLM, SequenceClassification, compiled
from distilbert_jax.models.encoder import Encoder
from distilbert_jax.models.params import split
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.pipelines import FeatureExtraction, FillMask, TextClassification
from distilbert_jax.pretraining.build_corpus import build_corpus
from distilbert_jax.pretraining.run import pretrain
from distilbert_jax.text.tokenizer import BertTokenizer, load_tokenizer
from tests.models.common import build, call, deviation, predictions
from tests.runs import ROOT, entries, refused, weights

TEXTS = ["The red fox <mask> over it.", "<mask> naïve dogs", "a<mask>", "Fox runs, dog sleeps; " * 2 + "<mask>!"]
SOURCE = ["The red fox jumps over the lazy dog.", "Fox runs, dog sleeps; a naïve cat looks over it."] * 4
HEADS = ("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification")
heads = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(scope="module", autouse=True)
def roberta():
    """The module, whose family only the tests of this file know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "_REGISTERED", dict(families._REGISTERED))
        from tests.extending import roberta

        families.register(roberta.ROBERTA)
        yield roberta


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A directory with vocab.json and merges.txt."""
    tokenizer = Pieces(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SOURCE, trainer)
    directory = tmp_path_factory.mktemp("pieces")
    tokenizer.model.save(str(directory))
    return directory


@pytest.fixture(scope="module")
def tiny(roberta):
    """34 positions for 32 tokens."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return roberta.roberta_base(vocab_size=300, max_position_embeddings=34, labels=("no", "yes", "maybe"), **sizes)


@pytest.fixture(scope="module")
def saved(roberta, tiny, pieces, tmp_path_factory):
    """Class → the directory of such a model, with its tokenizer."""
    directories = {name: tmp_path_factory.mktemp(name) / "model" for name in HEADS}
    for name, directory in directories.items():
        build(getattr(roberta, name), tiny, seed=2).save_pretrained(directory, load_tokenizer(pieces))
    return directories


def test_a_directory_of_the_family_loads_once_its_module_is_imported(saved):
    """In a process that has the module in a folder of its own."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from distilbert_jax.models import MaskedLM
from distilbert_jax.pipelines import FillMask
errors = []
for kind in (MaskedLM.from_pretrained, FillMask):
    try:
        kind({str(saved["RobertaForMaskedLM"])!r})
    except ValueError as error:
        print(error.path, error.field, error)
import roberta
print(type(MaskedLM.from_pretrained({str(saved["RobertaForMaskedLM"])!r})).__name__)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    *refusals, loaded = run.stdout.splitlines()
    assert len(refusals) == 2
    for line in refusals:
        assert line.startswith(f"{saved['RobertaForMaskedLM']}/config.json model_type ")
        assert "model_type = 'roberta': families known: bert, distilbert; import the module that registers" in line
    assert loaded == "RobertaForMaskedLM"


def test_a_family_that_adds_no_method_is_compiled_for_few_shapes(roberta, tiny, monkeypatch):
    shapes, run = [], compiled._run
    monkeypatch.setattr(compiled, "_run", lambda *given: shapes.append(given[3]["input_ids"].shape) or run(*given))
    model = build(roberta.RobertaForMaskedLM, tiny)
    ids = np.random.default_rng(0).integers(5, 300, (3, 19))
    ids[1, 12:] = tiny.pad_token_id  # the reference counts positions by the ids
    found, expected = model(ids, ids != tiny.pad_token_id), call(model, ids, ids != tiny.pad_token_id)
    assert shapes == [(3, 19)]
    assert found.logits.shape == (3, 19, 300)
    assert deviation(found.logits, expected.logits) < 1e-6
    build(roberta.RobertaForSequenceClassification, tiny)(ids[:1, :4])
    assert len(shapes) == 1, "a method of one's own may do more than compute"


@heads
def test_a_saved_model_comes_back_bit_for_bit(name, saved, roberta, tiny, tmp_path, capfd):
    base = {"Model": EncoderModel, "ForMaskedLM": MaskedLM, "ForSequenceClassification": SequenceClassification}
    again = base[name.removeprefix("Roberta")].from_pretrained(saved[name])
    assert type(again) is getattr(roberta, name)
    assert again.config == tiny
    again.save_pretrained(tmp_path, load_tokenizer(saved[name]))
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / file).read_bytes() == (saved[name] / file).read_bytes()
    assert capfd.readouterr() == ("", "")


def test_a_head_that_the_file_lacks_is_new(saved, roberta, capfd):
    model = SequenceClassification.from_pretrained(saved["RobertaForMaskedLM"])
    assert type(model) is roberta.RobertaForSequenceClassification
    unused, new = capfd.readouterr().err.splitlines()
    assert unused.endswith("not used here: lm_head, lm_head.dense, lm_head.layer_norm")
    assert new.endswith(
        "classifier.dense.bias, classifier.dense.weight, classifier.out_proj.bias, classifier.out_proj.weight"
    )


def test_a_configs_defaults_are_the_familys(roberta, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    config = c.ModelConfig.of_family("roberta")
    assert (config.vocab_size, config.pad_token_id, config.max_length) == (50265, 1, 510)
    assert roberta.roberta_base().max_length == 512
    with pytest.raises(InputError) as caught:
        roberta.roberta_base(qa_dropout=0.1)
    assert caught.value.field == "qa_dropout"
    with pytest.raises(InputError) as caught:
        roberta.roberta_base(max_position_embeddings=2)
    assert caught.value.field == "max_position_embeddings"


def test_a_row_is_the_same_alone_padded_and_packed(saved):
    model = MaskedLM.from_pretrained(saved["RobertaForMaskedLM"])
    first, second = [0, 20, 30, 40, 2], [0, 50, 60, 2]
    alone = [call(model, np.array([ids])).logits[0] for ids in (first, second)]
    padded = call(model, np.array([first, [*second, 1]]), np.array([[1] * 5, [1] * 4 + [0]])).logits
    packed = call(
        model,
        np.array([[*first, *second, 1]]),
        position_ids=np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0]]),
        segment_ids=np.array([[1] * 5 + [2] * 4 + [0]]),
    ).logits[0]
    assert deviation(padded[0], alone[0]) < 1e-5
    assert deviation(padded[1, :4], alone[1]) < 1e-5
    assert deviation(packed[:5], alone[0]) < 1e-5
    assert deviation(packed[5:9], alone[1]) < 1e-5


def test_the_positions_are_two_fewer_than_the_table_has(saved):
    model = MaskedLM.from_pretrained(saved["RobertaForMaskedLM"])
    assert jax.eval_shape(model, np.full((1, 32), 9)).logits.shape == (1, 32, 300)
    refused(lambda: model(np.full((1, 33), 9)), "33", "32", by="models.encoder.Embeddings.__call__", field="input_ids")
    refused(lambda: model([[0, 9]], position_ids=[[0, 32]]), by="base.ranges.check_range", field="position_ids")


@pytest.mark.parametrize("settings", ["kept", "gone"])
def test_the_tokenizer_knows_the_roles_of_its_tokens_and_its_length(settings, saved, pieces, tmp_path):
    directory = saved["RobertaForMaskedLM"]
    if settings == "gone":  # then config.json alone tells the length
        for name in ("tokenizer.json", "config.json"):
            (tmp_path / name).write_bytes((directory / name).read_bytes())
        directory = tmp_path
    tokenizer = BertTokenizer.from_pretrained(directory)
    assert tokenizer.max_length == 32
    assert vars(tokenizer.ids) == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}
    first, second = (load_tokenizer(pieces).encode(text, add_special_tokens=False).ids for text in ("a fox", "it"))
    assert tokenizer("a fox", "it")["input_ids"].tolist() == [[0, *first, 2, 2, *second, 2]]


def test_a_tokenizer_of_no_known_family_is_refused(saved, monkeypatch):
    monkeypatch.setattr(families, "_REGISTERED", {"bert": families.BERT})
    with pytest.raises(InputError) as caught:
        load_tokenizer(saved["RobertaForMaskedLM"])
    assert caught.value.field == "tokenizer_class"
    assert "import the module" in caught.value.hint


def test_an_encoder_of_ones_own_takes_the_place_of_the_shared_one(roberta, tiny, monkeypatch):
    class Own(Encoder):
        pass

    family = dataclasses.replace(roberta.ROBERTA, encoder=Own)
    monkeypatch.setattr(families, "_REGISTERED", {"roberta": family})
    kind = type("Kind", (MaskedLM,), {"family": family})
    assert type(nnx.eval_shape(lambda: kind(tiny, rngs=nnx.Rngs(0))).encoder) is Own


def test_a_student_has_the_familys_own_positions_and_token_types(roberta, tiny):
    teacher = build(roberta.RobertaForMaskedLM, tiny)
    student = student_from_teacher(teacher, dataclasses.replace(tiny, num_hidden_layers=1))
    assert type(student) is roberta.RobertaForMaskedLM
    source = split(teacher)[1]
    for path, value in split(student)[1].items():
        np.testing.assert_array_equal(value, source[path])
    other = c.ModelConfig.distilbert_base(
        **{f.name: getattr(tiny, f.name) for f in dataclasses.fields(tiny) if "size" in f.name or "num" in f.name}
        | {"type_vocab_size": 0, "max_position_embeddings": 34}
    )
    with pytest.raises(InputError) as caught:
        student_from_teacher(teacher, other)
    assert caught.value.field == "model.model_type"


@pytest.mark.slow
def test_a_student_of_the_family_is_distilled_from_a_teacher_of_it(saved, pieces, tiny, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(SOURCE * 10))
    build_corpus([tmp_path / "text.txt"], load_tokenizer(pieces), tmp_path / "corpus", processes=1)
    teacher = str(saved["RobertaForMaskedLM"])
    pretrain(
        c.PretrainConfig(
            model=dataclasses.replace(tiny, num_hidden_layers=1),
            objective="distillation",
            teacher=teacher,
            init=c.InitConfig(source=teacher),
            steps=20,
            data=c.DataConfig(corpus=str(tmp_path / "corpus"), length=32, batch_size=8),
            optimizer=c.OptimizerConfig(learning_rate=1e-2),
            run=c.RunConfig(directory=str(tmp_path / "run"), log_every=5),
        )
    )
    losses = [entry["loss"] for entry in entries(tmp_path / "run") if entry["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    assert "roberta.encoder.layer.0.attention.self.query.weight" in weights(tmp_path / "run" / "model")
    assert len(FillMask(str(tmp_path / "run" / "model"))("The red<mask> jumps over it.")) == 5


# Against the reference


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Class → the reference's model with random weights and the directory that it saved."""
    transformers = pytest.importorskip("transformers")
    from tests.golden.record import randomise

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.RobertaConfig(
        vocab_size=300,
        max_position_embeddings=34,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=3,
        attn_implementation="eager",
        **sizes,
    )
    made = {}
    for name in HEADS:
        made[name] = randomise(getattr(transformers, name)(config).eval(), 1), tmp_path_factory.mktemp(name)
        made[name][0].save_pretrained(made[name][1])
    return made


def reference_output(model, given):
    import torch

    with torch.no_grad():
        return model(**{name: torch.tensor(value).long() for name, value in given.items()}, output_hidden_states=True)


def padded_rows(seed):
    rng = np.random.default_rng(seed)
    mask = (np.arange(12) < np.array([[12], [7], [2]])).astype(np.int32)
    ids = np.where(mask, rng.integers(5, 300, mask.shape), 1)
    ids[:, 0] = 0
    return {"input_ids": ids.astype(np.int32), "attention_mask": mask}


@pytest.mark.parity
@heads
@pytest.mark.parametrize("seed", [1, 2])
def test_outputs_are_the_references(name, seed, reference, roberta):
    from tests.golden import record

    theirs, directory = reference[name]
    model, given = getattr(roberta, name).from_pretrained(directory), padded_rows(seed)
    found, expected = call(model, **given, output_hidden_states=True), reference_output(theirs, given)
    assert predictions(found).keys() == record.predictions(expected).keys()
    for key, value in record.predictions(expected).items():
        assert deviation(predictions(found)[key], value) < 1e-5, key
    for ours, states in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert deviation(ours, states) < 1e-5


@pytest.mark.parity
@heads
def test_what_we_save_transformers_loads_whole(name, saved):
    import transformers

    model, report = getattr(transformers, name).from_pretrained(saved[name], output_loading_info=True)
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    again, given = call_of(saved[name], name), padded_rows(3)
    assert deviation(predictions(again(given))[key_of(name)], reference_output(model, given)[key_of(name)]) < 1e-5


def call_of(directory, name):
    kind = {"RobertaModel": EncoderModel, "RobertaForMaskedLM": MaskedLM}.get(name, SequenceClassification)
    model = kind.from_pretrained(directory)
    return lambda given: call(model, **given)


def key_of(name):
    return "last_hidden_state" if name.endswith("Model") else "logits"


@pytest.mark.parity
def test_the_tokenizer_is_the_references(saved):
    import transformers

    directory = saved["RobertaForMaskedLM"]
    ours, theirs = BertTokenizer.from_pretrained(directory), transformers.AutoTokenizer.from_pretrained(directory)
    assert type(theirs).__name__ == "RobertaTokenizer"
    pairs = [text.replace("<mask>", "☃") for text in TEXTS]
    for given in ((TEXTS,), (TEXTS, pairs), ([text * 4 for text in TEXTS],)):
        expected = theirs(*given, padding=True, truncation=True, return_tensors="np")
        found = ours(*given)
        for key in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(found[key], expected[key])
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours.ids, role)


@pytest.mark.parity
def test_masks_are_filled_as_by_the_reference(saved):
    import transformers

    directory = str(saved["RobertaForMaskedLM"])
    ours, theirs = FillMask(directory), transformers.pipeline("fill-mask", directory, device="cpu")
    for found, expected in zip(ours(TEXTS, top_k=7), theirs(TEXTS, top_k=7), strict=True):
        for answer, reference in zip(found, expected, strict=True):
            assert {**answer, "score": 0} == {**reference, "score": 0}
            assert answer["score"] == pytest.approx(reference["score"], rel=1e-4, abs=1e-5)


@pytest.mark.parity
def test_features_and_labels_are_the_references(saved):
    import transformers

    directory = str(saved["RobertaModel"])
    theirs = transformers.pipeline("feature-extraction", directory, device="cpu")
    for states, expected in zip(FeatureExtraction(directory)(TEXTS), theirs(TEXTS), strict=True):
        assert deviation(states, jnp.array(expected[0])) < 1e-5
    directory = str(saved["RobertaForSequenceClassification"])
    theirs = transformers.pipeline("text-classification", directory, device="cpu")
    for found, expected in zip(TextClassification(directory)(TEXTS, None), theirs(TEXTS, top_k=None), strict=True):
        assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
        assert [answer["score"] for answer in found] == pytest.approx(
            [answer["score"] for answer in expected], rel=1e-4
        )
