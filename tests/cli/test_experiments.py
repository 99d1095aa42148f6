"""`distilbert-jax experiment` and `ablation`: what the command line adds to them."""

from pathlib import Path

import pytest

from distilbert_jax.base.config_io import load_config, load_variants
from distilbert_jax.cli.main import main
from distilbert_jax.config import ExperimentConfig, FinetuneConfig, PretrainConfig
from distilbert_jax.errors import InputError


def test_an_ablation_is_of_the_variants_of_a_config(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("distilbert_jax.experiments.ablation.run_ablation", lambda *args: given.append(args))
    main(
        [
            "ablation",
            "ablations:demo",
            "--glue",
            "demo:glue",
            "--out",
            str(tmp_path),
            "--tasks",
            "rte",
            "--seeds",
            "1",
            "2",
        ]
    )
    configs, tuning, *rest = given[0]
    assert configs == load_variants("ablations:demo", PretrainConfig)
    assert tuning == load_config("demo:glue", FinetuneConfig)
    assert rest == [tmp_path, ("rte",), (1, 2), (0, 1, 2, 3, 4)]


def test_an_experiment_takes_its_files_and_a_folder_of_tasks(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("distilbert_jax.experiments.experiment.run_experiment", lambda *args: given.append(args))
    main(["experiment", "miniature:toy", "--text", "a.txt", "b.txt", "--stages", "corpus", "--data", str(tmp_path)])
    config, *rest = given[0]
    assert config.directory == load_config("miniature:toy", ExperimentConfig).directory
    assert config.glue.data == str(tmp_path)
    assert rest == [("corpus",), (), (Path("a.txt"), Path("b.txt")), ()]


@pytest.mark.parametrize("command", ["experiment", "ablation"])
def test_a_config_that_is_not_there_is_told_before_jax_is_loaded(command):
    with pytest.raises(InputError) as caught:
        main([command, "miniatur", "--glue", "glue", "--out", "o"][: None if command == "ablation" else 2])
    assert caught.value.hint == "miniature"
