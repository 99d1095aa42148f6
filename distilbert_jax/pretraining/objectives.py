"""Pre-training objectives: masked LM, masked LM with next-sentence prediction, distillation from the terms that have a weight."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distilbert_jax.base.registry import file_of, told
from distilbert_jax.config import PretrainConfig, Reads, Schedule
from distilbert_jax.errors import InputError, with_article
from distilbert_jax.models.encoder import LayerOutputs
from distilbert_jax.models.layers import at_positions, fold_rows
from distilbert_jax.models.params import Params, merge
from distilbert_jax.pretraining.chunks import in_chunks
from distilbert_jax.pretraining.masking import corrupt
from distilbert_jax.pretraining.objective_table import MASKED, OBJECTIVES, check_objective, function_of, schedules
from distilbert_jax.training import losses
from distilbert_jax.training.objective import DROPOUT, MASKING, Batch, Metrics, Objective, Part, Sums
from distilbert_jax.training.projections import of_model
from distilbert_jax.training.schedules import value_at
from distilbert_jax.training.terms import Tokens, View, Weighted, all_reads, there, weighted_terms
from distilbert_jax.training.views import ComparedModel, compared, part_of, read, value_of


@dataclass(frozen=True)
class Given:
    """What an objective is made from.

    student, teacher: graphs (`models.params.merge` gives the model); teacher None of an objective without one.
    weights: float32 [V] from `masking.log_weights`. mask_id: of [MASK].
    accelerator: whether the step runs on one. There the logits of masked tokens are computed again where those of all tokens are
        at hand: the matmuls take less time than gathering from an array as wide as the vocabulary, and its gradient back into one.
    """

    student: nnx.GraphDef
    teacher: nnx.GraphDef | None
    weights: np.ndarray
    mask_id: int
    config: PretrainConfig
    accelerator: bool = False

    def values(self, step: jax.Array) -> Metrics:
        """What the config schedules, at a step."""
        return {name: value_at(one, step, self.config.steps) for name, one in schedules(self.config).items()}

    def prepare(self, rngs: jax.Array, batch: Batch, values: Metrics | None = None) -> tuple[Batch, Metrics]:
        """Masked-LM corruption of packed rows; counts: `tokens`, `masked` and `rows`.

        Adds to the batch positions, labels and masked_weights [B, M] (see `masking.Masked`) and rngs [B], for dropout.

        Args:
            values: of the step, where some are scheduled.
        """
        probability = (values or {}).get(MASKED)
        if probability is None and isinstance(self.config.masking.probability, Schedule):
            raise InputError(
                f"masking.probability = {self.config.masking.probability}: the objective hands no values of the step to prepare: "
                "Objective(…, values=given.values)",
                field="masking.probability",
                hint="values=given.values",
            )
        is_token = batch["segment_ids"] > 0
        masked = corrupt(
            fold_rows(rngs, MASKING),
            batch["input_ids"],
            is_token,
            jnp.asarray(self.weights),
            self.mask_id,
            self.config.masking,
            probability,
        )
        prepared = {
            **batch,
            "input_ids": masked.input_ids,
            "positions": masked.positions,
            "labels": masked.labels,
            "masked_weights": masked.weights,
            "rngs": fold_rows(rngs, DROPOUT),
        }
        counts = {
            "tokens": is_token.sum().astype(jnp.float32),
            # A batch without a single masked token (all of it special) has a loss of 0, not 0/0.
            "masked": jnp.maximum(masked.weights.sum(), 1.0),
            "rows": jnp.float32(len(is_token)),
        }
        return prepared, counts


def _counting(given: Given, *counted: str) -> Callable[..., tuple[Batch, Metrics]]:
    """`given.prepare` with these counts alone: what it counts is logged."""

    def prepare(rngs: jax.Array, batch: Batch, values: Metrics | None = None) -> tuple[Batch, Metrics]:
        prepared, counts = given.prepare(rngs, batch, values)
        return prepared, {name: counts[name] for name in counted}

    return prepare


def encode(model: Any, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    """The last hidden states [B, T, D] of packed rows."""
    last = model.config.num_hidden_layers - 1
    return read(model, batch, rngs, Reads(hidden_states=(last,))).hidden_states[last]


def masked_lm(given: Given) -> Objective:
    """Cross-entropy at the masked positions of a `MaskedLM`; logits are computed there only."""

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Metrics:
        model = merge(given.student, params)
        hidden = at_positions(encode(model, batch, batch["rngs"]), batch["positions"])
        return {"loss_mlm": losses.cross_entropy(model.logits(hidden), batch["labels"], batch["masked_weights"])}

    return Objective(_counting(given, "tokens", "masked"), sums, {"loss_mlm": Part("masked", 1.0)}, given.values)


def masked_lm_nsp(given: Given) -> Objective:
    """Masked LM and next-sentence prediction of a `PreTraining`, the sum of two means (Devlin et al. 2019), on rows of pairs.

    `nsp_accuracy` is reported beside the parts.
    """

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Metrics:
        model = merge(given.student, params)
        hidden = encode(model, batch, batch["rngs"])
        masked = model.logits(at_positions(hidden, batch["positions"]))
        logits, label = model.next_sentence(hidden), batch["next_sentence_label"]
        there = jnp.any(batch["segment_ids"] > 0, axis=1).astype(jnp.float32)
        return {
            "loss_mlm": losses.cross_entropy(masked, batch["labels"], batch["masked_weights"]),
            "loss_nsp": losses.cross_entropy(logits, label, there),
            "nsp_accuracy": jnp.sum(there * (logits.argmax(-1) == label)),
        }

    parts = {"loss_mlm": Part("masked", 1.0), "loss_nsp": Part("rows", 1.0), "nsp_accuracy": Part("rows")}
    return Objective(_counting(given, "tokens", "masked", "rows"), sums, parts, given.values)


def distillation(given: Given) -> Objective:
    """Σ weight · term over the terms that `config.loss` gives a weight to (see `terms`); what none of them needs is not computed.

    Student and teacher see the same corrupted ids, the teacher without dropout. With `loss.chunk`, the logits of all tokens are
    never held at once; those of the masked ones, where a term takes them, are then computed a second time.
    """
    asked, chunk, teacher_graph = weighted_terms(given.config.loss), given.config.loss.chunk, there(given.teacher)
    in_pieces = [one for one in asked if _in_pieces(one, chunk)]
    whole = [one for one in asked if one not in in_pieces]
    parts = {one.term.metric: part_of(one) for one in asked}
    dtype = jnp.dtype(given.config.run.dtype)

    def models(params: Params, frozen: Params) -> tuple[ComparedModel, ComparedModel]:
        student, teacher = merge(given.student, of_model(params)), merge(teacher_graph, frozen)
        return compared(student, teacher, asked, params, dtype)

    def piece(decoder: Params, s_hidden: jax.Array, beside: Any, rest: Any) -> tuple[jax.Array | float, Metrics]:
        (t_hidden, weights, segment_ids), (params, frozen, counts) = beside, rest
        model, taught_by = models({**params, **decoder}, frozen)
        student, teacher = (
            _Pass(model, model.only_last(s_hidden), in_pieces),
            _Pass(taught_by, taught_by.only_last(t_hidden), in_pieces),
        )
        at = Tokens(weights, None, segment_ids)
        sums = {one.term.metric: _value(one, student.view(one), teacher.view(one), at, counts) for one in in_pieces}
        return _weighted(sums, parts, counts), sums

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Sums:
        model, taught_by = models(params, frozen)
        of_student, of_teacher = all_reads(asked, model.module.config, taught_by.module.config)
        ours = read(model.module, batch, batch["rngs"], of_student)
        lesson: Lesson | None = batch.get(_LESSON)  # pyright: ignore[reportAssignmentType]
        if lesson:
            theirs = lesson.output
        else:
            with jax.named_scope("teacher"):
                theirs = jax.lax.stop_gradient(read(taught_by.module, batch, None, of_teacher))
        segment_ids = batch["segment_ids"]
        everywhere = (segment_ids > 0).astype(jnp.float32)
        totals, value = {}, 0.0
        if in_pieces:
            decoder = {name: array for name, array in params.items() if name.startswith(model.module.DECODER)}
            beside = (taught_by.last(theirs), everywhere, segment_ids)
            value, totals = in_chunks(piece, chunk, decoder, model.last(ours), beside, (params, frozen, counts))
        at_masked = _Masked(batch["positions"], again=given.accelerator)
        student, teacher = _Pass(model, ours, whole, at_masked), _Pass(taught_by, theirs, whole, at_masked, lesson)
        for one in whole:
            weights, labels = (batch["masked_weights"], batch["labels"]) if one.over == "masked" else (everywhere, None)
            at = Tokens(weights, labels, segment_ids)
            totals[one.term.metric] = _value(one, student.view(one), teacher.view(one), at, counts)
        return Sums(totals, value, tuple(one.term.metric for one in in_pieces))

    counted = ("tokens", "masked", *(["rows"] if any(one.over == "rows" for one in asked) else []))
    return Objective(_counting(given, *counted), sums, parts, given.values)


def _weighted(sums: Metrics, parts: Mapping[str, Part], counts: Metrics) -> jax.Array | float:
    value: jax.Array | float = 0.0
    for name, total in sums.items():
        value = value + parts[name].weight_at(counts) * (total / counts[parts[name].over])
    return value


class _Masked(NamedTuple):
    """positions int32 [B, M] of the masked tokens; again: their logits are computed even where those of all tokens are at hand."""

    positions: jax.Array
    again: bool


class _Pass:
    """What a model gave for a batch; logits are computed at the tokens where one of the terms takes them, once."""

    def __init__(
        self,
        model: ComparedModel,
        output: LayerOutputs,
        terms: Sequence[Weighted],
        masked: _Masked | None = None,
        lesson: "Lesson | None" = None,
    ):
        self._model, self._output, self._masked, self._lesson = model, output, masked, lesson
        self._take_all = any(one.over != "masked" and model.takes_logits(one) for one in terms)

    def _at_masked(self, values: jax.Array) -> jax.Array:
        return at_positions(values, there(self._masked).positions)

    @functools.cached_property
    def _all_logits(self) -> jax.Array:
        if self._lesson:
            return there(self._lesson.logits)
        return self._model.logits(self._model.last(self._output))

    @functools.cached_property
    def _masked_logits(self) -> jax.Array:
        if self._lesson:
            return there(self._lesson.masked_logits)
        if self._take_all and not there(self._masked).again:
            return self._at_masked(self._all_logits)
        return self._model.logits(self._at_masked(self._model.last(self._output)))

    def lesson(self, terms: Sequence[Weighted]) -> "Lesson":
        """What these terms take of the model."""
        at_masked = {one.over == "masked" for one in terms if self._model.takes_logits(one)}
        return Lesson(
            self._output,
            self._all_logits if False in at_masked else None,
            self._masked_logits if True in at_masked else None,
        )

    def view(self, one: Weighted) -> View:
        """What a term is shown."""
        masked, logits = one.over == "masked", None
        if self._model.takes_logits(one):
            logits = self._masked_logits if masked else self._all_logits
        shown = self._model.view(one, self._output, self._at_masked if masked else None)
        return replace(shown, logits=logits)


class Lesson(NamedTuple):
    """What a teacher gives for a micro-batch to several students: of its encoder what any of their terms reads, and its logits at
    all tokens [B, T, V] and at the masked ones [B, M, V]; None: no term takes them."""

    output: LayerOutputs
    logits: jax.Array | None
    masked_logits: jax.Array | None


_LESSON = "lesson"  # its name in a batch


def teach(students: Sequence[Given], frozen: Params, batch: Batch) -> Batch:
    """A micro-batch with the `Lesson` of these students' common teacher. With `loss.chunk`, logits are no part of it."""
    teacher = ComparedModel(merge(there(students[0].teacher), frozen), {}, None)
    reads, in_whole = Reads(), []
    for given in students:
        asked = weighted_terms(given.config.loss)
        reads |= all_reads(asked, given.config.model, teacher.module.config)[1]
        in_whole += [one for one in asked if not _in_pieces(one, given.config.loss.chunk)]
    with jax.named_scope("teacher"):
        output = jax.lax.stop_gradient(read(teacher.module, batch, None, reads))
        at_masked = _Masked(batch["positions"], again=students[0].accelerator)
        lesson: Any = _Pass(teacher, output, in_whole, at_masked).lesson(in_whole)
    return {**batch, _LESSON: lesson}


def _in_pieces(one: Weighted, chunk: int) -> bool:
    """Whether a term's logits are computed a piece of the length at a time."""
    return bool(chunk and one.needs_logits and one.over != "masked")


def _value(one: Weighted, student: View, teacher: View, at: Tokens, counts: Metrics) -> jax.Array:
    """A term's sum; `counts`: with the values of the step. What a user's function does wrong is told with its file."""
    if not one.file:
        return value_of(one, student, teacher, at, counts)
    what, file = f"term {one.term.name!r}", file_of(one.function)
    try:
        value = one.function(student, teacher, at)
    except (Exception, SystemExit) as error:
        wrong = told(what, error, file)
        if "None" in str(error) and isinstance(error, TypeError | AttributeError | AssertionError):
            hint = f"what its needs = {one.term.needs!r} do not name is None"
            raise InputError(f"{wrong}; {hint}", path=file, field=what, row=wrong.row, hint=hint) from error
        raise wrong from error
    return _scalar(value, what, file)


def _scalar(value: Any, what: str, file: str) -> jax.Array:
    """The float32 scalar that a user's function has promised."""
    if not isinstance(value, jax.Array):
        raise InputError(f"{file}: {what}: returned {value!r:.80}, expected a float32 scalar", path=file, field=what)
    if value.shape or value.dtype != jnp.float32:
        raise InputError(
            f"{file}: {what}: returned {value.dtype} {list(value.shape)}, expected a float32 scalar, the sum over the tokens",
            path=file,
            field=what,
        )
    return value


def objective_of(given: Given) -> Objective:
    """The objective that the config names.

    Raises:
        InputError: it is unknown, or a user's function returns something else.
    """
    row = check_objective(given.config)
    if not OBJECTIVES.file(row.name):
        return function_of(row)(given)
    return _guarded(function_of(row), given, f"objective {row.name!r}")


def _guarded(build: Callable[[Given], Objective], given: Given, what: str) -> Objective:
    """A user's objective, whose functions are held to what they promise."""
    file = file_of(build)

    def wrong(said: str) -> InputError:
        return InputError(f"{file}: {what}: {said}", path=file, field=what)

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            raise told(what, error, file) from error

    objective = call(build, given)
    if not isinstance(objective, Objective):
        raise wrong(f"returned {with_article(type(objective).__name__)}, expected an Objective")
    if not any(part.weight for part in objective.parts.values()):
        raise wrong("no part has a weight, nothing would be learned")

    def prepare(rngs: jax.Array, batch: Batch, *values: Metrics) -> tuple[Batch, Metrics]:
        prepared, counts = call(objective.prepare, rngs, batch, *values)
        if "tokens" not in counts:
            raise wrong("prepare counts no 'tokens', which the throughput is measured in")
        for name, part in objective.parts.items():
            if name in (*counts, "loss", "grad_norm"):
                raise wrong(f"part {name!r}: the log has something else of this name; call it loss_…")
            if part.over not in counts:
                raise wrong(f"part {name!r} is over {part.over!r}, which prepare does not count: {', '.join(counts)}")
        return prepared, {name: _scalar(value, f"{what}: count {name!r}", file) for name, value in counts.items()}

    def sums(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Sums | Metrics:
        result = call(objective.sums, params, frozen, batch, counts)
        parts = result.parts if isinstance(result, Sums) else result
        if not isinstance(parts, dict) or parts.keys() != objective.parts.keys():
            given = ", ".join(parts) if isinstance(parts, dict) else f"{parts!r:.80}"
            raise wrong(f"sums returned {given}; expected sums of {', '.join(objective.parts)}")
        for name, value in parts.items():
            _scalar(value, f"{what}: part {name!r}", file)
        return result

    return Objective(prepare, sums, objective.parts, functools.partial(call, objective.values))
