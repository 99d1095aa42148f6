"""Fuzzing of what comes from outside: mutated model directories, corpora, run folders, texts and parquet files, beside an oracle.

A mutation is a function of (seed, number) alone. None may end in a traceback, take longer than 20 s or more than 2 GB, or give a
result that differs silently from what its oracle says: transformers for models; `xz`, `gzip` and pyarrow for files; for corpora and
run folders: refused, or the same bits. `make parity` runs some in one process, `benchmarks/fuzz.py` thousands.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import lzma
import math
import os
import random
import re
import shutil
import signal
import subprocess
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow
import transformers
from pyarrow import parquet

from distilbert_jax.config import PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning.datasets import load_split
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import BertForMaskedLM, DistilBertForMaskedLM
from distilbert_jax.pipelines import FillMask
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.run import pretrain
from distilbert_jax.text.sources import TextSources
from distilbert_jax.text.tokenizer import load_tokenizer
from tests import runs
from tests.models.common import build

SECONDS, BYTES, LETTERS = 20, 2 << 30, 1500
KINDS = {"model": 40, "text": 25, "parquet": 15, "corpus": 12, "run": 8}  # of a hundred mutations
GOOD = ("same", "refused", "laxer", "unsettled")
# What transformers refuses and is read here, by a part of its error: why.
LAXER = {
    "Field 'layer_norm_eps' expected float, got int": "the same number",
    "Field 'initializer_range' expected float, got int": "the same number",
}
TEXTS = ["reda [MASK] redc", "[MASK] goes to bluea, redb!", "goess to [MASK]"]
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**9, 10**20, 0.5, -0.0, 1e300, math.nan, "", "x", "gelu", "true", "\u2028",
    [], {}, [1], ["a"],
    {"a": 1}, [[[]]],
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one mutation led to.

    Attributes:
        number: of the mutation; with the seed it is made again.
        kind: what was mutated, of `KINDS`.
        what: the mutation in words.
        outcome: one of `GOOD` ("laxer": a model's answers where transformers refuses its files, for a reason in `LAXER`;
            "unsettled": weights so large that transformers' own answers in float32 are not those of float64), or traceback,
            differs, slow, large, long.
        said: the line it was refused with, or what is wrong.
    """

    number: int
    kind: str
    what: str
    outcome: str
    said: str


class SlowError(Exception):
    """It took longer than it may."""


class DiffersError(Exception):
    """A result that is not the oracle's."""


class UnsettledError(Exception):
    """A result that is not the oracle's, whose own rounding decides about it."""


class LaxerError(Exception):
    """A result where the oracle refuses."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A mutation in words, what is asked of what it led to, and what the oracle says; `exact`: the oracle in float64."""

    what: str
    ours: Callable[[], Any]
    oracle: Callable[[], Any]
    exact: Callable[[], Any] | None = None


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise SlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak() -> int:
    """The most memory in bytes that this process has had since the last call; where Linux does not say, 0."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# Mutations. Each changes something and says what.


def mutate_bytes(path: Path, choose: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = choose.randrange(len(data) + 1)
    how = choose.choice(("flip", "flip", "flip", "cut", "insert", "zero", "append", "drop", "repeat"))
    if how == "flip" and data:
        for _ in range(choose.choice((1, 1, 1, 4))):
            place = choose.randrange(min(len(data), choose.choice((64, 1024, len(data)))))
            data[place] ^= 1 << choose.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "zero":
        data[at : at + 16] = bytes(len(data[at : at + 16]))
    elif how == "drop":
        del data[at : at + choose.choice((1, 1, 8))]
    elif how == "repeat":
        data += bytes(data)
    else:
        new = choose.choice((b"\0", bytes(4), b"more", choose.randbytes(choose.choice((1, 7, 300)))))
        at = len(data) if how == "append" else at
        data[at:at] = new
    path.write_bytes(data)
    return f"{path.name}: {how} at {at}"


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from _places(one, (*path, key))


def mutate_json(path: Path, choose: random.Random) -> str:
    root = json.loads(path.read_text(encoding="utf-8"))
    places = list(_places(root))
    # Of thousands of entries of a vocabulary, no more than of the rest.
    entries = [place for place in places if "vocab" in place]
    others = [place for place in places if "vocab" not in place]
    place = choose.choice(entries if entries and choose.random() < 0.2 else others or places)
    within = root
    for key in place[:-1]:
        within = within[key]
    how = choose.choice(("value", "value", "value", "remove", "rename", "double", "root", "deep"))
    if how == "value":
        old = within[place[-1]]
        near = [old + 1, old * 2, -old] if type(old) in (int, float) else []
        within[place[-1]] = choose.choice([*VALUES, *near, *near])
        how = repr(within[place[-1]])[:40]
    elif how == "remove":
        del within[place[-1]]
    elif how == "rename" and isinstance(within, dict):
        within[choose.choice(("other", f"{place[-1]}s", ""))] = within.pop(place[-1])
    text = json.dumps(root)
    if how == "root":
        text = json.dumps(choose.choice([*VALUES, [root]]))
    elif how == "deep":
        text = '{"a": ' * 5000 + "1" + "}" * 5000
    elif how == "double":
        text = text[:-1] + f', "{place[0]}": {json.dumps(choose.choice(VALUES))}}}' if text.endswith("}") else text
    path.write_text(text, encoding="utf-8")
    return f"{path.name}: {'.'.join(map(str, place))}: {how}"


def mutate_tensors(path: Path, choose: random.Random) -> str:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    name, other = choose.sample([name for name in header if name != "__metadata__"], 2)
    entry = header[name]
    begin, end = entry["data_offsets"]
    how = choose.choice(("rename", "remove", "exchange", "shape", "dtype", "offsets", "nan", "large", "half", "more"))
    if how == "rename":
        header[choose.choice((f"{name}s", name.replace("weight", "gamma"), f"x.{name}", ""))] = header.pop(name)
    elif how == "remove":
        del header[name]
    elif how == "exchange":
        header[name], header[other] = header[other], header[name]
    elif how == "shape":
        entry["shape"] = choose.choice(
            (entry["shape"][::-1], [math.prod(entry["shape"])], [*entry["shape"], 1], [], [-1], [10**9])
        )
    elif how == "dtype":
        entry["dtype"] = choose.choice(("I32", "U8", "F16", "BF16", "F64", "F8_E4M3", "BOOL", "F3"))
    elif how == "offsets":
        entry["data_offsets"] = choose.choice(([begin, end + 4], [begin + 4, end + 4], [end, begin], [0, 10**12], [0]))
    elif how == "half":
        entry["dtype"], narrow = "F16", np.frombuffer(bytes(body[begin:end]), np.float32).astype(np.float16).tobytes()
        entry["data_offsets"] = [len(body), len(body) + len(narrow)]
        body += narrow
    elif how == "more":
        header["added"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += bytes(4)
    else:
        place = choose.randrange(begin, end, 4)
        body[place : place + 4] = np.float32(math.nan if how == "nan" else 3e38).tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return f"{path.name}: {name}: {how}"


def mutate_place(path: Path, choose: random.Random) -> str:
    kept = path.with_name(f"{path.name}.kept")
    how = choose.choice(("directory", "pipe", "zeros", "nothing", "itself", "removed", "empty", "link", "above"))
    path.rename(kept)
    if how == "directory":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "empty":
        path.touch()
    elif how != "removed":
        named = {"zeros": "/dev/zero", "nothing": "nothing", "itself": path.name, "link": kept.name, "above": ".."}
        path.symlink_to(named[how])
    return f"{path.name}: {how}"


def mutate(directory: Path, choose: random.Random) -> str:
    """Change one or two files below a directory; returns what was done."""
    said = []
    for _ in range(choose.choice((1, 1, 1, 2))):
        files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name[0] != ".")
        path = choose.choice(files)
        ways: list[Callable[[Path, random.Random], str]] = [mutate_bytes, mutate_place]
        if path.suffix == ".json":
            ways += [mutate_json] * 6
        if path.suffix == ".safetensors":
            ways += [mutate_tensors] * 4
        # What an earlier mutation of the same directory left may be no JSON any more.
        try:
            said.append(choose.choice(ways)(path, choose))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            said.append(mutate_bytes(path, choose))
    return "; ".join(said)


# Targets: what is mutated, what is done with it, and what its oracle says.


class Fuzzer:
    """Mutations of some originals, which are made once in a directory.

    Args:
        place: an empty directory.
    """

    def __init__(self, place: Path):
        self.place = place
        self.world = runs.make_world(place / "world")
        self._make_models(place / "model")
        self._make_run(place / "run")

    def _make_models(self, place: Path) -> None:
        tokenizer = load_tokenizer(self.world.tokenizer)
        bert = runs.change(runs.BERT, num_hidden_layers=1)
        build(BertForMaskedLM, bert, seed=2).save_pretrained(place / "bert", tokenizer)
        build(DistilBertForMaskedLM, runs.STUDENT, seed=2).save_pretrained(place / "distilbert", tokenizer)
        shutil.copytree(place / "bert", place / "vocabulary")
        (place / "vocabulary/tokenizer.json").unlink()
        shutil.copy(Path(self.world.tokenizer) / "vocab.txt", place / "vocabulary")
        shutil.copytree(place / "distilbert", place / "sharded")
        reference = transformers.AutoModelForMaskedLM.from_pretrained(place / "distilbert")
        (place / "sharded/model.safetensors").unlink()
        reference.save_pretrained(place / "sharded", max_shard_size="10KB")

    def _make_run(self, place: Path) -> None:
        self.config: PretrainConfig = runs.pretraining(
            self.world, place / "finished", steps=4, run__save_every=2, data__heldout=""
        )
        runs.train(self.config)
        shutil.copytree(place / "finished", place / "unwritten")
        shutil.rmtree(place / "unwritten/model")
        self.weights = runs.weights(place / "finished/model")

    def run(self, seed: int, number: int) -> Outcome:
        """Make a mutation and see what becomes of it."""
        choose = random.Random(f"{seed}-{number}")
        kind = choose.choices(list(KINDS), list(KINDS.values()))[0]
        place = self.place / "now"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        _peak()
        held = _peak()  # by whatever else this process has done
        what, outcome, said = "", "same", ""
        quiet = io.StringIO()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
                warnings.simplefilter("ignore")
                trial = getattr(self, f"_{kind}")(place, choose)
                what = trial.what
                self._compare(trial)
        except InputError as error:
            outcome, said = "refused", str(error)
            if len(" ".join(said.split())) > LETTERS:
                outcome, said = "long", said[:200]
        except OSError as error:
            outcome, said = "refused", f"{error.strerror or error} ({error.filename})"
        except SlowError:
            outcome, said = "slow", f"longer than {SECONDS} s"
        except UnsettledError as error:
            outcome, said = "unsettled", str(error)
        except (DiffersError, LaxerError) as error:
            listed = kind == "model" and any(part in str(error) for part in LAXER)
            laxer = isinstance(error, LaxerError) and listed  # of a file, the oracle says whether it is whole
            outcome, said = "laxer" if laxer else "differs", str(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            ours_last = [f for f in traceback.extract_tb(error.__traceback__) if "distilbert_jax" in f.filename]
            where = ours_last[-1] if ours_last else last
            outcome, said = "traceback", f"{type(error).__name__}: {error} [{Path(where.filename).name}:{where.lineno}]"
        if (peak := _peak() - held) > BYTES:
            outcome, said = "large", f"{peak >> 20} MiB; {outcome}: {said}"
        return Outcome(number, kind, what, outcome, said.replace(str(self.place), ""))

    def _compare(self, trial: Trial) -> None:
        """Raise what `ours` raises, or DiffersError unless the oracle gives the same."""
        with _alarm(SECONDS):
            result = trial.ours()
        try:
            with _alarm(6 * SECONDS):
                expected = trial.oracle()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise LaxerError(f"the oracle refuses: {type(error).__name__}: {error}"[:300]) from None
        if problem := _difference(result, expected):
            if trial.exact and _difference(expected, trial.exact()):
                raise UnsettledError(problem)
            raise DiffersError(problem)

    def _model(self, place: Path, choose: random.Random) -> Trial:
        original = choose.choice(sorted((self.place / "model").iterdir()))
        shutil.copytree(original, place / "model")
        what = f"{original.name}: {mutate(place / 'model', choose)}"

        def answers(pipeline: Any) -> list[dict[int, float]]:
            given = [pipeline(text, top_k=48) for text in TEXTS]
            return [{one["token"]: one["score"] for one in line} for line in given]

        def oracle(dtype: str = "float32") -> Any:
            transformers.logging.set_verbosity_error()
            transformers.logging.disable_progress_bar()
            return answers(transformers.pipeline("fill-mask", str(place / "model"), device="cpu", dtype=dtype))

        return Trial(what, lambda: answers(FillMask(str(place / "model"))), oracle, lambda: oracle("float64"))

    def _text(self, place: Path, choose: random.Random) -> Trial:
        text = "\n".join(
            runs.sentence(choose) + choose.choice(("", " é", " 🙂", "\r", "\n")) for _ in range(30)
        ).encode()
        parts = [text[: len(text) // 3], text[len(text) // 3 :]] if choose.random() < 0.7 else [text]
        kind = choose.choice(("txt", "xz", "xz", "gz", "gz"))
        path = place / ("text.txt" if kind == "txt" else f"text.txt.{kind}")
        pack = {"txt": bytes, "xz": lzma.compress, "gz": gzip.compress}[kind]
        between = bytes(choose.choice((0, 0, 0, 4))) if kind == "xz" else b""
        path.write_bytes(between.join(map(pack, parts)))
        what = (mutate_place if choose.random() < 0.1 else mutate_bytes)(path, choose)

        def oracle() -> list[str]:
            data = path.read_bytes()
            if kind != "txt":
                program = {"xz": "xz", "gz": "gzip"}[kind]
                subprocess.run([program, "-t", str(path)], check=True, capture_output=True)
                data = subprocess.run([program, "-dc", str(path)], check=True, capture_output=True).stdout
            return [line for line in re.split(r"\r*\n|\r", data.decode("utf-8-sig")) if line.strip()]

        return Trial(f"{kind}: {what}", lambda: list(TextSources([path]).lines()), oracle)

    def _parquet(self, place: Path, choose: random.Random) -> Trial:
        columns = {"sentence": [runs.sentence(choose) for _ in range(40)], "label": [i % 2 for i in range(40)]}
        path = place / "demo-topic/validation.parquet"
        path.parent.mkdir()
        parquet.write_table(
            pyarrow.table(columns),
            path,
            compression=choose.choice(("none", "snappy", "gzip")),
            use_dictionary=choose.random() < 0.5,
            write_page_checksum=choose.random() < 0.3,
        )
        what = (mutate_place if choose.random() < 0.15 else mutate_bytes)(path, choose)

        def ours() -> Any:
            rows = load_split(find_task("demo-topic"), "validation", str(place))
            return {name: rows[name][:] for name in ("sentence", "label")}

        def oracle() -> Any:
            with path.open("rb") as file:
                return {k: v for k, v in parquet.read_table(file).to_pydict().items() if k in ("sentence", "label")}

        return Trial(what, ours, oracle)

    def _corpus(self, place: Path, choose: random.Random) -> Trial:
        shutil.copytree(self.world.heldout, place / "corpus")
        what = mutate(place / "corpus", choose)

        def read(path: str | Path) -> Any:
            corpus = Corpus.open(path)
            corpus.verify()
            arrays = [array.tolist() for shard in corpus for array in vars(shard).values()]
            return [arrays, corpus.token_counts.tolist(), corpus.tokenizer().to_str(), vars(corpus.specials)]

        return Trial(what, lambda: read(place / "corpus"), lambda: read(self.world.heldout))

    def _run(self, place: Path, choose: random.Random) -> Trial:
        original = choose.choice(("finished", "unwritten"))
        shutil.copytree(self.place / "run" / original, place / "run")
        what = f"{original}: {mutate(place / 'run', choose)}"

        def ours() -> Any:
            pretrain(runs.change(self.config, run__directory=str(place / "run")))
            return runs.weights(place / "run/model")

        return Trial(what, ours, lambda: self.weights)


def _difference(result: Any, expected: Any, path: str = "") -> str:
    """Where a result is not the expected one; "" where it is. Floats may differ by 1e-4 of their size."""
    if isinstance(result, dict) and isinstance(expected, dict) and result.keys() == expected.keys():
        pairs = [(str(key), result[key], expected[key]) for key in result]
    elif isinstance(result, list) and isinstance(expected, list) and len(result) == len(expected):
        pairs = [(str(i), one, other) for i, (one, other) in enumerate(zip(result, expected, strict=True))]
    elif type(result) is float and type(expected) is float:
        return "" if math.isclose(result, expected, rel_tol=1e-4, abs_tol=1e-5) else f"{path}: {result} for {expected}"
    else:
        return "" if result == expected else f"{path}: {result!r:.80} for {expected!r:.80}"
    return next((said for key, one, other in pairs if (said := _difference(one, other, f"{path}/{key}"))), "")


def forget_programs() -> None:
    """Let go of what was compiled, which thousands of shapes fill memory with."""
    jax.clear_caches()
