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
from typing import Any

import jax
import numpy as np
from optax import Schedule

from distilbert_jax.config import RunConfig
from distilbert_jax.errors import DivergedError, Interrupted, Preempted
from distilbert_jax.models.params import Params
from distilbert_jax.training import cost, distributed
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.logging import RunLog, StepProgress
from distilbert_jax.training.step import TrainState

Batches = Callable[[int, int], Iterator[dict[str, jax.Array]]]  # (start, stop) → the placed batches start … stop-1
Evaluate = Callable[[Params], dict[str, float]]


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


def fit(
    state: TrainState,
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    frozen: Params,
    batches: Batches,
    run: RunConfig,
    steps: int,
    schedule: Schedule,
    *,
    title: str,
    unit: str = "tokens",
    flops: float | None = None,
    profile: Path | None = None,
    logs: Sequence[RunLog] = (),
    checkpoints: Checkpoints | None = None,
    evaluate: Evaluate | None = None,
    diverged: dict[int, str] | None = None,
    origins: Mapping[str, str] | None = None,
    until: int | None = None,
) -> TrainState:
    """Train from `state.step` to `steps`, the run's last.

    Metrics of a step are fetched while the next one runs, so that logging never waits for the device. Before a checkpoint they
    are all written: what the logs hold up to step s is there whenever the checkpoint of s is.

    Args:
        unit: the total of the step ("tokens" or "examples") that the throughput counts.
        flops: of a step over all devices; where it and the devices' peak are known, the log says how much of it is used.
        profile: a directory for a trace of five steps after the first five.
        logs: one; of stacked seeds one each, up to the step in which it diverges. Left out, as `checkpoints` and `evaluate`, for
            runs that need none.
        diverged: takes {place: why} of the stacked seeds that diverge, by the measure of one alone: a loss or gradient of theirs
            was once not finite, whatever came after.
        origins: {part of the loss: the user's file and function that it comes from}, named where it is not finite at the
            first step.
        until: where another call goes on, the step up to which this one trains.

    Raises:
        DivergedError: the loss or a gradient is not finite (of stacked seeds: when the last one diverges); the last checkpoint is
            kept.
        Interrupted, Preempted: after Ctrl-C, after SIGTERM, when the checkpoint is written.
    """
    failed = {} if diverged is None else diverged
    start = int(np.ravel(state.step)[0])
    skipped = min(5, max(steps - start - 1, 0))  # the first of them compiles
    traced = range(start + skipped + 1, min(start + skipped + 5, steps) + 1)
    pending: tuple[int, dict[str, jax.Array]] | None = None
    since = time.perf_counter()  # when the last step was done, or the work between two steps

    def state_of(place: int) -> TrainState:
        return state if state.step.ndim == 0 else jax.tree.map(lambda leaves: leaves[place], state)

    def settle(progress: StepProgress, *, with_state: bool = False) -> None:
        """Write the metrics of the step taken last; with_state: while its state is still there."""
        nonlocal pending, since
        if pending is None:
            return
        step, metrics = pending
        pending = None
        columns = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        seeds = [{name: float(column[i]) for name, column in columns.items()} for i in range(len(columns[unit]))]
        for place, values in enumerate(seeds):
            if broken := [name for name, value in values.items() if not math.isfinite(value)]:
                first, *others = broken
                too = f", nor {', '.join(others)}" if others else ""
                why = (
                    f"step {step}: {first} is not finite{too} (batch {step - 1} of the data order): the run has diverged; what was "
                    "saved before is kept; try a lower learning rate in another run.directory"
                )
                failed.setdefault(place, _blamed(broken, origins or {}) if step == 1 and origins else why)
        if len(failed) == len(seeds):
            raise DivergedError(next(iter(failed.values())))
        sound = {place: values for place, values in enumerate(seeds) if place not in failed}
        seconds, since = time.perf_counter() - since, time.perf_counter()
        for place, values in sound.items() if logs else ():
            rate = float(np.asarray(schedule(step - 1)))
            measured = {"seconds": round(seconds, 6), f"{unit}_per_second": round(values[unit] / max(seconds, 1e-9), 1)}
            if flops and (share := cost.utilisation(flops / max(seconds, 1e-9), run.dtype)) is not None:
                measured["mfu"] = share
            logs[place].write(
                "train",
                step,
                {**values, "learning_rate": rate, **measured, "memory_bytes": cost.peak_memory()},
                last=step == steps,
                state=functools.partial(state_of, place) if with_state else None,
            )
        means = {name: statistics.fmean(values[name] for values in sound.values()) for name in columns}
        progress.advance(step, means, float(columns[unit].sum()), seconds)

    def save(progress: StepProgress, step: int) -> None:
        nonlocal since
        settle(progress)
        if checkpoints:
            checkpoints.save(step, state, logs[0].digest if logs else "")
        since = time.perf_counter()

    with StepProgress(title, steps, start, run.log_every, unit) as progress, _stop_requests() as stop_asked:
        for step, batch in enumerate(batches(start, until or steps), start=start + 1):
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
            last = step == steps
            if any(log.wants_state(step, last=last) for log in logs):
                settle(progress, with_state=True)
                since = time.perf_counter()
            if evaluate and (last or (run.eval_every and step % run.eval_every == 0)):
                settle(progress)
                values = evaluate(state.params)
                for place, log in enumerate(logs):
                    log.write("eval", step, values, last=last, state=functools.partial(state_of, place))
                since = time.perf_counter()
                progress.say(f"{title} held out at {step}: " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
            if last or step % run.save_every == 0:
                save(progress, step)
            if (stop := stop_asked(step)) and not last:
                save(progress, step)
                if checkpoints:
                    checkpoints.wait()
                whence = "goes on from there" if checkpoints else "begins this run anew"
                raise stop(
                    f"stopped after step {step} of {steps}; the same command {whence}",
                    step=step,
                    kept=bool(checkpoints),
                )
        settle(progress)
        if checkpoints:
            checkpoints.wait()
    return state
