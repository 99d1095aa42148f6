"""The shapes that annotations of models and losses state are checked in tests, and nowhere else."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError, jaxtyped

from distilbert_jax.config import MaskingConfig
from distilbert_jax.models.attention import attention_bias
from distilbert_jax.models.layers import at_positions, fold_rows
from distilbert_jax.pretraining.masking import corrupt
from distilbert_jax.training import losses
from tests.models.common import CLASSES, build
from tests.runs import ROOT
from tests.shapes import shapes_of

keys = lambda rows: jax.random.split(jax.random.key(0), rows)
logits, ids = lambda *shape: jnp.zeros(shape), lambda *shape: jnp.zeros(shape, jnp.int32)
WRONG = {
    "labels of fewer tokens": lambda: losses.cross_entropy(logits(2, 3, 5), ids(2, 4), logits(2, 3)),
    "labels that are no ids": lambda: losses.cross_entropy(logits(2, 3, 5), logits(2, 3), logits(2, 3)),
    "a teacher of another vocabulary": lambda: losses.distillation(logits(2, 3, 5), logits(2, 3, 1), logits(2, 3), 2.0),
    "a weight for each row": lambda: losses.cosine_distance(logits(2, 3, 5), logits(2, 3, 5), logits(2, 1)),
    "positions of more rows": lambda: at_positions(logits(2, 3, 5), ids(1, 2)),
    "segments of one row": lambda: attention_bias(None, ids(3)),
    "keys of a matrix": lambda: fold_rows(keys(4).reshape(2, 2), 0),
    "a key for all rows": lambda: corrupt(keys(1), ids(2, 8), ids(2, 8) == 0, logits(9), 4, MaskingConfig()),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_array_of_another_shape_than_its_annotation_is_refused(case):
    with pytest.raises(TypeCheckError):
        WRONG[case]()


@pytest.mark.parametrize("name", [name for name in CLASSES if name.startswith("Bert")])  # the heads of every family
def test_the_outputs_have_the_shapes_of_their_annotations(name, tiny_bert):
    model = build(CLASSES[name], tiny_bert)
    ids = np.ones((2, 3, 7) if name.endswith("MultipleChoice") else (2, 7), np.int32)
    output = jax.eval_shape(lambda ids: model(ids, output_hidden_states=True, output_attentions=True), ids)
    with jaxtyped("context"):  # B is the same in all of them
        for field, hint in typing.get_type_hints(type(output)).items():
            (stated,) = shapes_of(hint)
            for value in jax.tree.leaves(getattr(output, field)):
                assert isinstance(value, stated.dtype[jax.ShapeDtypeStruct, stated.dim_str]), field


def test_who_uses_the_package_needs_no_checker():
    assert not [path for path in (ROOT / "distilbert_jax").rglob("*.py") if "beartype" in path.read_text("utf-8")]
