"""Inference time as in Table 3 of Sanh et al. 2019 (arXiv 1910.01108): one pass over STS-B's dev set at batch 1, of several models
side by side."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distilbert_jax.base.hub import locate
from distilbert_jax.base.progress import progress
from distilbert_jax.config import Activations
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.datasets import load_split
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import EncoderModel
from distilbert_jax.models.compiled import padded_length
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.params import count, held_weights, merge, split
from distilbert_jax.text.tokenizer import BertTokenizer, announce_cut, stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperPass:
    """One pass of a model over STS-B's dev set at batch 1: seconds, and the encoder's parameters."""

    model: str
    parameters: int
    seconds: float
    ratio: float  # how many times as fast as the first model
    pairs: int
    tokens: int  # without padding
    padded_tokens: int
    dtype: str
    device: str


# As published, on a CPU that the paper does not name.
PUBLISHED = (("BERT-base", 110e6, 668.0), ("DistilBERT", 66e6, 410.0))


def paper_passes(
    models: Sequence[str],
    data: str = "",
    *,
    length: int | None = None,
    dtype: str = "float32",
    activations: Activations = "auto",
) -> list[PaperPass]:
    """Time a pass of each model's encoder, the models in turn for each pair of sentences, so that all of them see the same machine.
    Tokenizing and compiling are left out.

    Args:
        models: HF directories or hub ids.
        data: folder with stsb/validation.parquet; empty: from the hub.
        length: tokens that every pair is padded or cut to; None: its own, padded to 16, 32, 64 …

    Raises:
        InputError: no model; what of a model or of the data is not there; a length beyond a model's positions.
    """
    if not models:
        raise InputError("no model is given; name one or several with --model", field="--model")
    for name in models:
        if length is not None and length > (longest := read_config(locate(name)).max_length):
            raise InputError(
                f"--length {length} is beyond the {longest} positions of {name}", field="--length", path=name
            )
    task = find_task("stsb")
    rows = load_split(task, "validation", data)
    pairs = list(zip(*(rows[column] for column in task.columns), strict=True))
    runs = [_Pass(name, pairs, length, dtype, activations) for name in models]
    for run in runs:
        run.warm_up()
    with progress("passing over STS-B", len(pairs)) as done:
        for number in range(len(pairs)):
            for run in runs:
                run.read(number)
            done(number + 1)
    return [
        PaperPass(
            model=run.name,
            parameters=run.parameters,
            seconds=run.seconds,
            ratio=runs[0].seconds / run.seconds,
            pairs=len(pairs),
            tokens=sum(int(batch["attention_mask"].sum()) for batch in run.batches),
            padded_tokens=sum(batch["input_ids"].size for batch in run.batches),
            dtype=dtype,
            device=jax.devices()[0].device_kind,
        )
        for run in runs
    ]


class _Pass:
    """A model that reads pairs of sentences, and the seconds that it has taken."""

    def __init__(
        self, name: str, pairs: list[tuple[str, str]], length: int | None, dtype: str, activations: Activations
    ):
        self.name, self.seconds = name, 0.0
        model = EncoderModel.from_pretrained(
            name, dtype=jnp.dtype(dtype), activations=activations, add_pooling_layer=False
        )
        tokenizer = BertTokenizer.from_pretrained(name)
        rows, cut = tokenizer.rows(pairs, max_length=length)
        announce_cut(cut, len(rows), length or tokenizer.max_length)
        longest = tokenizer.max_length
        self.batches = [
            stack([row], tokenizer.ids.pad, length=length or padded_length(len(row.ids), longest)) for row in rows
        ]
        graphdef, params = split(model)
        self._params = held_weights(model, params)
        self.parameters = count(params)
        self._forward: Callable[..., jax.Array] = jax.jit(
            lambda params, batch: (
                merge(graphdef, params)(
                    batch["input_ids"], batch["attention_mask"], token_type_ids=batch["token_type_ids"]
                ).last_hidden_state
            )
        )

    def warm_up(self) -> None:
        """Compile what the pass will need."""
        for batch in {batch["input_ids"].shape: batch for batch in self.batches}.values():
            self._forward(self._params, batch).block_until_ready()

    def read(self, number: int) -> None:
        begun = time.perf_counter()
        np.asarray(self._forward(self._params, self.batches[number]))
        self.seconds += time.perf_counter() - begun


def lines(passes: Sequence[PaperPass]) -> list[tuple[str, ...]]:
    """The table: a line for each model, then the paper's."""
    row = lambda name, parameters, seconds, ratio: (name, f"{parameters / 1e6:.1f}", f"{seconds:,.1f}", f"{ratio:.2f}")
    first = PUBLISHED[0][2]
    return [
        ("model", "parameters, millions", "seconds", "times as fast"),
        *(row(one.model, one.parameters, one.seconds, one.ratio) for one in passes),
        *(row(f"{name} (paper)", parameters, seconds, first / seconds) for name, parameters, seconds in PUBLISHED),
    ]


def title(passes: Sequence[PaperPass]) -> str:
    one = passes[0]
    per_pair = one.tokens / one.pairs
    return (
        f"one pass over STS-B's dev set ({one.pairs:,} pairs, {per_pair:.0f} tokens a pair), batch 1, {one.dtype}, "
        f"on {one.device}; the paper's: CPU"
    )
