"""Encoder inference in the runtimes that people choose on a CPU: ONNX Runtime and OpenVINO.

Both get the PyTorch encoder with its weights: ONNX Runtime by torch.onnx, OpenVINO by its own converter. ONNX Runtime computes in
float32 here, and in int8 with weights and activations quantised on the fly; OpenVINO in the precision that it is asked for.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
import torch_work
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers import optimizer

from distilbert_jax.config import ModelConfig

Call = Callable[[], object]
INPUTS = ("input_ids", "attention_mask")


class _Encoder(torch.nn.Module):
    """Token ids and mask [B, T] → the last hidden state alone [B, T, D]."""

    def __init__(self, student: Path):
        super().__init__()
        self.encoder = torch_work.load(student).distilbert
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def onnx_runtime(
    dtype: str, student: Path, batch: dict[str, np.ndarray], config: ModelConfig
) -> Iterator[tuple[str, Call]]:
    """Candidates of ONNX Runtime: (how, call that returns the last hidden state [B, T, D]).

    Args:
        dtype: "float32" or "int8"; it has no bfloat16 on a CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, fused, small = (Path(folder, f"{name}.onnx") for name in ("plain", "fused", "int8"))
        inputs = torch_work.tensors(batch, *INPUTS)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells each of its passes
            torch.onnx.export(_Encoder(student), tuple(inputs.values()), plain, input_names=list(inputs), dynamo=True)
        # The fusions of a BERT that it does not make by itself: embeddings, skip and LayerNorm, bias and GELU.
        sizes = {"num_heads": config.num_attention_heads, "hidden_size": config.hidden_size}
        optimizer.optimize_model(str(plain), "bert", opt_level=0, **sizes).save_model_to_file(str(fused))
        if dtype == "int8":
            quantize_dynamic(fused, small)
            yield "int8 weights and activations", _onnx_call(small, batch)
        else:
            yield "graph as exported", _onnx_call(plain, batch)
            yield "BERT fusions", _onnx_call(fused, batch)


def _onnx_call(file: Path, batch: dict[str, np.ndarray]) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads sleep while others are timed
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {one.name: batch[one.name].astype(np.int64) for one in session.get_inputs()}
    return lambda: session.run(None, given)[0]


def openvino_encoders(dtype: str, student: Path, batch: dict[str, np.ndarray]) -> Iterator[tuple[str, Call]]:
    """OpenVINO in float32 or bfloat16: (how, call that returns the last hidden state [B, T, D])."""
    example = torch_work.tensors(batch, *INPUTS)
    converted = openvino.convert_model(_Encoder(student), example_input=example)
    converted.reshape({one: list(batch["input_ids"].shape) for one in converted.inputs})
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": os.cpu_count() or 1,
    }
    request = openvino.compile_model(converted, "CPU", settings).create_infer_request()
    given = {name: value.numpy() for name, value in example.items()}
    yield "latency hint", lambda: np.array(request.infer(given)[0])
