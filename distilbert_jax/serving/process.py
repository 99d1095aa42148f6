"""The process of a server: its socket, the models warm before it says that it is ready, and an end that loses no answer."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import uvicorn

from distilbert_jax.errors import InputError, Interrupted, said
from distilbert_jax.serving.app import make_app
from distilbert_jax.serving.models import Served
from distilbert_jax.serving.server import Server

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any that is free.

    Raises:
        InputError: the port is taken or not allowed, or there is no such address here.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        why = error.strerror or error if isinstance(error, OSError) else "ports are numbers from 0 to 65535"
        hint = "--port 0 takes any that is free"
        raise InputError(f"--host {host} --port {port}: {why}; {hint}", field="--port", hint=hint) from None


def warm_up(models: Mapping[str, Served], say: Callable[[str], None], go_on: Callable[[], bool] = lambda: True) -> None:
    """Compile what requests of any length need, for the own task of each model; others compile when they are asked first.

    go_on: asked before each program, whether there is still somebody to be ready for.
    """
    for model in models.values():
        begun, usual = time.perf_counter(), model.own.usual_options()
        for texts in model.own.warm_texts():
            if not go_on():
                return
            model.own.run(texts, [usual] * len(texts))
        say(f"{model.name}: {model.own.name} is ready after {time.perf_counter() - begun:.1f} s")


def serve(server: Server, listening: socket.socket, *, grace_s: float = 30.0, most_connections: int = 1024) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then take no more, and answer those that were accepted.

    Args:
        grace_s: seconds after which even these are given up.
        most_connections: beyond them a request is answered with 503.
    """

    address = listening.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    where = f"http://{host}:{address[1]}/"

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        leaving = threading.Event()
        warming = asyncio.get_running_loop().run_in_executor(None, _warm, server, where, leaving)
        yield
        leaving.set()
        await warming
        await asyncio.get_running_loop().run_in_executor(None, server.batcher.close)

    config = uvicorn.Config(
        make_app(server, lifespan=lifespan),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(grace_s),
        limit_concurrency=most_connections,
        backlog=_BACKLOG,
    )
    answering = _Leaving(config)
    with _signals_end(answering):
        print(f"{where}  {', '.join(server.models)}: being prepared", flush=True)
        if not ipaddress.ip_address(address[0]).is_loopback and not server.settings.token:
            print(f"anyone who reaches {host} is answered: --token keeps others out", file=sys.stderr)
        answering.run(sockets=[listening])


class _Leaving(uvicorn.Server):
    """A server that a second Ctrl-C ends at once; uvicorn would break off what is under way, with a traceback."""

    answers = False  # its loop runs, and a signal is none that uvicorn sends itself

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            self.answers = True
            try:
                yield
            finally:
                self.answers = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.answers and self.should_exit and sig == signal.SIGINT:
            os.write(2, b"error: interrupted again: what was accepted is not answered\n")
            os._exit(Interrupted.status)
        super().handle_exit(sig, frame)


@contextlib.contextmanager
def _signals_end(answering: uvicorn.Server) -> Iterator[None]:
    """uvicorn listens to signals once its loop runs, answers what it has accepted and sends itself the signal again.

    Here it is told of those that come before, and the one that it sends is the end, with status 0.
    """
    before = {number: signal.signal(number, answering.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warm(server: Server, where: str, leaving: threading.Event) -> None:
    say = lambda line: print(line, file=sys.stderr, flush=True)
    try:
        warm_up(server.models, say, lambda: not leaving.is_set())
    except BaseException as error:  # of a thread, which nobody waits for until the end
        say(f"error: the models could not be prepared: {said(error)}")
        raise
    if not leaving.is_set():
        server.ready = True
        say(f"ready: {where}")
