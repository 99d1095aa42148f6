import pytest
from flax import nnx

from distilbert_jax.models import DistilBertForMaskedLM
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.runs import STUDENT


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A folder with a small encoder to fine-tune."""
    path = tmp_path_factory.mktemp("kind")
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(path / "student", load_tokenizer(world.tokenizer))
    return path
