"""Model card, README.md of the directory that a run saves: its sections and metadata, made from the run's own records.

The same records give the same bytes: a card has no times and no paths. Its last line has the digest of what stands above it, by
which a card that somebody has edited is told from one that may be written again.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distilbert_jax
from distilbert_jax.base.files import atomic_file, sha256_of
from distilbert_jax.base.hub import CARD, is_edited, is_from_hub
from distilbert_jax.config import Schedule, Scheduled, ends
from distilbert_jax.errors import counted, shortened, warn_once
from distilbert_jax.models.hf_format import architectures, read_config, read_headers

_PLAIN = re.compile(r"[\w][\w ./:+=,%()-]*")  # of which neither Markdown nor HTML makes anything, between backquotes


@dataclass(frozen=True)
class _Head:
    """How a model of one head is used: the hub's name of its task, and Python of this package and of transformers."""

    task: str
    here: str
    transformers: str


_HERE = '"."  # this directory, or its name on the hub'
_PIPELINE = f'from transformers import pipeline\n\n{{0}} = pipeline("{{1}}", model={_HERE[:3]}){_HERE[3:]}\n'
_AUTO = (
    f"from transformers import {{0}}, AutoTokenizer\n\nmodel = {{0}}.from_pretrained({_HERE[:3]}){_HERE[3:]}\n"
    f"tokenizer = AutoTokenizer.from_pretrained({_HERE[:3]})\n"
)
_OWN = f"from distilbert_jax import {{0}}\n\n{{1}} = {{0}}({_HERE[:3]}){_HERE[3:]}\n"
_CLASS = (
    f"from distilbert_jax import {{0}}, load_tokenizer\n\nmodel = {{0}}.from_pretrained({_HERE[:3]}){_HERE[3:]}\n"
    f"tokenizer = load_tokenizer({_HERE[:3]})\n"
)
_HEADS: Mapping[str, _Head] = {
    "MaskedLM": _Head("fill-mask", _OWN.format("FillMask", "fill"), _PIPELINE.format("fill", "fill-mask")),
    "SequenceClassification": _Head(
        "text-classification",
        _OWN.format("TextClassification", "classify"),
        _PIPELINE.format("classify", "text-classification"),
    ),
    "TokenClassification": _Head(
        "token-classification",
        _OWN.format("TokenClassification", "entities"),
        _PIPELINE.format("entities", "token-classification"),
    ),
    "QuestionAnswering": _Head(
        "question-answering",
        _OWN.format("QuestionAnswering", "answer"),
        _AUTO.format("AutoModelForQuestionAnswering"),
    ),
    "MultipleChoice": _Head(
        "multiple-choice", _CLASS.format("MultipleChoice"), _AUTO.format("AutoModelForMultipleChoice")
    ),
    "PreTraining": _Head("fill-mask", _CLASS.format("PreTraining"), _AUTO.format("AutoModelForPreTraining")),
}
_BARE = _Head(
    "feature-extraction",
    _OWN.format("FeatureExtraction", "features"),
    _PIPELINE.format("features", "feature-extraction"),
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value that was measured of a model.

    Attributes:
        data, split: of what.
        metric: its name.
        value: as it is reported.
        hub_data: the id of the data set on the hub, or a name.
    """

    data: str
    split: str
    metric: str
    value: float
    hub_data: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a run says of the model that it saves. Texts are Markdown, in which `plain` has put what comes from a user.

    Attributes:
        name: of the model.
        about: paragraphs.
        sections: paragraphs by heading, in their order, after that on how to load it.
        base_models: hub ids.
        datasets: hub ids.
        language: its code, where it is known.
        tags: beside those of every model.
    """

    name: str
    about: Sequence[str]
    sections: Mapping[str, Sequence[str]]
    scores: Sequence[Score] = ()
    base_models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    language: str | None = None
    tags: Sequence[str] = field(default_factory=tuple)


def one_line(text: object, longest: int = 100) -> str:
    """What a user has given as one line of valid Unicode without control characters."""
    words = str(text).encode("utf-8", "replace").decode()
    return shortened(" ".join("".join(c if c.isprintable() else " " for c in words).split()), longest)


def plain(text: object) -> str:
    """What a user has given, for a sentence or a table of Markdown, in which it is neither a mark nor a tag nor a new cell."""
    line = one_line(text)
    if _PLAIN.fullmatch(line):
        return f"`{line}`"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~:@-])", r"\\\1", line) or "(empty)"


def place_name(path_or_id: str) -> str:
    """What a model, a corpus or a file is called in a card: its hub id, or the last part of its path (of RUN/model the run's),
    since a path says something of one machine only."""
    if is_from_hub(path_or_id):
        return path_or_id
    parts = [part for part in Path(path_or_id).parts if part not in ("/", ".", "..", "~", "model")]
    return parts[-1] if parts else "model"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown. Cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: Scheduled) -> str:
    """A number as a card gives it, to four digits; `linear:5:1` of one that changes over the steps."""
    if isinstance(value, Schedule):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def weighted_terms(config: Any) -> list[str]:
    """The terms of a loss whose weight is not 0, of a config that has a dataclass for each: `5 · kl (temperature 2.0)`."""
    terms = []
    for item in dataclasses.fields(config):
        term = getattr(config, item.name)
        if dataclasses.is_dataclass(term) and any(ends(getattr(term, "weight", 0.0))):
            values = {one.name: getattr(term, one.name) for one in dataclasses.fields(term)}
            options = [
                f"{name} {value}".replace("_", " ")
                for name, value in values.items()
                if name != "weight" and value is not None
            ]
            terms.append(weighted(values["weight"], f"`{item.name}`") + (f" ({', '.join(options)})" if options else ""))
    return terms


def weighted(weight: Scheduled, term: str) -> str:
    """`5 · term`, or `linear:5:1 · term` where the weight changes over the steps."""
    return f"{number(weight)} · {term}"


def card_text(card: Card, model: Path) -> str:
    """README.md of a model.

    Args:
        model: the HF directory, with the config and the weights that the card is of.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData  # brings an HTTP client

    config = read_config(model)
    head = _head_of(model)
    results = [
        EvalResult(
            task_type=head.task,
            dataset_type=one_line(score.hub_data),
            dataset_name=one_line(score.data),
            dataset_split=one_line(score.split),
            metric_type=score.metric,
            metric_value=round(score.value, 4),
        )
        for score in card.scores
        if math.isfinite(score.value)
    ]
    data = ModelCardData(
        language=card.language,
        library_name="transformers",
        pipeline_tag=head.task,
        base_model=[one_line(name) for name in card.base_models] or None,
        datasets=[one_line(name) for name in card.datasets] or None,
        metrics=list(dict.fromkeys(score.metric for score in card.scores)) or None,
        tags=["distilbert_jax", "jax", config.model_type, *card.tags],
        model_name=one_line(card.name) if results else None,
        eval_results=results or None,
    )
    blocks = [f"# {plain(card.name)}", *card.about, _size(model), "## How to load it", *_loading(head)]
    for heading, paragraphs in {**card.sections, "Licence": _LICENCE}.items():
        blocks += [f"## {heading}", *paragraphs]
    text = str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(blocks) + "\n\n"))
    version = distilbert_jax.__version__
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}<!-- Written by distilbert_jax {version} from the run's records. SHA-256 of what stands above: {digest} -->\n"


_LICENCE = (
    "None has been chosen for these weights; whoever publishes them chooses one (`license:` in the block at the top of this file). "
    "The terms of the text or rows that they were trained on, of the teacher and of the model that they began with apply to "
    "them. distilbert_jax itself is under the Apache License 2.0.",
)

_WEIGHTS = "SHA-256 of `model.safetensors`: "


def _head_of(model: Path) -> _Head:
    name = next(iter(architectures(model)), "")
    return next((head for ending, head in _HEADS.items() if name.endswith(f"For{ending}")), _BARE)


def _size(model: Path) -> str:
    config = read_config(model)
    name = next(iter(architectures(model)), config.family.title)
    parameters = sum(math.prod(tensor.shape) for tensor in read_headers(model).values())
    layers, heads = counted(config.num_hidden_layers, "layer"), counted(config.num_attention_heads, "head")
    return (
        f"`{name}`: {layers}, hidden size {config.hidden_size}, {heads}, {config.vocab_size:,} entries in the vocabulary, "
        f"{config.max_length} tokens at most; {parameters:,} parameters. "
        f"{_WEIGHTS}`{sha256_of(model / 'model.safetensors')}`."
    )


def weights_of(card: Path) -> str:
    """The SHA-256, in hex, of the weights that a card is of; "" where it tells none."""
    told = re.search(f"{re.escape(_WEIGHTS)}`([0-9a-f]{{64}})`", card.read_text(encoding="utf-8", errors="replace"))
    return told[1] if told else ""


def _loading(head: _Head) -> list[str]:
    return [
        f"With [distilbert_jax](https://pypi.org/project/distilbert_jax/):\n\n```python\n{head.here}```",
        f"With transformers (PyTorch):\n\n```python\n{head.transformers}```",
    ]


def write_card(card: Card, model: Path, *, replaced: Path | None = None) -> None:
    """Write the README.md of a model. One that somebody has edited, or written, stays as it is, and a line says so.

    Args:
        replaced: where the files of `model` are about to go, if elsewhere.
    """
    file = (replaced or model) / CARD
    if is_edited(file):
        warn_once(f"{file}: edited by hand, and stays as it is; without it the same command writes a new one")
        return
    text = card_text(card, model).encode()
    if replaced is None and file.is_file() and file.read_bytes() == text:
        return
    with atomic_file(model / CARD) as out:
        out.write(text)
