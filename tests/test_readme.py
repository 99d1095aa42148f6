"""The README's Python, as it stands there."""

import re
from pathlib import Path

import pytest
from flax import nnx

from distilbert_jax.config import ModelConfig
from distilbert_jax.models import DistilBertForMaskedLM
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.text.wordpiece import train_wordpiece

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A small model whose words are the README's."""
    tokenizer = train_wordpiece(iter(README.splitlines()), 400)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = ModelConfig.distilbert_base(vocab_size=tokenizer.get_vocab_size(), **sizes)
    path = tmp_path_factory.mktemp("readme") / "model"
    DistilBertForMaskedLM(config, rngs=nnx.Rngs(0)).save_pretrained(path, tokenizer)
    return path


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_the_readmes_python_runs(block, directory):
    code = BLOCKS[block].replace("runs/demo/student/model", str(directory))
    assert str(directory) in code
    found: dict = {}
    exec(compile(code, "README.md", "exec"), found)
    hidden = read_config(directory).hidden_size
    if "features" in found:
        assert found["features"].shape[::2] == (1, hidden)
    if "vectors" in found:
        assert found["vectors"].shape == (2, hidden)


def test_the_first_block_is_five_lines():
    assert len(BLOCKS[0].splitlines()) == 5
