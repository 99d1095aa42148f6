"""Interrupted at any moment and begun again by the same command, fine-tuning ends with the same bits: seeds side by side, layers
before answers, the best epoch kept."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from distilbert_jax import config as c
from distilbert_jax.errors import Interrupted
from distilbert_jax.finetuning import identity
from distilbert_jax.finetuning import runs as module
from distilbert_jax.finetuning.checkpoints import goes_on
from distilbert_jax.finetuning.runs import finetune_seeds
from distilbert_jax.finetuning.tuning import Tuning
from distilbert_jax.models import SequenceClassification
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training.checkpoint import common_step
from distilbert_jax.training.logging import RunLog
from tests import children, runs
from tests.finetuning.test_layer_terms import tuning
from tests.runs import refused

SEEDS = (0, 1, 2)


def side_by_side(taught, directory, broken):
    """Five steps of layers alone, fifteen of answers; the second seed begins with a head that diverges at the sixth step."""
    config = tuning(
        taught,
        directory,
        epochs=3,
        select=True,
        distill=c.DistillConfig(str(taught / "sst2/t"), layer_epochs=1, hidden=c.HiddenConfig(1.0)),
        run__save_every=4,
        run__keep=1,  # of runs that train beside each other two are kept, or they would have none in common
    )
    at = lambda seed: {"run__seed": seed, "run__directory": str(Path(directory) / str(seed))}
    model = lambda seed: {"model": str(broken)} if seed == 1 else {}
    return [runs.change(config, **at(seed), **model(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def broken(taught, tmp_path_factory):
    path = tmp_path_factory.mktemp("broken")
    model = SequenceClassification.from_pretrained(taught / "student", labels=("negative", "positive"))
    model.classifier.kernel[...] = 3e38  # finite, as what is loaded has to be, but no logit of it is
    model.save_pretrained(path, load_tokenizer(taught / "student"))
    return path


class KilledError(BaseException):
    """Raised where the process is to end without another word."""


def stop_at(step, patch, how):
    """Let the entry of a step, once it is written, be the last one of its process, or of the loop."""
    write = RunLog.write

    def wrapped(self, kind, number, values, **more):
        write(self, kind, number, values, **more)
        if number == step and kind == "train":
            how()

    patch.setattr(RunLog, "write", wrapped)


def killed():
    raise KilledError


def newest(directory):
    """The last step of which all seeds have a whole checkpoint."""
    return common_step([directory / str(seed) / "checkpoints" for seed in SEEDS])


def left(directory):
    """What a run has left, without what was measured."""
    result = json.loads((directory / "results.json").read_text())
    files = {path.name: path.read_bytes() for path in (directory / "predictions").iterdir()}
    model = runs.weights(directory / "model") if (directory / "model").is_dir() else {}
    files |= {path.name: path.read_bytes() for path in directory.glob("model/README.md")}
    return {**result, "train_seconds": 0}, files, model, runs.entries(directory)


def _sigkill(taught, directory, broken):
    """In a child: SIGKILL as the seventeenth step of the first seed is logged, while checkpoints of the one before are written."""
    patch = pytest.MonkeyPatch()
    stop_at(17, patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    finetune_seeds(side_by_side(taught, directory, broken), together=True)


@pytest.mark.slow
def test_interrupted_again_and_again_seeds_side_by_side_end_with_the_same_bits(
    taught, broken, tmp_path, monkeypatch, capsys
):
    tuning_of_all = Tuning(side_by_side(taught, tmp_path, broken)[0])  # compiled once
    monkeypatch.setattr(module, "Tuning", lambda config: tuning_of_all)
    whole = finetune_seeds(side_by_side(taught, tmp_path / "whole", broken), together=True)
    assert [bool(one.diverged) for one in whole] == [False, True, False]
    configs, place = side_by_side(taught, tmp_path / "cut", broken), tmp_path / "cut"
    train = lambda: finetune_seeds(configs, together=True)

    with monkeypatch.context() as patch:
        stop_at(5, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted) as stopped:
            train()
    assert (stopped.value.step, stopped.value.kept) == (5, True)
    assert newest(place) == 5, "the last step of layers alone"

    child = children.run(_sigkill, taught, place, broken)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stderr.count("goes on from step 5") == 3
    assert newest(place) in (12, 16), "checkpoints are written beside the steps"
    if newest(place) == 16:
        (place / "2/checkpoints/16/default/_METADATA").write_text("{}")
    shutil.copytree(place, tmp_path / "other")

    with monkeypatch.context() as patch:
        write = module.write_config
        patch.setattr(module, "write_config", lambda one, file: killed() if one.seed else write(one, file))
        with pytest.raises(KilledError):
            train()
    assert capsys.readouterr().err.count("goes on from step 12") == 3, "of which all have a whole checkpoint"
    assert (place / "0/results.json").exists()
    again = train()
    assert capsys.readouterr().err.count("goes on from step 16") == 3, "also the seed that has its results"
    for seed, before, after in zip(SEEDS, whole, again, strict=True):
        assert left(place / str(seed)) == left(tmp_path / "whole" / str(seed))
        assert (after.scores, after.diverged, after.together) == (before.scores, before.diverged, 3)
        assert not (place / str(seed) / "checkpoints").exists(), "none is left of a run that has ended"
    assert "selection/score" in runs.entries(place / "0")[-2]

    # Trained once more, and interrupted: what has ended before is not said to be damaged.
    with goes_on(configs, [place / str(seed) for seed in SEEDS], 20, {}):
        assert identity.ended(configs[0], place / "0") is None

    shutil.rmtree(tmp_path / "other/2/checkpoints/12")
    shutil.copytree(tmp_path / "other/0/checkpoints/12", tmp_path / "other/2/checkpoints/12")
    refused(
        lambda: finetune_seeds(side_by_side(taught, tmp_path / "other", broken), together=True),
        by="training.checkpoint.Checkpoints._check_run",
        path=str(tmp_path / "other/2/checkpoints/12"),
    )
