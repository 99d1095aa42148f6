"""Distillation loss, its terms as a table: what each needs, what it is divided by, where its function is. Imports without JAX.

L = Σ weight · (sum over the tokens / their number in the global batch). The objective, the logs, the evaluation on held-out text,
the FLOPs of a step and the checks before the first one follow from the rows; a term's weight and options are a class of its own
in `config`. A file outside the package brings a term with `register_term`, and its config gives it a weight in `loss.own`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distilbert_jax.base.registry import Registry, calling_file, load, source_digest
from distilbert_jax.config import LossConfig, ModelConfig, Schedule, Scheduled, ends
from distilbert_jax.errors import InputError

if TYPE_CHECKING:
    from jax import Array

Need = Literal["logits", "student_logits", "labels", "last_hidden_state", "hidden_states", "attentions"]
NEEDS: tuple[Need, ...] = ("logits", "student_logits", "labels", "last_hidden_state", "hidden_states", "attentions")
Over = Literal["tokens", "masked", "rows"]


T = TypeVar("T")


def there(value: T | None) -> T:
    """A field of `View` or `Tokens` that a term's row says it needs: it is not None."""
    assert value is not None, "a field of View or Tokens is None"
    return value


@dataclasses.dataclass(frozen=True)
class View:
    """What a term is shown of a model; None: it is not among what the term needs.

    The shapes are those of a term over all tokens, [B, T, …]; over the masked ones it sees [B, M, …] of logits and hidden states,
    those at the masked positions, M a row. No gradient flows into a teacher's.

    logits [B, T, V], the vocabulary filled up to a multiple of 128 with entries of -1e9; last_hidden_state float32 [B, T, D];
    hidden_states, [B, T, D] of the embeddings and of every layer; attentions, probabilities [B, N, T, T] of every layer.
    """

    logits: "Array | None" = None
    last_hidden_state: "Array | None" = None
    hidden_states: "tuple[Array, ...] | None" = None
    attentions: "tuple[Array, ...] | None" = None


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens that a term is taken at.

    weights float32 [B, T] (or [B, M], as in `View`): 1 where a token counts, 0 at padding; labels int32 [B, M], the true ids of the
    masked tokens; None over all tokens; segment_ids int32 [B, T] of the packed rows, 0 at padding.
    """

    weights: "Array"
    labels: "Array | None"
    segment_ids: "Array"


@dataclasses.dataclass(frozen=True)
class Term:
    """One term: function(student, teacher, at, **options) → float32 scalar, its sum over the tokens `at`.

    `student` and `teacher` are `View`s, which hold what the term needs; `at` is a `Tokens`; the options are the fields of its
    config class, but for `weight` and `tokens`. It must be a *sum*: what divides it counts over all devices and micro-batches.

    Attributes:
        name: of the field of `LossConfig`, or the key in `loss.own`.
        needs: "logits" of both models or "student_logits" alone, "labels" (the true ids of masked tokens), "last_hidden_state",
            "hidden_states", "attentions". What no term needs is not computed.
        over: where it is taken and what it is divided by: all tokens ("tokens"), the masked ones ("masked"), or all tokens but
            divided by the rows ("rows"). An option `tokens` ("all" or "masked") takes its place.
        function: the function, or "module:name", which is imported when it is used.
        log: its name in metrics.jsonl; "": loss_<name>.
        same: fields of `ModelConfig` in which student and teacher must agree.
    """

    name: str
    needs: tuple[Need, ...]
    over: Over
    function: str | Callable[..., Any]
    log: str = ""
    same: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        return self.log or f"loss_{self.name}"


_FUNCTIONS = "distilbert_jax.pretraining.term_functions"
# In this order they are added up. L_ce is what the paper and every metrics.jsonl call the KL term.
TERMS: Registry[Term] = Registry(
    "term",
    (
        Term("kl", ("logits",), "tokens", f"{_FUNCTIONS}:kl", log="loss_ce"),
        Term("mse", ("logits",), "tokens", f"{_FUNCTIONS}:mse"),
        Term("mlm", ("student_logits", "labels"), "masked", f"{_FUNCTIONS}:mlm"),
        Term("cos", ("last_hidden_state",), "tokens", f"{_FUNCTIONS}:cos", same=("hidden_size",)),
    ),
)


def register_term(
    name: str, *, needs: tuple[Need, ...], over: Over = "tokens", same: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: make a function a term that `loss.own` can give a weight to. Arguments as in `Term`.

    Raises:
        InputError: the name is taken, a need is unknown, or labels are needed where tokens have none.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        file = calling_file()
        term = Term(name, tuple(needs), over, function, same=same)
        wrong = next((need for need in term.needs if need not in NEEDS), None)
        if isinstance(needs, str) or wrong is not None:
            raise InputError(
                f"{file}: term {name!r}: needs {needs!r}, expected a tuple of {', '.join(NEEDS)}",
                path=file,
                field="needs",
            )
        if over not in ("tokens", "masked", "rows"):
            raise InputError(
                f"{file}: term {name!r}: over = {over!r}, expected 'tokens', 'masked' or 'rows'",
                path=file,
                field="over",
            )
        logged = {one.metric for one in TERMS.values() if one.name != name} | {"loss_nsp", "loss_labels"}
        if term.metric in logged:
            raise InputError(
                f"{file}: term {name!r}: metrics.jsonl has another {term.metric}; choose another name",
                path=file,
                field=name,
            )
        if "labels" in term.needs and over != "masked":
            raise InputError(
                f'{file}: term {name!r}: labels are of masked tokens alone; set over="masked"', path=file, field="over"
            )
        TERMS.register(term, file)
        return function

    return register


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A term that a config asks for.

    Attributes:
        field: of the config that gives its weight.
        over: what it is divided by, as its options have it.
        options: what its function is called with beside the models' views; those that are schedules, with their value at the step.
        file: that brought it; "" of the package's own.
    """

    term: Term
    field: str
    weight: Scheduled
    over: Over
    options: Mapping[str, Any]
    file: str = ""

    @property
    def needs_logits(self) -> bool:
        return "logits" in self.term.needs or "student_logits" in self.term.needs

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Its weight and options that change over the steps, by the names that the log gives their values: `kl_weight`."""
        numbers = {"weight": self.weight, **self.options}
        return {self.value_name(name): value for name, value in numbers.items() if isinstance(value, Schedule)}

    def value_name(self, name: str) -> str:
        return f"{self.term.name}_{name}"

    @property
    def function(self) -> Callable[..., Any]:
        function = self.term.function
        return load(function) if isinstance(function, str) else function


def weighted_terms(config: LossConfig) -> tuple[Weighted, ...]:
    """The terms with a weight above 0 at some step, in the order in which they are added up.

    Raises:
        InputError: `loss.own` names a term that nobody has registered, or one that has a field of its own.
    """
    result = []
    for term in TERMS.values():
        given: Any = getattr(config, term.name, None)
        if isinstance(given, int | float) or not hasattr(given, "weight"):
            continue
        options = {one.name: getattr(given, one.name) for one in dataclasses.fields(given)}
        tokens = options.pop("tokens", None)
        over: Over = term.over if tokens is None else "tokens" if tokens == "all" else "masked"
        result.append(Weighted(term, f"loss.{term.name}.weight", options.pop("weight"), over, options))
    for name, weight in config.own.items():
        if name in TERMS and not TERMS.file(name):
            raise InputError(
                f"loss.own.{name}: this term is the package's own; set loss.{name}.weight",
                field=f"loss.own.{name}",
                hint=f"loss.{name}.weight",
            )
        term = TERMS.find(name, f"loss.own.{name}", "a file of yours brings one with @register_term")
        result.append(Weighted(term, f"loss.own.{name}", weight, term.over, {}, TERMS.file(name)))
    return tuple(one for one in result if any(ends(one.weight)))


def scored(terms: tuple[Weighted, ...], masked: float, *, teacher: bool) -> float:
    """Share of the tokens whose logits the student, or the teacher, computes for these terms; `masked`: that of the masked ones."""
    of_model = [one for one in terms if (("logits" in one.term.needs) if teacher else one.needs_logits)]
    return max((masked if one.over == "masked" else 1.0 for one in of_model), default=0.0)


def takes_all_logits(terms: tuple[Weighted, ...]) -> bool:
    """Whether a term needs the logits of all tokens, not of the masked ones alone."""
    return any(one.needs_logits and one.over != "masked" for one in terms)


def check_terms(terms: tuple[Weighted, ...], chunk: int, student: ModelConfig, teacher: ModelConfig) -> None:
    """Raise InputError, with the field and what would do, where a term cannot be computed for these two models."""
    for one in terms:
        for name in one.term.same:
            ours, theirs = getattr(student, name), getattr(teacher, name)
            if ours != theirs:
                option = f"--{one.field} 0"
                raise InputError(
                    f"{one.field} = {one.weight} compares what has to have one size, but the teacher has {name} {theirs} and the "
                    f"model {ours}: set {option}",
                    field=one.field,
                    hint=option,
                )
        whole = {"hidden_states", "attentions"} & set(one.term.needs)
        if chunk and one.needs_logits and one.over != "masked" and (whole or one.over == "rows"):
            raise InputError(
                f"loss.chunk = {chunk}: {one.term.name} takes the logits of all tokens together with what is not cut into pieces; "
                "set --loss.chunk 0",
                field="loss.chunk",
                hint="--loss.chunk 0",
            )


def sources(terms: tuple[Weighted, ...]) -> dict[str, str]:
    """Digests of the functions that users' files bring, by the names that inputs.json gives them."""
    return {f"term {one.term.name}": source_digest(one.function) for one in terms if one.file}
