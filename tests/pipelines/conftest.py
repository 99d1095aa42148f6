import pytest

from distilbert_jax.pipelines import FillMask
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import masked_lm
from tests.runs import BERT, change


@pytest.fixture(scope="package")
def model():
    """A masked LM with 40 positions and two embeddings more than its tokenizer has pieces."""
    return masked_lm(change(BERT, max_position_embeddings=40, vocab_size=50))


@pytest.fixture(scope="package")
def directory(world, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path, load_tokenizer(world.tokenizer))
    return path


@pytest.fixture(scope="package")
def fill(directory):
    return FillMask(directory)
