import pytest

from distilbert_jax.base.config_io import from_json, to_json
from distilbert_jax.models import MaskedLM
from distilbert_jax.models.params import count, split
from distilbert_jax.probes.speed import encoder_speed, summary
from distilbert_jax.training.cost import EncoderSpeed
from tests.runs import refused


def test_speed_is_told_with_what_it_was_measured_on(world):
    speed = encoder_speed(world.teacher, batch_size=2, length=16, rounds=3)
    assert speed.min_ms <= speed.median_ms <= speed.max_ms
    assert speed.tokens_per_second == pytest.approx(2 * 16 / (speed.median_ms / 1e3))
    assert speed.parameters == count(split(MaskedLM.from_pretrained(world.teacher).encoder)[1])
    assert (speed.batch_size, speed.length, speed.dtype, speed.rounds, speed.device) == (2, 16, "float32", 3, "cpu")
    assert from_json(EncoderSpeed, to_json(speed)) == speed
    assert summary(speed).startswith("batch 2 × 16 tokens, float32: median ")


def test_refused_in_one_line(world):
    refused(lambda: encoder_speed(world.teacher, length=33), "33", "32", by="probes.speed._encoder", field="--length")
    refused(
        lambda: encoder_speed(world.teacher, batch_size=0, length=8), "--batch-size", by="probes.speed.encoder_speed"
    )
    refused(lambda: encoder_speed(world.teacher, length=0), "--length", by="probes.speed.encoder_speed")
    refused(lambda: encoder_speed(world.teacher, length=8, rounds=0), "--rounds", by="probes.speed.encoder_speed")
    refused(lambda: encoder_speed("nowhere"), by="base.hub._download")
