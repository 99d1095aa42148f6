"""Distillation loss, its terms as a table: what each needs, what it is divided by, where its function is. Imports without JAX.

L = Σ weight · (sum over the tokens / their number in the global batch). The objective, the logs, the evaluation on held-out text,
the FLOPs of a step and the checks before the first one follow from the rows; a term's weight and options are a class of its own
in `config`. A file outside the package brings a term with `register_term`, and its config gives it a weight in `loss.own`.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distilbert_jax.base.registry import Registry, calling_file, load, source_digest
from distilbert_jax.config import DistillConfig, LossConfig, ModelConfig, Reads, Schedule, Scheduled, ends
from distilbert_jax.errors import InputError

if TYPE_CHECKING:
    from jax import Array

    from distilbert_jax.models.attention import QueriesKeysValues

Need = Literal[
    "logits",
    "student_logits",
    "labels",
    "last_hidden_state",
    "hidden_states",
    "attentions",
    "embeddings",
    "attention_scores",
    "queries_keys_values",
]
NEEDS: tuple[Need, ...] = typing.get_args(Need)
# Of a layer, not of a token: not cut into pieces of the length.
_OF_LAYERS: tuple[Need, ...] = (
    "hidden_states",
    "attentions",
    "embeddings",
    "attention_scores",
    "queries_keys_values",
)
# What an encoder gives in its `read` alone.
_READ: tuple[Need, ...] = ("attention_scores", "queries_keys_values")
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
    hidden_states, [B, T, D] of the embeddings and of every layer; attentions, probabilities [B, N, T, T] of every layer
    before dropout; embeddings [B, T, D]; attention_scores [B, N, T, T] of every layer, Q·Kᵀ/√H at all keys, visible or not;
    queries_keys_values of every layer, [B, T, D] each, before the scaling.

    Of a term whose config chooses layers these are the chosen ones alone, without the embeddings, those of the student and of the
    teacher side by side; where the term has projections, the student's are in the teacher's width.
    """

    logits: "Array | None" = None
    last_hidden_state: "Array | None" = None
    hidden_states: "tuple[Array, ...] | None" = None
    attentions: "tuple[Array, ...] | None" = None
    embeddings: "Array | None" = None
    attention_scores: "tuple[Array, ...] | None" = None
    queries_keys_values: "tuple[QueriesKeysValues, ...] | None" = None


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
    config class, but for `weight`, `tokens` and the layers. It must be a *sum*: what divides it counts over all devices and
    micro-batches.

    Attributes:
        name: of the field of `LossConfig`, or the key in `loss.own`.
        needs: "logits" of both models or "student_logits" alone, "labels" (the true ids of masked tokens), "last_hidden_state",
            "hidden_states", "attentions", "embeddings", "attention_scores", "queries_keys_values" of layers (see `View`). What no
            term needs is not computed.
        over: where it is taken and what it is divided by: all tokens ("tokens"), the masked ones ("masked"), or all tokens but
            divided by the rows ("rows"). An option `tokens` ("all" or "masked") takes its place.
        function: the function, or "module:name", which is imported when it is used.
        log: its name in metrics.jsonl; "": loss_<name>.
        same: fields of `ModelConfig` in which student and teacher must agree.
        projects: where widths differ, a trained projection brings the student's hidden states to the teacher's.
        matmuls: (model, its option `relation_heads` and so on, tokens of a row) → FLOPs a token of the matmuls in the
            function itself on what it is shown of one model; None: there are none.
    """

    name: str
    needs: tuple[Need, ...]
    over: Over
    function: str | Callable[..., Any]
    log: str = ""
    same: tuple[str, ...] = ()
    projects: bool = False
    matmuls: Callable[[ModelConfig, Mapping[str, Any], int], float] | None = None

    @property
    def metric(self) -> str:
        return self.log or f"loss_{self.name}"


def _relation_flops(relations: Callable[[Mapping[str, Any]], int]) -> Callable[..., float]:
    """X·Xᵀ over the tokens of a row, D products for each pair of tokens, whatever the number of heads."""
    return lambda model, options, length: 2.0 * length * model.hidden_size * relations(options)


_FUNCTIONS = "distilbert_jax.training.term_functions"
_HEADS = ("num_attention_heads",)
# In this order they are added up. L_ce is what the paper and every metrics.jsonl call the KL term.
TERMS: Registry[Term] = Registry(
    "term",
    (
        Term("kl", ("logits",), "tokens", f"{_FUNCTIONS}:kl", log="loss_ce"),
        Term("mse", ("logits",), "tokens", f"{_FUNCTIONS}:mse"),
        Term("mlm", ("student_logits", "labels"), "masked", f"{_FUNCTIONS}:mlm"),
        Term("cos", ("last_hidden_state",), "tokens", f"{_FUNCTIONS}:cos", same=("hidden_size",)),
        Term("hidden", ("hidden_states",), "tokens", f"{_FUNCTIONS}:hidden", projects=True),
        Term("embeddings", ("embeddings",), "tokens", f"{_FUNCTIONS}:embeddings", projects=True),
        Term("attention_scores", ("attention_scores",), "tokens", f"{_FUNCTIONS}:attention_scores", same=_HEADS),
        Term(
            "attention_probabilities",
            ("attention_scores",),
            "tokens",
            f"{_FUNCTIONS}:attention_probabilities",
            same=_HEADS,
        ),
        Term(
            "minilm",
            ("attention_scores", "queries_keys_values"),
            "tokens",
            f"{_FUNCTIONS}:minilm",
            same=_HEADS,
            matmuls=_relation_flops(lambda options: 1),
        ),
        Term(
            "minilmv2",
            ("queries_keys_values",),
            "tokens",
            f"{_FUNCTIONS}:minilmv2",
            matmuls=_relation_flops(lambda options: sum(options[name] > 0 for name in ("queries", "keys", "values"))),
        ),
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
class LayerChoice:
    """The layers that a term's config names, from 0; None: it names none. `last`: then the last is meant, else all."""

    student: tuple[int, ...] | None
    teacher: tuple[int, ...] | None
    last: bool


@dataclasses.dataclass(frozen=True)
class Layers:
    """Numbers of layers, from 0, of student and teacher side by side."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A term that a config asks for.

    Attributes:
        field: of the config that gives its weight.
        over: what it is divided by, as its options have it.
        options: what its function is called with beside the models' views; those that are schedules, with their value at the step.
        file: that brought it; "" of the package's own.
        layers: that its config chooses; None: it has no such option, and is shown all.
    """

    term: Term
    field: str
    weight: Scheduled
    over: Over
    options: Mapping[str, Any]
    file: str = ""
    layers: LayerChoice | None = None

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


def weighted_terms(config: LossConfig | DistillConfig, prefix: str = "loss") -> tuple[Weighted, ...]:
    """The terms with a weight above 0 at some step, in the order in which they are added up.

    Args:
        prefix: the field of a run's config that `config` is.

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
        weight, layers = options.pop("weight"), _taken_layers(options)
        result.append(Weighted(term, f"{prefix}.{term.name}.weight", weight, over, options, layers=layers))
    for name, weight in (config.own if isinstance(config, LossConfig) else {}).items():
        if name in TERMS and not TERMS.file(name):
            raise InputError(
                f"loss.own.{name}: this term is the package's own; set loss.{name}.weight",
                field=f"loss.own.{name}",
                hint=f"loss.{name}.weight",
            )
        term = TERMS.find(name, f"loss.own.{name}", "a file of yours brings one with @register_term")
        result.append(Weighted(term, f"loss.own.{name}", weight, term.over, {}, TERMS.file(name)))
    return tuple(one for one in result if any(ends(one.weight)))


def _taken_layers(options: dict[str, Any]) -> LayerChoice | None:
    """The choice of layers among a term's options, which are taken out."""
    if "student_layers" in options:
        return LayerChoice(options.pop("student_layers"), options.pop("teacher_layers"), last=False)
    if "student_layer" in options:
        one = lambda layer: None if layer is None else (layer,)
        return LayerChoice(one(options.pop("student_layer")), one(options.pop("teacher_layer")), last=True)
    return None


def uniform_layer(layer: int, student_layers: int, teacher_layers: int) -> int:
    """g(m) = m · L_t/L_s (TinyBERT), m counted from 1 and rounded up where L_s does not divide L_t; `layer` and the result
    from 0."""
    return -(-(layer + 1) * teacher_layers // student_layers) - 1


def layers_of(one: Weighted, student: ModelConfig, teacher: ModelConfig) -> Layers | None:
    """The layers that a term compares; None: it is shown all of both.

    Raises:
        InputError: one is not there, or there are not as many of one model as of the other.
    """
    choice = one.layers
    if choice is None:
        return None
    ours, theirs = student.num_hidden_layers, teacher.num_hidden_layers
    every = (ours - 1,) if choice.last else tuple(range(ours))
    of_student = every if choice.student is None else choice.student
    of_teacher = choice.teacher
    if of_teacher is None:
        uniform = lambda layer: uniform_layer(layer, ours, theirs)
        of_teacher = (theirs - 1,) if choice.last else tuple(map(uniform, of_student))
    result, ending = Layers(of_student, of_teacher), "_layer" if choice.last else "_layers"
    for whose, layers, number in (("student", of_student, ours), ("teacher", of_teacher, theirs)):
        field = one.field.removesuffix("weight") + whose + ending
        outside = next((layer for layer in layers if layer >= number), None)
        if outside is not None:
            raise InputError(
                f"{field}: {outside} is not a layer of the {whose} (0 … {number - 1})",
                field=field,
                hint=f"{_option(field)} {number - 1}",
            )
    if len(of_student) != len(of_teacher):
        field = one.field.removesuffix("weight") + "teacher_layers"
        raise InputError(
            f"{field}: {len(of_teacher)} layers named, one for each of {len(of_student)} of the student is expected",
            field=field,
        )
    return result


EMBEDDINGS = "embeddings"  # in the place of a layer's number


def projected(one: Weighted, student: ModelConfig, teacher: ModelConfig) -> tuple[int | str, ...]:
    """The student's hidden states, by their layers, or `EMBEDDINGS`, that a term takes through a trained projection."""
    if not one.term.projects or student.hidden_size == teacher.hidden_size:
        return ()
    layers = layers_of(one, student, teacher)
    return (*([EMBEDDINGS] if "embeddings" in one.term.needs else []), *(layers.student if layers else ()))


def reads_of(one: Weighted, model: ModelConfig, layers: tuple[int, ...] | None, *, teacher: bool) -> Reads:
    """What a term reads of the encoder of a model, its student or its teacher.

    Args:
        layers: of `layers_of`, those of the model; None: all.
    """
    needs, every = one.term.needs, tuple(range(model.num_hidden_layers))
    numbers = lambda kind: (every if layers is None else layers) if kind in needs else ()
    logits = "logits" in needs if teacher else one.needs_logits
    last = every[-1:] if logits or "last_hidden_state" in needs else ()
    return Reads(
        embeddings="embeddings" in needs or ("hidden_states" in needs and layers is None),
        hidden_states=(*numbers("hidden_states"), *last),
        attentions=numbers("attentions"),
        attention_scores=numbers("attention_scores"),
        queries_keys_values=numbers("queries_keys_values"),
    )


def all_reads(terms: Iterable[Weighted], student: ModelConfig, teacher: ModelConfig) -> tuple[Reads, Reads]:
    """What these terms together read of the encoders of student and teacher."""
    of_student, of_teacher = Reads(), Reads()
    for one in terms:
        layers = layers_of(one, student, teacher)
        of_student |= reads_of(one, student, layers and layers.student, teacher=False)
        of_teacher |= reads_of(one, teacher, layers and layers.teacher, teacher=True)
    return of_student, of_teacher


def scored(terms: tuple[Weighted, ...], masked: float, *, teacher: bool) -> float:
    """Share of the tokens whose logits the student, or the teacher, computes for these terms; `masked`: that of the masked ones."""
    of_model = [one for one in terms if (("logits" in one.term.needs) if teacher else one.needs_logits)]
    return max((masked if one.over == "masked" else 1.0 for one in of_model), default=0.0)


def needs_head(terms: Iterable[Weighted]) -> Weighted | None:
    """The first of the terms that needs the teacher's logits; None: a teacher without a masked-LM head does."""
    return next((one for one in terms if "logits" in one.term.needs), None)


def takes_all_logits(terms: tuple[Weighted, ...]) -> bool:
    """Whether a term needs the logits of all tokens, not of the masked ones alone."""
    return any(one.needs_logits and one.over != "masked" for one in terms)


def _option(field: str) -> str:
    """A field on the command line."""
    return "--" + field.replace("_", "-")


def check_terms(terms: tuple[Weighted, ...], chunk: int, student: ModelConfig, teacher: ModelConfig) -> None:
    """Raise InputError, with the field and what would do, where a term cannot be computed for these two models."""
    for one in terms:
        for name in one.term.same:
            ours, theirs = getattr(student, name), getattr(teacher, name)
            if ours != theirs:
                option = f"{_option(one.field)} 0"
                raise InputError(
                    f"{one.field} = {one.weight} compares what has to have one size, but the teacher has {name} {theirs} and the "
                    f"model {ours}: set {option}",
                    field=one.field,
                    hint=option,
                )
        whole = set(_OF_LAYERS) & set(one.term.needs)
        if chunk and one.needs_logits and one.over != "masked" and (whole or one.over == "rows"):
            raise InputError(
                f"loss.chunk = {chunk}: {one.term.name} takes the logits of all tokens together with what is not cut into pieces; "
                "set --loss.chunk 0",
                field="loss.chunk",
                hint="--loss.chunk 0",
            )
        layers_of(one, student, teacher)
        _check_relation_heads(one, student, teacher)
        _check_encoders(one, student, teacher)


def _check_relation_heads(one: Weighted, student: ModelConfig, teacher: ModelConfig) -> None:
    heads, widths = one.options.get("relation_heads"), (student.hidden_size, teacher.hidden_size)
    if heads is None or not any(width % heads for width in widths):
        return
    field = one.field.removesuffix("weight") + "relation_heads"
    common = math.gcd(*widths)
    near = max(number for number in range(1, min(heads, common) + 1) if common % number == 0)
    option = f"{_option(field)} {near}"
    raise InputError(
        f"{field} = {heads} does not divide the widths of model and teacher, {widths[0]} and {widths[1]}: set {option}",
        field=field,
        hint=option,
    )


def _check_encoders(one: Weighted, student: ModelConfig, teacher: ModelConfig) -> None:
    """What layers attend with is given by an encoder's `read` alone, and so are layers of a choice."""
    wanted = [kind for kind in one.term.needs if kind in _READ]
    for whose, family in (("model", student.family), ("teacher", teacher.family)):
        if wanted and not family.reads_layers:
            option = f"{_option(one.field)} 0"
            raise InputError(
                f"{one.field} = {one.weight} needs {wanted[0]} of layers, which the encoder of the {whose}, a {family.title}, "
                f"does not give: it has no method read that goes with its __call__; set {option}",
                field=one.field,
                hint=option,
            )


def sources(terms: tuple[Weighted, ...]) -> dict[str, str]:
    """Digests of the functions that users' files bring, by the names that inputs.json gives them."""
    return {f"term {one.term.name}": source_digest(one.function) for one in terms if one.file}
