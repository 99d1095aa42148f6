"""A server: its models, the queue before them, what it allows and counts, and how it writes an answer."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
from starlette.responses import Response

from distilbert_jax.errors import nearest
from distilbert_jax.serving.batching import Batcher
from distilbert_jax.serving.metrics import Metrics
from distilbert_jax.serving.models import Served
from distilbert_jax.serving.requests import RequestError
from distilbert_jax.serving.tasks import Asked, Task

HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
_LARGE = 1 << 16  # numbers of an answer that are written in a thread of their own


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    Attributes:
        token: that requests must carry as `Authorization: Bearer …`; "": none.
        max_body: bytes of a request's body.
        max_texts: texts of a request.
        body_seconds: in which a body has to come.
        seconds: in which an answer has to be there.
    """

    token: str = ""
    max_body: int = 1 << 20
    max_texts: int = 32
    body_seconds: float = 10.0
    seconds: float = 60.0


@dataclass
class Server:
    """Models, the queue before them, and what is counted.

    Attributes:
        ready: whether the models are warm: until then requests are answered with 503.
    """

    models: Mapping[str, Served]
    batcher: Batcher
    settings: Settings = field(default_factory=Settings)
    metrics: Metrics = field(default_factory=Metrics)
    ready: bool = False

    @property
    def first(self) -> Served:
        """The model that routes without a name ask."""
        return next(iter(self.models.values()))

    def model(self, name: str) -> Served:
        """The model of a name.

        Raises:
            RequestError: 404, there is none.
        """
        if name not in self.models:
            raise RequestError(404, f"no model {name!r}; {nearest(name, self.models)}", field="model")
        return self.models[name]

    async def results(self, model: Served, task: Task, asked: Asked) -> list[Any]:
        """What a task makes of the texts of a request.

        Raises:
            RequestError: 503, the server is not ready; 504, it took too long; or as `Batcher.submit`.
        """
        if not self.ready:
            raise RequestError(503, "the models are being prepared; try again in a moment", retry_after=2)
        self.metrics.texts.labels(model.name, task.name).inc(len(asked.texts))
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await self.batcher.submit(task, asked.texts, asked.options, asked.tokens)
        except TimeoutError:
            raise RequestError(504, f"no answer within {self.settings.seconds:g} s; try again", retry_after=5) from None


async def answered(answer: Any, asked: Asked) -> Response:
    """JSON; a header says how many texts were cut."""
    headers = {**HEADERS, **({"x-truncated-texts": str(asked.cut)} if asked.cut else {})}
    content = await anyio.to_thread.run_sync(_dumped, answer) if _size(answer) > _LARGE else _dumped(answer)
    return Response(content, media_type="application/json", headers=headers)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _size(value: Any) -> int:
    """About as many values as an answer has."""
    return len(value) * _size(value[0]) if isinstance(value, list) and value else 1
