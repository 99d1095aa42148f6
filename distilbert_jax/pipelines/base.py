"""What the pipelines share: any number of texts in, compiled for few shapes, results out in the same order."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax.base.progress import progress
from distilbert_jax.config import Activations
from distilbert_jax.errors import InputError
from distilbert_jax.models.compiled import padded_length
from distilbert_jax.models.layers import Linear
from distilbert_jax.models.params import held_weights, merge, split
from distilbert_jax.models.pretrained import PretrainedModel, float_dtype
from distilbert_jax.models.ranges import check_finite, check_rows
from distilbert_jax.pipelines.scores import Ids
from distilbert_jax.text.objects import several_texts
from distilbert_jax.text.tokenizer import BertTokenizer, Row, announce_cut, check_fit, stack

_WINDOW = 8  # batches that are tokenized and sorted by length at once

Text = str | tuple[str, str]
Answer = Callable[
    [Sequence[Any], Sequence[Any]], Iterable[Any]
]  # results of these texts, from what `Encode` made of them
Encode = Callable[
    [Sequence[Any], int], tuple[Sequence[Any], int]
]  # what the model reads of each text, and how many were cut


class Forward:
    """A model on rows of any length, compiled for few shapes.

    Rows are sorted by length and padded to 16, 32, 64 … tokens or all positions of the model; a batch has 1, 8, 64, 512 …
    or `batch_size` of them.

    Args:
        model: whose `config` tells its positions.
        name: of the model, for errors.
        compute: (model, batch, *options) → array [B, …]. The batch holds `input_ids`, `token_type_ids`, `attention_mask` [B, T]
            and, where they are asked for, `positions` [B, M]. For each set of options it is compiled anew.
    """

    def __init__(
        self, model: PretrainedModel, compute: Callable[..., jax.Array], *, pad_id: int, batch_size: int, name: str = ""
    ):
        graphdef, params = split(model)
        self._params = held_weights(model, params)
        self._config, self._name = model.config, name
        self._longest = model.config.max_length
        self._pad_id, self._batch_size = pad_id, batch_size
        # No text waits for many that are not there, and there are few sizes to compile.
        self._sizes = [*(8**n for n in range(11) if 8**n < batch_size), batch_size]
        self._jitted = compiled_call(graphdef, compute)

    def __call__(
        self,
        rows: Sequence[Row],
        positions: Sequence[Ids] | None = None,
        options: tuple[Any, ...] = (),
        *,
        longest: int | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The index of a row and its result, for every row; long rows first.

        Args:
            positions: for each row the tokens that are asked for; their number M is padded to a power of 2.
            options: what `compute` takes after the batch.
            longest: tokens that no row exceeds, in place of the model's positions.

        Raises:
            InputError: an id that the model has no row for, a result that is not finite.
        """
        width = [1 << (len(places) - 1).bit_length() for places in positions] if positions else [0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: (width[i], len(rows[i].ids)), reverse=True)
        for _, alike in itertools.groupby(order, key=lambda i: width[i]):
            alike = list(alike)
            for start in range(0, len(alike), self._batch_size):
                chunk = alike[start : start + self._batch_size]
                size = next(size for size in self._sizes if size >= len(chunk))
                length = padded_length(len(rows[chunk[0]].ids), longest or self._longest)
                batch = stack([rows[i] for i in chunk], self._pad_id, batch_size=size, length=length)
                check_rows(batch, self._config)
                if positions:
                    batch["positions"] = np.zeros((size, width[chunk[0]]), np.int32)
                    for row, i in enumerate(chunk):
                        batch["positions"][row, : len(positions[i])] = positions[i]
                result = np.asarray(self._jitted(self._params, batch, options))
                check_finite(result[: len(chunk)], self._name)
                yield from zip(chunk, result, strict=False)


def compiled_call(graphdef: nnx.GraphDef, compute: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The jitted (params, batch, options) → `compute` of the model, the batch and the options."""
    return jax.jit(lambda params, batch, options: compute(merge(graphdef, params), batch, *options), static_argnums=2)


def _batch_size(given: int | None) -> int:
    if given is None:  # on two cores a row of 128 tokens took longer in larger batches
        return 8 if jax.default_backend() == "cpu" else 64
    if not is_count(given):
        raise InputError(f"batch_size = {given!r}: expected a whole number, 1 or more", field="batch_size")
    return given


def is_count(value: object) -> bool:
    """Whether a value is a whole number, 1 or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


class Pipeline:
    """A model and its tokenizer, called with one text, a sequence of texts or an iterator of them. Subclasses name the model's
    class, how it is loaded, and what is computed.

    Args:
        path_or_id: HF directory or hub id.
        revision: branch, tag or commit on the hub.
        dtype: of the matmuls; what comes out is float32.
        activations: between layers, as in `PretrainedModel.from_pretrained`.
        batch_size: rows of a batch; None: 8 on a CPU, 64 on an accelerator.

    Attributes:
        name: `path_or_id` as text.
        model, tokenizer: usable on their own, `model(**tokenizer(text))`.
        quiet: say nothing on stderr of what is cut or replaced; for a server, whose answers say it.

    Raises:
        InputError: what of the model or its tokenizer is missing, damaged or contradictory.
    """

    _kind: type[PretrainedModel]
    loading: Mapping[str, Any] = MappingProxyType({"new_head": False})  # options of `from_pretrained`
    quiet = False

    @staticmethod
    def compute(model: Any, batch: dict[str, jax.Array], *options: Any) -> jax.Array:
        """What `Forward` computes of a batch."""
        raise NotImplementedError

    def __init__(
        self,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        dtype: DTypeLike = jnp.float32,
        activations: DTypeLike | Activations = "auto",
        batch_size: int | None = None,
    ):
        size, precision = _batch_size(batch_size), {"dtype": float_dtype(dtype), "activations": activations}
        # The model first: one of an unknown family is named as such, not by its special tokens.
        model = self._kind.from_pretrained(path_or_id, revision=revision, **precision, **self.loading)
        tokenizer = BertTokenizer.from_pretrained(path_or_id, revision=revision)
        self._take(model, tokenizer, str(path_or_id), size)

    @classmethod
    def of_model(cls, model: Any, tokenizer: BertTokenizer, *, name: str = "", batch_size: int | None = None) -> Self:
        """The pipeline of a model that is at hand, such as one in training, and its tokenizer.

        Args:
            model: of the class that the pipeline loads; its weights are taken as they are now.
            name: what errors call it.

        Raises:
            InputError: they do not go together.
        """
        pipeline = cls.__new__(cls)
        pipeline._take(model, tokenizer, name, _batch_size(batch_size))
        return pipeline

    def _take(self, model: Any, tokenizer: BertTokenizer, name: str, batch_size: int) -> None:
        self.name, self.model, self.tokenizer, self.batch_size = name, model, tokenizer, batch_size
        check_fit(tokenizer.tokenizer, model.config.vocab_size, name)
        self._forward = Forward(
            self.model, self.compute, pad_id=self.tokenizer.ids.pad, batch_size=batch_size, name=self.name
        )

    def __repr__(self) -> str:
        size = f"{self.model.num_parameters():,} parameters"
        return f"{type(self).__name__}({self.name!r}, {type(self.model).__name__}, {size}, {self.dtype})"

    @property
    def dtype(self) -> jnp.dtype:
        """Of the matmuls."""
        return jnp.dtype(next(module.dtype for _, module in nnx.iter_modules(self.model) if isinstance(module, Linear)))

    def _over(
        self,
        texts: Any,
        answer: Answer,
        description: str,
        *,
        collect: Callable[[Iterator[Any]], Any],
        one: type | tuple[type, ...] = str,
        encode: Encode | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> Any:
        """The result of one text (of a type `one`), what `collect` makes of those of a sequence, or an iterator of those of an
        iterator.

        Args:
            encode: of texts, the first of which has the given number; None: rows of the tokenizer.
            tell: how many texts were cut, and how many there were; None: as the tokenizer does.

        Raises:
            InputError: a table, a mapping or the like, see `several_texts`.
        """
        encode = encode or (lambda texts, first: self.tokenizer.rows(texts, first=first))
        tell = tell or (lambda cut, texts: announce_cut(cut, texts, self.tokenizer.max_length))
        way = _Way(encode, answer, tell)
        if isinstance(texts, one):
            (result,) = self._windows((texts,), way)
            return result
        given = several_texts(texts)
        number = len(given) if isinstance(given, Sized) else None
        if number is None:
            return self._lazily(given, way, description)
        with progress(description, number) if number > self.batch_size else contextlib.nullcontext() as done:
            return collect(self._windows(given, way, done))

    def _lazily(self, texts: Iterable[Any], way: "_Way", description: str) -> Iterator[Any]:
        with progress(description, None) as done:
            yield from self._windows(texts, way, done)

    def _windows(self, texts: Iterable[Any], way: "_Way", done: Callable[[float], None] | None = None) -> Iterator[Any]:
        """Results in order. One batch is read ahead at first, so that they begin soon, later up to eight."""
        texts, size, seen, cut = iter(texts), self.batch_size, 0, 0
        try:
            while window := list(itertools.islice(texts, size)):
                encoded, shortened = way.encode(window, seen + 1)
                cut += shortened
                yield from way.answer(window, encoded)
                seen += len(window)
                size = min(2 * size, _WINDOW * self.batch_size)
                if done:
                    done(seen)
        finally:
            if seen and not self.quiet:  # else an error is on its way, which says more
                way.tell(cut, seen)


class _Way(NamedTuple):
    """From texts to results."""

    encode: Encode
    answer: Answer
    tell: Callable[[int, int], None]
