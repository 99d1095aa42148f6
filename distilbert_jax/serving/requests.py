"""Requests of clients: what they may hold, and the errors that they are answered with."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from distilbert_jax.errors import InputError, nearest, shortened

# What text-embeddings-inference calls the kinds of errors, by status.
_KINDS = {
    400: "Malformed",
    401: "Unauthorized",
    404: "NotFound",
    405: "NotFound",
    408: "Timeout",
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
    504: "Timeout",
}
Style = Literal["plain", "openai"]


class RequestError(Exception):
    """What is told to a client: a status, one line, the field that is at fault.

    Attributes:
        status: of HTTP.
        field: dotted path within the body, or None.
        retry_after: seconds after which the same request may do, or None.
    """

    def __init__(self, status: int, message: str, *, field: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.field, self.retry_after = status, field, retry_after

    def body(self, style: Style = "plain") -> dict[str, Any]:
        """As JSON: `error` and `error_type` as text-embeddings-inference has them, or OpenAI's object."""
        kind, said = _KINDS.get(self.status, "Backend"), str(self)
        if style == "openai":
            code = None if self.status < 500 else "server_error"
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
            return {"error": {"message": said, "type": kind, "param": self.field, "code": code}}
        return {"error": said, "error_type": kind, **({"field": self.field} if self.field else {})}


def of_input(error: InputError, field: str = "inputs") -> RequestError:
    """The answer to what a pipeline refuses."""
    return RequestError(422, str(error), field=error.field or field)


class Parameters:
    """The parameters of a request, taken one by one; what is left at the end is unknown to the task.

    Args:
        values: as they came.
        where: how their place in the body is called, "" for the body itself.
        ignored: names that are allowed and change nothing.

    Raises:
        RequestError: 422, they are no object.
    """

    def __init__(self, values: Any, where: str = "parameters", ignored: Collection[str] = ()):
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            raise RequestError(422, f"{where}: expected an object, got {_shown(values)}", field=where)
        self._values, self._where = {k: v for k, v in values.items() if v is not None and k not in ignored}, where
        self._known: list[str] = list(ignored)

    def _take(self, name: str) -> tuple[Any, str]:
        self._known.append(name)
        return self._values.pop(name, None), f"{self._where}.{name}" if self._where else name

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """A whole number from `low` to `high`."""
        value, field = self._take(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise RequestError(
                422, f"{field} = {_shown(value)}: expected a whole number from {low} to {high}", field=field
            )
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value, field = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise RequestError(422, f"{field} = {_shown(value)}: expected true or false", field=field)
        return value

    def chosen(self, name: str, known: Collection[str], default: str | None = None) -> str | None:
        """One of a few words, whatever their case."""
        value, field = self._take(name)
        if value is None:
            return default
        if not isinstance(value, str) or value.lower() not in known:
            hint = nearest(value, known) if isinstance(value, str) else f"known: {', '.join(known)}"
            raise RequestError(422, f"{field} = {_shown(value)}: no such value; {hint}", field=field)
        return value.lower()

    def words(self, name: str, most: int, *, none_at_all: bool = False) -> tuple[str, ...] | None:
        """One string or a list of them, which may be empty if `none_at_all`; None where there is none."""
        value, field = self._take(name)
        if value is None:
            return None
        given = [value] if isinstance(value, str) else value
        if (
            not isinstance(given, list)
            or not (given or none_at_all)
            or not all(isinstance(word, str) and word for word in given)
        ):
            raise RequestError(422, f"{field} = {_shown(value)}: expected a string or a list of strings", field=field)
        if len(given) > most:
            raise RequestError(413, f"{field}: {len(given):,} of them, expected {most} at most", field=field)
        return tuple(given)

    def only(self, name: str, *allowed: Any) -> None:
        """A parameter that other servers have, at a value that changes nothing here."""
        value, field = self._take(name)
        if value is not None and value not in allowed:
            hint = f"expected {' or '.join(map(_shown, allowed))}" if allowed else "this server has none; leave it out"
            raise RequestError(422, f"{field} = {_shown(value)}: {hint}", field=field)

    def end(self) -> None:
        """Raise RequestError for a parameter that nobody took."""
        for name in self._values:
            field = f"{self._where}.{name}" if self._where else name
            raise RequestError(
                422, f"{_shown(field)}: no such parameter; {nearest(name, self._known)}", field=shortened(field)
            )


def texts_of(values: Any, field: str, most: int, *, pairs: bool = False) -> tuple[list[Any], bool]:
    """The texts of a request, and whether it was one alone.

    Args:
        most: texts that a request may have.
        pairs: an object `{"text", "text_pair"}` is one text, too, given as a tuple (text, pair).

    Raises:
        RequestError: 422, it is something else, or none; 413, there are more.
    """
    alone = isinstance(values, str) or (pairs and isinstance(values, Mapping))
    given = [values] if alone else values
    if not isinstance(given, list) or not given:
        raise RequestError(422, f"{field}: expected a text or a list of texts, got {_shown(values)}", field=field)
    if len(given) > most:
        raise RequestError(413, f"{field}: {len(given):,} texts, expected {most} at most in a request", field=field)
    return [_text(value, f"{field}[{i}]" if not alone else field, pairs) for i, value in enumerate(given)], alone


def questions_of(values: Any, field: str, most: int) -> tuple[list[tuple[str, str]], bool]:
    """Questions with their contexts, and whether it was one alone.

    Raises:
        RequestError: 422, it is something else, or none; 413, there are more than `most`.
    """
    alone = isinstance(values, Mapping)
    given = [values] if alone else values
    if not isinstance(given, list) or not given:
        raise RequestError(422, f'{field}: expected {{"question", "context"}}, got {_shown(values)}', field=field)
    if len(given) > most:
        raise RequestError(413, f"{field}: {len(given):,} questions, expected {most} at most in a request", field=field)
    pairs = []
    for i, value in enumerate(given):
        where = field if alone else f"{field}[{i}]"
        if not isinstance(value, Mapping) or value.keys() != {"question", "context"}:
            raise RequestError(422, f'{where}: expected {{"question", "context"}}, got {_shown(value)}', field=where)
        pairs.append(
            (_text(value["question"], f"{where}.question", False), _text(value["context"], f"{where}.context", False))
        )
    return pairs, alone


def _text(value: Any, field: str, pairs: bool) -> Any:
    if pairs and isinstance(value, Mapping):
        text, pair = value.get("text"), value.get("text_pair")
        if set(value) - {"text", "text_pair"} or not isinstance(text, str) or not isinstance(pair, str | None):
            raise RequestError(422, f'{field}: expected {{"text", "text_pair"}}, got {_shown(value)}', field=field)
        return text if pair is None else (text, pair)
    if not isinstance(value, str):
        raise RequestError(422, f"{field}: expected a text, got {_shown(value)}", field=field)
    return value


def _shown(value: Any) -> str:
    """A value of a request as one short piece of a line."""
    return shortened(json.dumps(value, ensure_ascii=True, default=repr), 60)
