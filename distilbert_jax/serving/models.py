"""Models that a server answers with: loaded once, before the first request, from the directories that its owner names."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax import models
from distilbert_jax.base.files import read_json
from distilbert_jax.base.hub import POOLING, locate
from distilbert_jax.config import Activations, ModelConfig
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.models import EncoderModel, MaskedLM, SequenceClassification
from distilbert_jax.models.hf_format import fingerprint, read_config
from distilbert_jax.models.params import merge, split
from distilbert_jax.pipelines import (
    FeatureExtraction,
    FillMask,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from distilbert_jax.pipelines.features import POOLINGS
from distilbert_jax.serving.requests import RequestError
from distilbert_jax.serving.tasks import (
    FeatureExtractionTask,
    FillMaskTask,
    QuestionAnsweringTask,
    Task,
    TextClassificationTask,
    TokenClassificationTask,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")  # a hub id is one, too
# Heads in the order in which a directory is asked for them, their pipelines and tasks.
_HEADS = (
    (MaskedLM, FillMask, FillMaskTask),
    (SequenceClassification, TextClassification, TextClassificationTask),
    (models.TokenClassification, TokenClassification, TokenClassificationTask),
    (models.QuestionAnswering, QuestionAnswering, QuestionAnsweringTask),
)


@dataclasses.dataclass(frozen=True)
class Served:
    """A model of a server.

    Attributes:
        name: by which requests ask for it.
        source: its HF directory or hub id.
        fingerprint: SHA-256 of its files.
        dtype: of its matmuls.
        tasks: by name; the first is its own, that of its head.
        pooling: cls or mean, of the routes that give one vector a text.
    """

    name: str
    source: str
    fingerprint: str
    dtype: str
    config: ModelConfig
    tasks: Mapping[str, Task]
    pooling: str

    @property
    def own(self) -> Task:
        return next(iter(self.tasks.values()))

    @property
    def max_length(self) -> int:
        """Tokens of a text."""
        return self.own.pipeline.tokenizer.max_length

    def task(self, name: str) -> Task:
        """The task of a name.

        Raises:
            RequestError: 404, the model has not that one.
        """
        if name not in self.tasks:
            raise RequestError(
                404, f"model {self.name!r} has no task {name!r}; {nearest(name, self.tasks)}", field="task"
            )
        return self.tasks[name]


def parse_name(given: str) -> tuple[str, str]:
    """The name and the directory of `NAME=DIR`, or of `DIR`, which gives its name: `runs/sst2-0/model` is `sst2-0`.

    Raises:
        InputError: it is no name that a URL can have.
    """
    name, equals, source = given.partition("=")
    if not equals or "/" in name.strip("/"):  # a directory whose name has an equals sign
        source = given
        parts = [part for part in Path(source).parts if part not in ("/", ".", "..", "model")]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1] if parts else "model").strip("-._") or "model"
        name = source if not Path(source).exists() and _NAME.fullmatch(source) else name
    if not source or not _NAME.fullmatch(name):
        raise InputError(
            f"--model {given}: expected DIR or NAME=DIR, a name of letters, digits, '.', '_' and '-'",
            field="--model",
            hint="NAME=DIR",
        )
    return name, source


def load_models(
    given: Sequence[str],
    *,
    dtype: DTypeLike = "float32",
    activations: Activations = "auto",
    batch_size: int | None = None,
    pooling: str | None = None,
) -> dict[str, Served]:
    """The models that are named on a command line, in their order; the first is the one that routes without a name ask.

    Args:
        pooling: cls or mean; None: as a directory's own `1_Pooling` has it, else mean.

    Raises:
        InputError: two of one name, a directory that cannot be loaded, a pooling that is not cls or mean.
    """
    if pooling is not None and pooling not in POOLINGS[1:]:
        raise InputError(f"--pooling {pooling}: {nearest(pooling, POOLINGS[1:])}", field="--pooling")
    served: dict[str, Served] = {}
    for name, source in map(parse_name, given):
        if name in served:
            hint = f"--model OTHER-NAME={source}"
            raise InputError(f"--model {source}: there is a model {name!r}; {hint}", field="--model", hint=hint)
        options = {"dtype": dtype, "activations": activations, "batch_size": batch_size}
        tasks: list[Task] = [kind(pipeline(source, **options)) for _, pipeline, kind in _heads(source)]
        own = pooling or _pooling_of(locate(source))
        tasks.append(FeatureExtractionTask(_features(source, tasks, options), own))
        config = read_config(locate(source))
        by_name = {task.name: task for task in tasks}
        served[name] = Served(name, source, fingerprint(source), str(dtype), config, by_name, own)
    if not served:
        raise InputError("--model: none is named; expected DIR or NAME=DIR", field="--model")
    return served


_POOLINGS = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}


def _pooling_of(directory: Path) -> str:
    """How a sentence encoder's directory makes one vector of a text; the mean where it does not say.

    Raises:
        InputError: in a way that there is not here.
    """
    path = directory / POOLING
    if not path.exists():
        return "mean"
    config = read_json(path, dict)
    asked = config.get("pooling_mode", [])
    modes = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, list) else []
    modes = modes or [
        name.removeprefix("pooling_mode_") for name, on in config.items() if on is True and "_mode_" in name
    ]
    if len(modes) == 1 and modes[0] in _POOLINGS:
        return _POOLINGS[modes[0]]
    raise InputError(
        f"{path}: makes a vector by {' and '.join(map(str, modes)) or 'nothing'}; here it is the mean or the first token's: "
        "--pooling mean or cls",
        path=path,
        field="pooling_mode",
        hint="--pooling",
    )


def _heads(source: str) -> Sequence[tuple[Any, Any, Any]]:
    """The head of a directory, in a list, or an empty one: what config.json names; where it names none, the first that is whole. A
    classifier of texts has the tensors of one of tokens, too."""
    model_type = read_config(locate(source)).model_type
    known = [entry for entry in _HEADS if entry[0].has_family(model_type)]
    named = [entry for entry in known if entry[0].is_named(source)]
    return named or [entry for entry in known if entry[0].is_whole(source)][:1]


def _features(source: str, tasks: Sequence[Task], options: Mapping[str, Any]) -> FeatureExtraction:
    """The features of a model; where it is loaded with its head, of the same arrays."""
    if not tasks:
        return FeatureExtraction(source, **options)
    loaded = tasks[0].pipeline
    config, precision = loaded.model.config, {name: options[name] for name in ("dtype", "activations")}
    kind = EncoderModel.of_family(config.model_type)
    bare = nnx.eval_shape(lambda: kind(config, add_pooling_layer=False, rngs=nnx.Rngs(0), **precision))
    (graphdef, shapes), (_, params) = split(bare), split(loaded.model)
    encoder = merge(graphdef, {path: params[path] for path in shapes})
    return FeatureExtraction.of_model(encoder, loaded.tokenizer, name=source, batch_size=options["batch_size"])
