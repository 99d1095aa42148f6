"""What it costs to look at a batch's ids on the host before a step, beside a cheap step: one of distillation from BERT-Tiny.

python benchmarks/ranges.py [--rounds 30]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from findings import Findings, as_markdown, timed
from jax_work import Distillation, make_batch, save_models
from machine import commit, processor

from distilbert_jax.config import LossConfig, ModelConfig, OptimizerConfig
from distilbert_jax.models.ranges import check_rows

SHAPES = ((32, 64), (32, 128), (256, 128), (2000, 512))
TINY = ModelConfig.bert_base(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)


def microseconds(call: Callable[[], Any], rounds: int) -> float:
    return 1e6 * statistics.median(timed(call).wall for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timings of each")
    rounds = parser.parse_args().rounds
    rows = []
    for B, T in SHAPES:
        ids = np.random.default_rng(0).integers(0, TINY.vocab_size, (B, T), np.int32)
        batch = {"input_ids": ids, "position_ids": np.tile(np.arange(T, dtype=np.int32), (B, 1))}
        check = microseconds(lambda batch=batch: check_rows(batch, TINY), rounds)
        step = "–", "–"
        if B * T <= 32 * 128:
            took = microseconds(_step(B, T), 5)
            step = f"{took / 1e3:,.0f}", f"{check / took:.4%}"
        rows.append((f"{B} × {T}", f"{check:,.0f}", *step))
    header = ("B × T", "check, µs", f"step on {jax.devices()[0].device_kind}, ms", "share")
    print(as_markdown(Findings(f"Ranges of a batch, {processor()}, commit {commit()}", header, rows)))


def _step(B: int, T: int) -> Callable[[], Any]:
    """A distillation step of BERT-Tiny into one layer, compiled."""
    with tempfile.TemporaryDirectory() as folder:
        teacher, student = Path(folder) / "teacher", Path(folder) / "student"
        save_models(TINY, teacher, student)
        batch = make_batch(B, T, TINY.vocab_size)
        step = Distillation(teacher, student, batch, "float32", LossConfig(), OptimizerConfig())
    step()
    return step  # which waits for the loss


if __name__ == "__main__":
    main()
