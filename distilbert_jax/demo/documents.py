"""Demo text: the English documentation inside every CPython, as plain paragraphs. Nothing is downloaded."""

import ast
import contextlib
import hashlib
import importlib
import inspect
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distilbert_jax.base.config_io import read_config, write_config
from distilbert_jax.base.files import atomic_file, sha256_of
from distilbert_jax.base.progress import progress
from distilbert_jax.demo.tasks import write_tasks
from distilbert_jax.errors import InputError

FORMAT = 2
HELD_OUT_SHARE = 0.1
_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data", "__pycache__"}
# Modules written in C have no source to parse; these are safe to import everywhere.
_C_MODULES = (
    "_codecs _collections _csv _functools _heapq _io _json _operator _pickle _random _socket _sqlite3 _sre _ssl _struct "
    "_thread _weakref array atexit binascii builtins cmath errno fcntl gc itertools marshal math mmap posix pwd "
    "pyexpat resource select signal sys syslog termios time unicodedata zlib"
)
_RULE = re.compile(r"[\W_]{3,}$")
_BULLET = re.compile(r"(?:[*\-+•]|\(?\d+[.)]|[a-z]\))\s+")
_MARKUP = re.compile(r":[a-z:]+:(?=`)|`+|(?<!\w)\*\*?(?=\w)|(?<=\w)\*\*?(?!\w)")
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*[,;:.!?]?$")
_CODE = re.compile(
    r">>>|::=|^\s*(?:def|class|import|from|return|if|for|while|with|try|print)\b.*[:(]|^\s*[|+]|\s\|\s", re.M
)


def python_documents() -> Iterator[tuple[str, list[str]]]:
    """Name and paragraphs of each document: a section of the language reference, or all docstrings of a module.

    Sources are parsed, not imported; no paragraph occurs twice.
    """
    seen = set()
    for name, texts in sorted(_raw_documents(), key=lambda document: document[0]):
        paragraphs = []
        for paragraph in (paragraph for text in texts for paragraph in plain_paragraphs(text)):
            if paragraph.lower() not in seen:
                seen.add(paragraph.lower())
                paragraphs.append(paragraph)
        if paragraphs:
            yield name, paragraphs


def _raw_documents() -> Iterator[tuple[str, list[str]]]:
    topics = importlib.import_module("pydoc_data.topics").topics
    for topic, text in topics.items():
        # A heading is a line above a rule; split gives what stands before the first one, then headings and texts in turn.
        sections = re.split(r"^(.+)\n[*=\-~^]{3,}\n", text, flags=re.MULTILINE)
        for heading, section in zip(["", *sections[1::2]], sections[0::2], strict=True):
            yield f"reference/{topic}/{heading.strip()}", [section]
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    with progress("reading Python's documentation", len(sources)) as done:
        for number, source in enumerate(sources):
            done(number)
            if not any(part in _LEFT_OUT or part.startswith(("test_", "config-")) for part in source.parts):
                yield f"library/{source.as_posix()}", _docstrings(library / source)
    for name in _C_MODULES.split():
        with contextlib.suppress(ImportError):
            yield f"library/{name}", _docs_of(importlib.import_module(name))


def _docstrings(source: Path) -> list[str]:
    """All docstrings of a Python file, in their order; none if it cannot be parsed."""
    with contextlib.suppress(SyntaxError, UnicodeDecodeError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes in other people's strings
        with tokenize.open(source) as file:
            tree = ast.parse(file.read())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
        nodes.sort(key=lambda node: getattr(node, "lineno", 0))
        return [text for node in nodes if (text := ast.get_docstring(node))]
    return []


def _docs_of(module: object) -> list[str]:
    """Docstrings of a module that is written in C, of its functions, classes and their methods."""
    documented = [module]
    for _, member in sorted(vars(module).items()):
        if inspect.isroutine(member) or inspect.isclass(member):
            documented.append(member)
        if inspect.isclass(member):
            documented += [
                value for _, value in sorted(vars(member).items()) if callable(value) or hasattr(value, "__get__")
            ]
    texts = (getattr(one, "__doc__", None) for one in documented)
    return [inspect.cleandoc(text) for text in texts if isinstance(text, str)]


def plain_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of prose in a documentation text, one string without line ends each.

    Wrapped lines are joined, list items become paragraphs; headings, rules, tables, signatures, grammar and code,
    doctests among them, are dropped.
    """
    for block in re.split(r"\n\s*\n", text):
        if _CODE.search(block):
            continue
        paragraph = ""
        for line in [*(line.strip() for line in block.splitlines()), "* end"]:
            if _RULE.match(line):
                paragraph = ""  # what stands above a rule is a heading
            elif bullet := _BULLET.match(line):
                if _is_prose(paragraph):
                    yield " ".join(paragraph.split())
                paragraph = _MARKUP.sub("", line[bullet.end() :])
            else:
                line = _MARKUP.sub("", line)
                # A long word may be wrapped at its hyphen.
                hyphenated = re.search(r"\w-$", paragraph) and line[:1].islower()
                paragraph = f"{paragraph}{line}" if hyphenated or not paragraph else f"{paragraph} {line}"


def _is_prose(paragraph: str) -> bool:
    words = paragraph.split()
    plain = sum(bool(_WORD.match(word.strip("\"'“”()"))) for word in words)
    return len(words) >= 6 and plain >= 0.75 * len(words) and paragraph[-1] in ".!?:;)\"'”"


def is_held_out(name: str) -> bool:
    """Whether a document is kept from training; its name decides, so that other documents change nothing."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < HELD_OUT_SHARE * 2**64


@dataclass(frozen=True, kw_only=True)
class TextCounts:
    """What is in a text."""

    documents: int
    words: int


@dataclass(frozen=True, kw_only=True)
class DemoManifest:
    """The demo's data, as manifest.json says it.

    Attributes:
        python: the version whose documentation it is.
        texts: by file.
        rows: of each file of a task.
        sha256: of every file, in hex.
    """

    format: int
    python: str
    texts: dict[str, TextCounts]
    rows: dict[str, int]
    sha256: dict[str, str]


def write_demo(out: Path) -> tuple[DemoManifest, bool]:
    """Write `train.txt`, `heldout.txt`, and the generated tasks under `glue/`.

    Returns:
        The manifest, with counted words, documents and rows; and whether all of it was found finished.

    Raises:
        InputError: this Python comes without its documentation.
    """
    python = sys.version.split()[0]
    with contextlib.suppress(InputError, OSError):  # what is missing, damaged or of an earlier version is made anew
        there = read_config(DemoManifest, out / "manifest.json")
        same = (there.format, there.python) == (FORMAT, python)
        if same and all(sha256_of(out / file) == sum_ for file, sum_ in there.sha256.items()):
            return there, True

    documents: dict[str, list[tuple[str, list[str]]]] = {"train": [], "validation": []}
    for name, paragraphs in python_documents():
        documents["validation" if is_held_out(name) else "train"].append((name, paragraphs))
    if not documents["train"] or not documents["validation"]:
        raise InputError(
            f"{sysconfig.get_paths()['stdlib']}: too little documentation in this Python; use a full CPython",
            path=sysconfig.get_paths()["stdlib"],
        )
    out.mkdir(parents=True, exist_ok=True)
    texts = {}
    for split, file_name in (("train", "train.txt"), ("validation", "heldout.txt")):
        with atomic_file(out / file_name) as file:
            file.write("\n\n".join("\n".join(paragraphs) for _, paragraphs in documents[split]).encode() + b"\n")
        words = sum(len(paragraph.split()) for _, paragraphs in documents[split] for paragraph in paragraphs)
        texts[file_name] = TextCounts(documents=len(documents[split]), words=words)
    rows = {f"glue/{file}": count for file, count in write_tasks(documents, out / "glue").items()}
    manifest = DemoManifest(
        format=FORMAT,
        python=python,
        texts=texts,
        rows=rows,
        sha256={file: sha256_of(out / file) for file in (*texts, *rows)},
    )
    write_config(manifest, out / "manifest.json")
    return manifest, False
