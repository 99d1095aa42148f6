import numpy as np
import pandas
import pytest

from distilbert_jax.models import BertForSequenceClassification, DistilBertModel
from distilbert_jax.pipelines import FeatureExtraction
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import build, call, deviation
from tests.runs import BERT, STUDENT, change, refused

TEXTS = ["reda", "redb goes to redc", "goes " * 25, "to"]


@pytest.fixture(scope="module")
def features(directory):
    return FeatureExtraction(directory)


def hidden_states(model, tokenizer, text):
    """Of every layer, float32 [T, D] each, of the text alone."""
    ids = np.array([tokenizer.encode(text)], np.int32)
    return [np.asarray(states[0]) for states in call(model, ids, output_hidden_states=True).hidden_states]


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
def test_features_of_every_layer_are_those_of_the_text_alone(features, model, layer):
    expected = [hidden_states(model, features.tokenizer, text)[layer] for text in TEXTS]
    tokens, cls, mean = (features(TEXTS, pooling, layer) for pooling in ("tokens", "cls", "mean"))
    assert [states.shape for states in tokens] == [states.shape for states in expected]
    assert cls.shape == mean.shape == (4, 32)
    for i, states in enumerate(expected):
        assert tokens[i].dtype == cls.dtype == mean.dtype == np.float32
        assert deviation(tokens[i], states) < 1e-5
        assert deviation(cls[i], states[0]) < 1e-5
        assert deviation(mean[i], states.mean(0)) < 1e-5


def test_a_text_has_one_result_and_no_text_has_none(features):
    assert features(TEXTS[1]).shape == (6, 32)
    assert features(TEXTS[1], "mean").shape == (32,)
    assert features([TEXTS[1]], "mean").shape == (1, 32)
    assert features([]) == []
    assert features([], "cls").shape == (0, 32)
    assert list(features(iter([]), "cls")) == []


def test_a_column_is_a_list_of_texts_and_a_table_is_asked_for_one(features):
    table = pandas.DataFrame({"text": TEXTS, "label": range(4)}, index=[3, 2, 1, 0])
    np.testing.assert_array_equal(features(table["text"], "cls"), features(TEXTS, "cls"))
    refused(lambda: features(table), "text, label", by="text.objects.several_texts", field="texts")
    refused(lambda: features.tokenizer(table), "text, label", by="text.objects.several_texts", field="texts")
    refused(lambda: features(table["label"]), by="text.tokenizer.check_text")


@pytest.mark.parametrize(("kind", "config"), [(BertForSequenceClassification, BERT), (DistilBertModel, STUDENT)])
def test_the_encoder_is_taken_from_any_head(world, kind, config, tmp_path):
    model = build(kind, change(config, labels=("no", "yes")))
    model.save_pretrained(tmp_path / "model", load_tokenizer(world.tokenizer))
    features = FeatureExtraction(tmp_path / "model")
    assert deviation(features("goes to reda"), hidden_states(model, features.tokenizer, "goes to reda")[-1]) < 1e-5


@pytest.mark.parametrize("layer", [3, -4, 100])
def test_a_layer_that_is_not_there_is_refused(features, layer):
    refused(
        lambda: features("reda", layer=layer),
        f"layer = {layer}",
        "-3",
        "-1",
        by="pipelines.features.FeatureExtraction.__call__",
        field="layer",
    )


def test_an_unknown_pooling_is_refused(features):
    refused(
        lambda: features("reda", "means"),
        "'means'",
        "'mean'",
        by="pipelines.features.FeatureExtraction.__call__",
        field="pooling",
    )
    refused(lambda: features("reda", "max"), by="pipelines.features.FeatureExtraction.__call__", field="pooling")


@pytest.mark.parametrize(("name", "value"), [("ids", 50), ("type_ids", 2)])
def test_rows_that_the_model_has_no_tables_for_are_refused(features, name, value, monkeypatch):
    rows = features.tokenizer.rows

    def wrong(*given, **options):
        (row,), cut = rows(*given, **options)
        return [row._replace(**{name: np.append(getattr(row, name)[:-1], value)})], cut

    monkeypatch.setattr(features.tokenizer, "rows", wrong)
    field = "input_ids" if name == "ids" else "token_type_ids"
    refused(lambda: features("reda"), by="base.ranges.check_range", field=field)
