"""Models against values that `golden/record.py` recorded from transformers: no torch needed."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.common import CLASSES, call, deviation, predictions


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "models.npz", allow_pickle=False) as file:
        return dict(file)


def part(golden, prefix):
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", CLASSES)
def test_recorded_outputs_are_reproduced(name, golden, tmp_path, capfd):
    (tmp_path / "config.json").write_text(str(golden[f"{name}/config"]))
    save_file(part(golden, f"{name}/weights/"), tmp_path / "model.safetensors")
    model = CLASSES[name].from_pretrained(tmp_path)
    assert capfd.readouterr() == ("", ""), "every tensor is used, none is missing"
    given, expected = part(golden, f"{name}/inputs/"), part(golden, f"{name}/outputs/")
    output = call(model, given.pop("input_ids"), given.pop("attention_mask"), **given)
    assert expected.keys() == {*predictions(output), "last_hidden_state"}
    for key, value in expected.items():
        assert deviation(getattr(output, key), value) < 1e-5, key
