"""Views of two models that terms of distillation compare: what is read of their encoders, and what of that a term is shown."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.typing import DTypeLike

from distilbert_jax.config import Reads, Schedule
from distilbert_jax.models.encoder import LayerOutputs
from distilbert_jax.models.params import Params
from distilbert_jax.training.objective import Batch, Metrics, Part
from distilbert_jax.training.projections import project
from distilbert_jax.training.terms import EMBEDDINGS, Tokens, View, Weighted, layers_of, there


def read(model: Any, batch: Batch, rngs: jax.Array | None, reads: Reads) -> LayerOutputs:
    """What is read of a model's encoder on packed rows; token types go to models that have them. An encoder without a method for
    that computes all its layers.

    Args:
        rngs: keys [B] for dropout, one a row; None: no dropout.
    """
    names = ("position_ids", "segment_ids", *(["token_type_ids"] if model.config.type_vocab_size else []))
    inputs = {name: batch[name] for name in names if name in batch}
    with jax.named_scope("encoder"):
        if model.config.family.reads_layers:
            return model.encoder.read(batch["input_ids"], **inputs, rngs=rngs, reads=reads)
        last = model.config.num_hidden_layers - 1
        states = reads.embeddings or set(reads.hidden_states) - {last}
        output = model.encoder(
            batch["input_ids"],
            **inputs,
            rngs=rngs,
            **({"output_hidden_states": True} if states else {}),
            **({"output_attentions": True} if reads.attentions else {}),
        )
    embeddings, *hidden = output.hidden_states or (None, *[None] * last, output.last_hidden_state)
    return LayerOutputs(embeddings, dict(enumerate(hidden)), dict(enumerate(output.attentions or ())), {}, {})


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models that terms compare, and what they are shown of it.

    layers: that each term compares, by its name; None: all. project: (term, place, hidden states) → these in the teacher's width;
    None: of the teacher itself.
    """

    module: Any
    layers: Mapping[str, tuple[int, ...] | None]
    project: Callable[[Weighted, int | str, jax.Array], jax.Array] | None

    @property
    def is_teacher(self) -> bool:
        return self.project is None

    @property
    def _last(self) -> int:
        return self.module.config.num_hidden_layers - 1

    def last(self, output: LayerOutputs) -> jax.Array:
        return output.hidden_states[self._last]

    def only_last(self, hidden: jax.Array) -> LayerOutputs:
        return LayerOutputs(None, {self._last: hidden}, {}, {}, {})

    def logits(self, hidden: jax.Array) -> jax.Array:
        logits = self.module.logits(hidden)
        return jax.lax.stop_gradient(logits) if self.is_teacher else logits

    def takes_logits(self, one: Weighted) -> bool:
        return "logits" in one.term.needs if self.is_teacher else one.needs_logits

    def hidden_states(self, one: Weighted, output: LayerOutputs) -> tuple[jax.Array, ...]:
        """Those that a term is shown: of its layers, or of the embeddings and of every layer."""
        layers, states = self.layers[one.term.name], output.hidden_states
        if layers is None:
            every = range(self._last + 1)
            return self.embeddings(one, output), *(self._projected(one, layer, states[layer]) for layer in every)
        return tuple(self._projected(one, layer, states[layer]) for layer in layers)

    def embeddings(self, one: Weighted, output: LayerOutputs) -> jax.Array:
        return self._projected(one, EMBEDDINGS, there(output.embeddings))

    def of_layers(self, one: Weighted, values: Mapping[int, Any]) -> tuple[Any, ...]:
        """What a term is shown of another kind that layers have."""
        layers = self.layers[one.term.name]
        return tuple(values[layer] for layer in (range(self._last + 1) if layers is None else layers))

    def _projected(self, one: Weighted, place: int | str, hidden: jax.Array) -> jax.Array:
        return hidden if self.project is None else self.project(one, place, hidden)

    def view(self, one: Weighted, output: LayerOutputs, place: Callable[[jax.Array], jax.Array] | None = None) -> View:
        """What a term is shown of what was read, but for logits; `place`: of hidden states the tokens that it is taken at."""
        needs, at = one.term.needs, place or (lambda values: values)
        kind = lambda name: self.of_layers(one, getattr(output, name)) if name in needs else None
        return View(
            None,
            at(self.last(output)) if "last_hidden_state" in needs else None,
            tuple(map(at, self.hidden_states(one, output))) if "hidden_states" in needs else None,
            kind("attentions"),
            at(self.embeddings(one, output)) if "embeddings" in needs else None,
            kind("attention_scores"),
            kind("queries_keys_values"),
        )


def compared(
    student: Any, teacher: Any, terms: Sequence[Weighted], params: Params, dtype: DTypeLike
) -> tuple[ComparedModel, ComparedModel]:
    """Student and teacher as these terms compare them.

    Args:
        params: with the projections of the terms.
        dtype: of the matmuls of projections.
    """
    pairs = {one.term.name: layers_of(one, student.config, teacher.config) for one in terms}
    ours, theirs = (
        {name: pair and getattr(pair, whose) for name, pair in pairs.items()} for whose in ("student", "teacher")
    )
    return ComparedModel(student, ours, functools.partial(project, params, dtype=dtype)), ComparedModel(
        teacher, theirs, None
    )


def part_of(one: Weighted) -> Part:
    """A term as a part of an objective, its weight by name where it is scheduled."""
    return Part(one.over, one.value_name("weight") if isinstance(one.weight, Schedule) else one.weight)


def value_of(one: Weighted, student: View, teacher: View, at: Tokens, counts: Metrics) -> jax.Array:
    """The sum of one of the package's own terms; `counts`: with the values of the step."""
    changing = {
        name: counts[one.value_name(name)] for name, value in one.options.items() if isinstance(value, Schedule)
    }
    with jax.named_scope("losses"):
        return one.function(student, teacher, at, **{**one.options, **changing})
