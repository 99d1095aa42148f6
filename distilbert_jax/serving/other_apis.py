"""Routes of other servers, with their names: text-embeddings-inference's `/embed`, `/predict`, `/info`; OpenAI's embeddings."""

from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import distilbert_jax
from distilbert_jax.serving.models import Served
from distilbert_jax.serving.requests import Parameters, RequestError, texts_of
from distilbert_jax.serving.server import Server, answered
from distilbert_jax.serving.tasks import (
    Asked,
    ClassificationOptions,
    FeatureExtractionTask,
    FeatureOptions,
    TextClassificationTask,
    in_base64,
)


async def embed(request: Request, server: Server, body: dict[str, Any]) -> Response:
    """`POST /embed`: `inputs` (a text or several), `normalize` (true), `truncate` (false) → a list of vectors."""
    model = server.first
    task = model.task("feature-extraction")
    assert isinstance(task, FeatureExtractionTask)

    def understood() -> Asked:
        texts, _ = texts_of(body.get("inputs"), "inputs", server.settings.max_texts)
        parameters = Parameters({name: value for name, value in body.items() if name != "inputs"}, "")
        truncate = parameters.flag("truncate")
        options = task.options(parameters, model.pooling, normalize=True)
        if options.pooling == "tokens":
            raise RequestError(
                422, "pooling = tokens: expected cls or mean, /embed gives one vector a text", field="pooling"
            )
        parameters.end()
        return Asked(texts, options, *_swapped(task.measure(texts, options, truncate=truncate)))

    asked = await anyio.to_thread.run_sync(understood)
    vectors = await server.results(model, task, asked)
    encode = in_base64 if asked.options.encoding == "base64" else lambda vector: vector.tolist()
    return await answered([encode(vector) for vector in vectors], asked)


async def predict(request: Request, server: Server, body: dict[str, Any]) -> Response:
    """`POST /predict`: `inputs` (a text, a pair `[a, b]`, or a list of `[a]` and `[a, b]`), `raw_scores`, `truncate` → labels, best
    first; of a list as many lists."""
    model = server.first
    task = model.task("text-classification")
    assert isinstance(task, TextClassificationTask)

    def understood() -> Asked:
        texts, alone = _texts_or_pairs(body.get("inputs"), server.settings.max_texts)
        parameters = Parameters({name: value for name, value in body.items() if name != "inputs"}, "")
        truncate = parameters.flag("truncate")
        parameters.only("truncation_direction", "right", "Right")
        options = ClassificationOptions(function="none" if parameters.flag("raw_scores") else None)
        parameters.end()
        tokens, cut = task.measure(texts, options, truncate=truncate)
        return Asked(texts, options, tokens, alone, cut)

    asked = await anyio.to_thread.run_sync(understood)
    results = await server.results(model, task, asked)
    return await answered(results[0] if asked.alone else results, asked)


def _texts_or_pairs(inputs: Any, most: int) -> tuple[list[Any], bool]:
    """A string; `[a, b]` of strings: one pair; a list of lists of one or two strings."""
    if isinstance(inputs, str):
        return [inputs], True
    if isinstance(inputs, list) and inputs and all(isinstance(one, str) for one in inputs):
        if len(inputs) > 2:
            raise RequestError(
                422,
                "inputs: a list of strings is one text and its pair; several texts are [[a], [b], …]",
                field="inputs",
            )
        return [inputs[0] if len(inputs) == 1 else tuple(inputs)], True
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(422, "inputs: expected a text, a pair [a, b], or a list of these in lists", field="inputs")
    if len(inputs) > most:
        raise RequestError(413, f"inputs: {len(inputs):,} texts, expected {most} at most in a request", field="inputs")
    texts = []
    for i, one in enumerate(inputs):
        if not isinstance(one, list) or not 1 <= len(one) <= 2 or not all(isinstance(part, str) for part in one):
            raise RequestError(422, f"inputs[{i}]: expected [a] or [a, b], texts both", field=f"inputs[{i}]")
        texts.append(one[0] if len(one) == 1 else tuple(one))
    return texts, False


async def info(request: Request, server: Server, body: dict[str, Any]) -> Response:
    """`GET /info`, of the first model."""
    model, task = server.first, server.first.own.name
    kinds = {"text-classification": {"classifier": {"id2label": _numbered(model), "label2id": _by_label(model)}}}
    return JSONResponse(
        {
            "model_id": model.name,
            "model_sha": model.fingerprint,
            "model_dtype": model.dtype,
            "model_type": kinds.get(task, {"embedding": {"pooling": model.pooling}}),
            "max_concurrent_requests": server.batcher.most_waiting,
            "max_input_length": model.max_length,
            "max_batch_tokens": server.batcher.batch_tokens,
            "max_client_batch_size": server.settings.max_texts,
            "auto_truncate": False,
            "version": distilbert_jax.__version__,
        }
    )


def _numbered(model: Served) -> dict[str, str]:
    return {str(i): label for i, label in enumerate(model.config.labels)}


def _by_label(model: Served) -> dict[str, int]:
    return {label: i for i, label in enumerate(model.config.labels)}


async def embeddings(request: Request, server: Server, body: dict[str, Any]) -> Response:
    """`POST /v1/embeddings`: `model`, `input` (a text or several), `encoding_format` float or base64. Vectors have length 1, as
    OpenAI's have; what is too long is an error there, too."""
    if not isinstance(name := body.get("model"), str):
        raise RequestError(422, "model: expected the name of a model; GET /v1/models lists them", field="model")
    model = server.model(name)
    task = model.task("feature-extraction")
    assert isinstance(task, FeatureExtractionTask)

    def understood() -> Asked:
        given = {name: value for name, value in body.items() if name not in ("input", "model", "user")}
        texts, _ = texts_of(body.get("input"), "input", server.settings.max_texts)
        parameters = Parameters(given, "")
        parameters.only("dimensions", model.config.hidden_size)
        encoding = parameters.chosen("encoding_format", ("float", "base64"), "float")
        parameters.end()
        options = FeatureOptions(model.pooling, normalize=True, encoding="base64" if encoding == "base64" else "float")
        return Asked(texts, options, *_swapped(task.measure(texts, options, truncate=False)))

    asked = await anyio.to_thread.run_sync(understood)
    vectors = await server.results(model, task, asked)
    encode = in_base64 if asked.options.encoding == "base64" else lambda vector: vector.tolist()
    data = [{"object": "embedding", "index": i, "embedding": encode(vector)} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": sum(asked.tokens), "total_tokens": sum(asked.tokens)}
    return await answered({"object": "list", "data": data, "model": model.name, "usage": usage}, asked)


async def list_models(request: Request, server: Server, body: dict[str, Any]) -> Response:
    """`GET /v1/models`."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "distilbert_jax"} for name in server.models]
    return JSONResponse({"object": "list", "data": data})


def _swapped(measured: tuple[list[int], int]) -> tuple[list[int], bool, int]:
    """What `Asked` has after its options, of a request that is answered with a list whatever it holds."""
    tokens, cut = measured
    return tokens, False, cut
