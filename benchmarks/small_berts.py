"""Cost of configs/small_berts.py: FLOPs of each model's grid and seeds, and the hours that its steps take on a machine.

    python benchmarks/small_berts.py --target v5e:1x1 --data GLUE_FOLDER --tokenizer DIR > table.md

FLOPs are those of `distilbert-jax plan`. Batches of tasks whose data lie in the folder are packed as these rows are, a subset
standing for the whole; a task that is not there has an example a row, of 128 tokens, which is an upper bound.

The time of a step is taken to be linear in its places and in the layers: it is planned for two batches at two depths of each
width (16 compilations), and once more elsewhere, to see how far that holds. What the host does between two steps is not in it.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
from flax import nnx

from distilbert_jax.base import tables
from distilbert_jax.config import ModelConfig
from distilbert_jax.configs.small_berts import MODELS, SEEDS, SWEEP, tuning
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import GLUE
from distilbert_jax.models import BertModel
from distilbert_jax.models.params import count, split
from distilbert_jax.planning.plan import plan
from distilbert_jax.planning.runs import SMALL_BERTS, Finetuning, run_of

CHOSEN = 32  # the batch that the five seeds are counted with
PLANNED = tuple(itertools.product((2, 4), (8, 128)))  # layers and rows of 128 tokens
CHECKED = (12, 768, 32)  # layers, hidden, rows


@dataclasses.dataclass(frozen=True)
class Work:
    """Steps that each model does for one task with one batch size, and a run that has such steps."""

    run: Finetuning
    steps: int

    @property
    def places(self) -> int:
        return self.run.rows * self.run.length

    def flops(self, model: ModelConfig) -> float:
        return self.steps * dataclasses.replace(self.run, model=model).flops()


def works(data: str, tokenizer: str) -> list[Work]:
    """All learning rates on nine tenths of train, and the seeds on all of it."""
    each = itertools.product(GLUE, SWEEP.batch_size)
    return [work(task, batch_size, data, tokenizer) for task, batch_size in each]


def work(task: str, batch_size: int, data: str, tokenizer: str) -> Work:
    packed = bool(data) and (Path(data) / task / "train.parquet").is_file()
    config = tuning(tokenizer if packed else MODELS["2x128"])
    config = dataclasses.replace(config, task=task, batch_size=batch_size, data=data if packed else "")
    rows, epochs = find_task(task).rows["train"], config.epochs or 0
    batches = len(SWEEP.learning_rate) * -(-round(0.9 * rows) // batch_size)
    batches += len(SEEDS) * -(-rows // batch_size) if batch_size == CHOSEN else 0
    run = run_of(config)
    assert isinstance(run, Finetuning)
    return Work(run, epochs * batches)


def terms(layers: int, places: int) -> list[float]:
    """What the time of a step is a sum of, each times a factor of the width."""
    return [1.0, layers, places, layers * places]


def seconds(layers: int, hidden: int, rows: int, target: str) -> float:
    """Of a step of rows of 128 tokens, by the target's compiler."""
    config = dataclasses.replace(tuning(MODELS[f"{layers}x{hidden}"]), batch_size=rows)
    took = plan(config, target).seconds
    print(f"{layers} × {hidden}, {rows} × 128: {1e3 * took:.3f} ms", file=sys.stderr)
    return took


def parameters(model: ModelConfig) -> int:
    """Of the encoder, its pooler included."""
    return count(split(nnx.eval_shape(lambda: BertModel(model, rngs=nnx.Rngs(0))))[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="v5e:1x1")
    parser.add_argument("--data", default="", help="folder with <task>/train.parquet")
    parser.add_argument("--tokenizer", default="", help="HF directory with the tokenizer that all of them have")
    given = parser.parse_args()
    every, length = works(given.data, given.tokenizer), tuning().length
    lines: list[tuple[str, ...]] = [("layers × hidden", "parameters", "PFLOP", f"hours of {given.target}")]
    factors = {}
    for hidden in sorted({one.hidden_size for one in SMALL_BERTS.values()}):
        took = [seconds(layers, hidden, rows, given.target) for layers, rows in PLANNED]
        factors[hidden] = np.linalg.solve([terms(layers, rows * length) for layers, rows in PLANNED], took)
    layers, hidden, rows = CHECKED
    said = float(np.dot(factors[hidden], terms(layers, rows * length)))
    print(f"linear: {1e3 * said:.3f} ms, {said / seconds(*CHECKED, given.target) - 1:+.1%}", file=sys.stderr)
    flops_of_all = hours_of_all = 0.0
    for model in SMALL_BERTS.values():
        layers, hidden = model.num_hidden_layers, model.hidden_size
        flops = sum(one.flops(model) for one in every)
        hours = sum(one.steps * float(np.dot(factors[hidden], terms(layers, one.places))) for one in every) / 3600
        flops_of_all, hours_of_all = flops_of_all + flops, hours_of_all + hours
        shown = f"{parameters(model) / 1e6:.1f} M", f"{flops / 1e15:,.1f}", f"{hours:,.1f}"
        lines.append((f"{layers} × {hidden}", *shown))
    lines.append(("all 24", "", f"{flops_of_all / 1e15:,.0f}", f"{hours_of_all:,.0f}"))
    print(tables.markdown(lines))
    tried = len(SWEEP.learning_rate) * len(SWEEP.batch_size) + len(SEEDS)
    print(f"{sum(one.steps for one in every):,} steps a model, {len(GLUE) * tried} runs")


if __name__ == "__main__":
    main()
