"""All that a pre-training run consists of before its first step, checked: rows, teacher, model, state, and the compiled step."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tokenizers import Tokenizer

from distilbert_jax.base.hub import locate
from distilbert_jax.config import Activations, InitConfig, ModelConfig, PretrainConfig, Sequences
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.models import EncoderModel, MaskedLM, PreTraining
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.layers import sinusoids
from distilbert_jax.models.params import Params, count, digest, merge, split
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.pretraining import cost, objective_table
from distilbert_jax.pretraining.batches import PackedBatches
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.masking import log_weights
from distilbert_jax.pretraining.objectives import Given, objective_of
from distilbert_jax.pretraining.packing import PackedRows, pack
from distilbert_jax.text.tokenizer import check_fit, load_tokenizer, same_ids, special_ids
from distilbert_jax.training import distributed, sharding, terms
from distilbert_jax.training.batches import prefetch
from distilbert_jax.training.objective import Batch, Metrics, Objective, alone
from distilbert_jax.training.optimizer import adamw
from distilbert_jax.training.projections import draw_projections
from distilbert_jax.training.step import TrainState, init_state, local_gradients, make_train_step


@dataclass(frozen=True)
class Teacher:
    """A frozen model on the mesh, its vocabulary padded."""

    graphdef: nnx.GraphDef
    params: Params
    config: ModelConfig


@dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
        rows, tokenizer: of the corpus.
        graphdef: of the model that is trained.
        parameters: how many it has, without the rows that pad its vocabulary, and without projections.
        state: at step 0, on the mesh; the first step consumes it.
        fingerprints: of what the run reads, by name: equal for an equal run.
        given: what the objective is made from.
    """

    config: PretrainConfig
    mesh: Mesh
    rows: PackedRows
    tokenizer: Tokenizer
    graphdef: nnx.GraphDef
    parameters: int
    teacher: Teacher | None
    objective: Objective
    state: TrainState
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    fingerprints: dict[str, str]
    given: Given

    @property
    def frozen(self) -> Params:
        return self.teacher.params if self.teacher else {}

    @property
    def origins(self) -> dict[str, str]:
        """Of the parts of the loss that users' files bring: {part: file and name}."""
        return objective_table.origins(self.config, self.objective.parts)

    @property
    def step_flops(self) -> float:
        """Of all devices together."""
        return cost.step_flops(self.config, self.teacher.config if self.teacher else None)

    def batches(self, start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        """Batches `start` to `stop` − 1 on the mesh."""
        size = self.config.data.batch_size
        read = prefetch(
            PackedBatches(self.rows, size, self.config.run.seed), start, stop, sharding.local_rows(size, self.mesh)
        )
        return (sharding.place(batch, size, self.mesh) for batch in read)


def corpus_rows(corpus: str, length: int, sequences: Sequences) -> tuple[PackedRows, Tokenizer]:
    """The packed rows of a corpus (packed now, if they were not yet), compared with their checksums, and its tokenizer."""
    if not corpus:
        raise InputError("data.corpus is not set: name a directory made by distilbert-jax corpus", field="data.corpus")

    def ready() -> tuple[PackedRows, Tokenizer]:
        tokenizer = Corpus.open(corpus).tokenizer()  # before anything is packed with its special tokens
        return pack(Path(corpus), length, sequences=sequences), tokenizer

    distributed.on_main_process(lambda: ready()[0].verify())  # the others find what it wrote
    return distributed.on_all_processes(ready)


def load_teacher(
    directory: str,
    tokenizer: Tokenizer,
    field: str,
    dtype: jnp.dtype,
    *,
    activations: Activations = "auto",
    head: type[MaskedLM | PreTraining] = MaskedLM,
    new_head: int | None = None,
    vocab_size: int | None = None,
) -> MaskedLM | PreTraining:
    """A masked LM whose vocabulary is the corpus' own.

    Args:
        vocab_size: not below that of the tokenizer: rows of the embedding beyond it, which are no tokens', are cut off.
        new_head: None: the masked-LM head may not be missing. A seed: where it is, one is drawn from it; it teaches nothing.

    Raises:
        InputError: its tokenizer differs from the corpus', or it has no head.
    """
    teacher = head.from_pretrained(
        directory, dtype=dtype, activations=activations, new_head=new_head is not None, seed=new_head or 0
    )
    return _with_vocabulary(teacher, directory, tokenizer, field, vocab_size)


Model = TypeVar("Model", bound=PretrainedModel)


def _with_vocabulary(teacher: Model, directory: str, tokenizer: Tokenizer, field: str, vocab_size: int | None) -> Model:
    """A model whose tokenizer is the corpus' own, without rows of the embedding beyond `vocab_size`."""
    if not same_ids(load_tokenizer(directory), tokenizer):
        raise InputError(
            f"{field} = {directory}: its tokenizer is not the one that made the corpus; the ids would differ",
            field=field,
        )
    check_fit(tokenizer, teacher.config.vocab_size, f"{field} = {directory}")
    if vocab_size is not None and vocab_size < teacher.config.vocab_size:
        graphdef, params = split(teacher)
        teacher = merge(graphdef, sharding.cut_vocabulary(params, vocab_size))
        teacher.config = dataclasses.replace(teacher.config, vocab_size=vocab_size)
    return teacher


def _teacher_of(
    config: PretrainConfig, tokenizer: Tokenizer, dtype: jnp.dtype
) -> MaskedLM | PreTraining | EncoderModel:
    """The teacher of a run; without a masked-LM head where it has none and no term of the loss needs one.

    Raises:
        InputError: as `load_teacher`; or a term needs the head.
    """
    directory, activations, size = config.teacher, config.run.activations, config.model.vocab_size
    if config.objective != "distillation" or MaskedLM.is_whole(directory):
        return load_teacher(directory, tokenizer, "teacher", dtype, activations=activations, vocab_size=size)
    _refuse_without_head(config)
    bare = EncoderModel.from_pretrained(directory, dtype=dtype, activations=activations, add_pooling_layer=False)
    return _with_vocabulary(bare, directory, tokenizer, "teacher", size)


def _refuse_without_head(config: PretrainConfig) -> None:
    """Raise InputError where a term needs the masked-LM head that the teacher lacks."""
    directory = config.teacher
    if (one := terms.needs_head(terms.weighted_terms(config.loss))) is not None:
        option = f"--{one.field.replace('_', '-')} 0"
        raise InputError(
            f"teacher = {directory}: has no masked-LM head, which {one.field} needs: set {option}, or name a teacher that has one",
            path=directory,
            field="teacher",
            hint=option,
        )


def head_of(config: PretrainConfig) -> type[MaskedLM | PreTraining]:
    """What a run trains on top of its encoder."""
    return PreTraining if config.data.sequences == "pair" else MaskedLM


def initial_model(
    config: PretrainConfig, tokenizer: Tokenizer, counts: np.ndarray, dtype: jnp.dtype
) -> MaskedLM | PreTraining:
    """The model before step 0, as `config.init` says. counts: of each token in the corpus, int64 [V]."""
    init, head, activations = config.init, head_of(config), config.run.activations
    if not init.source:
        if init.layers is not None:
            raise InputError(
                f"init.layers = {init.layers!r}: of which model? init.source is not set",
                field="init.layers",
                hint="init.source",
            )
        family = head.of_family(config.model.model_type)
        model = family(config.model, dtype=dtype, activations=activations, rngs=nnx.Rngs(config.run.seed))
        return _with_unigram_bias(model, init, counts)
    rows = config.model.vocab_size
    source = load_teacher(
        init.source,
        tokenizer,
        "init.source",
        dtype,
        activations=activations,
        head=head,
        new_head=config.run.seed,
        vocab_size=rows,
    )
    _with_unigram_bias(source, init, counts)
    if not config.model.family.student:
        if source.config != config.model:
            raise InputError(
                f"init.source = {init.source}: not the architecture that config.model gives; {config.model.family.title} takes "
                "all or nothing",
                field="init.source",
            )
        return source
    return student_from_teacher(
        source,
        config.model,
        layers=init.layers,
        fold_token_type=init.fold_token_type,
        copy_transform=init.copy_transform,
        dtype=dtype,
        activations=activations,
        seed=config.run.seed,
    )


def _with_unigram_bias(model: MaskedLM | PreTraining, init: InitConfig, counts: np.ndarray) -> MaskedLM | PreTraining:
    """The model, whose decoder bias is set where that is asked for and the head is new: a trained bias is never all 0."""
    if init.unigram_bias and not np.any(model.head.bias[...]):
        smoothed = np.ones(model.config.vocab_size)
        smoothed[: len(counts)] += counts
        model.head.bias[...] = jnp.asarray(np.log(smoothed / smoothed.sum()), jnp.float32)
    return model


def new_projections(config: PretrainConfig, teacher: ModelConfig | None) -> Params:
    """The projections of a run's terms (`projections.draw_projections`); none without a teacher."""
    if teacher is None or config.objective != "distillation":
        return {}
    return draw_projections(terms.weighted_terms(config.loss), config.model, teacher, config.run.seed)


def optimizer_of(config: PretrainConfig) -> optax.GradientTransformation:
    return adamw(config.optimizer, config.steps, held_of(config))


def held_of(config: PretrainConfig) -> tuple[str, ...]:
    """The parameters that a run leaves as they begin."""
    return () if config.init.positions == "learned" else ("encoder.embeddings.position",)


def set_up(config: PretrainConfig, beside: Setup | None = None) -> Setup:
    """Read and check all that a run needs.

    Args:
        beside: a run that trains in the same program (`together.why_apart` allows it): its mesh, rows and teacher are this one's.

    Raises:
        InputError: for whatever does not fit.
    """
    data = config.data
    objective_table.check_objective(config)
    mesh = beside.mesh if beside else sharding.make_mesh(config.mesh)
    sharding.check_batch(data.batch_size, config.optimizer.accumulate, mesh)
    sharding.check_heads(config.model.num_attention_heads, mesh)
    if beside:
        rows, tokenizer = beside.rows, beside.tokenizer
    else:
        rows, tokenizer = corpus_rows(data.corpus, data.length, data.sequences)
    dtype = jnp.dtype(config.run.dtype)
    teacher = beside.teacher if beside else None

    def read() -> tuple[
        MaskedLM | PreTraining, MaskedLM | PreTraining | EncoderModel | None, np.ndarray, dict[str, str]
    ]:
        counts, vocabulary = rows.corpus.token_counts, rows.corpus.vocab_size
        if config.model.vocab_size < vocabulary:
            raise InputError(
                f"model.vocab_size = {config.model.vocab_size}, but the tokenizer of {data.corpus} has {vocabulary} pieces",
                field="model.vocab_size",
            )
        if config.model.vocab_size > vocabulary:
            warn_once(
                f"model.vocab_size = {config.model.vocab_size}: {config.model.vocab_size - vocabulary} rows more than the "
                f"tokenizer of {data.corpus} has pieces; they stay unused"
            )
        model = initial_model(config, tokenizer, counts, dtype)
        teacher_model = _teacher_of(config, tokenizer, dtype) if config.teacher and not teacher else None
        if teacher and config.objective == "distillation" and not MaskedLM.is_whole(config.teacher):
            _refuse_without_head(config)
        if given_teacher := teacher or teacher_model:
            _check_pair(config, given_teacher.config)
        heldout = {"data.heldout": Corpus.open(data.heldout).fingerprint} if data.heldout else {}
        return model, teacher_model, counts, heldout

    # Before anything that all processes have to do together.
    model, teacher_model, counts, heldout = distributed.on_all_processes(read)
    if config.init.positions == "sinusoidal":
        model.encoder.embeddings.position[...] = sinusoids(*model.encoder.embeddings.position.shape)
    graphdef, params = split(model)
    parameters = count(params)
    given_teacher = teacher or teacher_model
    params |= new_projections(config, given_teacher and given_teacher.config)
    fingerprints = {"data.corpus": rows.corpus.fingerprint, **heldout, "initial weights": digest(params)}
    fingerprints |= objective_table.sources(config)

    ids = special_ids(tokenizer)
    weights = log_weights(counts, (ids.pad, ids.unk, ids.cls, ids.sep, ids.mask), config.masking)
    distills = config.objective == "distillation"
    if config.loss.chunk and not (distills and terms.takes_all_logits(terms.weighted_terms(config.loss))):
        warn_once(f"loss.chunk = {config.loss.chunk} changes nothing here: no logits are of all tokens")
    if beside:
        fingerprints |= {name: value for name, value in beside.fingerprints.items() if name in _OF_TEACHER}
    if teacher_model:
        teacher_graphdef, frozen = split(teacher_model)
        fingerprints |= _of_teacher(frozen, teacher_model.config)
        frozen = sharding.pad_vocabulary(frozen)
        teacher = Teacher(
            teacher_graphdef, jax.device_put(frozen, sharding.shardings(frozen, mesh)), teacher_model.config
        )
    given = Given(graphdef, teacher and teacher.graphdef, weights, ids.mask, config, sharding.on_accelerator(mesh))
    objective = objective_of(given)
    frozen = teacher.params if teacher else {}
    if objective_table.origins(config, objective.parts):
        _try(objective, params, frozen, rows)
    optimizer = optimizer_of(config)
    state = init_state(sharding.pad_vocabulary(params), optimizer, config.run.seed, mesh)
    train_step = make_train_step(
        objective, optimizer, state, frozen, mesh, config.optimizer.accumulate, held=held_of(config)
    )
    return Setup(
        config, mesh, rows, tokenizer, graphdef, parameters, teacher, objective, state, train_step, fingerprints, given
    )


_OF_TEACHER = ("teacher", "teacher's config")


def _of_teacher(params: Params, config: ModelConfig) -> dict[str, str]:
    """Digests of a teacher: the same weights compute something else with other heads or another activation."""
    return dict(zip(_OF_TEACHER, (digest(params), architecture(config)), strict=True))


def weights_now(config: PretrainConfig, tokenizer: Tokenizer, *, teacher: bool, initial: bool) -> dict[str, str]:
    """Of `Setup.fingerprints` those of a run's teacher and of its weights before step 0, from the models that its config names, as
    they are now.

    Args:
        tokenizer: of its corpus.
        teacher, initial: which of the two are asked for; the latter needs the corpus, and the teacher where there is one.

    Raises:
        InputError: a model is damaged, or does not fit.
    """
    dtype, result, of_teacher = jnp.dtype(config.run.dtype), {}, None
    if config.teacher and (teacher or initial):
        model = _teacher_of(config, tokenizer, dtype)
        of_teacher = model.config
        result = _of_teacher(split(model)[1], model.config) if teacher else {}
    if initial:
        begun = initial_model(config, tokenizer, Corpus.open(config.data.corpus).token_counts, dtype)
        if config.init.positions == "sinusoidal":
            begun.encoder.embeddings.position[...] = sinusoids(*begun.encoder.embeddings.position.shape)
        result["initial weights"] = digest(split(begun)[1] | new_projections(config, of_teacher))
    return result


def _try(objective: Objective, params: Params, frozen: Params, rows: PackedRows) -> None:
    """Raise InputError where a user's function does not give what it promises: the shapes of a step on one row are worked out."""
    batch, keys = rows.batch(np.zeros(1, np.int64)), jax.random.split(jax.random.key(0), 1)

    def step(params: Params, frozen: Params, batch: Batch) -> tuple[Params, Metrics]:
        prepared, counts = objective.prepared(keys, batch, objective.values(jnp.int32(0)))
        return local_gradients(alone(objective), (sharding.pad_vocabulary(params),), frozen, prepared, (counts,))[0]

    jax.eval_shape(step, params, frozen, batch)


def architecture(config: ModelConfig) -> str:
    """SHA-256 of the fields by which equal weights compute something else. Of a field at its default nothing is said: one that a
    later version brings changes no digest."""
    usual = ModelConfig.of_family(config.model_type)
    silent = ("labels", "initializer_range", "hidden_dropout", "attention_dropout", "classifier_dropout", "qa_dropout")
    said = {name: value for name, value in vars(config).items() if name not in silent and value != getattr(usual, name)}
    return hashlib.sha256(json.dumps([config.model_type, said], sort_keys=True).encode()).hexdigest()


def _check_pair(config: PretrainConfig, teacher: ModelConfig) -> None:
    """Raise InputError where a teacher that is loaded is none for a run."""
    if teacher.vocab_size != config.model.vocab_size:
        raise InputError(
            f"teacher = {config.teacher}: its vocabulary has {teacher.vocab_size} entries, "
            f"model.vocab_size is {config.model.vocab_size}",
            field="teacher",
            hint=f"--model.vocab-size {teacher.vocab_size}",
        )
    check_teacher(config, teacher)


def check_teacher_at(config: PretrainConfig, directory: str) -> None:
    """`check_teacher` of an HF directory, without its weights, which lacks no head that a term needs."""
    if not MaskedLM.is_whole(directory):
        _refuse_without_head(config)
    check_teacher(config, read_config(locate(directory)))


def check_teacher(config: PretrainConfig, teacher: ModelConfig) -> None:
    """Raise InputError where a teacher of this shape cannot teach a run: it has too few positions, or what a term compares is not
    of one size. Its vocabulary is compared when it is loaded: rows of the embedding that no token has are cut off."""
    if config.objective == "distillation":
        alike = dataclasses.replace(teacher, vocab_size=config.model.vocab_size)
        terms.check_terms(terms.weighted_terms(config.loss), config.loss.chunk, config.model, alike)
    if config.data.length > teacher.max_length:
        raise InputError(
            f"data.length = {config.data.length} is beyond the teacher's {teacher.max_length} positions",
            field="data.length",
        )
