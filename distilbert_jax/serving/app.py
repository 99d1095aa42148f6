"""Routes of the endpoint, and what every request goes through: size, token, time, errors, counts."""

import asyncio
import hmac
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from distilbert_jax.base.files import parse_json
from distilbert_jax.errors import InputError, said, shortened
from distilbert_jax.serving import metrics, other_apis
from distilbert_jax.serving.models import Served
from distilbert_jax.serving.requests import RequestError, Style
from distilbert_jax.serving.server import HEADERS, Server, Settings, answered
from distilbert_jax.serving.tasks import Task

_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


Handler = Callable[[Request, Server, dict[str, Any]], Awaitable[Response]]


async def _infer(server: Server, model: Served, task: Task, body: dict[str, Any]) -> Response:
    """Hugging Face's form: `{"inputs", "parameters", "options"}` → the task's answer."""
    asked = await anyio.to_thread.run_sync(task.asked, body, server.settings.max_texts)
    return await answered(task.answer(await server.results(model, task, asked), asked), asked)


async def _infer_at_root(request: Request, server: Server, body: dict[str, Any]) -> Response:
    return await _infer(server, server.first, server.first.own, body)


async def _infer_of_model(request: Request, server: Server, body: dict[str, Any]) -> Response:
    model = server.model(request.path_params["name"])
    return await _infer(server, model, model.own, body)


async def _infer_task(request: Request, server: Server, body: dict[str, Any]) -> Response:
    model = server.model(request.path_params["name"])
    return await _infer(server, model, model.task(request.path_params["task"]), body)


async def _page(request: Request, server: Server, body: dict[str, Any]) -> Response:
    page = resources.files("distilbert_jax.serving").joinpath("page.html").read_text("utf-8")
    return HTMLResponse(page, headers={**HEADERS, **_PAGE_HEADERS})


async def _models(request: Request, server: Server, body: dict[str, Any]) -> Response:
    return JSONResponse([described(model) for model in server.models.values()], headers=HEADERS)


async def _model(request: Request, server: Server, body: dict[str, Any]) -> Response:
    return JSONResponse(described(server.model(request.path_params["name"])), headers=HEADERS)


async def _health(request: Request, server: Server, body: dict[str, Any]) -> Response:
    if not server.ready:
        raise RequestError(503, "the models are being prepared; try again in a moment", retry_after=2)
    return Response(status_code=200, headers=HEADERS)


async def _metrics(request: Request, server: Server, body: dict[str, Any]) -> Response:
    return Response(server.metrics.text(), media_type=metrics.CONTENT_TYPE, headers=HEADERS)


def described(model: Served) -> dict[str, Any]:
    """What clients and the page are told of a model; not where it stands on this machine."""
    return {
        "name": model.name,
        "task": model.own.name,
        "tasks": list(model.tasks),
        "model_type": model.config.model_type,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "parameters": model.own.pipeline.model.num_parameters(),
        "max_length": model.max_length,
        "pooling": model.pooling,
        "mask_token": model.own.pipeline.tokenizer.mask_token,
        "labels": list(model.config.labels),
        "examples": {name: task.example() for name, task in model.tasks.items()},
    }


def make_app(server: Server, *, lifespan: Any = None) -> Starlette:
    """The application. lifespan: as Starlette takes it."""
    routes = [
        _route("/", _page, "GET", open_to_all=True),
        _route("/", _infer_at_root, "POST"),
        _route("/models", _models, "GET"),
        _route("/models/{name:path}/pipeline/{task}", _infer_task, "POST"),
        _route("/models/{name:path}", _infer_of_model, "POST"),
        _route("/models/{name:path}", _model, "GET"),
        _route("/embed", other_apis.embed, "POST"),
        _route("/predict", other_apis.predict, "POST"),
        _route("/info", other_apis.info, "GET"),
        _route("/health", _health, "GET", open_to_all=True),
        _route("/metrics", _metrics, "GET"),
        _route("/v1/embeddings", other_apis.embeddings, "POST", style="openai"),
        _route("/v1/models", other_apis.list_models, "GET", style="openai"),
    ]
    handlers = {HTTPException: _no_route}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers, middleware=[Middleware(_PathsAlone)])
    app.state.server = server
    return app


class _PathsAlone:
    """Takes `GET http://host/models`, the form of a request to a proxy, for `GET /models` (RFC 9112, section 3.2.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].lower().startswith(("http://", "https://")):
            _, _, path = scope["path"].partition("://")[2].partition("/")
            scope = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode()}
        await self.app(scope, receive, send)


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405 of a path that no route has, or not with this method."""
    assert isinstance(error, HTTPException)
    server: Server = request.app.state.server
    server.metrics.requests.labels("none", error.status_code).inc()
    said_ = "no such method here" if error.status_code == 405 else "no such path; GET /models lists the models"
    answer = RequestError(error.status_code, f"{request.method} {request.url.path[:80]}: {said_}")
    return JSONResponse(answer.body(), error.status_code, headers={**(error.headers or {}), **HEADERS})


def _route(path: str, handler: Handler, method: str, *, style: Style = "plain", open_to_all: bool = False) -> Route:
    """A route whose handler gets the server and the body, and whose errors are answered in one line."""

    async def endpoint(request: Request) -> Response:
        server: Server = request.app.state.server
        begun, label = time.perf_counter(), f"{method} {path}"
        try:
            if not open_to_all:
                _check_token(request, server.settings.token)
            if method == "POST" and request.url.query:  # which nothing would read
                asked = shortened(f"?{request.url.query}", 60)
                raise RequestError(422, f"{asked}: parameters stand in the body, as JSON", field="query")
            body = await _body(request, server.settings) if method == "POST" else {}
            response = await _unless_left(request, handler(request, server, body))
        except RequestError as error:
            headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
            if error.status == 401:
                headers["www-authenticate"] = "Bearer"
            if error.status in (408, 413):  # what is left of the body is not read
                headers["connection"] = "close"
            response = JSONResponse(error.body(style), error.status, headers={**headers, **HEADERS})
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it
        except Exception as error:
            print(f"error: {label}: {said(error)}", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
            answer = RequestError(500, "the server failed on this request; its log says more")
            response = JSONResponse(answer.body(style), 500, headers=HEADERS)
        server.metrics.requests.labels(label, response.status_code).inc()
        server.metrics.seconds.labels(label).observe(time.perf_counter() - begun)
        return response

    return Route(path, endpoint, methods=[method], name=f"{method} {path}")


def _check_token(request: Request, token: str) -> None:
    if not token:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.lstrip(" ").encode(), token.encode())
    if scheme.lower() != "bearer" or not same:  # the name of a scheme has no case (RFC 9110, section 11.1)
        raise RequestError(401, "Authorization: expected `Bearer` and this server's token", field="authorization")


async def _body(request: Request, settings: Settings) -> dict[str, Any]:
    """The body, an object in JSON, whatever its type is said to be: curl's `-d` says that it is a form.

    Raises:
        RequestError: 400, 408 or 413.
        ClientDisconnect: the client has gone.
    """
    too_large = RequestError(413, f"the body has more than {settings.max_body:,} bytes", field="body")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > settings.max_body:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                content += part
                if len(content) > settings.max_body:
                    raise too_large
    except TimeoutError:
        raise RequestError(408, f"the body did not come within {settings.body_seconds:g} s", field="body") from None
    try:
        return parse_json(bytes(content), dict, "body")
    except InputError as error:
        raise RequestError(400, str(error), field="body") from None


async def _unless_left(request: Request, work: Awaitable[Response]) -> Response:
    """The response, unless the client hangs up before: then the work is cancelled.

    Raises:
        ClientDisconnect: it has.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
