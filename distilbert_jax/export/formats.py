"""Export of a directory: the model in another format beside its tokenizer and config, and the proof that it says the same."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from distilbert_jax.base.files import write_json
from distilbert_jax.base.hub import write_directory
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.export.names import Format, Head
from distilbert_jax.models import (
    EncoderModel,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from distilbert_jax.models.hf_format import architectures, hf_config
from distilbert_jax.models.params import merge, split
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.text.tokenizer import BertTokenizer

HEADS: dict[str, type[PretrainedModel]] = {
    "encoder": EncoderModel,
    "masked-lm": MaskedLM,
    "sequence-classification": SequenceClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "multiple-choice": MultipleChoice,
}
SCALE = 1e-5  # how far float32 outputs may be apart, in units of the largest
_PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        files: of the model, within the directory.
        difference: the largest one from this package's float32 outputs, in units of their scale, by file; none where the runtime
            that could tell is not installed.
    """

    directory: str
    head: str
    files: tuple[str, ...]
    difference: Mapping[str, float]


def head_of(path_or_id: str) -> str:
    """The head that config.json names in `architectures`; without a name the bare encoder.

    Raises:
        InputError: it is one that is not exported.
    """
    given = architectures(path_or_id)
    named = next((name for name, head in HEADS.items() if head.is_named(path_or_id)), None)
    if named:
        return named
    if given and not given[0].endswith("Model"):
        raise InputError(
            f"{path_or_id}: its architecture {given[0]} is not exported; --head names one of {', '.join(HEADS)}",
            path=path_or_id,
            field="architectures",
            hint="--head",
        )
    return "encoder"


def export(path_or_id: str, out: str, *, format: Format = "onnx", head: Head = "", int8: bool = False) -> Export:
    """Write a model for another runtime, with config.json and its tokenizer beside it, to a new directory.

    ONNX: `onnx/model.onnx`, float32, and with `int8` also `onnx/model_quantized.onnx`, whose matmuls take int8 weights and
    activations that are quantised as they come. StableHLO: `model.stablehlo`, float32, as `jax.export` serialises it, weights
    included.

    Args:
        head: of `HEADS`; "": what config.json names.

    Raises:
        InputError: the model cannot be loaded or exported, a package is missing, or the outputs are further apart than `SCALE`.
    """
    named = head or head_of(path_or_id)
    if named not in HEADS:
        raise InputError(f"--head {named}: no such head; {nearest(named, HEADS)}", field="--head")
    if int8 and format != "onnx":
        raise InputError("--int8 is of ONNX: leave it out, or --format onnx", field="--int8", hint="--format onnx")
    if Path(out).is_dir() and any(Path(out).iterdir()):  # an export of another model may lie there
        raise InputError(f"--out {out}: is there and not empty; name a new directory", path=out, field="--out")
    # A pooler is no head: an encoder goes without, where the directory has none.
    pooler = {} if named != "encoder" or EncoderModel.is_whole(path_or_id) else {"add_pooling_layer": False}
    load: Any = HEADS[named].from_pretrained
    model: PretrainedModel = load(path_or_id, activations="float32", new_head=False, **pooler)
    tokenizer = BertTokenizer.from_pretrained(path_or_id)
    write = {"onnx": _write_onnx, "stablehlo": _write_stablehlo}[format]
    made: dict[str, float] = {}

    def write_all(directory: Path) -> None:
        made.update(write(model, directory, int8))
        write_json(directory / "config.json", hf_config(model.config, type(model).__name__))
        tokenizer.save_pretrained(directory)

    write_directory(Path(out), write_all, new=True)
    told = {name: value for name, value in made.items() if not np.isnan(value)}
    return Export(out, named, tuple(made), told)


def rows(config: ModelConfig, choices: int = 0) -> list[dict[str, np.ndarray]]:
    """Random rows to compare two programs on, int64: of odd lengths, with padding, one token alone, and as long as they go."""
    draw, batches = np.random.default_rng(0), []
    for batch, length in ((1, 1), (3, 7), (2, 33), (1, config.max_length)):
        shape = (batch, choices, min(length, config.max_length)) if choices else (batch, min(length, config.max_length))
        mask = np.ones(shape, np.int64)
        mask[-1, ..., (shape[-1] + 2) // 2 :] = 0
        given = {"input_ids": draw.integers(0, config.vocab_size, shape), "attention_mask": mask}
        if config.type_vocab_size:
            given["token_type_ids"] = draw.integers(0, config.type_vocab_size, shape)
        batches.append(given)
    return batches


def difference(model: PretrainedModel, run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> float:
    """How far another runtime's outputs are from the model's, in units of the largest of that output, where there is a token; NaN
    where one of them is no number.

    run: rows by name → outputs by name.
    """
    apart = []
    for given in rows(model.config, choices=2 if isinstance(model, MultipleChoice) else 0):
        ours = cast(Any, model)(**{name: value.astype(np.int32) for name, value in given.items()})
        for name, theirs in run(given).items():
            expected, mask = np.asarray(getattr(ours, name)), given["attention_mask"]
            at = mask > 0 if expected.shape[: mask.ndim] == mask.shape else ...
            scale = max(float(np.abs(expected).max()), 1e-30)
            apart.append(float(np.abs(theirs - expected)[at].max()) / scale)
    return float(np.max(apart))  # which keeps a NaN


def _write_onnx(model: PretrainedModel, directory: Path, int8: bool) -> dict[str, float]:
    try:
        import onnx

        from distilbert_jax.export.graph import onnx_model
    except ModuleNotFoundError:
        raise _lacks("onnx") from None
    (directory / "onnx").mkdir()
    whole, quantised = directory / "onnx" / "model.onnx", directory / "onnx" / "model_quantized.onnx"
    written = onnx_model(model)
    large = written.ByteSize() >= 2**31  # protobuf holds no more
    onnx.save(written, whole, save_as_external_data=large, location=f"{whole.name}_data" if large else None)
    onnx.checker.check_model(str(whole))
    try:
        import onnxruntime
    except ModuleNotFoundError:
        if int8:
            raise _lacks("onnxruntime") from None
        return {"onnx/model.onnx": float("nan")}
    made = {"onnx/model.onnx": _checked(difference(model, _in_onnxruntime(onnxruntime, whole)), whole.name)}
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # Weights use 7 bits of the 8: without VNNI a processor adds products in 16 bits, which 8 would overflow.
        weights = {"weight_type": QuantType.QInt8, "reduce_range": True, "per_channel": True}
        options = {**weights, "op_types_to_quantize": ["MatMul"]}
        logging.disable(logging.WARNING)  # it advises to optimise the graph first, which changes nothing here
        try:
            quantize_dynamic(whole, quantised, use_external_data_format=large, **options)
        finally:
            logging.disable(logging.NOTSET)
        made["onnx/model_quantized.onnx"] = difference(model, _in_onnxruntime(onnxruntime, quantised))
    return made


def _in_onnxruntime(onnxruntime: Any, file: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, dict(given)), strict=True))


def _write_stablehlo(model: PretrainedModel, directory: Path, int8: bool) -> dict[str, float]:
    graphdef, params = split(model)
    names, config = list(rows(model.config)[0]), model.config
    pooled = ("pooler_output",) if hasattr(model, "pooler") else ()
    outputs = {QuestionAnswering: ("start_logits", "end_logits"), EncoderModel: ("last_hidden_state", *pooled)}
    wanted = next((kept for kind, kept in outputs.items() if isinstance(model, kind)), ("logits",))

    def computed(*arrays: jax.Array) -> dict[str, jax.Array]:
        result = merge(graphdef, params)(**dict(zip(names, arrays, strict=True)))
        return {name: getattr(result, name) for name in wanted}

    dims = "B, C, T" if isinstance(model, MultipleChoice) else "B, T"
    shape = jax_export.symbolic_shape(dims, constraints=[f"T <= {config.max_length}"])
    given = [jax.ShapeDtypeStruct(shape, jnp.int32)] * len(names)
    exported = jax_export.export(jax.jit(computed), platforms=_PLATFORMS)(*given)
    file = directory / "model.stablehlo"
    file.write_bytes(exported.serialize())
    again = jax_export.deserialize(bytearray(file.read_bytes()))

    def run(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        result = again.call(*(batch[name].astype(np.int32) for name in names))
        return {name: np.asarray(value) for name, value in cast(dict[str, jax.Array], result).items()}

    return {file.name: _checked(difference(model, run), file.name)}


def _checked(value: float, name: str) -> float:
    if not value <= SCALE:
        raise InputError(
            f"{name}: its outputs are {value:.1e} of their scale from this package's; nothing is kept", field=name
        )
    return value


def _lacks(package: str) -> InputError:
    hint = 'pip install "distilbert_jax[export]"'
    return InputError(f"export needs {package}, which is not installed: {hint}", hint=hint)
