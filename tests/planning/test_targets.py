import pytest

from distilbert_jax.planning.targets import CHIPS, parse_target
from tests.runs import refused


@pytest.mark.parametrize(
    ("text", "chips", "devices"),
    [
        ("v5e:1x1", 1, 1),
        ("v5e:4x4", 16, 16),
        ("v5p:2x2x2", 8, 8),
        ("tpu7x:2x2x1", 4, 8),
        ("h100:8", 8, 8),
        ("H200:1", 1, 1),
    ],
)
def test_a_target_is_a_chip_and_a_shape(text, chips, devices):
    target = parse_target(text)
    assert (target.chips, target.devices, str(target)) == (chips, devices, text.lower())


@pytest.mark.parametrize(
    ("text", "shown", "hint"),
    [
        ("v5:4x4", "v5p", "did you mean"),
        ("nothing:4", "tpu7x", "known"),
        ("v5e", "v5e:", ""),
        ("v5e:", "v5e:", ""),
        ("v5e:0x4", "v5e:", ""),
        ("v5e:4", "4x4", "two numbers"),
        ("v5p:4x4", "2x2x2", "three numbers"),
        ("h100:2x2", "a number", "a number"),
        ("h100:16", "h100:8", "h100:8"),
        ("v5e-8", "v5e:2x4", "v5e:2x4"),
        ("v5litepod-16", "v5e:4x4", "v5e:4x4"),
        ("v5p-16", "v5p:2x2x2", "v5p:2x2x2"),
        ("v4-8", "v4:2x2x1", "v4:2x2x1"),
        ("v5p-32", "v5p:2x2x4", "v5p:2x2x4"),
        ("v5e-7", "v5e:4x4", "as in"),
        ("", "v5e", ""),
    ],
)
def test_what_is_no_target_is_told_with_what_is(text, shown, hint):
    refused(lambda: parse_target(text), shown, field="--target", hint=hint)


def test_the_ridge_of_a_chip_is_where_matmuls_and_memory_take_equally_long():
    assert CHIPS["v5e"].ridge == pytest.approx(240.5, abs=0.1)
    assert CHIPS["h100"].ridge == pytest.approx(295.2, abs=0.1)
