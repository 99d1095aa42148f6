"""Exports beside this package: what int8 costs on the dev rows of tasks, and how fast each is on rows of one shape.

    python benchmarks/exported.py --models runs/glue/mrpc-0/model --tasks mrpc --data GLUE --out runs/exported

Each fine-tuned directory is exported with int8 beside float32 (extra `[export]`). All sides get the same dev rows, in batches of 32
of like length, padded: this package in float32, ONNX Runtime in float32, and in int8 (dynamic: weights once, activations as they
come). Then each computes the logits of 8 × 128 tokens and of 1 × 32, in turn, a round each; the median of the rounds is told. ONNX
Runtime has all cores and its threads do not spin while others are timed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from machine import commit, processor

from distilbert_jax.export.formats import export
from distilbert_jax.finetuning.datasets import load_split
from distilbert_jax.finetuning.metrics import scored
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import SequenceClassification
from distilbert_jax.text.tokenizer import BertTokenizer, stack

ROWS = 32  # of a batch of dev
SHAPES = ((8, 128), (1, 32))
Run = Callable[[dict[str, np.ndarray]], np.ndarray]  # inputs, [B, T] → logits [B, labels]


def in_onnxruntime(file: Path) -> Run:
    """The logits of an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda given: session.run(["logits"], {name: given[name].astype(np.int64) for name in names})[0]


def in_jax(directory: Path, **loading: Any) -> Run:
    """The logits of this package."""
    model = SequenceClassification.from_pretrained(directory, **loading)
    reads_types = model.config.model_type == "bert"

    def run(given: dict[str, np.ndarray]) -> np.ndarray:
        types = {"token_type_ids": given["token_type_ids"]} if reads_types else {}
        return np.asarray(model(input_ids=given["input_ids"], attention_mask=given["attention_mask"], **types).logits)

    return run


def batches_of(directory: Path, task: Any, data: str) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray], Any]:
    """Padded batches of the dev rows, which rows they are, and the labels of all."""
    rows = load_split(task, "validation", data)
    tokenizer = BertTokenizer.from_pretrained(directory)
    columns = [list(rows[name]) for name in task.columns]
    encoded, _ = tokenizer.rows(columns[0] if len(columns) == 1 else list(zip(*columns, strict=True)), max_length=128)
    order = np.argsort([len(one.ids) for one in encoded], kind="stable")
    places = np.array_split(order, range(ROWS, len(order), ROWS))
    batches = [
        stack([encoded[i] for i in which], tokenizer.ids.pad, length=max(len(encoded[i].ids) for i in which))
        for which in places
    ]
    return batches, places, np.asarray(rows["label"])


def score(run: Run, task: Any, batches: Any, places: Any, labels: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Metrics × 100 on the dev rows, and the logits."""
    logits = np.concatenate([run(batch) for batch in batches])[np.argsort(np.concatenate(places))]
    predictions = logits[:, 0] if not task.labels else logits.argmax(1)
    return {name: round(value, 2) for name, value in scored(task, predictions, labels).items()}, logits


def seconds(run: Run, given: dict[str, np.ndarray], calls: int = 5) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        run(given)
    return (time.perf_counter() - begun) / calls


def times(sides: dict[str, Run], vocabulary: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a call: side → shape → the median of the rounds, sides in turn."""
    rng, result = np.random.default_rng(0), {name: {} for name in sides}
    for rows, length in SHAPES:
        ids = rng.integers(1000, vocabulary, (rows, length)).astype(np.int32)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        for run in sides.values():
            seconds(run, given)  # compiles, allocates
        measured = [{name: seconds(run, given) for name, run in sides.items()} for _ in range(rounds)]
        for name in sides:
            result[name][f"{rows} × {length}"] = round(1e3 * float(np.median([one[name] for one in measured])), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, type=Path, help="fine-tuned directories")
    parser.add_argument("--tasks", nargs="+", required=True, help="of GLUE, one for each model")
    parser.add_argument("--data", required=True, help="folder of GLUE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    about = {"commit": commit(), "processor": processor(), "cores": os.cpu_count(), "jax": jax.__version__}
    lines = []
    for directory, name in zip(given.models, given.tasks, strict=True):
        task = find_task(name)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(export(str(directory), f"{folder}/exported", int8=True).directory, "onnx")
            sides = {
                "this package, float32": in_jax(directory),
                "this package, bfloat16": in_jax(directory, dtype=jnp.bfloat16),
                "ONNX Runtime, float32": in_onnxruntime(files / "model.onnx"),
                "ONNX Runtime, int8": in_onnxruntime(files / "model_quantized.onnx"),
            }
            sizes = {file.name: round(file.stat().st_size / 1e6, 1) for file in sorted(files.glob("*.onnx"))}
            batches, places, labels = batches_of(directory, task, given.data)
            line: dict[str, Any] = {"task": name, "model": str(directory), "rows": len(labels), "megabytes": sizes}
            plain = None
            for side, run in sides.items():
                metrics, logits = score(run, task, batches, places, labels)
                plain = logits if plain is None else plain
                apart = float(np.abs(logits - plain).max() / np.abs(plain).max())
                line[side] = {"metrics": metrics, "largest_difference": apart}
            vocabulary = int(max(batch["input_ids"].max() for batch in batches))
            for side, milliseconds in times(sides, vocabulary, given.rounds).items():
                line[side]["milliseconds"] = milliseconds
        print(json.dumps(line), flush=True)
        lines.append(line)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "exported.json").write_text(json.dumps({**about, "lines": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
