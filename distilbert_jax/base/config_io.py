"""Configs from Python files; configs and results as JSON and back; in what two configs differ."""

import dataclasses
import difflib
import importlib.util
import json
import sys
import traceback
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from distilbert_jax.base.files import atomic_file
from distilbert_jax.errors import InputError, nearest

T = typing.TypeVar("T")


# Metadata of a dataclass' field: where its value is None, JSON has no key for it.
LEFT_OUT: Mapping[str, Any] = types.MappingProxyType({"left_out": True})


def to_values(value: Any) -> Any:
    """What `json.dumps` takes of a dataclass, or of a dictionary or sequence of them: the fields of each as a dictionary."""
    if dataclasses.is_dataclass(value):
        items = ((item, getattr(value, item.name)) for item in dataclasses.fields(value))
        return {item.name: to_values(one) for item, one in items if not (one is None and "left_out" in item.metadata)}
    if isinstance(value, Mapping):
        return {name: to_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_values(one) for one in value]
    return value


def to_json(config: Any) -> str:
    """A config, a result, or a dictionary or sequence of them as indented JSON text; `from_json` reads an equal one back.

    Raises:
        InputError: a field has a value that JSON has no form for.
    """
    return json.dumps(to_values(config), indent=2, ensure_ascii=False, default=_refuse) + "\n"


def write_config(config: Any, file: Path) -> None:
    """Write `to_json`, atomically."""
    with atomic_file(file) as out:
        out.write(to_json(config).encode())


def _refuse(value: Any) -> typing.NoReturn:
    raise InputError(
        f"{value!r} is a {type(value).__name__}; expected text, a number, True, False, None or a tuple of them"
    )


def read_config(kind: type[T], file: Path, hint: str = "") -> T:
    """`from_json` of a file.

    Args:
        hint: what to do about a file that is damaged.

    Raises:
        InputError: as there, or the file is not UTF-8.
    """
    try:
        return from_json(kind, file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        wrong = InputError(f"{file}: damaged, not UTF-8 ({error})", path=file)
    except InputError as error:
        wrong = error
    if not hint:
        raise wrong
    raise InputError(f"{wrong}; {hint}", path=file, field=wrong.field, row=wrong.row, hint=wrong.hint or hint)


def from_json(kind: type[T], text: str, where: str = "config") -> T:
    """Read a config or a result of `kind` from JSON text; what an earlier version wrote, where the class says how (`migrated`).

    Raises:
        InputError: the text is not JSON, a field is unknown (the nearest name is given), has a value of another type, or one that
            the class refuses.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON (line {error.lineno}: {error.msg})", path=where, row=error.lineno
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise InputError(f"{where}: not JSON that can be read ({error})", path=where) from None
    return _build(kind, values, where, "")


def _build(kind: Any, value: Any, path: str, field: str) -> Any:
    """`value` (parsed JSON) as an instance of the annotation `kind`; `path` and `field` are where it stands."""
    wrong = lambda what: InputError(f"{path}{field and '.'}{field}: {what}", path=path, field=field or None)
    inside = lambda name: f"{field}.{name}" if field else name
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong(f"expected an object with the fields of {kind.__name__}, got {value!r}")
        if migrated := getattr(kind, "migrated", None):
            value = migrated(value)
        hints, names = typing.get_type_hints(kind), [item.name for item in dataclasses.fields(kind)]
        for name in value:
            if name not in names:
                hint, place = nearest(name, names), inside(name)
                raise InputError(
                    f"{path}.{place}: no such field in {kind.__name__}; {hint}", path=path, field=place, hint=hint
                )
        for item in dataclasses.fields(kind):
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            if required and item.name not in value:
                raise InputError(
                    f"{path}{field and '.'}{field}: has no {item.name}, which {kind.__name__} needs",
                    path=path,
                    field=inside(item.name),
                )
        built = {name: _build(hints[name], item, path, inside(name)) for name, item in value.items()}
        try:
            return kind(**built)
        except InputError as error:
            place = inside(error.field) if error.field else field or None
            raise InputError(f"{path}: {error}", path=path, field=place, row=error.row, hint=error.hint) from None
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        of_text = [a for a in kinds if (typing.get_origin(a) is Literal) == isinstance(value, str)]
        return _build((of_text or kinds)[0], value, path, field)
    if origin is Literal:
        if value in arguments:
            return value
        raise wrong(f"expected one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_build(arguments[0], item, path, f"{field}[{i}]") for i, item in enumerate(value))
        raise wrong(f"expected a list, got {value!r}")
    if origin in (dict, Mapping):
        if isinstance(value, dict):
            return {name: _build(arguments[1], item, path, inside(name)) for name, item in value.items()}
        raise wrong(f"expected an object, got {value!r}")
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        if abs(value) > sys.float_info.max:
            raise wrong("expected a number that float64 can hold")
        return float(value)
    if type(value) is not kind:
        raise wrong(f"expected {kind.__name__}, got {value!r}")
    return value


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The fields in which two configs differ, each as `field: old → new`."""
    found = []
    for item in dataclasses.fields(old):
        a, b = getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            found += differences(a, b, f"{prefix}{item.name}.")
        elif a != b:
            found.append(f"{prefix}{item.name}: {a!r} → {b!r}")
    return found


def is_config(argument: str) -> bool:
    """Whether an argument of the command line names a config file, as "file.py" or "file.py:word"."""
    return argument.endswith(".py") or ".py:" in argument


def load_config(path: str, *kinds: type) -> Any:
    """What `get_config()` of a Python file returns; of "file.py:word" what `get_config("word")` returns.

    Raises:
        InputError: no such file (the nearest of its folder is named), no `get_config` in it, an error that it raises, or
            it returns none of `kinds`, or one with a value that JSON does not know.
    """
    whole, colon, word = path.rpartition(".py:")
    path = f"{whole}.py" if colon else path
    file = Path(path)
    if not file.is_file():
        nearest = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.py")], n=1)
        raise InputError(
            f"{path}: no such config file" + (f"; did you mean {file.parent / nearest[0]}?" if nearest else "")
        )
    name = f"config_{file.stem}"  # never the name of another module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file", path=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"{path}: has no get_config() that returns a config", path=path)
        config = module.get_config(*([word] if colon else []))
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}", path=path, row=error.lineno) from None
    except (Exception, SystemExit) as error:  # whatever a user's file raises, above all an unknown field
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        what = "a config must not end Python" if isinstance(error, SystemExit) else error
        raise InputError(f"{path}: line {lines[-1] if lines else '?'}: {what}", path=path) from error
    if not isinstance(config, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{path}: get_config() returned a {type(config).__name__}, expected {expected}", path=path)
    try:
        text = to_json(config)
    except InputError as error:
        raise error.within(path) from None
    return from_json(type(config), text, path)  # names a field whose value has another type
