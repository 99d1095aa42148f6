"""ONNX graph of an encoder and its head, written node by node from the parameters of a model.

The inputs and outputs have the names that transformers' exports have; batch and length are free.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import distilbert_jax
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models.heads import (
    EncoderModel,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from distilbert_jax.models.params import split
from distilbert_jax.models.pretrained import PretrainedModel

OPSET = 17  # the first with LayerNormalization
_LOWEST = float(np.finfo(np.float32).min)


class Graph:
    """Nodes and constants in the order in which they are made. A value is known by its name."""

    def __init__(self, params: Mapping[str, np.ndarray]):
        self._params = params
        self.inputs: dict[str, str] = {}  # name → value [rows, T]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or of each."""
        names = [f"{op}_{len(self._nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{len(self._nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A small array."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        self._constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """int64 [n]."""
        return self.constant(values, np.int64)

    def parameter(self, path: str, *, transposed: bool = False) -> str:
        """A parameter of the model by its path; once, however often it is used."""
        name = f"{path}.T" if transposed else path
        if name not in self._constants:
            array = np.asarray(self._params[path], np.float32)
            self._constants[name] = numpy_helper.from_array(
                np.ascontiguousarray(array.T if transposed else array), name
            )
        return name

    def has(self, path: str) -> bool:
        return path in self._params

    def linear(self, x: str, path: str) -> str:
        """[..., in] → [..., out]."""
        return self("Add", self("MatMul", x, self.parameter(f"{path}.kernel")), self.parameter(f"{path}.bias"))

    def norm(self, x: str, path: str, eps: float) -> str:
        """LayerNorm over the last axis."""
        scale, bias = self.parameter(f"{path}.scale"), self.parameter(f"{path}.bias")
        return self("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def reshaped(self, x: str, *shape: int) -> str:
        """0: the size of the same axis; -1: what is left."""
        return self("Reshape", x, self.integers(*shape))

    def model(
        self, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, tuple[str, Sequence[Any]]]
    ) -> onnx.ModelProto:
        """The whole: its inputs int64 by name and shape, its outputs float32 by name from a value, with its shape."""
        for name, (value, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{name}"))
        graph = helper.make_graph(
            self._nodes,
            "distilbert_jax",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            list(self._constants.values()),
        )
        made_by = {"producer_name": "distilbert_jax", "producer_version": distilbert_jax.__version__}
        # 8: what goes with the opset; a newer one older runtimes would refuse.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, **made_by)


def _erf_gelu(g: Graph, x: str) -> str:
    inside = g("Add", g("Erf", g("Div", x, g.constant(math.sqrt(2.0)))), g.constant(1.0))
    return g("Mul", g("Mul", x, inside), g.constant(0.5))  # the order that runtimes know as one operation


def _tanh_gelu(g: Graph, x: str) -> str:
    cubed = g("Mul", g("Mul", x, x), x)
    inside = g("Mul", g("Add", x, g("Mul", cubed, g.constant(0.044715))), g.constant(math.sqrt(2.0 / math.pi)))
    return g("Mul", g("Mul", x, g("Add", g("Tanh", inside), g.constant(1.0))), g.constant(0.5))


def _sigmoid_of(g: Graph, x: str, factor: float = 1.0) -> str:
    return g("Mul", x, g("Sigmoid", x if factor == 1.0 else g("Mul", x, g.constant(factor))))


def _laplace(g: Graph, x: str) -> str:
    inside = g("Div", g("Sub", x, g.constant(0.707107)), g.constant(0.282095 * math.sqrt(2.0)))
    return g("Mul", g("Add", g("Erf", inside), g.constant(1.0)), g.constant(0.5))


_Activation = Callable[[Graph, str], str]
ACTIVATIONS: dict[str, _Activation] = {
    **dict.fromkeys(("gelu", "gelu_python"), _erf_gelu),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"), _tanh_gelu),
    **dict.fromkeys(("silu", "swish"), _sigmoid_of),
    "gelu_10": lambda g, x: g("Clip", _erf_gelu(g, x), g.constant(-10.0), g.constant(10.0)),
    "quick_gelu": lambda g, x: _sigmoid_of(g, x, 1.702),
    "relu": lambda g, x: g("Relu", x),
    "relu2": lambda g, x: g("Mul", g("Relu", x), g("Relu", x)),
    "relu6": lambda g, x: g("Clip", x, g.constant(0.0), g.constant(6.0)),
    "leaky_relu": lambda g, x: g("LeakyRelu", x, alpha=0.01),
    "hardswish": lambda g, x: g("HardSwish", x),
    "mish": lambda g, x: g("Mul", x, g("Tanh", g("Softplus", x))),
    "tanh": lambda g, x: g("Tanh", x),
    "sigmoid": lambda g, x: g("Sigmoid", x),
    "laplace": _laplace,
    "sqrtsoftplus": lambda g, x: g("Sqrt", g("Softplus", x)),
    "linear": lambda g, x: x,
}


def _embedded(g: Graph, config: ModelConfig) -> str:
    """[B, T, D] of the inputs."""
    path = "encoder.embeddings"
    x = g("Gather", g.parameter(f"{path}.word"), g.inputs["input_ids"], axis=0)
    table = g.parameter(f"{path}.position")
    if config.family.positions_after_pad:
        pad = g.constant(config.pad_token_id, np.int64)
        tokens = g("Cast", g("Not", g("Equal", g.inputs["input_ids"], pad)), to=TensorProto.INT64)
        number = g("Mul", g("CumSum", tokens, g.constant(1, np.int64)), tokens)
        positions = g("Gather", table, g("Add", number, pad), axis=0)
    else:  # a longer row ends in an error of shapes, not in wrong positions
        length = g("Slice", g("Shape", g.inputs["input_ids"]), g.integers(1), g.integers(2))
        positions = g("Slice", table, g.integers(0), length, g.integers(0))
    x = g("Add", x, positions)
    if g.has(f"{path}.token_type"):
        x = g("Add", x, g("Gather", g.parameter(f"{path}.token_type"), g.inputs["token_type_ids"], axis=0))
    return g.norm(x, f"{path}.norm", config.layer_norm_eps)


def _attended(g: Graph, x: str, path: str, bias: str, config: ModelConfig) -> str:
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    split_heads = lambda name: g.reshaped(g.linear(x, f"{path}.{name}"), 0, 0, heads, width)
    query = g("Transpose", g("Mul", split_heads("query"), g.constant(width**-0.5)), perm=[0, 2, 1, 3])
    key = g("Transpose", split_heads("key"), perm=[0, 2, 3, 1])
    value = g("Transpose", split_heads("value"), perm=[0, 2, 1, 3])
    probabilities = g("Softmax", g("Add", g("MatMul", query, key), bias), axis=-1)
    mixed = g("Transpose", g("MatMul", probabilities, value), perm=[0, 2, 1, 3])
    return g.linear(g.reshaped(mixed, 0, 0, config.hidden_size), f"{path}.out")


def _encoded(g: Graph, config: ModelConfig) -> str:
    """Last hidden states [B, T, D]."""
    visible = g("Greater", g.inputs["attention_mask"], g.constant(0, np.int64))
    bias = g("Where", g("Unsqueeze", visible, g.integers(1, 2)), g.constant(0.0), g.constant(_LOWEST))  # [B, 1, 1, T]
    x, eps = _embedded(g, config), config.layer_norm_eps
    for i in range(config.num_hidden_layers):
        path = f"encoder.layers.{i}"
        x = g.norm(g("Add", x, _attended(g, x, f"{path}.attention", bias, config)), f"{path}.attention_norm", eps)
        fed = g.linear(ACTIVATIONS[config.hidden_act](g, g.linear(x, f"{path}.ffn_in")), f"{path}.ffn_out")
        x = g.norm(g("Add", x, fed), f"{path}.ffn_norm", eps)
    return x


def _first(g: Graph, hidden: str) -> str:
    """[B, T, D] → [B, D] of the first token."""
    return g("Gather", hidden, g.constant(0, np.int64), axis=1)


def _pooled(g: Graph, hidden: str, config: ModelConfig) -> str:
    return ACTIVATIONS[config.family.pooler_activation](g, g.linear(_first(g, hidden), "pooler.dense"))


_Outputs = dict[str, tuple[str, list[Any]]]


def _encoder(g: Graph, hidden: str, config: ModelConfig) -> _Outputs:
    outputs: _Outputs = {"last_hidden_state": (hidden, ["batch_size", "sequence_length", config.hidden_size])}
    if g.has("pooler.dense.kernel"):
        outputs["pooler_output"] = (_pooled(g, hidden, config), ["batch_size", config.hidden_size])
    return outputs


def _masked_lm(g: Graph, hidden: str, config: ModelConfig) -> _Outputs:
    activation = ACTIVATIONS[config.family.mlm_activation or config.hidden_act]
    x = g.norm(activation(g, g.linear(hidden, "head.transform")), "head.norm", config.layer_norm_eps)
    table = "encoder.embeddings.word" if config.tie_word_embeddings else "head.decoder"
    # Transposed and kept beside the embedding, which it is of: a table that is transposed while it runs is not quantised.
    logits = g("Add", g("MatMul", x, g.parameter(table, transposed=True)), g.parameter("head.bias"))
    return {"logits": (logits, ["batch_size", "sequence_length", config.vocab_size])}


def _sequence(g: Graph, hidden: str, config: ModelConfig) -> _Outputs:
    return {"logits": (g.linear(_pooled(g, hidden, config), "classifier"), ["batch_size", len(config.labels)])}


def _tokens(g: Graph, hidden: str, config: ModelConfig) -> _Outputs:
    logits = g.linear(hidden, "classifier")
    return {"logits": (logits, ["batch_size", "sequence_length", len(config.labels)])}


def _answers(g: Graph, hidden: str, config: ModelConfig) -> _Outputs:
    start, end = g("Split", g.linear(hidden, "qa_outputs"), g.integers(1, 1), outputs=2, axis=-1)
    shape = ["batch_size", "sequence_length"]
    last = g.integers(-1)
    return {"start_logits": (g("Squeeze", start, last), shape), "end_logits": (g("Squeeze", end, last), shape)}


HEADS: dict[type[PretrainedModel], Callable[[Graph, str, ModelConfig], _Outputs]] = {
    MaskedLM: _masked_lm,
    SequenceClassification: _sequence,
    TokenClassification: _tokens,
    QuestionAnswering: _answers,
    EncoderModel: _encoder,
}


def onnx_model(model: PretrainedModel) -> onnx.ModelProto:
    """The ONNX model of a model of this package, float32, without dropout.

    Inputs int64 [batch_size, sequence_length]: input_ids, attention_mask and, of a family that has token types, token_type_ids; of
    a multiple choice [batch_size, num_choices, sequence_length] each. Outputs: last_hidden_state (and pooler_output), logits, or
    start_logits and end_logits, as the class has them.

    Raises:
        InputError: the family has an encoder of its own, or the head has no counterpart.
    """
    config = model.config
    if config.family.encoder is not None:
        raise InputError(
            f"model_type {config.model_type!r}: its encoder is its own, and cannot be written as ONNX",
            field="model_type",
        )
    if config.hidden_act not in ACTIVATIONS:
        raise InputError(f"hidden_act = {config.hidden_act!r}: has no counterpart in ONNX", field="hidden_act")
    _, params = split(model)
    g = Graph({path: np.asarray(value) for path, value in params.items()})
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if config.type_vocab_size else [])]
    if isinstance(model, MultipleChoice):
        shape: list[Any] = ["batch_size", "num_choices", "sequence_length"]
        length = g("Slice", g("Shape", "input_ids"), g.integers(2), g.integers(3))
        rows = g("Concat", g.integers(-1), length, axis=0)
        g.inputs = {name: g("Reshape", name, rows) for name in names}
        scores = g.linear(_pooled(g, _encoded(g, config), config), "classifier")
        choices = g("Slice", g("Shape", "input_ids"), g.integers(0), g.integers(2))
        return g.model(dict.fromkeys(names, shape), {"logits": (g("Reshape", scores, choices), shape[:2])})
    write = next((write for head, write in HEADS.items() if isinstance(model, head)), None)
    if write is None:
        known = ", ".join(head.__name__ for head in (*HEADS, MultipleChoice))
        raise InputError(f"{type(model).__name__}: this head is not exported; those that are: {known}", field="head")
    g.inputs = {name: name for name in names}
    shape = ["batch_size", "sequence_length"]
    return g.model(dict.fromkeys(names, shape), write(g, _encoded(g, config), config))
