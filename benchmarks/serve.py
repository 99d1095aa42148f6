"""Load on the endpoint: texts a second and latencies on loopback, beside the pipeline alone and a transformers server; faults.

    python benchmarks/serve.py --seconds 60 --out runs/serve
    python benchmarks/serve.py --faults --seconds 600 --out runs/serve

The model is a DistilBERT of the base's sizes with random weights (`--model DIR`: another masked LM); texts are sentences of 5 to 60
words, drawn with a seed, each with one mask, so that every answer is five words. Clients run in a process of their own: each sends
a text, waits for the answer, and sends the next, over a connection that stays open.

Sides
- server: `distilbert-jax serve`, with 1, 8 and 64 clients.
- pipeline: `FillMask` on a list of the same texts, in this process: what the server could reach at most.
- transformers: FastAPI and transformers' fill-mask pipeline behind it, a thread for each request, as its documentation begins; on
  the same weights, with 1, 8 and 64 clients. `--peer` names a Python that has them.

All have all cores; the share of them that the clients took themselves is said. `--faults`: 64 clients, one request of twenty
malformed, one client of ten hangs up in the middle, eight send a byte a second; the resident memory of the server once a second;
then SIGTERM under load. Every answer is compared with the pipeline's. What must not be: an accepted request without an answer, a
wrong answer, a status that is not the expected one, memory that grows.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from machine import commit, processor

WORDS = tuple(f"word{i}" for i in range(200))
MALFORMED: tuple[tuple[bytes, int], ...] = (
    (b"{", 400),
    (b"[]", 400),
    (b'{"inputs": 3}', 422),
    (b'{"inputs": "no mask"}', 422),
    (b'{"inputs": "\xff"}', 400),
    (b'{"inputs": ["a [MASK]", ["b"]]}', 422),
    (b'{"inputs": "a [MASK]", "parameters": {"top_k": -1}}', 422),
    (b'{"inputs": "a [MASK]", "parameters": {"top_k": NaN}}', 400),
    (json.dumps({"inputs": ["a [MASK]"] * 1000}).encode(), 413),
    (json.dumps({"inputs": "a " * 1_000_000}).encode(), 413),
)


def texts(number: int, seed: int = 0) -> list[str]:
    """Sentences of 5 to 60 words with one mask each."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(number):
        words = draw.choices(WORDS, k=draw.randint(5, 60))
        words[draw.randrange(len(words))] = "[MASK]"
        sentences.append(" ".join(words))
    return sentences


@dataclasses.dataclass
class Load:
    """What clients saw. seconds: of each answered request; cores: that the clients took, on average."""

    clients: int
    seconds: list[float]
    elapsed: float
    cores: float
    statuses: Counter
    wrong: int

    def line(self) -> dict[str, Any]:
        """As JSON."""
        p50, p99 = (float(np.percentile(self.seconds, q)) * 1e3 for q in (50, 99)) if self.seconds else (0.0, 0.0)
        return {
            "clients": self.clients,
            "texts_per_second": round(len(self.seconds) / self.elapsed, 2),
            "p50_ms": round(p50, 1),
            "p99_ms": round(p99, 1),
            "clients_cores": round(self.cores, 3),
            "statuses": dict(self.statuses),
            "wrong": self.wrong,
        }


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> tuple[int, bytes]:
    """Send a request and read its answer."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    status, length = int((await reader.readline()).split()[1]), 0
    while (line := (await reader.readline()).strip().lower()) != b"":
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, await reader.readexactly(length)


def same(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether the words are the same, and the scores to 1e-6."""
    words = [one["token"] for one in answer] == [one["token"] for one in expected]
    return words and all(abs(a["score"] - b["score"]) <= 1e-6 for a, b in zip(answer, expected, strict=True))


async def load(
    port: int, path: str, clients: int, seconds: float, given: list[str], answers: list[Any] | None, faults: bool
) -> Load:
    """Clients that ask for so many seconds. answers: what each text is answered with; None: they are not compared."""
    result = Load(clients, [], 0.0, 0.0, Counter(), 0)
    begun, until = time.perf_counter(), time.perf_counter() + seconds
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

    async def client(number: int) -> None:
        draw, writer = random.Random(number), None
        while time.perf_counter() < until:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if faults and draw.random() < 0.05:
                    body, expected = draw.choice(MALFORMED)
                    status, _ = await post(reader, writer, path, body)
                    result.statuses[f"malformed {status}" if status == expected else f"malformed, not {expected}"] += 1
                    if status == 413:  # the server closes, for it has not read the rest
                        writer.close()
                        writer = None
                    continue
                at = draw.randrange(len(given))
                body = json.dumps({"inputs": given[at]}).encode()
                if faults and number % 10 == 9 and draw.random() < 0.5:
                    writer.write(
                        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
                        % (path.encode(), len(body), body)
                    )
                    await writer.drain()
                    writer.close()
                    writer = None
                    result.statuses["hung up"] += 1
                    continue
                asked = time.perf_counter()
                status, content = await post(reader, writer, path, body)
                result.statuses[status] += 1
                if status == 200:
                    result.seconds.append(time.perf_counter() - asked)
                    if answers is not None and not same(json.loads(content), answers[at]):
                        result.wrong += 1
            except (OSError, asyncio.IncompleteReadError, IndexError) as error:
                result.statuses[type(error).__name__] += 1
                writer = None
                await asyncio.sleep(0.05)

    async def slow() -> None:
        while time.perf_counter() < until:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
                for _ in range(30):
                    if time.perf_counter() >= until:
                        break
                    writer.write(b"{")
                    await writer.drain()
                    await asyncio.sleep(1.0)
                writer.close()

    asking = [client(number) for number in range(clients)] + ([slow() for _ in range(8)] if faults else [])
    await asyncio.gather(*asking)
    result.elapsed = time.perf_counter() - begun
    result.cores = (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used) / result.elapsed
    return result


def in_process(*arguments: Any) -> Load:
    """`load` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, arguments)


def _run(*arguments: Any) -> Load:
    return asyncio.run(load(*arguments))


@contextlib.contextmanager
def server(command: list[str], environment: dict[str, str] | None = None):
    """A server process and its port, when it is ready."""
    env = {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[0].rstrip("/").rpartition(":")[2])
    try:
        while True:
            try:
                status, _ = asyncio.run(_health(port))
                if status == 200:
                    break
            except OSError:
                pass
            assert process.poll() is None, "the server has ended"
            time.sleep(0.2)
        yield process, port
    finally:
        process.kill()
        process.wait()


async def _health(port: int) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer


def make_model(directory: Path) -> Path:
    """A DistilBERT of the base's sizes with random weights, and a vocabulary that has the words."""
    from flax import nnx

    from distilbert_jax.config import ModelConfig
    from distilbert_jax.models import DistilBertForMaskedLM
    from distilbert_jax.text.tokenizer import load_tokenizer

    if (directory / "config.json").is_file():
        return directory
    vocabulary = directory.with_name("vocabulary")
    vocabulary.mkdir(parents=True, exist_ok=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"word{i}" for i in range(30522 - len(tokens))]
    (vocabulary / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    model = DistilBertForMaskedLM(ModelConfig.distilbert_base(), rngs=nnx.Rngs(0))
    model.save_pretrained(directory, load_tokenizer(vocabulary))
    return directory


# As FastAPI's and transformers' documentations begin: one pipeline, a handler that the framework runs in a thread.
PLAIN_SERVER = """
import sys, socket, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

fill = pipeline("fill-mask", model=sys.argv[1])
app = FastAPI()

class Body(BaseModel):
    inputs: str

@app.post("/")
def infer(body: Body):
    return fill(body.inputs)

@app.get("/health")
def health():
    return {}

listening = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
"""


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def speed(arguments: argparse.Namespace, model: Path) -> list[dict[str, Any]]:
    from distilbert_jax.pipelines import FillMask

    given, lines = texts(512), []
    fill = FillMask(model)
    fill(given[:128])  # compiles
    begun = time.perf_counter()
    answers = [list(one) for one in fill(given)]
    seconds = time.perf_counter() - begun
    lines.append({"side": "pipeline", "texts_per_second": round(len(given) / seconds, 2)})
    print(json.dumps(lines[-1]), flush=True)
    sides = {"server": [sys.executable, "-m", "distilbert_jax", "serve", "--model", str(model), "--port", "0"]}
    if arguments.peer:
        sides["transformers"] = [arguments.peer, "-c", PLAIN_SERVER, str(model)]
    for side, command in sides.items():
        with server(command) as (_, port):
            for clients in (1, 8, 64):
                in_process(port, "/", clients, 5.0, given, None, False)  # warm
                compared = answers if side == "server" else None
                seen = in_process(port, "/", clients, arguments.seconds, given, compared, False)
                lines.append({"side": side, **seen.line()})
                print(json.dumps(lines[-1]), flush=True)
    return lines


def faults(arguments: argparse.Namespace, model: Path) -> list[dict[str, Any]]:
    from distilbert_jax.pipelines import FillMask

    given = texts(512)
    answers = [list(one) for one in FillMask(model)(given)]
    command = [sys.executable, "-m", "distilbert_jax", "serve", "--model", str(model), "--port", "0"]
    with server(command) as (process, port), multiprocessing.get_context("spawn").Pool(1) as pool:
        memory, running = [], pool.apply_async(_run, (port, "/", 64, arguments.seconds, given, answers, True))
        while not running.ready():
            memory.append(resident(process.pid))
            time.sleep(1.0)
        seen = running.get().line()
        tenth = max(1, len(memory) // 10)
        seen["memory_mb"] = [round(float(np.mean(part)) / 1e6) for part in np.array_split(memory, min(10, len(memory)))]
        seen["memory_growth"] = round(
            float(np.mean(memory[-tenth:]) / np.mean(memory[len(memory) // 2 :][:tenth]) - 1), 4
        )
        print(json.dumps({"side": "faults", **seen}), flush=True)
        running = pool.apply_async(_run, (port, "/", 64, 10.0, given, answers, False))
        time.sleep(5.0)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        ended = {"side": "SIGTERM under load", "status": process.returncode, **running.get().line()}
        print(json.dumps(ended), flush=True)
    return [{"side": "faults", **seen}, ended]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="", help="an HF directory of a masked LM; default: DistilBERT-base with random weights"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--faults", action="store_true", help="malformed requests, clients that hang up, SIGTERM")
    parser.add_argument(
        "--peer", default=sys.executable, help="a Python that has transformers, torch and fastapi; '': no peer"
    )
    parser.add_argument("--out", default="runs/serve", help="a folder for results.json and the model")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    model = Path(arguments.model) if arguments.model else make_model(out / "model")
    lines = (faults if arguments.faults else speed)(arguments, model)
    result = {"processor": processor(), "commit": commit(), "load_before": os.getloadavg(), "lines": lines}
    name = "faults.json" if arguments.faults else "speed.json"
    (out / name).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
