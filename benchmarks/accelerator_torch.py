"""The sides of `accelerator.py` that compute with PyTorch and transformers; each call of this file is one of them."""

import functools
import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_work
import transformers
from sides import AbsentError, Asked, Report, Sizes, main, one_line, timed

from distilbert_jax.config import LossConfig, OptimizerConfig

DTYPE = "bfloat16"
ON = "cuda" if torch.cuda.is_available() else "cpu"


def start(asked: Asked, report: Report) -> None:
    """Says what the device is.

    Raises:
        AbsentError: there is only a CPU.
    """
    if ON == "cpu" and not asked.toy:
        raise AbsentError("PyTorch sees no GPU")
    torch.set_float32_matmul_precision("high")
    report(
        start_seconds=time.time() - asked.begun,
        device={"platform": ON, "kind": torch.cuda.get_device_name() if ON == "cuda" else "cpu"},
    )


def wait(_: Any = None) -> None:
    if ON == "cuda":
        torch.cuda.synchronize()


def free() -> None:
    """What a variant before has left, and its peak."""
    gc.collect()
    if ON == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int | None:
    return torch.cuda.max_memory_allocated() if ON == "cuda" else None


def ceilings(asked: Asked, report: Report) -> None:
    """As JAX's: a large matmul, and x + 1 in place on a large array."""
    start(asked, report)
    sizes = asked.sizes
    n, said = sizes.matmul, []
    for name, dtype, precision in (
        ("bfloat16", torch.bfloat16, "high"),
        ("float32_tf32", torch.float32, "high"),
        ("float32_highest", torch.float32, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        left, right = (torch.randn(n, n, device=ON, dtype=dtype) for _ in range(2))
        times = timed(functools.partial(torch.matmul, left, right), wait, sizes, sizes.brief)
        report(**{f"matmul_{name}": times | {"flops_per_second": 2 * n**3 / times["ms"] * 1e3}})
        said.append(f"matmul_{name} {2 * n**3 / times['ms'] * 1e-9:.3g} T/s")
    large = torch.zeros(sizes.copied // 4, device=ON)
    times = timed(lambda: large.add_(1), wait, sizes, sizes.brief)
    report(copy=times | {"bytes_per_second": 2 * sizes.copied / times["ms"] * 1e3})
    report(summary=", ".join([*said, f"copy {2 * sizes.copied / times['ms'] * 1e-9:.3g} T/s"]))


def models(sizes: Sizes) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Teacher and student with random weights."""
    shape = sizes.shape()
    teacher = transformers.BertConfig(**shape)
    student = transformers.DistilBertConfig(
        vocab_size=sizes.vocabulary,
        dim=sizes.hidden,
        n_layers=sizes.layers // 2,
        n_heads=sizes.heads,
        hidden_dim=sizes.inner,
        max_position_embeddings=sizes.positions,
    )
    made = [
        transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa")
        for config in (teacher, student)
    ]
    return made[0], made[1]


def ids_of(sizes: Sizes, rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(sizes.vocabulary // 16, sizes.vocabulary, (rows, length))


def distillation(asked: Asked, report: Report) -> None:
    """The step of `torch_work`, eager first, which costs no compilation, then with `torch.compile`.

    The models are given no mask, as all rows are full: SDPA may choose any of its kernels.
    """
    start(asked, report)
    sizes, rows, length = asked.sizes, asked.rows, asked.length
    random = np.random.default_rng(0)
    masked = math.ceil(0.15 * length)
    ids = ids_of(sizes, rows, length)
    positions = np.sort(np.stack([random.permutation(length)[:masked] for _ in range(rows)]), axis=1)
    batch = {"input_ids": ids, "positions": positions, "labels": np.take_along_axis(ids, positions, 1)}
    teacher, student = models(sizes)
    step = torch_work.Distillation(teacher, student, batch, DTYPE, LossConfig(), OptimizerConfig(), device=ON)
    said = []
    for name in ("eager", "compiled"):
        free()
        try:
            begun = time.perf_counter()
            if name == "compiled":
                step.compile()
            first = float(step.step())
            first_seconds = time.perf_counter() - begun
            times = timed(step.step, wait, sizes)
        except Exception as error:  # out of memory, or no compiler: the other may do
            step.optimizer.zero_grad(set_to_none=True)
            report(**{name: {"error": one_line(error), "peak_memory": peak_memory()}})
            said.append(f"{name}: {one_line(error)}")
            continue
        per_second = rows * length / times["ms"] * 1e3
        found = {"first_loss": first, "first_step_seconds": first_seconds, "tokens_per_second": per_second}
        report(**{name: times | found | {"peak_memory": peak_memory()}})
        memory = "" if peak_memory() is None else f", {peak_memory() / 1e9:.1f} GB"
        said.append(f"{name} {times['ms']:.1f} ms, {per_second:,.0f} tokens/s{memory}")
    report(summary="; ".join(said))


def losses(asked: Asked, report: Report) -> None:
    """The loss of the batch that the other side has written, without dropout, from its weights."""
    start(asked, report)
    folder = Path(asked.folder)
    if not (folder / "batch.npz").is_file():
        raise FileNotFoundError("the other side has written no batch")
    batch = dict(np.load(folder / "batch.npz"))
    theirs = torch_work.Distillation(
        folder / "teacher", folder / "student", batch, DTYPE, LossConfig(), OptimizerConfig(), device=ON
    )
    loss = theirs.loss_without_dropout()
    report(loss=loss, summary=f"loss {loss:.4f}")


def inference(asked: Asked, report: Report) -> None:
    """DistilBERT with bfloat16 weights and no mask: mean-pooled features eager and compiled, fill-mask at one position eager."""
    start(asked, report)
    sizes, length, said = asked.sizes, asked.length, []
    model = models(sizes)[1].eval().to(ON, torch.bfloat16).requires_grad_(False)

    def features(ids: torch.Tensor) -> torch.Tensor:
        return model.distilbert(input_ids=ids).last_hidden_state.float().mean(1)

    def fill_mask(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.distilbert(input_ids=ids).last_hidden_state[:, length // 2]
        logits = model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))
        return F.log_softmax(logits.float(), -1)

    compiled = torch.compile(features, dynamic=False)
    graphs = torch.compile(features, dynamic=False, mode="reduce-overhead")
    for rows in (1, asked.rows):
        ids = torch.from_numpy(ids_of(sizes, rows, length)).to(ON)
        calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "features": features,
            "fill_mask": fill_mask,
            "features_compiled": compiled,
            **({"features_compiled_reduce_overhead": graphs} if rows == 1 and ON == "cuda" else {}),
        }
        for name, call in calls.items():
            key = f"{name.partition('_compiled')[0]}_{rows}" + "".join(name.partition("_compiled")[1:])
            try:
                with torch.inference_mode(mode="compiled" not in name), torch.no_grad():
                    times = timed(functools.partial(call, ids), wait, sizes, sizes.brief)
                    alone = timed(lambda call=call, ids=ids: wait(call(ids)), wait, sizes, sizes.brief)
            except Exception as error:  # the others may do
                report(**{key: {"error": one_line(error)}})
                said.append(f"{key}: {one_line(error)}")
                continue
            found = {"waited_for_ms": alone["ms"], "sequences_per_second": rows / times["ms"] * 1e3}
            report(**{key: times | found})
            said.append(f"{key} {times['ms']:.3f} ms")
    report(peak_memory=peak_memory(), summary=", ".join(said))


if __name__ == "__main__":
    main({"ceilings": ceilings, "distillation": distillation, "losses": losses, "inference": inference})
