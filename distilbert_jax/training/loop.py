"""The loop that every training run goes through: steps, logs, held-out evaluation, checkpoints, and a clean way out."""

import contextlib
import functools
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from distilbert_jax.config import RunConfig
from distilbert_jax.errors import DivergedError, Interrupted, Preempted
from distilbert_jax.models.params import Params
from distilbert_jax.training import cost, distributed
from distilbert_jax.training.logging import RunLog, StepProgress
from distilbert_jax.training.step import TrainState

Batches = Callable[[int, int], Iterator[dict[str, jax.Array]]]  # (start, stop) → the placed batches start … stop-1
Evaluate = Callable[[Params], dict[str, float]]
# One model; several of one architecture, with an axis of seeds before every other; several side by side, None of one that has left.
States = TrainState | tuple[TrainState | None, ...]
Rates = Callable[[int], Any]  # the learning rate of a step, from 0, or that of each model
Flops = Callable[[tuple[int, ...]], float]  # of a step of the models at these places


class Saves(Protocol):
    """What the state of a model is saved with: `Checkpoints`, or what adds to the state what else has to be there."""

    def save(self, step: int, state: Any, log: str = "") -> None: ...
    def wait(self) -> None: ...


StopAsked = Callable[[int], type[Interrupted] | None]  # after a step: the error to stop with, if a signal asks for it


@contextlib.contextmanager
def _stop_requests() -> Iterator[StopAsked]:
    """Tells after a step whether Ctrl-C or SIGTERM came, so that a step is never cut in the middle. A second Ctrl-C stops at once;
    SIGTERM may come again and again, since schedulers repeat it while they wait.

    Of several processes each sends itself SIGTERM at Ctrl-C, and JAX's preemption service, which listens to SIGTERM, finds a
    step that all of them stop after.
    """
    asked: list[type[Interrupted]] = []
    together = distributed.several()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield lambda step: None
        return

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT and Interrupted in asked:
            raise KeyboardInterrupt
        asked.append(Preempted if number == signal.SIGTERM else Interrupted)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)

    numbers = (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        if together:
            yield lambda step: (asked[0] if asked else Preempted) if distributed.stop_together(step) else None
        else:
            yield lambda step: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _blamed(broken: Sequence[str], origins: Mapping[str, str]) -> str:
    """Why the first step is not finite, in the loss of which users' functions have a part."""
    named = [f"{origins[name]}: its value is not finite at the first step" for name in broken if name in origins]
    # The square root of 0 and the like: finite, but without a gradient.
    return "; ".join(named) or (
        f"step 1: {', '.join(broken)} is not finite, the values of these are; look at their gradients: "
        f"{'; '.join(origins.values())}"
    )


def _is_there(state: States, place: int) -> bool:
    """Whether the model of a place trains: of several side by side one may have left."""
    return not isinstance(state, tuple) or state[place] is not None


def _of_model(state: States, place: int) -> TrainState:
    """The state of one of the models that train."""
    if isinstance(state, tuple):
        one = state[place]
        assert one is not None, "this model has left"
        return one
    return state if state.step.ndim == 0 else jax.tree.map(lambda leaves: leaves[place], state)


def _values(metrics: Any) -> dict[int, dict[str, float]]:
    """Metrics on the host, by the places of the models that they are of."""
    if isinstance(metrics, tuple):
        there = {place: one for place, one in enumerate(metrics) if one is not None}
        return {place: {name: float(value) for name, value in one.items()} for place, one in there.items()}
    columns = {name: np.atleast_1d(value) for name, value in metrics.items()}
    size = len(next(iter(columns.values())))
    return {place: {name: float(column[place]) for name, column in columns.items()} for place in range(size)}


def fit(
    state: States,
    train_step: Callable[..., tuple[Any, Any]],
    frozen: Params,
    batches: Batches,
    run: RunConfig,
    steps: int | Sequence[int],
    schedule: Rates,
    *,
    title: str,
    names: Sequence[str] = (),
    unit: str = "tokens",
    flops: Flops | float | None = None,
    profile: Path | None = None,
    logs: Sequence[RunLog] = (),
    checkpoints: Sequence[Saves] = (),
    evaluate: Sequence[Evaluate] = (),
    eval_every: Sequence[int] = (),
    diverged: dict[int, str] | None = None,
    origins: Sequence[Mapping[str, str]] = (),
    until: int | None = None,
) -> Any:
    """Train from `state.step` to `steps`, the run's last; returns the state, in the form in which it came.

    Models side by side may have a last step each (`steps` of all of them, by their places); `until` is the first of these then at
    the latest: what ends there is evaluated and logged as ended, and all are saved.

    Several models train together where they are of one architecture and stacked (`step.stack_states`: seeds), or side by side as a
    tuple of states. Of these, one that diverges is None from then on, in the state that comes back too, and `train_step` is called
    with it so; one may be None from the beginning.

    Metrics of a step are fetched while the next one runs, so that logging never waits for the device. Before a checkpoint they
    are all written: what the logs hold up to step s is there whenever the checkpoint of s is.

    Args:
        names: of the models, where there are several that are evaluated.
        unit: the total of the step ("tokens" or "examples") that the throughput counts.
        flops: of a step over all devices, or a function of the places of the models that are there; where it and the devices' peak
            are known, the log says how much of it is used.
        profile: a directory for a trace of five steps after the first five.
        logs: one of each model, up to the step in which it diverges. Left out, as `checkpoints` and `evaluate`, for runs that need
            none.
        checkpoints, evaluate: one of each model; of stacked seeds those that have diverged are saved, too.
        diverged: takes {place: why} of those of several models that diverge, by the measure of one alone: a loss or gradient of
            theirs was once not finite, whatever came after.
        origins: of each model {part of the loss: the user's file and function that it comes from}, named where it is not finite at
            the first step.
        eval_every: of each model, in the place of `run.eval_every`.
        until: where another call goes on, the step up to which this one trains.

    Raises:
        DivergedError: the loss or a gradient is not finite (of several models: when the last one diverges); the last checkpoint is
            kept.
        Interrupted, Preempted: after Ctrl-C, after SIGTERM, when the checkpoint is written.
    """
    failed = {} if diverged is None else diverged
    first = next(one for one in state if one is not None) if isinstance(state, tuple) else state
    start = int(np.ravel(first.step)[0])
    ends = () if isinstance(steps, int) else steps
    total = steps if isinstance(steps, int) else max(end for place, end in enumerate(ends) if _is_there(state, place))
    stop_at = total if until is None else until
    skipped = min(5, max(stop_at - start - 1, 0))  # the first of them compiles
    traced = range(start + skipped + 1, min(start + skipped + 5, stop_at) + 1)
    pending: tuple[int, Any] | None = None
    since = time.perf_counter()  # when the last step was done, or the work between two steps

    def state_of(place: int) -> TrainState:
        return _of_model(state, place)

    def ends_at(step: int, place: int) -> bool:
        return step == (ends[place] if ends else total)

    def is_evaluated_at(step: int, place: int) -> bool:
        every = eval_every[place] if eval_every else run.eval_every
        return ends_at(step, place) or bool(every and step % every == 0)

    def there(some: Sequence[Any]) -> list[int]:
        """The places, of those of whom there is one each, of models that train."""
        return [place for place in range(len(some)) if _is_there(state, place)]

    def settle(progress: StepProgress, *, with_state: bool = False) -> None:
        """Write the metrics of the step taken last; with_state: while its state is still there."""
        nonlocal pending, since, state
        if pending is None:
            return
        step, metrics = pending
        pending = None
        models = _values(jax.device_get(metrics))
        for place, values in models.items():
            if broken := [name for name, value in values.items() if not math.isfinite(value)]:
                first, *others = broken
                too = f", nor {', '.join(others)}" if others else ""
                why = (
                    f"step {step}: {first} is not finite{too} (batch {step - 1} of the data order): the run has diverged; what was "
                    "saved before is kept; try a lower learning rate in another run.directory"
                )
                blamed = origins[place] if origins else {}
                failed.setdefault(place, _blamed(broken, blamed) if step == 1 and blamed else why)
        sound = {place: values for place, values in models.items() if place not in failed}
        if not sound:
            raise DivergedError(next(iter(failed.values())))
        if isinstance(state, tuple):
            state = tuple(None if place in failed else one for place, one in enumerate(state))
        seconds, since = time.perf_counter() - since, time.perf_counter()
        taken = flops(tuple(models)) if callable(flops) else flops
        rates = np.atleast_1d(np.asarray(schedule(step - 1)))
        for place, values in sound.items() if logs else ():
            rate = float(rates[place % len(rates)])
            measured = {"seconds": round(seconds, 6), f"{unit}_per_second": round(values[unit] / max(seconds, 1e-9), 1)}
            if taken and (share := cost.utilisation(taken / max(seconds, 1e-9), run.dtype)) is not None:
                measured["mfu"] = share
            if isinstance(state, tuple):
                measured["together"] = len(models)
            logs[place].write(
                "train",
                step,
                {**values, "learning_rate": rate, **measured, "memory_bytes": cost.peak_memory()},
                last=ends_at(step, place),
                state=functools.partial(state_of, place) if with_state else None,
            )
        common = [name for name in next(iter(sound.values())) if all(name in values for values in sound.values())]
        means = {name: statistics.fmean(values[name] for values in sound.values()) for name in common}
        progress.advance(step, means, sum(values[unit] for values in models.values()), seconds)

    def save(progress: StepProgress, step: int) -> None:
        nonlocal since
        settle(progress)
        if len(checkpoints) > 1:  # none is ahead of another by more than the one that is being written
            for place in there(checkpoints):
                checkpoints[place].wait()
        for place in there(checkpoints):
            checkpoints[place].save(step, state_of(place), logs[place].digest if logs else "")
        since = time.perf_counter()

    with StepProgress(title, total, start, run.log_every, unit) as progress, _stop_requests() as stop_asked:
        for step, batch in enumerate(batches(start, stop_at), start=start + 1):
            if profile and step == traced.start:
                jax.profiler.start_trace(str(profile), create_perfetto_trace=True)
            state, metrics = train_step(state, frozen, batch)
            settle(progress)
            if profile and step == traced[-1]:
                jax.block_until_ready(metrics)
                jax.profiler.stop_trace()
                progress.say(
                    f"{profile}: a trace of steps {traced[0]} to {step}, for TensorBoard or https://ui.perfetto.dev"
                )
            pending = (step, metrics)
            if any(logs[place].wants_state(step, last=ends_at(step, place)) for place in there(logs)):
                settle(progress, with_state=True)
                since = time.perf_counter()
            if due := [place for place in there(evaluate) if is_evaluated_at(step, place)]:
                settle(progress)
                for place in (place for place in due if place not in failed):
                    values = evaluate[place](state_of(place).params)
                    if logs:
                        last = ends_at(step, place)
                        logs[place].write("eval", step, values, last=last, state=functools.partial(state_of, place))
                    name = names[place] if names else title
                    progress.say(f"{name} held out at {step}: " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
                since = time.perf_counter()
            if step in ends or step == total or (run.save_every and step % run.save_every == 0):
                save(progress, step)
            if step == until:
                settle(progress)  # now: afterwards nobody listens to who asks to stop while this step is waited for
            if (stop := stop_asked(step)) and step != total:
                save(progress, step)
                for one in checkpoints:
                    one.wait()
                whence = "goes on from there" if checkpoints else "begins this run anew"
                raise stop(
                    f"stopped after step {step} of {total}; the same command {whence}",
                    step=step,
                    kept=bool(checkpoints),
                )
        settle(progress)
        for one in checkpoints:
            one.wait()
    return state
