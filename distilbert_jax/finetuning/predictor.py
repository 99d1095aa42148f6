"""Predictor: the outputs of a fine-tuned model for examples, in batches of packed rows."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from distilbert_jax.finetuning.batches import PackedShape, Packing, packings
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.kinds import Kind
from distilbert_jax.finetuning.objective import TOKENS, outputs_of
from distilbert_jax.models.params import Params, merge
from distilbert_jax.models.ranges import check_finite
from distilbert_jax.training import sharding

Given = Callable[[Packing, np.ndarray, Examples], Sequence[np.ndarray]]


def predictor(
    kind: Kind,
    graphdef: nnx.GraphDef,
    shape: PackedShape,
    pad_id: int,
    mesh: Mesh,
    name: str,
    *,
    given_to: Given | None = None,
) -> Callable[[Params, Examples], Sequence[np.ndarray]]:
    """A function from parameters of a kind's model and examples, none longer than a row of `shape`, to what each of them gets.
    Examples are packed into as few rows as they fit into; one program is compiled.

    The function raises NotFiniteError where of something that it read the outputs are not finite.

    Args:
        name: of the model.
        given_to: (a batch's packing, `Kind.outputs` of it, the examples) → what each of its examples gets, in the place of
            `Kind.of_examples`.
    """
    given_to = given_to or kind.of_examples
    shape = shape.for_mesh(mesh.shape["data"] * mesh.shape["fsdp"])
    where = sharding.batch_sharding(mesh)
    forward = jax.jit(
        lambda params, batch: outputs_of(kind, merge(graphdef, params), batch, None),
        out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    )

    def predict(params: Params, examples: Examples) -> Sequence[np.ndarray]:
        outputs: list[np.ndarray] = [np.empty(0)] * len(examples)
        for packing in packings(examples.lengths, shape):
            packed = examples.packed(packing, shape, pad_id)
            batch = {name: packed[name] for name in (*TOKENS, *kind.reads)}
            given = np.asarray(forward(params, sharding.put(batch, where)))
            values = given_to(packing, given, examples)
            for read in [given[packed["segment_ids"] > 0]] if kind.of_tokens else values:
                check_finite(read, name)
            for index, value in zip(packing.indices, values, strict=True):
                outputs[index] = value
        return outputs

    return predict
