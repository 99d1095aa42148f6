"""Batches of what waits: texts of many requests that go through a model together, in one thread that computes."""

import asyncio
import collections
import concurrent.futures
import sys
import threading
import time
import traceback
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from distilbert_jax.errors import InputError, counted, said
from distilbert_jax.serving.metrics import Metrics
from distilbert_jax.serving.requests import RequestError, of_input


class Work(Protocol):
    """What can be computed: a task of a model."""

    def together(self, options: Any) -> Hashable:
        """Texts of equal values go together; others wait for a call of their own."""
        ...

    def run(self, texts: Sequence[Any], options: Sequence[Any]) -> Sequence[Any]:
        """The result of each text with its options."""
        ...


@dataclass
class _Job:
    """One text that waits for its result."""

    work: Work
    text: Any
    options: Any
    tokens: int
    future: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)

    @property
    def key(self) -> Hashable:
        return id(self.work), self.work.together(self.options)


class Batcher:
    """A bounded queue of texts, and the thread that takes batches from it.

    A batch is of one task and of options that go together. It begins with what has waited longest, and takes what else waits, in
    order, up to `batch_tokens`; while there is room it waits `wait_ms` for more. Clients that were answered together ask together,
    but one after the other: as long as texts keep coming, with less than a hundredth of the time between them that the last batch
    took, it waits on, up to a tenth of that time. What raises takes no others with it: its batch is computed once more, text by
    text.

    Args:
        batch_tokens: tokens of a batch at most; a longer text is a batch of its own.
        wait_ms: milliseconds.
        most_waiting: texts in the queue at most.

    Attributes:
        batch_tokens, most_waiting: as they were given.
    """

    def __init__(self, *, batch_tokens: int, wait_ms: float, most_waiting: int, metrics: Metrics | None = None):
        self.batch_tokens, self.most_waiting, self._wait = batch_tokens, most_waiting, wait_ms / 1000.0
        self._metrics = metrics or Metrics()
        self._jobs: collections.deque[_Job] = collections.deque()
        self._change, self._open, self._took = threading.Condition(), True, 0.0
        self._thread = threading.Thread(target=self._compute, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._jobs)

    async def submit(self, work: Work, texts: Sequence[Any], options: Any, tokens: Sequence[int]) -> list[Any]:
        """The results of texts, in order. Cancelled, those that no batch has taken are dropped.

        Args:
            tokens: of each text.

        Raises:
            RequestError: 429, the queue is full; 422, the pipeline refuses a text; 500, it failed; 503, the server is leaving.
        """
        jobs = [_Job(work, text, options, count) for text, count in zip(texts, tokens, strict=True)]
        with self._change:
            if not self._open:
                raise RequestError(503, "the server is shutting down", retry_after=5)
            if len(self._jobs) + len(jobs) > self.most_waiting:
                waiting = counted(len(self._jobs), "text")
                raise RequestError(
                    429, f"{waiting} are waiting, and there is no room for more; try again", retry_after=1
                )
            self._jobs.extend(jobs)
            self._metrics.waiting.set(len(self._jobs))
            self._change.notify()
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs)))
        finally:
            for job in jobs:
                job.future.cancel()

    def close(self) -> None:
        """Compute what waits, then end the thread; nothing more is taken."""
        with self._change:
            self._open = False
            self._change.notify()
        self._thread.join()

    def _compute(self) -> None:
        while batch := self._next():
            self._metrics.batch_texts.observe(len(batch))
            self._metrics.batch_tokens.observe(sum(job.tokens for job in batch))
            begun = time.monotonic()
            self._answer(batch)
            self._took = time.monotonic() - begun

    def _next(self) -> list[_Job]:
        """The next batch; empty: there is none, and there will be none."""
        with self._change:
            while not self._jobs:
                if not self._open:
                    return []
                self._change.wait()
            first, begun = self._jobs[0], time.monotonic()
            pause, longest = (max(self._wait, self._took * share) for share in (0.01, 0.1))
            until = begun + pause
            while self._open and (left := until - time.monotonic()) > 0 and not self._is_full(first):
                waiting = len(self._jobs)
                self._change.wait(left)
                if len(self._jobs) > waiting:
                    until = min(time.monotonic() + pause, begun + longest)
            batch, others, room = [], [], self.batch_tokens
            for job in self._jobs:
                if job.future.cancelled():
                    continue
                if job.key == first.key and (not batch or job.tokens <= room):
                    batch.append(job)
                    room -= job.tokens
                else:
                    others.append(job)
            self._jobs = collections.deque(others)
            self._metrics.waiting.set(len(self._jobs))
            # From here on a client that leaves changes nothing.
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
        return batch or self._next()

    def _is_full(self, first: _Job) -> bool:
        return sum(job.tokens for job in self._jobs if job.key == first.key) >= self.batch_tokens

    def _answer(self, batch: list[_Job]) -> None:
        """Give each job of a batch its result or its error."""
        try:
            results = batch[0].work.run([job.text for job in batch], [job.options for job in batch])
        except BaseException as error:
            if len(batch) > 1:
                for job in batch:
                    self._answer([job])
                return
            batch[0].future.set_exception(_refusal(error))
            return
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(result)


def _refusal(error: BaseException) -> RequestError:
    if isinstance(error, InputError):
        return of_input(error)
    if not isinstance(error, RequestError):
        print(f"error: {said(error)}", file=sys.stderr)
        traceback.print_exception(error, file=sys.stderr)
        return RequestError(500, "the model failed on this text; the server's log says more")
    return error
