"""What tests of distillation while fine-tuning share."""

import pytest
from flax import nnx

from distilbert_jax.models import DistilBertForMaskedLM, SequenceClassification
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.finetuning.test_runs import shares, topics
from tests.runs import BERT, STUDENT, change

WIDER = change(BERT, hidden_size=48)


@pytest.fixture(scope="session")
def taught(world, tmp_path_factory):
    """Two small tasks, a student, and for each task a wider and deeper teacher."""
    path = tmp_path_factory.mktemp("layers")
    for task, make in (("sst2", topics), ("stsb", shares)):
        for seed, (name, rows) in enumerate({"train": 40, "validation": 12}.items()):
            runs.write_split(path, task, name, make(rows, seed))
    tokenizer = load_tokenizer(world.tokenizer)
    DistilBertForMaskedLM(STUDENT, rngs=nnx.Rngs(3)).save_pretrained(path / "student", tokenizer)
    for task, labels in (("sst2", ("negative", "positive")), ("stsb", ("score",))):
        config = change(WIDER, labels=labels, problem_type="regression" if task == "stsb" else None)
        SequenceClassification.of_family("bert")(config, rngs=nnx.Rngs(5)).save_pretrained(path / task / "t", tokenizer)
    return path
