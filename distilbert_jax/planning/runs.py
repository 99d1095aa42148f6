"""Runs that can be planned, as shapes alone: pre-training, fine-tuning with seeds side by side, features of an encoder."""

import contextlib
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from distilbert_jax.config import (
    Dtype,
    FinetuneConfig,
    MeshConfig,
    ModelConfig,
    PretrainConfig,
    require_batch,
    require_positive,
)
from distilbert_jax.errors import InputError, counted, nearest
from distilbert_jax.pretraining.objective_table import check_objective

# Published models whose shape needs no file.
PUBLISHED = {
    "bert-base-uncased": ModelConfig.bert_base(),
    "bert-base-cased": ModelConfig.bert_base(vocab_size=28996),
    "bert-base-multilingual-cased": ModelConfig.bert_base(vocab_size=119547),
    "bert-large-uncased": ModelConfig.bert_base(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "distilbert-base-uncased": ModelConfig.distilbert_base(),
    "distilbert-base-cased": ModelConfig.distilbert_base(vocab_size=28996),
    "distilbert-base-multilingual-cased": ModelConfig.distilbert_base(vocab_size=119547),
}
# Turc et al. 2019 (arXiv 1908.08962); too many to be listed where a name is unknown.
SMALL_BERTS = {
    f"google/bert_uncased_L-{layers}_H-{hidden}_A-{hidden // 64}": ModelConfig.bert_base(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    for layers in (2, 4, 6, 8, 10, 12)
    for hidden in (128, 256, 512, 768)
}


@dataclass(frozen=True)
class FeaturesConfig:
    """The features of texts by an encoder, as `distilbert-jax features` computes them on one device."""

    model: str = ""  # HF directory, hub id, or a published name: bert-base-uncased, distilbert-base-uncased …
    batch_size: int = 64  # texts of a batch
    length: int = 128  # tokens of a row; what the pipeline pads to: 16, 32, 64 … or all positions of the model
    dtype: Dtype = "float32"  # of the matmuls
    pooling: Literal["tokens", "cls", "mean"] = "mean"
    texts: int = 1_000_000  # whose hours and price are told

    def __post_init__(self) -> None:
        require_batch(self, "batch_size")
        require_positive(self, "length", "texts")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A pre-training or distillation run. `seeds`: so many equal students of one teacher side by side."""

    kind: ClassVar[str] = "pre-training"
    batch_field: ClassVar[str] = "data.batch_size"

    config: PretrainConfig
    teacher: ModelConfig | None = None
    seeds: int = 1

    @property
    def mesh(self) -> MeshConfig:
        return self.config.mesh

    @property
    def batch_size(self) -> int:
        return self.config.data.batch_size

    @property
    def rows(self) -> int:
        return self.config.data.batch_size

    @property
    def length(self) -> int:
        return self.config.data.length

    @property
    def accumulate(self) -> int:
        return self.config.optimizer.accumulate

    @property
    def steps(self) -> int:
        return self.config.steps

    @property
    def models(self) -> str:
        return _described(self.config.model, self.teacher, self.dtype)

    @property
    def dtype(self) -> Dtype:
        return self.config.run.dtype

    def flops(self) -> float:
        """Of a step over all devices."""
        from distilbert_jax.pretraining.cost import step_flops, step_flops_together

        if self.seeds > 1 and self.teacher:
            return step_flops_together([self.config] * self.seeds, self.teacher)
        return step_flops(self.config, self.teacher)


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """A run of one task, its seeds side by side in one step.

    Attributes:
        model: with the labels of the task.
        rows, length, segments: shape of a seed's batch, as `finetuning.batches.PackedShape`.
        steps: of each seed.
    """

    kind: ClassVar[str] = "fine-tuning"
    batch_field: ClassVar[str] = "batch_size"

    config: FinetuneConfig
    model: ModelConfig
    teacher: ModelConfig | None = None
    seeds: int = 1
    rows: int
    length: int
    segments: int
    steps: int

    @property
    def mesh(self) -> MeshConfig:
        return self.config.mesh

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    @property
    def accumulate(self) -> int:
        return self.config.optimizer.accumulate

    @property
    def stage(self) -> Literal["together", "layers", "answers"]:
        """What a step learns; of two kinds of steps it is one of those that cost more."""
        if not (self.teacher and self.config.distill.layer_epochs):
            return "together"
        return "layers" if self._flops_of("layers") > self._flops_of("answers") else "answers"

    @property
    def asks_once(self) -> bool:
        """Whether steps find their teacher's answers in the batch."""
        from distilbert_jax.finetuning.objective import asks_once

        return self.teacher is not None and asks_once(self.config.distill, self.stage)

    @property
    def models(self) -> str:
        beside = ""
        if (layers := self.config.distill.layer_epochs) and self.stage != "together":
            alike = f"every step is taken to cost what one of {self.stage} does, which costs more"
            beside = f"; {counted(layers, 'epoch')} of layers alone: {alike}"
        if self.asks_once:
            beside += "; the teacher is asked for answers once, before the first step, and that pass is not counted"
        return _described(self.model, self.teacher, self.dtype) + beside

    @property
    def dtype(self) -> Dtype:
        return self.config.run.dtype

    def flops(self) -> float:
        """Of a step of all seeds over all devices."""
        return self.seeds * self._flops_of(self.stage)

    def _flops_of(self, stage: Literal["together", "layers", "answers"]) -> float:
        from distilbert_jax.finetuning.objective import asks_once, layer_terms
        from distilbert_jax.training.cost import tuning_flops
        from distilbert_jax.training.terms import all_reads

        distill, frozen = self.config.distill, self.config.freeze == "encoder"
        teacher = None if self.teacher and asks_once(distill, stage) else self.teacher
        reads = all_reads(layer_terms(distill), self.model, teacher) if teacher and stage == "layers" else None
        return tuning_flops(self.model, self.rows, self.length, teacher, reads, frozen=frozen)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Batches of texts through an encoder; a step is one of them. length: with padding."""

    kind: ClassVar[str] = "features"
    batch_field: ClassVar[str] = "batch_size"
    seeds: ClassVar[int] = 1
    accumulate: ClassVar[int] = 1

    config: FeaturesConfig
    model: ModelConfig
    length: int
    mesh: MeshConfig = field(default_factory=MeshConfig)

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    @property
    def rows(self) -> int:
        return self.config.batch_size

    @property
    def steps(self) -> int:
        return -(-self.config.texts // self.config.batch_size)

    @property
    def models(self) -> str:
        return _described(self.model, None, self.dtype)

    @property
    def dtype(self) -> Dtype:
        return self.config.dtype

    def flops(self) -> float:
        """Of a batch."""
        from distilbert_jax.training.cost import forward_flops

        return forward_flops(self.model, self.length, 0.0) * self.length * self.rows


def _described(model: ModelConfig, teacher: ModelConfig | None, dtype: Dtype) -> str:
    """The models of a run and the dtype of their matmuls, for a report."""
    shape = lambda one: f"{one.family.title}, {one.num_hidden_layers} layers × {one.hidden_size}"
    taught_by = f", taught by {shape(teacher)}" if teacher else ""
    return f"{shape(model)}{taught_by}; matmuls in {dtype}"


Config = PretrainConfig | FinetuneConfig | FeaturesConfig
Run = Pretraining | Finetuning | Features


def run_of(config: Config, seeds: int = 1) -> Run:
    """What is to be compiled for a config.

    Args:
        seeds: of fine-tuning, or students of one teacher, that train side by side.

    Raises:
        InputError: a model is neither at hand nor published, the shapes do not fit, the size of a task is not known.
    """
    if isinstance(config, PretrainConfig):
        distils = config.objective == "distillation"
        if not 1 <= seeds <= 64 or (seeds > 1 and not distils):
            what = "1 to 64" if distils else f"1: objective {config.objective} asks no teacher"
            raise InputError(f"--students {seeds}: expected {what}", field="--students")
        teacher = architecture(config.teacher, "teacher") if distils else None
        check_objective(config)
        return Pretraining(config=config, teacher=teacher, seeds=seeds)
    return _finetuning(config, seeds) if isinstance(config, FinetuneConfig) else _features(config)


def architecture(name: str, named_by: str) -> ModelConfig:
    """The architecture of a directory, or of a published name.

    Raises:
        InputError: it has neither a config.json at hand nor a name that is known; `named_by` is the field that names it.
    """
    if not name:
        hint = f"--{named_by.replace('_', '-')} bert-base-uncased"
        raise InputError(
            f"{named_by} is not set: name a directory, or one of {', '.join(PUBLISHED)}", field=named_by, hint=hint
        )
    if not Path(name).is_dir() and (known := PUBLISHED.get(name) or SMALL_BERTS.get(name)):
        return known
    from distilbert_jax.models.hf_format import read_config

    if (directory := Path(name).expanduser() if Path(name).is_dir() else _cached(name)) is None:
        hint = nearest(name, PUBLISHED)
        raise InputError(
            f"{named_by} = {name}: no directory with a config.json, and no name whose shape is known; {hint}",
            path=name,
            field=named_by,
            hint=hint,
        )
    return read_config(directory)


def _cached(name: str) -> Path | None:
    """The folder in the cache of the hub that has a model's config.json. A plan downloads nothing."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):
        file = huggingface_hub.try_to_load_from_cache(name, "config.json")
        return Path(file).parent if isinstance(file, str) else None
    return None


def _finetuning(config: FinetuneConfig, seeds: int) -> Finetuning:
    from distilbert_jax.finetuning.identity import check_asked
    from distilbert_jax.finetuning.kinds import kind_of
    from distilbert_jax.finetuning.tasks import find_task

    if not 1 <= seeds <= 1024:
        raise InputError(f"--seeds {seeds}: expected 1 to 1,024", field="--seeds")
    check_asked(config)
    task = find_task(config.task)
    model = architecture(config.model, "model")
    _check_length(config.length, model, "length", config.model)
    kind = kind_of(task)
    model = dataclasses.replace(model, labels=kind.labels(task) or ModelConfig.labels, problem_type=kind.problem_type)
    teacher = None
    if config.teacher:
        teacher = architecture(config.teacher, "distill.teacher")
        _check_length(config.length, teacher, "length", config.teacher)
    shape = (config.batch_size, config.length, 1)  # an example a row
    known = [rows for rows in (config.max_train_rows, task.rows.get("train")) if rows]
    rows = min(known, default=0)
    if config.select or config.selection_split:
        rows -= rows // 10  # or so: which tenth is held out, the texts would say
    rows *= 1 + config.augment.copies
    if config.data:
        rows, shape = _packed(config)
    if not rows:
        hint = "--data FOLDER, or --max-train-rows"
        raise InputError(f"task {task.name!r}: how many rows it has is not known: {hint}", field="task", hint=hint)
    return Finetuning(
        config=config,
        model=model,
        teacher=teacher,
        seeds=seeds,
        rows=shape[0],
        length=shape[1],
        segments=shape[2],
        steps=(config.distill.layer_epochs + (config.epochs or task.epochs)) * -(-rows // config.batch_size),
    )


def _packed(config: FinetuneConfig) -> tuple[int, tuple[int, int, int]]:
    """Rows of a task whose data are at hand, and the shape into which `finetuning` packs its batches."""
    from distilbert_jax.finetuning.batches import packed_shape
    from distilbert_jax.finetuning.kinds import kind_of
    from distilbert_jax.finetuning.preparation import training_rows
    from distilbert_jax.finetuning.tasks import find_task
    from distilbert_jax.text.tokenizer import load_tokenizer

    task = find_task(config.task)
    train, _ = training_rows(config, task)
    lengths = kind_of(task).encode(train, task, load_tokenizer(config.model), config.length).lengths
    lengths = lengths.repeat(1 + config.augment.copies)  # a copy has the length of its row
    rows, length, segments = packed_shape(lengths, config.batch_size)
    return len(lengths), (rows, length, segments)


def _features(config: FeaturesConfig) -> Features:
    from distilbert_jax.models.compiled import padded_length

    model = architecture(config.model, "model")
    _check_length(config.length, model, "length", config.model)
    return Features(config=config, model=model, length=padded_length(config.length, model.max_length))


def _check_length(length: int, model: ModelConfig, named_by: str, name: str) -> None:
    if length > model.max_length:
        raise InputError(
            f"{named_by} = {length} is beyond the {model.max_length} positions of {name}", field=named_by, path=name
        )


def with_batch(config: Config, batch_size: int) -> Config:
    """The config with another batch size, in one micro-batch."""
    if isinstance(config, PretrainConfig):
        data = dataclasses.replace(config.data, batch_size=batch_size)
        return dataclasses.replace(config, data=data, optimizer=dataclasses.replace(config.optimizer, accumulate=1))
    if isinstance(config, FeaturesConfig):
        return dataclasses.replace(config, batch_size=batch_size)
    return dataclasses.replace(
        config, batch_size=batch_size, optimizer=dataclasses.replace(config.optimizer, accumulate=1)
    )


def with_accumulate(config: PretrainConfig | FinetuneConfig, accumulate: int) -> Config:
    """The config with another number of micro-batches."""
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, accumulate=accumulate))
