"""Command-line arguments through tyro, and their mistakes told in one line."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from distilbert_jax.base import config_io, runtime, signals
from distilbert_jax.base.files import finite_values
from distilbert_jax.cli import renamed
from distilbert_jax.config import OF_LAYERS, FinetuneConfig, Schedule, Scheduled, SweepConfig, ends, scheduled
from distilbert_jax.errors import InputError
from distilbert_jax.experiments.variants import leaves

C = TypeVar("C")
Main = Callable[[list[str], str], None]  # a command: its arguments, and what its messages call it


class Runs(Protocol):
    """A command whose options are its fields."""

    def run(self) -> None: ...


def parse(kind: Callable[..., C], args: Sequence[str], *, prog: str, default: Any = None) -> C:
    """`tyro.cli` whose complaints come as one `InputError` instead of a box. `--help` prints and exits as usual."""
    options = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _TYPES:
            result = tyro.cli(kind, args=list(args), prog=prog, **options)
    except SystemExit as exit:
        if not exit.code:
            raise
        renamed.check_options(args, prog)
        said, cause = _one_line(complaint.getvalue()).replace(f"Missing from {prog}:", "missing:"), _cause(exit)
        if cause and said.startswith("Error parsing"):  # the box breaks lines within numbers, too
            said = f"{said.partition(': ')[0]}: {cause}"
    except InputError as error:  # of a config that is a part of the command
        said, cause = str(error), error
    else:
        check_lists(args, result, prog)
        return result
    if not cause or not (cause.path or cause.field):  # of one option alone
        options = re.findall(r"--[\w.-]*\w", said)
        cause = InputError(
            said, field=options[0] if options else None, hint=said.partition("; perhaps you meant ")[2] or None
        )
    raise InputError(f"{prog}: {said}; --help lists what there is", path=cause.path, field=cause.field, hint=cause.hint)


def check_lists(args: Sequence[str], result: Any, prog: str) -> None:
    """Raise InputError for an option of several values that is given twice, with others: the last alone counts, and of two --text
    one file would be left out without a word. Of one value the last counts, as everywhere.

    Args:
        result: what the arguments are as an object with fields, or a function that takes them.
    """
    given: dict[str, list[str]] = {}
    starts = [place for place, word in enumerate(args) if re.match("--[A-Za-z]", word)]
    for start, end in itertools.pairwise([*starts, len(args)]):
        option, equals, first = args[start].partition("=")
        values = [*([first] if equals else []), *args[start + 1 : end]]
        if given.setdefault(option, values) != values and _takes_several(result, option):
            raise InputError(
                f"{prog}: {option} is given twice, and the last alone would count: give it once, with all of its values behind it",
                field=option,
            )


def _takes_several(result: Any, option: str) -> bool:
    fields = result.keywords if isinstance(result, functools.partial) else dict(leaves(result))
    name = option.removeprefix("--").replace("-", "_")
    found = [value for path, value in fields.items() if f".{path}".endswith(f".{name}")]
    return any(isinstance(value, tuple | Mapping) for value in found)


def check_effect(before: Any, now: Any, sweep: SweepConfig | None = None) -> None:
    """Raise InputError for a field of a training config that the command line has changed and that changes nothing of what is
    computed, as weights of a teacher that nobody names.

    Args:
        before: the config without the command line.
        sweep: settings that are tried in the place of the config's.
    """
    swept = sweep.tried() if sweep else {}
    idle: dict[str, str] = {}  # {what the names of such fields begin with: what they wait for}
    if isinstance(now, FinetuneConfig):
        idle |= {} if now.distill.teacher else {"distill.": "--distill.teacher DIR"}
        idle |= {} if now.augment.copies else {"augment.": "--augment.copies N"}
        idle |= {} if any(ends(now.distill.alpha)) else {"distill.temperature": "--distill.alpha SHARE"}
        idle |= _without_weight(now.distill, "distill")
    else:
        idle |= {"loss.": "--objective distillation"} if now.objective in ("masked_lm", "masked_lm_nsp") else {}
        idle |= (
            _without_weight(now.loss, "loss") if now.objective == "distillation" else {}
        )  # what others read is theirs
        idle |= {} if now.masking.random else {"masking.random_differs": "--masking.random SHARE"}
        idle |= {} if now.init.source else {f"init.{name}": "--init.source DIR" for name in OF_LAYERS}
        idle |= {} if now.masking.weighting == "frequency" else {"masking.smoothing": "--masking.weighting frequency"}
    for one in config_io.differences(before, now):
        option = f"--{one.field.replace('_', '-')}"
        hint = next((hint for start, hint in idle.items() if one.field.startswith(start)), None)
        if hint and hint.split()[0] != option:
            raise InputError(f"{option} {one.new}: changes nothing without {hint}", field=option, hint=hint)
        if one.field in swept:
            other = f"--sweep.{option.removeprefix('--').rpartition('.')[2]}"
            raise InputError(
                f"{option} {one.new}: changes nothing beside {other}, which names all values that are tried",
                field=option,
                hint=other,
            )


def _without_weight(loss: Any, name: str) -> dict[str, str]:
    """What the options of terms wait for whose weight is 0."""
    terms = {item.name: getattr(loss, item.name) for item in dataclasses.fields(loss)}
    idle = (one for one, term in terms.items() if hasattr(term, "weight") and not any(ends(term.weight)))
    return {f"{name}.{one}.": f"--{name}.{one.replace('_', '-')}.weight W" for one in idle}


_TYPES = ConstructorRegistry()


@_TYPES.primitive_rule
def _scheduled(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Scheduled] | None:
    """A number, or a schedule as one word: of a dataclass tyro would make a subcommand."""
    if info.type != Scheduled:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|linear:A:B|cosine:A:B",
        instance_from_str=lambda words: scheduled(words[0]),
        is_instance=lambda value: isinstance(value, float | int | Schedule),
        str_from_instance=lambda value: [str(value)],
    )


def _cause(error: BaseException | None) -> InputError | None:
    """The mistake in a config that made tyro give up, if it was one."""
    while error and not isinstance(error, InputError):
        error = error.__context__
    return error


def calling(command: Callable[..., None]) -> Main:
    """The command that calls a function with what the command line gives for its arguments."""

    # Parsed first and called after: while tyro reads, stderr is caught, and a command shows its progress there.
    @functools.wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return lambda args, prog: parse(later, args, prog=prog)()


def running(kind: Callable[..., Runs]) -> Main:
    """The command whose options are the fields of a dataclass, and which computes with a model."""

    def main(args: list[str], prog: str) -> None:
        command = parse(kind, args, prog=prog)
        runtime.keep_freed_memory()
        command.run()

    return main


@contextlib.contextmanager
def training_together() -> Iterator[bool]:
    """Join the other processes of this run; the value: whether there are any. In the `with` block the first of them alone speaks,
    but what ends another is told by that, too."""
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.training import distributed  # brings JAX
    together = distributed.join_processes()
    if distributed.is_main_process():
        yield together
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield together


@contextlib.contextmanager
def directory_called_out() -> Iterator[None]:
    """Tell of a run's directory by --out, where that is the option that names it."""
    try:
        yield
    except InputError as error:
        if "--run.directory" not in str(error):
            raise
        said = str(error).replace("--run.directory", "--out")
        raise InputError(said, path=error.path, field=error.field, row=error.row, hint=error.hint) from None


def load_config(name: str, *kinds: type) -> Any:
    """`config_io.load_config`, which answers the name of a file that has become a variant of another with what it is now."""
    with _old_names(name):
        return config_io.load_config(name, *kinds)


def load_variants(name: str, kind: type[C]) -> dict[str, C]:
    """`config_io.load_variants`, with the same answer."""
    with _old_names(name):
        return config_io.load_variants(name, kind)


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output: valid whatever its encoding is, null where a number is not finite."""
    takes_all = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(finite_values(value), ensure_ascii=not takes_all, allow_nan=False))


@contextlib.contextmanager
def _old_names(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        if (now := renamed.config(name)) and not Path(name.partition(".py")[0] + ".py").exists():
            raise InputError(f"{name}: no such config file; it is now {now}", path=name, hint=now) from None
        raise


def _one_line(box: str) -> str:
    """The words of a box that tyro prints, without frame, title and general advice."""
    said = []
    for line in box.splitlines():
        words = line.strip("│╭╮╰╯─ ")
        if line.startswith(("╭", "╰")) or not words:
            continue
        if words.startswith(("For full helptext", "Argument helptext")):
            break
        said.append(words)
    return " ".join(said).replace(" Perhaps you meant:", "; perhaps you meant")
