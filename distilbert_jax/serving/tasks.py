"""Tasks that a server answers: the parameters that each takes, what it does with texts, and how the answer looks.

The names of tasks and parameters, and the form of answers, are those of Hugging Face's inference API.
"""

import base64
import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from distilbert_jax.errors import InputError, shortened
from distilbert_jax.models.compiled import SHORTEST, padded_length
from distilbert_jax.pipelines import (
    FeatureExtraction,
    FillMask,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from distilbert_jax.pipelines.base import Pipeline
from distilbert_jax.pipelines.tokens import STRATEGIES
from distilbert_jax.serving.requests import Parameters, RequestError, of_input, questions_of, texts_of
from distilbert_jax.text.windows import window_shape

MOST_ANSWERS = 1000  # of a fill-mask
MOST_TARGETS = 1000


class Asked(NamedTuple):
    """A request that a task has understood: its texts, options, the tokens of each text, and how many texts are cut."""

    texts: list[Any]
    options: Any
    tokens: list[int]
    alone: bool  # one text, not a list of one
    cut: int


class Task:
    """One task of a model. A subclass names its pipeline and says what is in the docstrings of its methods."""

    name: ClassVar[str]
    pairs: ClassVar[bool] = False  # a text may be a pair
    at_root: ClassVar[bool] = False  # parameters stand beside `inputs`, too

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        pipeline.quiet = True  # the answer says it

    def asked(self, body: dict[str, Any], most: int) -> Asked:
        """A body `{"inputs", "parameters", "options"}` of at most so many texts, understood.

        Raises:
            RequestError: with the field that is at fault.
        """
        if "inputs" not in body:
            raise RequestError(422, 'inputs: missing; expected {"inputs": "a text"}', field="inputs")
        ignored = ("use_cache", "wait_for_model", "use_gpu")  # what a client may say to a server that has these
        Parameters(body.get("options"), "options", ignored).end()
        beside = {name: value for name, value in body.items() if name not in ("inputs", "parameters", "options")}
        if beside and not self.at_root:
            Parameters(beside, "").end()
        given = body.get("parameters")
        if twice := next((name for name in beside if isinstance(given, dict) and name in given), None):
            raise RequestError(
                422, f"{shortened(twice)}: stands in parameters and beside them; give it once", field=twice
            )
        parameters = Parameters({**(given or {}), **beside} if isinstance(given, dict | None) else given)
        truncate = parameters.flag("truncate", True)
        options = self.options(parameters)
        parameters.end()
        texts, alone = self.texts(body["inputs"], most)
        tokens, cut = self.measure(texts, options, truncate=truncate)
        return Asked(texts, options, tokens, alone, cut)

    def texts(self, inputs: Any, most: int) -> tuple[list[Any], bool]:
        """What `inputs` holds, and whether it was one alone."""
        return texts_of(inputs, "inputs", most, pairs=self.pairs)

    def options(self, parameters: Parameters) -> Any:
        """The parameters that this task takes, as a frozen value."""
        raise NotImplementedError

    def measure(self, texts: Sequence[Any], options: Any, *, truncate: bool = True) -> tuple[list[int], int]:
        """Tokens of each text, and how many texts are cut to the model's positions.

        Raises:
            RequestError: 422, a text is none that the task takes; 413, it is too long and not to be cut.
        """
        try:
            rows, cut = self.pipeline.tokenizer.rows(texts)
        except InputError as error:
            raise of_input(error) from None
        if cut and not truncate:
            longest = self.pipeline.tokenizer.max_length
            raise RequestError(
                413,
                f"inputs: {cut} of {len(texts)} texts have more than {longest} tokens; shorten them (/embed and /predict cut them "
                'where "truncate" is true)',
                field="inputs",
            )
        return [len(row.ids) for row in rows], cut

    def together(self, options: Any) -> Hashable:
        """See `batching.Work`."""
        return options

    def run(self, texts: Sequence[Any], options: Sequence[Any]) -> Sequence[Any]:
        """See `batching.Work`."""
        raise NotImplementedError

    def answer(self, results: list[Any], asked: Asked) -> Any:
        """The body of an answer, of what JSON knows."""
        return results[0] if asked.alone else results

    def example(self) -> Any:
        """`inputs` that the task takes."""
        return "Hello, I am a sentence."

    def usual_options(self) -> Any:
        """What the task takes when a request says nothing else."""
        return self.options(Parameters(None))

    def warm_texts(self) -> Iterator[list[Any]]:
        """Texts of every shape that the pipeline compiles for: of each padded length one, and as many as a batch may have."""
        sizes, longest = sorted({1, min(8, self.pipeline.batch_size), self.pipeline.batch_size}), self.longest
        (begun,), _ = self.measure([self.longer_example(0)], self.usual_options())
        length, padded = SHORTEST, 0
        while padded < longest:
            padded = padded_length(length, longest)
            if padded >= begun:
                yield from ([self.longer_example(padded - begun)] * size for size in sizes)
            length *= 2

    @property
    def longest(self) -> int:
        """Tokens of a row."""
        return self.pipeline.tokenizer.max_length

    def longer_example(self, more: int) -> Any:
        """The example with so many tokens more, as a pipeline takes it."""
        return " ".join([self.example(), *[self.pipeline.tokenizer.unk_token] * more])


@dataclasses.dataclass(frozen=True)
class FillMaskOptions:
    """`joint` and `whole_words` are this project's own."""

    top_k: int | None = None
    targets: tuple[str, ...] | None = None
    joint: bool = False
    whole_words: bool = False


class FillMaskTask(Task):
    """`top_k` 1 … 1000 (5), `targets`, `joint`, `whole_words` → `[{"score", "token", "token_str", "sequence"}]`."""

    name = "fill-mask"
    pipeline: FillMask

    def options(self, parameters: Parameters) -> FillMaskOptions:
        most = min(MOST_ANSWERS, self.pipeline.model.config.vocab_size)
        options = FillMaskOptions(
            parameters.whole("top_k", 1, most),
            parameters.words("targets", MOST_TARGETS),
            parameters.flag("joint"),
            parameters.flag("whole_words"),
        )
        try:
            self.pipeline.check_targets(options.targets, joint=options.joint, whole_words=options.whole_words)
        except InputError as error:
            raise RequestError(422, f"parameters.targets: {error}", field="parameters.targets") from None
        # The pipeline says it on stderr, which no client sees.
        by_token = not (options.joint or options.whole_words)
        for target, piece in self.pipeline.replaced(options.targets or ()).items() if by_token else ():
            said = f'{target!r} is no token; its first piece is {piece!r}. Ask for that, or give "whole_words": true'
            raise RequestError(422, f"parameters.targets: {said}", field="parameters.targets")
        return options

    def measure(
        self, texts: Sequence[Any], options: FillMaskOptions, *, truncate: bool = True
    ) -> tuple[list[int], int]:
        tokens, cut = super().measure(texts, options, truncate=truncate)
        try:
            self.pipeline.masks(texts)
        except InputError as error:
            refusal = of_input(error)
            said = f"{refusal}; what is no fill-mask is asked of /models/NAME/pipeline/TASK"
            raise RequestError(refusal.status, said, field=refusal.field) from None
        return tokens, cut

    def together(self, options: FillMaskOptions) -> Hashable:
        """Each takes the first of the most answers that one of them asks for, unless these widen the beam of a joint search."""
        return options if options.joint else dataclasses.replace(options, top_k=None)

    def run(self, texts: Sequence[str], options: Sequence[FillMaskOptions]) -> Sequence[Any]:
        one = options[0]
        asked = (
            None
            if one.targets and any(each.top_k is None for each in options)
            else max(each.top_k or 5 for each in options)
        )
        targets = None if one.targets is None else list(one.targets)
        results = self.pipeline(list(texts), asked, targets, one.joint, one.whole_words)
        return [_first(result, each) for result, each in zip(results, options, strict=True)]

    def example(self) -> str:
        return f"Hello, I am a {self.pipeline.tokenizer.mask_token} model."


def _first(answers: Any, options: FillMaskOptions) -> Any:
    """Of each mask so many answers as one request asks for."""
    if answers and not isinstance(answers[0], dict):
        return [_first(of_mask, options) for of_mask in answers]
    return list(answers)[: options.top_k if options.targets else options.top_k or 5]


@dataclasses.dataclass(frozen=True)
class ClassificationOptions:
    """function: what makes scores of logits; None: what the model's config says."""

    top_k: int | None = None
    function: str | None = None


class TextClassificationTask(Task):
    """`top_k` (all), `function_to_apply` softmax, sigmoid or none → `[[{"label", "score"}]]`, of several texts as many lists."""

    name = "text-classification"
    pairs = True
    pipeline: TextClassification

    def options(self, parameters: Parameters) -> ClassificationOptions:
        labels = len(self.pipeline.model.config.labels)
        return ClassificationOptions(
            parameters.whole("top_k", 1, max(labels, MOST_ANSWERS)),
            parameters.chosen("function_to_apply", ("softmax", "sigmoid", "none")),
        )

    def together(self, options: ClassificationOptions) -> Hashable:
        return options.function

    def run(self, texts: Sequence[Any], options: Sequence[ClassificationOptions]) -> Sequence[Any]:
        results = self.pipeline(list(texts), top_k=None, function_to_apply=options[0].function)
        return [list(result)[: one.top_k] for result, one in zip(results, options, strict=True)]

    def answer(self, results: list[Any], asked: Asked) -> Any:
        return results

    def example(self) -> str:
        return "A gripping, beautiful film."


@dataclasses.dataclass(frozen=True)
class EntityOptions:
    """As `TokenClassification` takes them."""

    aggregation_strategy: str = "none"
    ignore_labels: tuple[str, ...] = ("O",)


class TokenClassificationTask(Task):
    """`aggregation_strategy` (none), `ignore_labels` (O) → `[{"entity" or "entity_group", "score", "word", "start", "end"}]`."""

    name = "token-classification"
    pipeline: TokenClassification

    def options(self, parameters: Parameters) -> EntityOptions:
        parameters.only("stride")
        strategy = parameters.chosen("aggregation_strategy", STRATEGIES, "none") or "none"
        ignored = parameters.words("ignore_labels", MOST_TARGETS, none_at_all=True)
        return EntityOptions(strategy, ("O",) if ignored is None else ignored)

    def run(self, texts: Sequence[str], options: Sequence[EntityOptions]) -> Sequence[Any]:
        return self.pipeline(list(texts), **vars(options[0]))

    def example(self) -> str:
        return "Ada Lovelace lived in London."


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """As `QuestionAnswering` takes them."""

    top_k: int | None = None
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class QuestionAnsweringTask(Task):
    """`inputs` `{"question", "context"}` or a list of such, the pipeline's parameters → `{"answer", "score", "start", "end"}`, a
    list where `top_k` is above 1."""

    name = "question-answering"
    pipeline: QuestionAnswering

    def texts(self, inputs: Any, most: int) -> tuple[list[Any], bool]:
        return questions_of(inputs, "inputs", most)

    def options(self, parameters: Parameters) -> AnswerOptions:
        longest, usual = self.pipeline.tokenizer.max_length, AnswerOptions()
        return AnswerOptions(
            parameters.whole("top_k", 1, MOST_ANSWERS),
            parameters.whole("doc_stride", 1, longest),
            parameters.whole("max_answer_len", 1, longest, usual.max_answer_len) or 0,
            parameters.whole("max_seq_len", 1, longest),
            parameters.whole("max_question_len", 1, longest, usual.max_question_len) or 0,
            parameters.flag("handle_impossible_answer", usual.handle_impossible_answer),
            parameters.flag("align_to_words", usual.align_to_words),
        )

    def measure(self, texts: Sequence[Any], options: AnswerOptions, *, truncate: bool = True) -> tuple[list[int], int]:
        try:
            return self.pipeline.measure(texts, options.doc_stride, options.max_seq_len, options.max_question_len)
        except InputError as error:
            raise of_input(error) from None

    def run(self, texts: Sequence[Any], options: Sequence[AnswerOptions]) -> Sequence[Any]:
        questions, contexts = (list(part) for part in zip(*texts, strict=True))
        answers = self.pipeline(questions, contexts, **vars(options[0]))
        return [one[0] if options[0].top_k == 1 and one else one for one in answers]

    def example(self) -> dict[str, str]:
        return {
            "question": "Where did Ada Lovelace live?",
            "context": "Ada Lovelace, who wrote of engines, lived in London.",
        }

    @property
    def longest(self) -> int:
        return window_shape(self.pipeline.tokenizer, None, None)[0]

    def longer_example(self, more: int) -> tuple[str, str]:
        given = self.example()
        return given["question"], " ".join([given["context"], *[self.pipeline.tokenizer.unk_token] * more])


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """pooling: None: what the route takes, all tokens or the server's own pooling."""

    pooling: str = "tokens"
    layer: int = -1
    normalize: bool = False
    encoding: Literal["float", "base64"] = "float"


class FeatureExtractionTask(Task):
    """`pooling` tokens, cls or mean, `layer`, `normalize` → of a text `[tokens × hidden]` in a list, or `[hidden]` pooled."""

    name = "feature-extraction"
    at_root = True
    pipeline: FeatureExtraction

    def __init__(self, pipeline: FeatureExtraction, pooling: str = "mean"):
        super().__init__(pipeline)
        self.pooling = pooling  # of the routes that give one vector a text

    def usual_options(self) -> FeatureOptions:
        return FeatureOptions(self.pooling)

    def options(self, parameters: Parameters, pooling: str = "tokens", *, normalize: bool = False) -> FeatureOptions:
        states = self.pipeline.model.config.num_hidden_layers
        parameters.only("prompt_name")
        parameters.only("truncation_direction", "right", "Right")
        parameters.only("dimensions", self.pipeline.model.config.hidden_size)
        pooling = parameters.chosen("pooling", ("tokens", "cls", "mean"), pooling) or pooling
        options = FeatureOptions(
            pooling,
            parameters.whole("layer", -states - 1, states, -1) or 0,
            parameters.flag("normalize", normalize),
            "base64" if parameters.chosen("encoding_format", ("float", "base64")) == "base64" else "float",
        )
        if options.encoding == "base64" and options.pooling == "tokens":
            raise RequestError(
                422,
                "encoding_format = base64: is of one vector a text; ask for pooling cls or mean",
                field="encoding_format",
            )
        return options

    def together(self, options: FeatureOptions) -> Hashable:
        return options.pooling, options.layer

    def run(self, texts: Sequence[str], options: Sequence[FeatureOptions]) -> Sequence[np.ndarray]:
        """float32 [T, D] or [D] each."""
        results = self.pipeline(list(texts), options[0].pooling, options[0].layer)
        return [_unit(result) if one.normalize else result for result, one in zip(results, options, strict=True)]

    def answer(self, results: list[np.ndarray], asked: Asked) -> Any:
        if asked.options.encoding == "base64":
            encoded = [in_base64(one) for one in results]
            return encoded[0] if asked.alone else encoded
        if asked.options.pooling == "tokens":  # as the reference's pipeline: one text is a batch of one
            return [one.tolist() for one in results] if asked.alone else [[one.tolist()] for one in results]
        return results[0].tolist() if asked.alone else [one.tolist() for one in results]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def in_base64(vector: np.ndarray) -> str:
    """float32, little-endian, as OpenAI's clients read it."""
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")
