"""Configs from Python files; configs and results as JSON and back; in what two configs differ."""

import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import json
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from distilbert_jax.base.files import atomic_file, parse_json, read_json
from distilbert_jax.configs import shipped
from distilbert_jax.errors import InputError, nearest, said, shortened, with_article

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
    text = json.dumps(to_values(config), indent=2, ensure_ascii=False, default=_refuse) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError as error:  # the name of a file that is none in UTF-8
        line = text[text.rfind("\n", 0, error.start) + 1 : text.find("\n", error.start)].strip(" ,")
        raise InputError(f"{ascii(line)[1:-1]}: is not valid Unicode, which JSON is; rename it") from None
    return text


def write_config(config: Any, file: Path) -> None:
    """Write `to_json`, atomically."""
    with atomic_file(file) as out:
        out.write(to_json(config).encode())


def _refuse(value: Any) -> typing.NoReturn:
    raise InputError(
        f"{value!r} is {with_article(type(value).__name__)}; expected text, a number, True, False, None or a tuple of them"
    )


def read_config(kind: type[T], file: Path, hint: str = "") -> T:
    """`from_json` of a file.

    Args:
        hint: what to do about a file that is damaged.

    Raises:
        InputError: as there, or the file is no regular one that `read_json` reads.
    """
    try:
        return _build(kind, read_json(file, object, finite=False), str(file), "")
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
    return _build(kind, parse_json(text, object, where, finite=False), where, "")


def _build(kind: Any, value: Any, path: str, field: str) -> Any:
    """`value` (parsed JSON) as an instance of the annotation `kind`; `path` and `field` are where it stands."""
    wrong = lambda what: InputError(f"{path}{field and '.'}{field}: {what}", path=path, field=field or None)
    inside = lambda name: f"{field}.{name}" if field else name
    shown = shortened(repr(value))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong(f"expected an object with the fields of {kind.__name__}, got {shown}")
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
        # Text is one of a literal's, an object a dataclass' fields.
        kind_of = lambda a: str if typing.get_origin(a) is Literal else dict if dataclasses.is_dataclass(a) else object
        alike = [a for a in kinds if kind_of(a) is (type(value) if isinstance(value, str | dict) else object)]
        return _build((alike or kinds)[0], value, path, field)
    if origin is Literal:
        if value in arguments:
            return value
        raise wrong(f"expected one of {', '.join(map(repr, arguments))}, got {shown}")
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_build(arguments[0], item, path, f"{field}[{i}]") for i, item in enumerate(value))
        raise wrong(f"expected a list, got {shown}")
    if origin in (dict, Mapping):
        if isinstance(value, dict):
            return {name: _build(arguments[1], item, path, inside(name)) for name, item in value.items()}
        raise wrong(f"expected an object, got {shown}")
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        if abs(value) > sys.float_info.max:
            raise wrong("expected a number that float64 can hold")
        return float(value)
    if type(value) is not kind:
        raise wrong(f"expected {kind.__name__}, got {shown}")
    return value


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field in which two configs differ. As text: `optimizer.eps: 1e-06 → 1e-08`."""

    field: str  # its dotted name
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} → {self.new!r}"


def differences(old: Any, new: Any, prefix: str = "") -> list[Difference]:
    """The fields in which two configs of one class differ, in the order of the class."""
    result = []
    for item in dataclasses.fields(old):
        a, b = getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            result += differences(a, b, f"{prefix}{item.name}.")
        elif a != b:
            result.append(Difference(f"{prefix}{item.name}", a, b))
    return result


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """A Python file with a `get_config`, and the word behind the colon that chooses one of its variants.

    Attributes:
        name: as it was asked for, without the word.
        word: None: the file's own default.
    """

    name: str
    path: Path
    word: str | None = None

    def __str__(self) -> str:
        return self.name if self.word is None else f"{self.name}:{self.word}"


def find_config(name: str) -> ConfigFile:
    """The file that `folder/file.py`, `folder/file.py:word`, or `distilbert_base`, `demo:student` (shipped with the package) names.

    Raises:
        InputError: there is no such file; the nearest of its folder and of the shipped ones is named.
    """
    whole, colon, word = name.rpartition(".py:")
    given = f"{whole}.py" if colon else name
    if Path(given).is_file():
        return ConfigFile(given, Path(given), word if colon else None)
    if not given.endswith(".py"):
        known = shipped()
        given, colon, word = name.partition(":")
        if given in known:
            return ConfigFile(given, known[given], word if colon else None)
    hint = _nearest_config(given)
    if Path(given).is_dir():
        raise InputError(f"{given}: is a directory; expected a config file", path=given)
    said = f"did you mean {hint}?" if hint else "distilbert-jax configs lists those that come with the package"
    raise InputError(f"{given}: no such config file; {said}", path=given, hint=hint)


def _nearest_config(name: str) -> str | None:
    """The config beside it, or the shipped one, whose name is most like that of a file that is not there."""
    file = Path(name)
    ours = {stem: stem for stem in shipped()}
    beside = {path.stem: str(file.parent / path.name) for path in file.parent.glob("*.py")}
    known = ours | beside if file.suffix == ".py" else beside | ours
    close = difflib.get_close_matches(file.stem, known, n=1)
    return known[close[0]] if close else None


_MODULE = "config_"  # how the modules of users' files are named, so that none has the name of another module


def files_run() -> tuple[str, ...]:
    """The Python files that this process has run, in their order: configs, and what `--with` names."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_MODULE)]
    return tuple(str(module.__file__) for module in modules)


def run_file(file: ConfigFile) -> types.ModuleType:
    """The module of a user's Python file, run anew.

    Raises:
        InputError: it cannot be run, with the line that is at fault.
    """
    name = f"{_MODULE}{file.path.stem}"
    spec = importlib.util.spec_from_file_location(name, file.path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file.name}: not a Python file", path=file.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _mistakes_of(file):
        spec.loader.exec_module(module)
    return module


def config_module(file: ConfigFile) -> types.ModuleType:
    """The module of a config file, run anew.

    Raises:
        InputError: it cannot be run (`run_file`), or has no `get_config`.
    """
    module = run_file(file)
    if not hasattr(module, "get_config"):
        raise InputError(f"{file.name}: has no get_config() that returns a config", path=file.name)
    return module


def variants_of(module: types.ModuleType) -> tuple[str, ...]:
    """The words that `get_config` of a module takes, as far as it lists them in `VARIANTS`."""
    return tuple(getattr(module, "VARIANTS", ()))


def load_config(name: str, *kinds: type) -> Any:
    """What `get_config()` of a config file returns; of "file.py:word" what `get_config("word")` returns. `name`: see `find_config`.

    Raises:
        InputError: no such file (`find_config`), no `get_config` in it, an error that it raises, a word that is not among its
            `VARIANTS`, or it returns none of `kinds`, or one with a value that JSON does not know.
    """
    file = find_config(name)
    return _config_of(file, config_module(file), kinds)


def _config_of(file: ConfigFile, module: types.ModuleType, kinds: tuple[type, ...]) -> Any:
    """What `module`, which is `file`'s, gives for its word."""
    words = variants_of(module)
    if words and file.word is None and _needs_a_word(module):
        raise InputError(
            f"{file}: is several configs; name one: {', '.join(f'{file}:{word}' for word in words)}",
            path=file.name,
            hint=f"{file}:{words[0]}",
        )
    if words and file.word is not None and file.word not in words:
        hint = nearest(file.word, words)
        raise InputError(f"{file}: {file.name} has no variant {file.word!r}; {hint}", path=file.name, hint=hint)
    if not words and file.word is not None and not inspect.signature(module.get_config).parameters:
        raise InputError(f"{file}: {file.name} has no variants; leave :{file.word} out", path=file.name, hint=file.name)
    with _mistakes_of(file):
        config = module.get_config(*([] if file.word is None else [file.word]))
    if not isinstance(config, kinds or object):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{file}: get_config() returned {with_article(type(config).__name__)}, expected {expected}", path=file.name
        )
    try:
        text = to_json(config)
    except InputError as error:
        raise error.within(file.name) from None
    return from_json(type(config), text, file.name)  # names a field whose value has another type


def load_variants(name: str, kind: type[T]) -> dict[str, T]:
    """The configs of a file by the names of its variants, without those of a group; of "file.py:group" those called group/….

    Raises:
        InputError: as for `load_config`, or there are none.
    """
    file = find_config(name)
    module = config_module(file)  # run once: it may bring what a process takes once
    words = variants_of(module)
    groups = {word.rpartition("/")[0] for word in words}
    group = file.word or ""
    if group not in groups:
        hint = nearest(group, sorted(groups - {""})) if groups - {""} else "it lists no VARIANTS in groups"
        raise InputError(f"{file}: {file.name} has no variants {group}/…; {hint}", path=file.name, hint=hint)
    of_group = {word.rpartition("/")[2]: word for word in words if word.rpartition("/")[0] == group}
    return {
        short: _config_of(dataclasses.replace(file, word=word), module, (kind,)) for short, word in of_group.items()
    }


def _needs_a_word(module: types.ModuleType) -> bool:
    first = next(iter(inspect.signature(module.get_config).parameters.values()), None)
    return first is not None and first.default is first.empty


@contextlib.contextmanager
def _mistakes_of(file: ConfigFile) -> Iterator[None]:
    """Tell what the code of a config file raises, above all an unknown field, with its line."""
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise InputError(f"{file.name}: {line}{error.msg}", path=file.name, row=error.lineno) from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.path.resolve()]
        what = "the file must not end Python" if isinstance(error, SystemExit) else said(error)
        row = lines[-1] if lines else None
        raise InputError(f"{file.name}: line {row or '?'}: {what}", path=file.name, row=row) from error
