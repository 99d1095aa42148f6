"""One pre-training run from its config: masked LM, or a student on the triple loss, on packed rows."""

import contextlib
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
from tokenizers import Tokenizer

from distilbert_jax.base.config_io import to_json
from distilbert_jax.base.hub import write_directory
from distilbert_jax.config import PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models.layers import dropout_bits
from distilbert_jax.models.params import count, digest, merge
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.evaluate import heldout
from distilbert_jax.pretraining.objective_table import check_objective, sources
from distilbert_jax.pretraining.setup import Setup, head_of, set_up
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training import callbacks, cost, distributed, run_directory, sharding
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.logging import RunLog, read_metrics
from distilbert_jax.training.loop import fit
from distilbert_jax.training.optimizer import schedule
from distilbert_jax.training.projections import of_model


def pretrain(config: PretrainConfig, *, profile: bool = False) -> Path:
    """Run, or go on with, the pre-training that `config` describes; returns the HF directory of the result.

    Args:
        profile: write a trace of a few steps to <run>/profile, for TensorBoard or Perfetto.

    Raises:
        InputError: before any step, for whatever does not fit.
        Interrupted, Preempted: after Ctrl-C, after SIGTERM; the same call goes on.
    """
    if not config.run.directory:
        raise InputError(
            "run.directory is empty: name a directory for the run with --run.directory", field="run.directory"
        )
    directory = Path(config.run.directory)
    check_objective(config)
    callbacks.check_callbacks(config.run, several=distributed.several())
    distributed.check_same("the config", to_json(config))
    with contextlib.ExitStack() as stack:
        # First the lock: what is refused must not write its config into another process' run.
        distributed.on_main_process(lambda: stack.enter_context(run_directory.alone(directory)))
        distributed.on_main_process(lambda: run_directory.enter(config, directory))
        if run_directory.finished(directory):
            distributed.on_main_process(lambda: _check_finished(config, directory))
            _say(f"{directory}: finished before" + ("; there is no step left to trace" if profile else ""))
        else:
            _train(set_up(config), directory, directory / "profile" if profile else None)
    return directory / "model"


def _check_finished(config: PretrainConfig, directory: Path) -> None:
    """Raise InputError unless the corpora, as far as they are there, and what users' files bring are those that a run has read, and
    its model can be loaded."""
    named = {"data.corpus": config.data.corpus, "data.heldout": config.data.heldout}
    there = {name: place for name, place in named.items() if place and (Path(place) / "manifest.json").is_file()}
    corpora = {name: Corpus.open(place).fingerprint for name, place in there.items()}
    run_directory.check_inputs(directory, corpora | sources(config))
    model = directory / "model"
    try:
        run_directory.check_outputs(directory, "model/", whole=True)
        head_of(config).from_pretrained(model, new_head=False)
        load_tokenizer(model)
    except InputError as error:
        raise InputError(
            f"{error}: remove the directory {model}, and the same command writes it again from the last checkpoint"
        ) from None
    run_directory.check_log(directory)


def _train(setup: Setup, directory: Path, profile: Path | None) -> None:
    config, run = setup.config, setup.config.run
    evaluate = heldout(setup) if config.data.heldout else None
    bits = dropout_bits(config.model.hidden_dropout, config.model.attention_dropout)
    distributed.on_main_process(lambda: run_directory.check_inputs(directory, setup.fingerprints, dropout=bits))
    identity = run_directory.identity(directory)
    checkpoints = Checkpoints(directory / "checkpoints", run.keep, run=identity)
    restored = checkpoints.restore(setup.state)
    state = restored or setup.state
    logs: list[RunLog] = []  # none in the other processes
    begun = int(state.step)
    if begun < config.steps:
        distributed.on_main_process(lambda: run_directory.check_dropout(directory, bits))
    known = checkpoints.log_digest(begun)
    if not known and begun == config.steps:  # of an earlier version, which recorded it when the run had ended
        distributed.on_main_process(lambda: run_directory.check_output(directory, run_directory.METRICS))
    callbacks_of = lambda: callbacks.callbacks_of(run, directory, begun)
    distributed.on_main_process(
        lambda: logs.append(RunLog(directory, begun, run.log_every, callbacks_of(), known=known))
    )
    tokens = config.steps * config.data.batch_size * config.data.length
    _say(
        f"{directory}: {config.model.model_type}, {config.model.num_hidden_layers} layers, {setup.parameters:,} parameters; "
        f"{config.steps:,} steps of {config.data.batch_size} × {config.data.length} tokens = "
        f"{tokens / (len(setup.rows) * config.data.length):.1f} epochs"
        + (f"; goes on from step {int(state.step)}" if restored else "")
    )
    try:
        state = fit(
            state,
            setup.train_step,
            setup.frozen,
            setup.batches,
            run,
            config.steps,
            schedule(config.optimizer, config.steps),
            title=directory.name,
            flops=setup.step_flops,
            logs=logs,
            checkpoints=checkpoints,
            evaluate=evaluate,
            profile=profile,
            origins=setup.origins,
        )
    finally:
        checkpoints.close()
        for log in logs:
            log.close()
    whole = distributed.whole(of_model(state.params), setup.mesh)
    trained = sharding.cut_vocabulary(whole, config.model.vocab_size)
    distributed.on_main_process(lambda: _save(merge(setup.graphdef, trained), setup.tokenizer, directory))
    _say(f"{directory / 'model'}: written; weights {digest(trained)[:16]}")
    distributed.on_main_process(lambda: _warn_if_worse(directory))


def _save(model: PretrainedModel, tokenizer: Tokenizer, directory: Path) -> None:
    """Write a run's model. Its digests are there before it takes its name: what is there later is known to be it, or not."""

    def write(partial: Path) -> None:
        model.save_pretrained(partial, tokenizer)
        run_directory.record_outputs(directory, {"model": partial})

    write_directory(directory / "model", write)


def _warn_if_worse(directory: Path) -> None:
    """Say so when a run ends above the loss that it began with, by more than batches differ: finite, but nothing was learned."""
    losses = [entry.values["loss"] for entry in read_metrics(directory / "metrics.jsonl") if entry.kind == "train"]
    some = max(len(losses) // 20, 1)
    if len(losses) < 20:
        return
    if (last := statistics.fmean(losses[-some:])) > 1.05 * (first := statistics.fmean(losses[:some])):
        print(
            f"{directory}: the loss of the last steps, {last:.4g}, is above that of the first, {first:.4g}: the run has "
            "diverged; try a lower learning rate",
            file=sys.stderr,
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take."""

    parameters: int
    teacher_parameters: int  # 0 without one
    flops_per_token: float
    tokens: int  # of the whole run
    epochs: float
    memory_bytes: int  # of the step, on each device
    memory_limit: int | None  # what the device has; None where it does not say
    seconds_per_step: float  # median
    tokens_per_second: float
    mfu: float | None  # share of the devices' peak, 0 … 1; None where the peak is not known
    hours: float


def dry_run(config: PretrainConfig, *, warmup: int = 2, measured: int = 10) -> Estimate:
    """What a run will take, from its compiled step and a few measured ones. Nothing of the run is written.

    Raises:
        InputError: for whatever does not fit.
    """
    setup = set_up(config)
    teacher = setup.teacher
    state, seconds = setup.state, []
    batches = setup.batches(0, warmup + measured)
    first = next(batches)
    step = setup.train_step.lower(state, setup.frozen, first).compile()
    for batch in (first, *batches):
        begun = time.perf_counter()
        state, metrics = step(state, setup.frozen, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds[warmup:])
    tokens = config.data.batch_size * config.data.length
    teacher_params = sharding.cut_vocabulary(teacher.params, teacher.config.vocab_size) if teacher else {}
    memory_bytes, memory_limit = cost.memory(step)
    return Estimate(
        parameters=setup.parameters,
        teacher_parameters=count(teacher_params),
        flops_per_token=setup.step_flops / tokens,
        tokens=config.steps * tokens,
        epochs=config.steps * config.data.batch_size / len(setup.rows),
        memory_bytes=memory_bytes,
        memory_limit=memory_limit,
        seconds_per_step=median,
        tokens_per_second=tokens / median,
        mfu=cost.utilisation(setup.step_flops / median, config.run.dtype),
        hours=config.steps * median / 3600,
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def estimate(taken: Estimate) -> str:
    """What `dry_run` says a run takes, as lines."""
    teacher = f", its teacher {taken.teacher_parameters:,}" if taken.teacher_parameters else ""
    limit = f" of {taken.memory_limit / 1e9:.1f}" if taken.memory_limit else ""
    share = f", {taken.mfu:.1%} of the devices' peak" if taken.mfu is not None else ""
    return (
        f"parameters          {taken.parameters:,}{teacher}\n"
        f"FLOPs a token       {taken.flops_per_token:.3g}\n"
        f"tokens              {taken.tokens:,}, {taken.epochs:.1f} epochs\n"
        f"memory of a device  {taken.memory_bytes / 1e9:.2f}{limit} GB for the step\n"
        f"speed               {taken.tokens_per_second:,.0f} tokens/s{share}\n"
        f"time                {taken.seconds_per_step:.3f} s a step, {_duration(taken.hours)} in all"
    )


def _say(text: str) -> None:
    if distributed.is_main_process():
        print(text)
