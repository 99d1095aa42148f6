import pytest

from distilbert_jax.models import MaskedLM
from distilbert_jax.models.params import count, split
from distilbert_jax.probes.speed import encoder_speed, summary
from tests.runs import refused


def test_speed_is_told_with_what_it_was_measured_on(world):
    found = encoder_speed(world.teacher, batch_size=2, length=16, rounds=3)
    assert found["min_ms"] <= found["median_ms"] <= found["max_ms"]
    assert found["tokens_per_second"] == pytest.approx(2 * 16 / (found["median_ms"] / 1e3))
    assert found["parameters"] == count(split(MaskedLM.from_pretrained(world.teacher).encoder)[1])
    assert {name: found[name] for name in ("batch_size", "length", "dtype", "rounds", "device")} == {
        "batch_size": 2, "length": 16, "dtype": "float32", "rounds": 3, "device": "cpu",
    }  # fmt: skip
    assert summary(found).startswith("batch 2 × 16 tokens, float32: median ")


def test_refused_in_one_line(world):
    refused(lambda: encoder_speed(world.teacher, length=33), "--length 33", "32 positions")
    refused(lambda: encoder_speed(world.teacher, batch_size=0, length=8), "--batch-size 0")
    refused(lambda: encoder_speed(world.teacher, length=0), "--length 0")
    refused(lambda: encoder_speed(world.teacher, length=8, rounds=0), "--rounds 0")
    refused(lambda: encoder_speed("nowhere"), "nowhere")
