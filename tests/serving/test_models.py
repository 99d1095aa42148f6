"""Models as a server loads them."""

import json

import pytest

from distilbert_jax.serving.models import _pooling_of
from tests.runs import refused


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"word_embedding_dimension": 4, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"embedding_dimension": 4, "pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, None),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
        ({"pooling_mode": "lasttoken"}, None),
    ],
)
def test_a_sentence_encoder_says_how_it_makes_a_vector(tmp_path, config, expected):
    assert _pooling_of(tmp_path) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(config))
    if expected:
        assert _pooling_of(tmp_path) == expected
    else:
        refused(lambda: _pooling_of(tmp_path), path=str(tmp_path / "1_Pooling/config.json"), hint="--pooling")
