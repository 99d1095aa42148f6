"""Outputs of a fine-tuned model for examples, in batches of packed rows."""

from collections.abc import Callable, Iterator, Sequence

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

Outputs = Callable[[Params, Examples, str], Iterator[tuple[Packing, np.ndarray]]]


def packed_outputs(kind: Kind, graphdef: nnx.GraphDef, shape: PackedShape, pad_id: int, mesh: Mesh) -> Outputs:
    """A function from parameters of a kind's model, examples, none longer than a row of `shape`, and the model's name to
    `Kind.outputs` of the batches into which they are packed, in as few rows as they fit into; one program is compiled.

    The function raises NotFiniteError where of something that it read the outputs are not finite.
    """
    shape = shape.for_mesh(mesh.shape["data"] * mesh.shape["fsdp"])
    where = sharding.batch_sharding(mesh)
    forward = jax.jit(
        lambda params, batch: outputs_of(kind, merge(graphdef, params), batch, None),
        out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    )

    def outputs(params: Params, examples: Examples, name: str) -> Iterator[tuple[Packing, np.ndarray]]:
        for packing in packings(examples.lengths, shape):
            packed = examples.packed(packing, shape, pad_id)
            batch = {name: packed[name] for name in (*TOKENS, *kind.reads)}
            given = np.asarray(forward(params, sharding.put(batch, where)))
            check_finite(given[packed["segment_ids"] > 0] if kind.of_tokens else packing.of_examples(given), name)
            yield packing, given

    return outputs


def predictor(
    kind: Kind, graphdef: nnx.GraphDef, shape: PackedShape, pad_id: int, mesh: Mesh, name: str
) -> Callable[[Params, Examples], Sequence[np.ndarray]]:
    """A function from parameters of a kind's model and examples to what each of them gets, as `Kind.of_examples` says; see
    `packed_outputs`. name: of the model."""
    outputs = packed_outputs(kind, graphdef, shape, pad_id, mesh)

    def predict(params: Params, examples: Examples) -> Sequence[np.ndarray]:
        result: list[np.ndarray] = [np.empty(0)] * len(examples)
        for packing, given in outputs(params, examples, name):
            for index, value in zip(packing.indices, kind.of_examples(packing, given, examples), strict=True):
                result[index] = value
        return result

    return predict
