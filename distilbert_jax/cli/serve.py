"""The endpoint: `distilbert-jax serve`."""

import os
from dataclasses import dataclass
from typing import Literal

from distilbert_jax.cli.arguments import running
from distilbert_jax.config import Activations, Dtype, require
from distilbert_jax.errors import InputError


@dataclass(frozen=True)
class ServeCommand:
    """Models behind HTTP, and a page to try them on, in the forms of Hugging Face, text-embeddings-inference and OpenAI.

    Until SIGTERM or Ctrl-C; what was accepted is answered before the process ends.
    """

    # HF directories or hub ids, each as DIR or NAME=DIR; the first answers where a route names none. Without a name it is the
    # directory's, of RUN/model its parent's.
    model: tuple[str, ...]
    host: str = "127.0.0.1"  # 0.0.0.0: reachable from other machines
    port: int = 8000  # 0: any that is free
    token: str = ""  # that clients must send as `Authorization: Bearer TOKEN`; also $DISTILBERT_JAX_TOKEN, which `ps` does not show
    pooling: Literal["mean", "cls"] | None = None  # of /embed, /v1/embeddings; default: as 1_Pooling says, else mean
    batch_size: int | None = None  # rows that go through a model together; default: 8 on a CPU, 64 on an accelerator
    batch_tokens: int = 8192  # tokens of the texts that are taken from the queue at once
    # for more texts, while a batch has room; where they keep coming, up to a tenth of the time that the last batch took
    wait_ms: float = 2.0
    queue: int = 512  # texts that wait at most; beyond, clients are told to try again (429)
    max_texts: int = 32  # of a request
    max_body: int = 1 << 20  # bytes of a request
    timeout: float = 60.0  # seconds in which an answer has to be there
    grace: float = 30.0  # seconds that a shutdown waits for answers
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "queue", "max_texts", "max_body"):
            require(getattr(self, name) >= 1, self, name, "expected 1 or more")
        for name in ("timeout", "grace"):
            require(0.0 < getattr(self, name) < 1e6, self, name, "expected seconds above 0")
        require(0.0 <= self.wait_ms <= 1e4, self, "wait_ms", "expected 0 to 10000 milliseconds")

    def run(self) -> None:
        try:
            from distilbert_jax.serving.process import listen, serve
        except ModuleNotFoundError as error:
            hint = 'pip install "distilbert_jax[serve]"'
            raise InputError(f"serve needs {error.name}, which is not installed: {hint}", hint=hint) from None
        from distilbert_jax.serving.batching import Batcher
        from distilbert_jax.serving.metrics import Metrics
        from distilbert_jax.serving.models import load_models
        from distilbert_jax.serving.server import Server, Settings

        token = self.token or os.environ.get("DISTILBERT_JAX_TOKEN", "")
        if not all("!" <= sign <= "~" for sign in token):  # clients do not agree on how a header spells others
            raise InputError("--token: expected letters, digits and signs of ASCII, and no spaces", field="--token")
        listening = listen(self.host, self.port)  # before the models are read, which takes long
        models = load_models(
            self.model, dtype=self.dtype, activations=self.activations, batch_size=self.batch_size, pooling=self.pooling
        )
        settings = Settings(token, self.max_body, self.max_texts, seconds=self.timeout)
        metrics = Metrics()
        batcher = Batcher(
            batch_tokens=self.batch_tokens, wait_ms=self.wait_ms, most_waiting=self.queue, metrics=metrics
        )
        serve(Server(models, batcher, settings, metrics), listening, grace_s=self.grace)


COMMANDS = {"serve": running(ServeCommand)}
