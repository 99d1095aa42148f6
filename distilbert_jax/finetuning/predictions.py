"""Predictions of fine-tuned models: logits made, written by a run and read again."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from distilbert_jax.base.files import read_array, write_array
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.batches import PackedShape, packings
from distilbert_jax.finetuning.datasets import Examples
from distilbert_jax.finetuning.objective import READ, classify
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models.params import Params, merge
from distilbert_jax.training import sharding
from distilbert_jax.training.run_directory import check_output

_AGAIN = "remove the run's directory and train it again"


class Predictions(NamedTuple):
    """Logits float32 [n, labels] of one run on a split (None: it diverged, and scores 0), and the split's labels [n]."""

    logits: np.ndarray | None
    labels: np.ndarray


def _file(directory: Path, name: str) -> Path:
    return directory / "predictions" / f"{name}.npy"


def write_predictions(directory: Path, name: str, logits: np.ndarray | None, labels: np.ndarray | None) -> None:
    """Keep what a run predicts, in predictions/ of its directory.

    Args:
        name: a split; of a test split the file of a submission.
        logits: float32 [n, labels]; None of a run that diverged.
        labels: [n]; None of a test split.
    """
    (directory / "predictions").mkdir(exist_ok=True)
    if labels is not None:
        write_array(_file(directory, f"{name}-labels"), labels)
    if logits is not None:
        write_array(_file(directory, name), logits)


def has_predictions(directory: Path, names: Iterable[str]) -> bool:
    """Whether a run has left logits under all of these names."""
    return all(_file(directory, name).is_file() for name in names)


def read_predictions(directory: Path, split: str, task: Task, *, diverged: bool = False) -> Predictions:
    """What a run left of a split that has labels. diverged: there are no logits.

    Raises:
        InputError: it is missing or damaged.
    """
    file = _file(directory, f"{split}-labels")
    labels, highest = _load(directory, file), max(len(task.labels) - 1, 0)
    if labels.ndim != 1 or not len(labels) or not np.isfinite(labels).all():
        raise _damaged(file, f"labels of the shape {labels.shape}, or not finite")
    if not task.is_regression and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > highest):
        raise _damaged(file, f"labels of {task.name} are whole numbers from 0 to {highest}")
    logits = None if diverged else read_logits(directory, split, task)
    if logits is not None and len(logits) != len(labels):
        raise _damaged(_file(directory, split), f"{len(logits)} rows, of labels {len(labels)}")
    return Predictions(logits, labels)


def read_logits(directory: Path, name: str, task: Task) -> np.ndarray:
    """Logits float32 [n, labels] that a run left of a split, or for a file of a submission.

    Raises:
        InputError: they are missing or damaged.
    """
    logits = _load(directory, _file(directory, name))
    if logits.ndim != 2 or logits.shape[1] != max(len(task.labels), 1) or not np.isfinite(logits).all():
        raise _damaged(_file(directory, name), f"logits of the shape {logits.shape}, or not finite")
    return logits


def _load(directory: Path, file: Path) -> np.ndarray:
    try:
        check_output(directory, file.relative_to(directory).as_posix())
        values = read_array(file)
    except InputError as error:
        raise InputError(f"{error}; {_AGAIN}", path=file, hint=_AGAIN) from None
    except OSError as error:
        raise _damaged(file, str(error)) from None
    if values.dtype.kind not in "fiu":
        raise _damaged(file, f"values of the type {values.dtype}")
    return values


def _damaged(file: Path, why: str) -> InputError:
    return InputError(f"{file}: predictions that cannot be ({why}); {_AGAIN}", path=file, hint=_AGAIN)


def predictor(
    graphdef: nnx.GraphDef, shape: PackedShape, pad_id: int, mesh: Mesh
) -> Callable[[Params, Examples], np.ndarray]:
    """A function from parameters of a `SequenceClassification` and examples, none longer than a row of `shape`, to logits float32
    [n, labels]. Examples are packed into as few rows as they fit into; one program is compiled."""
    shape = shape.for_mesh(mesh.shape["data"] * mesh.shape["fsdp"])
    where = sharding.batch_sharding(mesh)
    forward = jax.jit(
        lambda params, batch: classify(merge(graphdef, params), batch, None),
        out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    )

    def predict(params: Params, examples: Examples) -> np.ndarray:
        indices: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        for packing in packings(examples.lengths, shape):
            packed = examples.packed(packing, shape, pad_id)
            batch = {name: packed[name] for name in READ}
            indices.append(packing.indices)
            logits.append(packing.of_examples(np.asarray(forward(params, jax.device_put(batch, where)))))
        return np.concatenate(logits)[np.argsort(np.concatenate(indices))]

    return predict
