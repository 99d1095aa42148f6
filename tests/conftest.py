"""What every test stands on: eight devices on a CPU, tiny models, and the real data when it is there."""

import atexit
import gc
import os
import shutil
import tempfile

from tests import compiling, shapes  # noqa: F401 - shapes: before the package is imported

# Before jax is imported. NPROC: on two cores jax 0.10.2 aborts when a collective stands inside a scan, because its thread
# pool is smaller than the number of devices that wait for one another.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiling.DEVICES}"
os.environ["NPROC"] = "16"
# Where an operation of a program comes from is nobody's question here, and to write it down is a tenth of tracing and lowering.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# What one test has compiled, the next need not: a train step takes ten times as long to compile as to run a test with.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # child processes and xdist's workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="distilbert-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # children compile a hundred small programs each
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from distilbert_jax.config import ModelConfig, PretrainConfig
from distilbert_jax.errors import warn_once
from tests import runs

_DATA = Path(os.environ.get("DISTILBERT_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
_TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--first-cases", action="store_true", help="of each parametrised test only the first case that is chosen"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "parity":  # which compares what users run
        os.environ["XLA_FLAGS"] += f" {compiling.quick_flags()}"
        compiling.quick_checkpoints()
    compiling.quick_cache()
    compiling.few_devices()
    compiling.keep_programs()


def first_cases(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test the first of its cases, in the order given."""
    first: dict[str, pytest.Item] = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    return list(first.values())


@pytest.hookimpl(trylast=True)  # after what -m and -k leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.first_cases:
        chosen = first_cases(items)
        config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
        items[:] = chosen


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: else each full collection looks through all of it
    # Tracing makes much that lives for a moment; by default the collector looks after every 700 objects.
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("parity"):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")


@pytest.fixture
def no_cache() -> Iterator[None]:
    """No compilation cache, as a user has none; one that a test makes keeps every program."""
    options = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in options}
    for values in (options, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX asks only once whether there is one
        if values is options:
            yield


def _data(name: str) -> Path:
    if not (_DATA / name).is_dir():
        pytest.skip(f"no {name} in {_DATA}; DISTILBERT_JAX_DATA names the directory of the real data")
    return _DATA / name


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Parquet folders of GLUE, one a task."""
    return _data("glue")


@pytest.fixture(scope="session")
def conll_dir() -> Path:
    """Parquet files of CoNLL-2003's train and validation."""
    return _data("conll2003")


@pytest.fixture(scope="session")
def squad_dir() -> Path:
    """Parquet files of SQuAD 1.1."""
    return _data("squad")


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


@pytest.fixture(autouse=True)
def tell_again() -> None:
    """What is told once a process is told in each test."""
    warn_once.cache_clear()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> runs.World:
    """Corpora and a teacher of one tiny language."""
    return runs.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: runs.World, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A masked-LM run that nothing interrupted."""
    return runs.train(runs.pretraining(world, tmp_path_factory.mktemp("runs") / "finished"))


@pytest.fixture(scope="session")
def distilled(world: runs.World, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A distillation run that nothing interrupted."""
    return runs.train(runs.distilling(world, tmp_path_factory.mktemp("runs") / "distilled"))
