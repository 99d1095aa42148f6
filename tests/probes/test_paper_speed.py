import json

import pytest

from distilbert_jax.cli import main as cli
from distilbert_jax.probes.paper_speed import PUBLISHED, paper_passes
from distilbert_jax.probes.speed import encoder_speed
from tests.runs import refused, write_split

PAIRS = {
    "sentence1": ["reda goes to redb", "redc", "to " * 40],
    "sentence2": ["goes", "redd " * 12, "redb"],
    "label": [0.0, 2.5, 5.0],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("data"), "stsb", "validation", PAIRS).parents[1]


def test_models_pass_over_the_same_pairs_side_by_side(world, data, capfd):
    cli.main(["paper", "--table", "3", "--model", world.teacher, world.teacher, "--data", str(data), "--json"])
    out, err = capfd.readouterr()
    one, other = map(json.loads, out.splitlines())
    assert one["parameters"] == encoder_speed(world.teacher, length=16, rounds=1).parameters
    assert (one["pairs"], one["tokens"], one["padded_tokens"]) == (3, 8 + 16 + 32, 16 + 16 + 32)
    assert one["ratio"] == 1.0
    assert other["ratio"] == pytest.approx(one["seconds"] / other["seconds"])
    assert "1 of 3 texts" in err
    cli.main(["paper", "--model", world.teacher, "--data", str(data), "--length", "24", "--json"])
    assert json.loads(capfd.readouterr().out)["padded_tokens"] == 3 * 24
    cli.main(["paper", "--model", world.teacher, "--data", str(data), "--length", "24"])
    shown = capfd.readouterr().out
    for name, parameters, seconds in PUBLISHED:
        for said in (f"{name} (paper)", f"{parameters / 1e6:.1f}", f"{seconds:.1f}"):
            assert said in shown


def test_what_is_not_there_is_refused(world, data):
    refused(lambda: paper_passes([], str(data)), field="--model")
    refused(lambda: paper_passes([world.teacher], str(data / "nowhere")), path="nowhere")
    refused(lambda: paper_passes([world.teacher], "nowhere", length=33), field="--length", path=world.teacher)
