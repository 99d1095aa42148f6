"""How far a step on each mesh is from one device's: `python -m tests.training.mesh_table`, Markdown on stdout."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["NPROC"] = "16"  # see tests/conftest.py

import numpy as np
from rich.progress import track

from tests.training.test_step import QUICK, SLOW, minus, norm, one_device, two_steps

if __name__ == "__main__":
    (expected, metrics, _), _ = one_device()
    print(
        "| data × fsdp × tensor, micro-batches | ‖Δg‖ / ‖g‖ | largest of a tensor | Δloss / loss |\n| --- | --- | --- | --- |"
    )
    whole = [shape for shape in (*QUICK, *SLOW) if len(shape) == 4]  # not those in pieces
    for data, fsdp, tensor, accumulate in track(whole, transient=True):
        (found, found_metrics, _), _ = two_steps(data, fsdp, tensor, accumulate)
        total = norm(expected)
        # Of key biases nothing but rounding noise is left, as the softmax does not see them.
        names = [name for name in expected if not name.endswith("key.bias")]
        tensors = (
            np.linalg.norm(found[name] - expected[name]) / max(np.linalg.norm(expected[name]), 1e-6 * total)
            for name in names
        )
        loss = abs(found_metrics["loss"] - metrics["loss"]) / metrics["loss"]
        shape = f"{data} × {fsdp} × {tensor}, {accumulate}"
        print(f"| {shape} | {norm(minus(found, expected)) / total:.1e} | {max(tensors):.1e} | {loss:.1e} |")
