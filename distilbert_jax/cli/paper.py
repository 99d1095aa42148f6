"""Tables of the DistilBERT paper: `distilbert-jax paper`."""

from dataclasses import dataclass
from typing import Literal

from distilbert_jax.base import tables
from distilbert_jax.cli.arguments import print_json, running
from distilbert_jax.config import Activations, Dtype


@dataclass(frozen=True)
class PaperCommand:
    """Table 3 of the DistilBERT paper: the time of one pass over STS-B's dev set at batch 1, of models side by side."""

    model: tuple[str, ...]  # HF directories or hub ids; the others are compared with the first
    table: Literal[3] = 3  # of the paper
    data: str = ""  # folder with stsb/validation.parquet; empty: from the hub
    length: int | None = None  # tokens that every pair is padded or cut to; default: its own, padded to 16, 32, 64 …
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object a model

    def run(self) -> None:
        from distilbert_jax.base.config_io import to_values
        from distilbert_jax.probes.paper_speed import lines, paper_passes, title

        passes = paper_passes(self.model, self.data, length=self.length, dtype=self.dtype, activations=self.activations)
        if self.json:
            for one in passes:
                print_json(to_values(one))
        else:
            tables.show(tables.terminal(lines(passes), title(passes)))


COMMANDS = {"paper": running(PaperCommand)}
