"""What every test stands on: eight devices on a CPU, tiny models, and the real data when it is there."""

import os

# Before jax is imported. NPROC: on two cores jax 0.10.2 aborts when a collective stands inside a scan, because its thread
# pool is smaller than the number of devices that wait for one another.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["NPROC"] = "16"

from pathlib import Path

import numpy as np
import pytest

from distilbert_jax.config import ModelConfig

_DATA = Path(os.environ.get("DISTILBERT_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
_TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("parity"):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")


def _data(name: str) -> Path:
    if not (_DATA / name).is_dir():
        pytest.skip(f"no {name} in {_DATA}; DISTILBERT_JAX_DATA names the directory of the real data")
    return _DATA / name


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Parquet folders of GLUE, one a task."""
    return _data("glue")


@pytest.fixture(scope="session")
def text_dir() -> Path:
    """Real English text, .txt.xz."""
    return _data("text")


@pytest.fixture(scope="session")
def tiny_bert() -> ModelConfig:
    return ModelConfig.bert_base(**_TINY)


@pytest.fixture(scope="session")
def tiny_distilbert() -> ModelConfig:
    return ModelConfig.distilbert_base(**_TINY)


@pytest.fixture(params=["bert", "distilbert"])
def tiny(request: pytest.FixtureRequest) -> ModelConfig:
    """The tiny model of each family in turn."""
    return request.getfixturevalue(f"tiny_{request.param}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
