"""Runs small enough for tests: a tiny language, its corpora and teacher, configs, and children that train or kill themselves."""

import dataclasses
import functools
import os
import random
import signal
import struct
import subprocess
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pytest
from flax import nnx
from pyarrow import parquet
from safetensors.numpy import load_file
from tensorboardX.proto.event_pb2 import Event

import train as train_script
from distilbert_jax import config as c
from distilbert_jax.base.config_io import to_json
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.models import BertForMaskedLM
from distilbert_jax.models.params import merge, split
from distilbert_jax.models.pretrained import PretrainedModel
from distilbert_jax.pretraining import run
from distilbert_jax.pretraining.build_corpus import build_corpus
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.run import pretrain
from distilbert_jax.text.tokenizer import load_tokenizer, save_tokenizer
from distilbert_jax.training.checkpoint import Checkpoints
from distilbert_jax.training.logging import MEASURED, RunLog, read_metrics
from tests import children, compiling

ROOT = Path(__file__).parents[1]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"{kind}{letter}" for kind in ("red", "blue") for letter in "abcdefghijklmnopqrst"] + ["goes", "to", "##s"]
SIZES = {
    "vocab_size": len(SPECIALS) + len(WORDS),
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
BERT = c.ModelConfig.bert_base(num_hidden_layers=2, **SIZES)
STUDENT = c.ModelConfig.distilbert_base(num_hidden_layers=1, **SIZES)
STEPS = 30


@dataclasses.dataclass(frozen=True)
class World:
    """What runs read, all below `path`: a tokenizer, two corpora and a teacher of one language."""

    path: Path

    def __getattr__(self, name: str) -> str:
        return str(self.path / name)


def sentence(choose: random.Random, words: int = 14, colour: str = "") -> str:
    """Words of one colour in the order of an alphabet of six letters: easy to learn."""
    colour, start = colour or choose.choice(("red", "blue")), choose.randrange(6)
    return " ".join(f"{colour}{chr(ord('a') + (start + i) % 6)}" for i in range(words))


def write_tokenizer(directory: Path, words: list[str] = WORDS) -> Path:
    directory.mkdir(parents=True)
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, *words]), encoding="utf-8")
    save_tokenizer(load_tokenizer(directory), directory, model_max_length=32)
    return directory


def write_corpus(out: Path, tokenizer: Path, documents: int, seed: int) -> None:
    """Documents of four lines; two lines fill a row of 32 tokens."""
    choose = random.Random(seed)
    text = out.with_suffix(".txt")
    text.write_text("\n\n".join("\n".join(sentence(choose) for _ in range(4)) for _ in range(documents)))
    build_corpus([text], load_tokenizer(tokenizer), out, processes=1)


def write_split(folder: Path, task: str, split: str, columns: dict[str, list]) -> Path:
    """`<folder>/<task>/<split>.parquet` of these columns."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), folder / task / f"{split}.parquet")
    return folder / task / f"{split}.parquet"


def make_world(path: Path) -> World:
    tokenizer = write_tokenizer(path / "tokenizer")
    write_corpus(path / "corpus", tokenizer, 20, seed=0)
    write_corpus(path / "heldout", tokenizer, 6, seed=1)
    BertForMaskedLM(BERT, rngs=nnx.Rngs(7)).save_pretrained(path / "teacher", load_tokenizer(tokenizer))
    return World(path)


def pad_vocabulary(model: str, directory: Path, rows: int) -> None:
    """A copy of a masked LM whose embedding has rows that are no token's, with weights of their own."""
    source = BertForMaskedLM.from_pretrained(model)
    graphdef, params = split(source)
    wider = change(source.config, vocab_size=rows)
    drawn = split(BertForMaskedLM(wider, rngs=nnx.Rngs(8)))[1]
    params = {name: drawn[name].at[: len(value)].set(value) for name, value in params.items()}
    padded = merge(graphdef, params)
    padded.config = wider
    padded.save_pretrained(directory, load_tokenizer(model))


def pretraining(world: World, directory: Path, **changes: Any) -> c.PretrainConfig:
    """Masked LM from random weights; `changes` as on the command line, two underscores for the dot."""
    base = c.PretrainConfig(
        model=STUDENT,
        steps=STEPS,
        data=c.DataConfig(corpus=world.corpus, heldout=world.heldout, length=32, batch_size=8),
        masking=c.MaskingConfig(weighting="uniform"),
        optimizer=c.OptimizerConfig(learning_rate=1e-2),
        run=c.RunConfig(directory=str(directory), log_every=5, eval_every=15, save_every=10),
    )
    return change(base, **changes)


def distilling(world: World, directory: Path, **changes: Any) -> c.PretrainConfig:
    """The triple loss, with a student that begins with the teacher's first layer."""
    given = {"objective": "distillation", "teacher": world.teacher, "init__source": world.teacher, "data__heldout": ""}
    return pretraining(world, directory, **{**given, **changes})


def change(config: Any, **changes: Any) -> Any:
    """All changes at once: what goes together is never checked in part."""
    within: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        field, _, rest = name.partition("__")
        within.setdefault(field, {})[rest] = value
    new = {
        field: values[""] if "" in values else change(getattr(config, field), **values)
        for field, values in within.items()
    }
    return dataclasses.replace(config, **new)


def loss(
    kl: float = 5.0,
    mlm: float = 2.0,
    cos: float = 1.0,
    mse: float = 0.0,
    *,
    temperature: float = 2.0,
    tokens: Literal["all", "masked"] = "all",
    chunk: int = 0,
    own: dict[str, float] | None = None,
) -> c.LossConfig:
    """The package's own terms by their weights; `tokens`: of both terms on logits."""
    return c.LossConfig(
        c.KLConfig(kl, temperature, tokens),
        c.MLMConfig(mlm),
        c.CosConfig(cos),
        c.MSEConfig(mse, tokens),
        own=own or {},
        chunk=chunk,
    )


def train(config: c.PretrainConfig) -> c.PretrainConfig:
    pretrain(config)
    return config


def write_config(config: c.PretrainConfig, path: Path) -> str:
    """A config file that gives this config."""
    path.with_suffix(".json").write_text(to_json(config))
    path.write_text(
        "from pathlib import Path\n\nfrom distilbert_jax.config import PretrainConfig\n"
        "from distilbert_jax.base.config_io import from_json\n\n\n"
        'def get_config():\n    return from_json(PretrainConfig, Path(__file__).with_suffix(".json").read_text())\n'
    )
    return str(path)


def weights(model: Path) -> dict[str, bytes]:
    """The tensors of an HF directory, bit by bit."""
    return {name: value.tobytes() for name, value in load_file(model / "model.safetensors").items()}


def metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl."""
    return [{"kind": entry.kind, "step": entry.step, **entry.values} for entry in read_metrics(path)]


def entries(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what steps took."""
    logged = metrics(directory / "metrics.jsonl")
    return [{name: value for name, value in entry.items() if name not in MEASURED} for entry in logged]


def events(directory: Path) -> list[tuple[int, str, float]]:
    """Step, tag and value of all TensorBoard events, without what steps took."""
    found = []
    for file in sorted((directory / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # a record: length, checksum of it, event, checksum
            (size,) = struct.unpack("Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return [entry for entry in found if entry[1].removeprefix("train/") not in MEASURED]


def refused(
    call: Callable[[], Any],
    *shown: str,
    by: str = "",
    path: str = "",
    field: str | None = None,
    row: int | None = None,
    hint: str = "",
) -> str:
    """The one line that `call` is refused with. Its wording is pinned in wording.txt alone.

    Args:
        shown: values that are in the line.
        by: where in the package the error was raised, `room.module.function`.
        path, hint: in these fields of the error; field, row: these fields.
    """
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    message = " ".join(str(error).split())  # as `one_line_errors` prints it
    for value in shown:
        assert value in message
    assert not by or raised_by(error) == by
    assert path in (error.path or "")
    assert hint in (error.hint or "")
    assert field is None or error.field == field
    assert row is None or error.row == row
    return message


def raised_by(error: BaseException) -> str:
    """The function of the package that raised an error, or the last one that it left: `room.module.function`."""
    place, traceback = "", error.__traceback__
    while traceback:
        code = traceback.tb_frame.f_code
        file = Path(code.co_filename)
        if file.parent == ROOT or any(file.is_relative_to(ROOT / part) for part in ("distilbert_jax", "configs")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("distilbert_jax.")
            place = f"{module}.{code.co_qualname}".replace(".<locals>", "")
        traceback = traceback.tb_next
    return place


def signal_at(owner: type, name: str, call: int, number: signal.Signals, *, after: bool = False) -> Callable[[], None]:
    """Makes this process send itself a signal at the given call of a method, before it or after it."""

    def install() -> None:
        original, calls = getattr(owner, name), iter(range(1, 1000))

        @functools.wraps(original)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            due = next(calls) == call
            if due and not after:
                os.kill(os.getpid(), number)
            result = original(*arguments, **options)
            if due and after:
                os.kill(os.getpid(), number)
            return result

        setattr(owner, name, wrapped)

    return install


MOMENTS = {
    "between checkpoints": signal_at(RunLog, "write", 17, signal.SIGKILL, after=True),
    "a checkpoint without digests": signal_at(Checkpoints, "_seal", 2, signal.SIGKILL),
    "a checkpoint without its name": signal_at(Checkpoints, "_seal", 2, signal.SIGKILL, after=True),
    "the model is written": signal_at(PretrainedModel, "save_pretrained", 1, signal.SIGKILL),
    "Ctrl-C": signal_at(RunLog, "write", 17, signal.SIGINT),
    "Ctrl-C in the set-up": signal_at(Corpus, "tokenizer", 1, signal.SIGINT),
    "SIGTERM in the set-up": signal_at(Corpus, "tokenizer", 1, signal.SIGTERM),
    "SIGTERM after the last step": signal_at(PretrainedModel, "save_pretrained", 1, signal.SIGTERM),
}


def _kill_at_random(seed: int) -> None:
    """SIGKILL at a drawn moment in the steps, a save or an evaluation, as the seed has it. stdout says in what."""
    choose, phases = random.Random(seed), ["steps"]
    target = ("steps", "checkpoint", "evaluation")[seed % 3]

    def kill_after(seconds: float) -> None:
        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()

    def kill() -> None:
        if phases[-1] == target:
            os.write(1, f"{target}\n".encode())  # in one piece: two threads may be here
            os.kill(os.getpid(), signal.SIGKILL)
        kill_after(choose.uniform(0.0, 0.002))  # over by now, or a save came between: the next of its kind

    def wrap(owner: Any, name: str, phase: str, longest: float) -> None:
        original, calls = getattr(owner, name), iter(range(1, 1000))
        due = choose.randint(1, 15 if phase == "steps" else 1)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            if phase == target and next(calls) == due:
                kill_after(choose.uniform(0.0, longest))
            phases.append(phase)
            try:
                return original(*arguments, **options)
            finally:
                phases.pop()

        setattr(owner, name, wrapped)

    wrap(RunLog, "write", "steps", 0.05)
    wrap(Checkpoints, "save", "checkpoint", 0.1)
    wrap(Checkpoints, "wait", "checkpoint", 0.1)
    make = run.heldout
    run.heldout = lambda *arguments: _wrapped_evaluation(make(*arguments), wrap)


def _wrapped_evaluation(evaluate: Callable[..., Any], wrap: Callable[..., None]) -> Callable[..., Any]:
    holder = types.SimpleNamespace(evaluate=evaluate)
    wrap(holder, "evaluate", "evaluation", 0.5)
    return holder.evaluate


def train_command(*arguments: str) -> None:
    """`python train.py …`, for a child process."""
    with one_line_errors():
        train_script.main(list(arguments))


def _stopped_at(moment: str, config_file: str) -> None:
    compiling.quick_checkpoints()
    if moment.startswith("random"):
        _kill_at_random(int(moment.split()[1]))
    else:
        MOMENTS[moment]()
    train_command(config_file)


def child(moment: str, config_file: str) -> subprocess.CompletedProcess:
    """Train in a process that is stopped at a moment of `MOMENTS`, or at one that a seed draws (`random 1`)."""
    return children.run(_stopped_at, moment, config_file)
