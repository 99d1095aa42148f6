"""Pre-training runs from their configs: masked LM, or students of a teacher, alone or side by side, on packed rows."""

import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from distilbert_jax.base.config_io import to_json
from distilbert_jax.base.hub import CARD, write_directory
from distilbert_jax.config import PretrainConfig
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.models.hf_format import fingerprint, has_weights
from distilbert_jax.models.layers import dropout_bits
from distilbert_jax.models.params import count, digest, merge
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.evaluate import heldout
from distilbert_jax.pretraining.model_card import write_run_card
from distilbert_jax.pretraining.objective_table import check_objective, sources
from distilbert_jax.pretraining.setup import Setup, head_of, set_up, weights_now
from distilbert_jax.pretraining.together import StepTogether, parties, why_apart
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training import callbacks, cost, distributed, run_directory, sharding
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.jax_options import check_jax_options
from distilbert_jax.training.logging import RunLog, read_metrics
from distilbert_jax.training.loop import Evaluate, fit
from distilbert_jax.training.optimizer import schedule
from distilbert_jax.training.projections import of_model
from distilbert_jax.training.step import TrainState


def pretrain(config: PretrainConfig, *, profile: bool = False) -> Path:
    """Run, or go on with, the pre-training that `config` describes; returns the HF directory of the result.

    Args:
        profile: write a trace of a few steps to <run>/profile, for TensorBoard or Perfetto.

    Raises:
        InputError: before any step, for whatever does not fit.
        DivergedError: the loss or a gradient is not finite.
        Interrupted, Preempted: after Ctrl-C, after SIGTERM; the same call goes on.
    """
    return pretrain_together([config], profile=profile)[0]


def pretrain_together(configs: Sequence[PretrainConfig], *, profile: bool = False) -> list[Path]:
    """`pretrain` of several students side by side: in one program, in which their teacher is asked once. Each run is what it is
    alone; what has ended is found. Runs that have come too far apart for one program are trained in turn, which is said.

    Raises:
        InputError, Interrupted, Preempted: as there; or two cannot train side by side (`together.why_apart`).
        DivergedError: of one of them; the others have ended first.
    """
    for other in configs[1:]:
        if why := why_apart(configs[0], other):
            raise InputError(
                f"{configs[0].run.directory} and {other.run.directory} cannot train side by side: {why}",
                field=why.partition(": ")[0],
            )
    check_jax_options([config.run for config in configs])
    for config in configs:
        if not config.run.directory:
            raise InputError(
                "run.directory is empty: name a directory for the run with --run.directory", field="run.directory"
            )
        check_objective(config)
        callbacks.check_callbacks(config.run, several=distributed.several())
        distributed.check_same("the config", to_json(config))
    directories = [Path(config.run.directory) for config in configs]
    left: list[PretrainConfig] = []
    with contextlib.ExitStack() as stack:
        for config, directory in zip(configs, directories, strict=True):
            _enter(config, directory, stack)
            if run_directory.finished(directory):
                distributed.on_main_process(functools.partial(check_finished, config, directory))
                distributed.on_main_process(functools.partial(_add_card, config, directory))
                _say(f"{directory}: finished before" + ("; there is no step left to trace" if profile else ""))
            else:
                left.append(config)
        _train_all(left, profile=profile)
    return [directory / "model" for directory in directories]


def _add_card(config: PretrainConfig, directory: Path) -> None:
    """Write the card of a run that has ended where there is none: an earlier version wrote none, and one may be removed."""
    if not (directory / "model" / CARD).exists():
        write_run_card(config, directory, directory / "model")


def _enter(config: PretrainConfig, directory: Path, stack: contextlib.ExitStack) -> None:
    # First the lock: what is refused must not write its config into another process' run.
    distributed.on_main_process(lambda: stack.enter_context(run_directory.alone(directory)))
    distributed.on_main_process(lambda: run_directory.enter(config, directory))


def _train_all(configs: Sequence[PretrainConfig], *, profile: bool) -> None:
    """Train the runs that have not ended, side by side as far as they can."""
    places = [Path(config.run.directory) / "checkpoints" for config in configs]
    groups = parties(places) if len(configs) > 1 else [([0], None)] if configs else []
    if len(groups) > 1:
        _say(f"{_names(configs)}: have come too far apart to go on in one program, and train in turn")
    failed: dict[str, str] = {}
    for group, step in groups:
        failed |= _train([configs[place] for place in group], step if len(group) > 1 else None, profile=profile)
    if failed:
        raise DivergedError("; ".join(failed.values()))


def _names(configs: Sequence[PretrainConfig]) -> str:
    return ", ".join(Path(config.run.directory).name for config in configs)


def check_finished(config: PretrainConfig, directory: Path) -> None:
    """Raise InputError unless a run that has ended is of this config, what it has read is as it was, and its model can be loaded.

    Of a corpus, a teacher or a start model that is gone nothing is asked: many remove them to save space, and the run has ended.
    """
    run_directory.check_config(config, directory)
    named = {"data.corpus": config.data.corpus, "data.heldout": config.data.heldout}
    there = {name: place for name, place in named.items() if place and (Path(place) / "manifest.json").is_file()}
    corpora = {name: Corpus.open(place).fingerprint for name, place in there.items()}
    run_directory.check_inputs(directory, corpora | sources(config))
    files = _files(config)
    if changed := [
        name for name, value in files.items() if value != run_directory.recorded_inputs(directory).get(name)
    ]:
        _check_weights(config, directory, changed, with_corpus="data.corpus" in corpora)
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


_FILES = {"teacher": "teacher's files", "init.source": "init.source's files"}  # in inputs.json


def _files(config: PretrainConfig) -> dict[str, str]:
    """Fingerprints of the directories that a run's teacher and its start model come from, as far as they are there. Of a model on
    the hub nothing is said: to ask there would need a network, for a run that has ended."""
    named = {"teacher": config.teacher, "init.source": config.init.source}
    there = {name: Path(place).expanduser() for name, place in named.items() if place}
    return {_FILES[name]: fingerprint(place) for name, place in there.items() if has_weights(place)}


def _check_weights(config: PretrainConfig, directory: Path, changed: Sequence[str], *, with_corpus: bool) -> None:
    """Raise InputError where a run that has ended had another teacher, or began with other weights, than are there now.

    Args:
        changed: of `_files`, those that are not as the run has recorded them: perhaps of the same weights, or it recorded none.
        with_corpus: its corpus is there.
    """
    files, recorded = _files(config), run_directory.recorded_inputs(directory)
    source, teacher = _FILES["init.source"], _FILES["teacher"]
    initial = source in changed and with_corpus and (not config.teacher or teacher in files)
    tokenizer = load_tokenizer(directory / "model")  # the corpus' own, which may be gone
    now = weights_now(config, tokenizer, teacher=teacher in changed, initial=initial)
    if (
        source in changed and not initial
    ):  # what it began with cannot be made again: the files decide, where they are known
        files = {name: value for name, value in files.items() if name != source or name in recorded}
        now |= {name: value for name, value in files.items() if name == source}
    run_directory.check_inputs(directory, now, files=files)


@dataclass(frozen=True)
class _Begun:
    """A run at the step that it goes on from; `logs`: one, none in the processes beside the main one."""

    setup: Setup
    directory: Path
    state: TrainState
    checkpoints: Checkpoints
    logs: list[RunLog]
    evaluate: Evaluate | None

    def close(self) -> None:
        self.checkpoints.close()
        for log in self.logs:
            log.close()


def _begin(setup: Setup, last: int | None, *, keep: int) -> _Begun:
    """Check a run's directory against what it reads, restore it and open its log. last: later checkpoints are given up."""
    config, run, directory = setup.config, setup.config.run, Path(setup.config.run.directory)
    evaluate = heldout(setup) if config.data.heldout else None
    bits = dropout_bits(config.model.hidden_dropout, config.model.attention_dropout)
    distributed.on_main_process(
        lambda: run_directory.check_inputs(directory, setup.fingerprints, dropout=bits, files=_files(config))
    )
    checkpoints = Checkpoints(directory / "checkpoints", keep, run=run_directory.identity(directory))
    restored = checkpoints.restore(setup.state, last)
    state = restored or setup.state
    logs: list[RunLog] = []
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
        + (f"; goes on from step {begun}" if restored else "")
    )
    return _Begun(setup, directory, state, checkpoints, logs, evaluate)


def _train(configs: Sequence[PretrainConfig], last: int | None, *, profile: bool) -> dict[str, str]:
    """Train one run, or several side by side, each to its own end, where its model is written and the others go on without it.
    Returns why those diverged that did, by their directories.

    Args:
        last: the step that all go on from; None: the newest of the one run.
    """
    setups: list[Setup] = []
    for config in configs:
        setups.append(set_up(config, setups[0] if setups else None))
    first, several = setups[0], len(setups) > 1
    ends = [config.steps for config in configs]
    begun: dict[int, _Begun] = {}  # those that have not ended, by their places
    failed: dict[int, str] = {}
    try:
        # Of two checkpoints each, one is of the same step in all of them, whenever they are killed.
        for place, setup in enumerate(setups):
            begun[place] = _begin(setup, last, keep=max(setup.config.run.keep, 1 + several))
        runs = [*begun.values()]
        if several:
            _say(f"{_names(configs)}: side by side, their teacher is asked once")
        rates = [schedule(config.optimizer, config.steps) for config in configs]
        together = StepTogether(setups) if several else None
        state: Any = tuple(one.state for one in runs) if several else runs[0].state
        for stop in sorted(set(ends)):
            if not (there := [place for place in begun if place not in failed]):
                break
            begin = int((state[there[0]] if several else state).step)
            state = fit(
                state,
                together or first.train_step,
                first.frozen,
                first.batches,
                first.config.run,
                ends if several else stop,
                (lambda step: [np.asarray(rate(step)) for rate in rates]) if several else rates[0],
                title=_names([configs[place] for place in there]),
                names=[one.directory.name for one in runs],
                flops=together.flops if together else first.step_flops,
                logs=[log for one in runs for log in one.logs],
                checkpoints=[one.checkpoints for one in runs],
                evaluate=[one.evaluate for one in runs if one.evaluate],
                eval_every=[config.run.eval_every for config in configs],
                profile=Path(first.config.run.directory) / "profile" if profile and begin < stop else None,
                diverged=failed,
                origins=[setup.origins for setup in setups],
                until=stop,
            )
            profile = profile and begin == stop
            ended = [place for place in begun if ends[place] == stop and place not in failed]
            for place in ended:
                one = begun.pop(place)
                one.close()
                _finish(one, state[place] if several else state)
            if several:
                state = tuple(None if place in ended else one for place, one in enumerate(state))
    except DivergedError:
        pass  # of the last ones that were left: each has its reason in `failed`
    finally:
        for one in begun.values():
            one.close()
    return {configs[place].run.directory: f"{configs[place].run.directory}: {why}" for place, why in failed.items()}


def _finish(run: _Begun, state: TrainState) -> None:
    """Write the model of a run whose steps are all taken."""
    setup, directory = run.setup, run.directory
    whole = distributed.whole(of_model(state.params), setup.mesh)
    trained = sharding.cut_vocabulary(whole, setup.config.model.vocab_size)
    distributed.on_main_process(lambda: _save(merge(setup.graphdef, trained), setup))
    _say(f"{directory / 'model'}: written; weights {digest(trained)[:16]}")
    distributed.on_main_process(lambda: _warn_if_worse(directory))


def _save(model: PretrainedModel, setup: Setup) -> None:
    """Write a run's model. Its digests are there before it takes its name: what is there later is known to be it, or not."""
    directory = Path(setup.config.run.directory)

    def write(partial: Path) -> None:
        model.save_pretrained(partial, setup.tokenizer)
        write_run_card(setup.config, directory, partial, replaced=directory / "model")
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
