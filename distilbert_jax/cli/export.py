"""Models for other runtimes: `distilbert-jax export`."""

from dataclasses import dataclass

import tyro

from distilbert_jax.base.config_io import to_values
from distilbert_jax.cli.arguments import print_json, running
from distilbert_jax.export.names import Format, Head


@dataclass(frozen=True)
class ExportCommand:
    """A model as ONNX or StableHLO, with its config and tokenizer, compared with this package's outputs before it is kept."""

    model: tyro.conf.Positional[str]  # HF directory or hub id
    out: str  # a new directory
    format: Format = "onnx"
    head: Head = ""  # empty: the one that config.json names
    int8: bool = False  # also model_quantized.onnx: weights int8, activations quantised as they come
    json: bool = False  # one JSON object

    def run(self) -> None:
        from distilbert_jax.base.files import check_writable
        from distilbert_jax.export.formats import export

        check_writable(self.out, "--out", directory=True)
        result = export(self.model, self.out, format=self.format, head=self.head, int8=self.int8)
        if self.json:
            print_json(to_values(result))
            return
        for name in result.files:
            apart = result.difference.get(name)
            said = "not compared: onnxruntime is not installed" if apart is None else f"{apart:.1e} of scale from JAX"
            print(f"{result.directory}/{name}  {result.head}, {said}")


COMMANDS = {"export": running(ExportCommand)}
