"""One pre-training run from its config: masked LM, or a student on the triple loss, on packed rows."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tokenizers import Tokenizer

from distilbert_jax.config import PretrainConfig
from distilbert_jax.config_json import to_json
from distilbert_jax.data.batches import PackedBatches, prefetch
from distilbert_jax.data.masking import log_weights
from distilbert_jax.data.packing import PackedRows, pack
from distilbert_jax.data.tokenizer import fingerprint, load_tokenizer, special_ids
from distilbert_jax.errors import InputError
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM, MaskedLM
from distilbert_jax.models.layers import sinusoids
from distilbert_jax.models.params import count, digest, merge, split
from distilbert_jax.models.student import student_from_teacher
from distilbert_jax.training import objectives, processes, rundir, sharding
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.loop import Evaluate, fit
from distilbert_jax.training.optimizer import adamw, schedule
from distilbert_jax.training.step import init_state, make_train_step

Heldout = Callable[[PretrainConfig, nnx.GraphDef, Mesh], Evaluate]


def corpus_rows(corpus: str, length: int, sequences: str) -> tuple[PackedRows, Tokenizer]:
    """The packed rows of a corpus (packed now, if they were not yet) and its tokenizer."""
    if not corpus:
        raise InputError("data.corpus is not set: name a directory made by python -m distilbert_jax.data.corpus")
    packed = functools.partial(pack, Path(corpus), length, sequences=sequences)
    processes.first(packed)  # the others find what it wrote
    return packed(), load_tokenizer(Path(corpus) / "tokenizer")


def load_teacher(
    directory: str, tokenizer: Tokenizer, field: str, dtype: jnp.dtype, *, new_head: bool = False
) -> MaskedLM:
    """A masked LM whose vocabulary is the corpus' own.

    Args:
        new_head: True: the masked-LM head may be missing, and is drawn then. A drawn head teaches nothing.

    Raises:
        InputError: its tokenizer differs from the corpus', or it has no head.
    """
    teacher = MaskedLM.from_pretrained(directory, dtype=dtype, new_head=new_head)
    if fingerprint(load_tokenizer(directory)) != fingerprint(tokenizer):
        raise InputError(
            f"{field} = {directory}: its tokenizer is not the one that made the corpus; the ids would differ"
        )
    if teacher.config.vocab_size < tokenizer.get_vocab_size():
        raise InputError(
            f"{field} = {directory}: its embedding has {teacher.config.vocab_size} rows, its tokenizer "
            f"{tokenizer.get_vocab_size()} pieces"
        )
    return teacher


def initial_model(config: PretrainConfig, tokenizer: Tokenizer, counts: np.ndarray, dtype: jnp.dtype) -> MaskedLM:
    """The model before step 0, as `config.init` says. counts: of each token in the corpus, int64 [V]."""
    init = config.init
    if not init.source:
        family = BertForMaskedLM if config.model.model_type == "bert" else DistilBertForMaskedLM
        model = family(config.model, dtype=dtype, rngs=nnx.Rngs(config.run.seed))
        if init.unigram_bias:
            smoothed = np.ones(config.model.vocab_size)
            smoothed[: len(counts)] += counts
            model.head.bias[...] = jnp.asarray(np.log(smoothed / smoothed.sum()), jnp.float32)
        return model
    source = load_teacher(init.source, tokenizer, "init.source", dtype, new_head=True)
    if config.model.model_type == "bert":
        if source.config != config.model:
            raise InputError(
                f"init.source = {init.source}: not the architecture that config.model gives; BERT takes all or nothing"
            )
        return source
    return student_from_teacher(
        source,
        config.model,
        layers=init.layers,
        fold_token_type=init.fold_token_type,
        copy_transform=init.copy_transform,
        dtype=dtype,
        seed=config.run.seed,
    )


def pretrain(config: PretrainConfig, heldout: Heldout | None = None) -> Path:
    """Run, or go on with, the pre-training that `config` describes; returns the HF directory of the result.

    Args:
        heldout: makes the evaluation on held-out text (`evaluation.mlm.heldout`), when `data.heldout` is set.

    Raises:
        InputError: before any step, for whatever does not fit.
        Interrupted, Preempted: after Ctrl-C, after SIGTERM; the same call goes on.
    """
    if not config.run.directory:
        raise InputError("run.directory is empty: name a directory for the run with --run.directory")
    directory = Path(config.run.directory)
    processes.check_same("the config", to_json(config))
    processes.first(lambda: rundir.enter(config, directory))
    with contextlib.ExitStack() as stack:
        processes.first(lambda: stack.enter_context(rundir.alone(directory)))
        if rundir.finished(directory):
            _say(f"{directory}: finished before")
        else:
            _train(config, directory, heldout)
    return directory / "model"


def _train(config: PretrainConfig, directory: Path, heldout: Heldout | None) -> None:
    run, data = config.run, config.data

    # What it takes, checked before the first step.
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(data.batch_size, config.optimizer.accumulate, mesh)
    sharding.check_heads(config.model.num_attention_heads, mesh)
    rows, tokenizer = corpus_rows(data.corpus, data.length, data.sequences)
    vocabulary, dtype = rows.corpus.vocab_size, jnp.dtype(run.dtype)
    if config.model.vocab_size < vocabulary:
        raise InputError(
            f"model.vocab_size = {config.model.vocab_size}, but the tokenizer of {data.corpus} has {vocabulary} pieces"
        )
    model = initial_model(config, tokenizer, rows.corpus.token_counts, dtype)
    if config.init.positions == "sinusoidal":
        model.encoder.embeddings.position[...] = sinusoids(*model.encoder.embeddings.position.shape)
    graphdef, params = split(model)
    fingerprints = {"data.corpus": rows.corpus.fingerprint, "initial weights": digest(params)}
    params = sharding.pad_vocabulary(params)

    # What a step minimises.
    ids = special_ids(tokenizer)
    specials = (ids.pad, ids.unk, ids.cls, ids.sep, ids.mask)
    weights = log_weights(rows.corpus.token_counts, specials, config.masking)
    frozen = {}
    if config.teacher:
        teacher = load_teacher(config.teacher, tokenizer, "teacher", dtype)
        _check_pair(config, teacher)
        guide, frozen = split(teacher)
        fingerprints["teacher"] = digest(frozen)
        frozen = sharding.pad_vocabulary(frozen)
        frozen = jax.device_put(frozen, sharding.shardings(frozen, mesh))
        objective = objectives.distillation(graphdef, guide, weights, ids.mask, config.masking, config.loss)
    else:
        objective = objectives.masked_lm(graphdef, weights, ids.mask, config.masking)
    held = () if config.init.positions == "learned" else ("encoder.embeddings.position",)
    optimizer = adamw(config.optimizer, config.steps, held)
    state = init_state(params, optimizer, run.seed, mesh)
    train_step = make_train_step(objective, optimizer, state, frozen, mesh, config.optimizer.accumulate)
    evaluate = heldout(config, graphdef, mesh) if heldout and data.heldout else None

    # Where it goes on.
    processes.first(lambda: rundir.check_inputs(directory, fingerprints))
    checkpoints = Checkpoints(directory / "checkpoints", run.keep)
    restored = checkpoints.restore(state)
    state = restored or state
    log = RunLog(directory, int(state.step), run.log_every) if processes.is_first() else None
    batches = PackedBatches(rows, data.batch_size, run.seed)
    local = sharding.local_rows(data.batch_size, mesh)

    tokens = config.steps * data.batch_size * data.length
    _say(
        f"{directory}: {type(model).__name__}, {config.model.num_hidden_layers} layers, {count(split(model)[1]):,} parameters; "
        f"{config.steps:,} steps of {data.batch_size} × {data.length} tokens = {tokens / (len(rows) * data.length):.1f} epochs"
        + (f"; goes on from step {int(state.step)}" if restored else "")
    )
    try:
        state = fit(
            state,
            train_step,
            frozen,
            lambda start, stop: (
                sharding.place(b, data.batch_size, mesh) for b in prefetch(batches, start, stop, local)
            ),
            run,
            config.steps,
            schedule(config.optimizer, config.steps),
            title=directory.name,
            log=log,
            checkpoints=checkpoints,
            evaluate=evaluate,
        )
    finally:
        checkpoints.close()
        if log:
            log.close()
    trained = sharding.cut_vocabulary(processes.whole(state.params, mesh), config.model.vocab_size)
    processes.first(lambda: merge(graphdef, trained).save_pretrained(directory / "model", tokenizer))
    _say(f"{directory / 'model'}: written; weights {digest(trained)[:16]}")


def _say(text: str) -> None:
    if processes.is_first():
        print(text)


def _check_pair(config: PretrainConfig, teacher: MaskedLM) -> None:
    if teacher.config.vocab_size != config.model.vocab_size:
        raise InputError(
            f"teacher = {config.teacher}: its vocabulary has {teacher.config.vocab_size} entries, "
            f"model.vocab_size is {config.model.vocab_size}"
        )
    if config.loss.alpha_cos and teacher.config.hidden_size != config.model.hidden_size:
        raise InputError(
            f"loss.alpha_cos = {config.loss.alpha_cos} compares hidden states, but the teacher has hidden_size "
            f"{teacher.config.hidden_size} and the model {config.model.hidden_size}: set --loss.alpha-cos 0"
        )
    if config.data.length > teacher.config.max_position_embeddings:
        raise InputError(
            f"data.length = {config.data.length} is beyond the teacher's {teacher.config.max_position_embeddings} positions"
        )
