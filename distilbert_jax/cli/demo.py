"""Demo from data to report: `distilbert-jax demo`."""

import dataclasses
import importlib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from distilbert_jax.base import runtime, signals
from distilbert_jax.base.files import check_results_place, read_json
from distilbert_jax.cli.arguments import calling
from distilbert_jax.errors import InputError

Step = Literal["data", "tokenizer", "corpora", "teacher", "student", "copied", "control", "glue", "fill-mask", "report"]
STEPS: tuple[Step, ...] = typing.get_args(Step)
TRAININGS = ("teacher", "student", "copied", "control")
TASKS = ("demo-topic", "demo-order", "demo-overlap")


def demo(out: Path | None = None, only: tuple[Step, ...] = STEPS, toy: bool = False) -> None:
    """Everything once, on the documentation inside this Python: nothing is downloaded, two cores of a CPU are enough.

    A small BERT learns masked LM, a student of half its layers is distilled from it, with two controls beside it; they are
    fine-tuned on generated tasks, a mask is filled, and a report compares them. Interrupted, the same command goes on.

    Args:
        out: directory of everything that is made; runs/demo if none is given, with --toy runs/demo-toy.
        only: these steps alone, in their order.
        toy: every step in a few minutes, too briefly to learn anything.
    """
    out = out or Path("runs/demo-toy" if toy else "runs/demo")
    if not only:
        raise InputError(f"--only: expected one or more of {', '.join(STEPS)}", field="--only")
    check_results_place(out, "--out")
    tier = "toy/" if toy else ""
    _check_before(only, out, tier)
    runtime.keep_freed_memory()
    for step in STEPS:
        if step in only:
            _do(step, out, tier)


def _check_before(only: tuple[Step, ...], out: Path, tier: str) -> None:
    """Raise InputError where a step needs what no earlier one has made, or what one of the other demo, whole or toy, has."""
    made = {
        "data": "data/manifest.json",
        "tokenizer": "tokenizer/tokenizer.json",
        "corpora": "heldout/manifest.json",
        **{name: f"{name}/model/model.safetensors" for name in TRAININGS},
    }
    needs: dict[str, tuple[Step, ...]] = {
        "tokenizer": ("data",),
        "corpora": ("data", "tokenizer"),
        "teacher": ("corpora",),
        "student": ("corpora", "teacher"),
        "copied": ("corpora", "teacher"),
        "control": ("corpora",),
        "glue": ("data", *TRAININGS),
        "fill-mask": ("student",),
        "report": ("corpora", *TRAININGS),
    }
    for step in only:
        for other in needs.get(step, ()):
            if other not in only and not (out / made[other]).exists():
                raise InputError(
                    f"--only {step}: needs {out / made[other]}, which is not there; --only {other} makes it first",
                    path=out / made[other],
                    field="--only",
                    hint=f"--only {other}",
                )
    for training in TRAININGS:
        if any(training in (step, *needs.get(step, ())) for step in only):
            _check_tier(training, out, tier)


def _check_tier(training: str, out: Path, tier: str) -> None:
    """Scores of a toy's few rows beside the models of a whole demo would pass for theirs, and the other way round."""
    recorded = out / training / "config.json"
    steps = _configs().get_config(f"{tier}{training}", str(out)).steps
    if recorded.is_file() and (found := read_json(recorded, dict).get("steps")) != steps:
        asked, change = ("the toy", "leave --toy out") if tier else ("the demo", "add --toy")
        raise InputError(
            f"{out / training}: is a run of {found} steps, and {asked} has one of {steps}; {change}, or choose another --out",
            path=out / training,
            field="--toy",
        )


def _do(step: Step, out: Path, tier: str) -> None:
    """tier: what stands before the names of the demo's configs."""
    if step in TRAININGS:
        _train(step, out, tier)
    elif step == "glue":
        _glue(out, tier)
    else:
        doing: dict[str, Callable[[Path], None]] = {
            "data": _data,
            "tokenizer": _tokenizer,
            "corpora": _corpora,
            "fill-mask": _fill_mask,
            "report": _report,
        }
        doing[step](out)


def _data(out: Path) -> None:
    from distilbert_jax.demo.documents import write_demo

    place = out / "data"
    manifest, finished = write_demo(place)
    state = "found finished" if finished else "written"
    print(f"demo data, {state} in {place}, from the documentation in Python {manifest.python}:")
    for file, text in manifest.texts.items():
        print(f"  {file}: {text.documents:,} documents, {text.words:,} words")
    for file, rows in manifest.rows.items():
        print(f"  {file}: {rows:,} generated rows")


def _tokenizer(out: Path) -> None:
    from distilbert_jax.cli.prepare import tokenizer

    tokenizer((out / "data/train.txt",), 4096, out / "tokenizer")


def _corpora(out: Path) -> None:
    from distilbert_jax.cli.prepare import corpus

    for text, name in (("train", "corpus"), ("heldout", "heldout")):
        corpus((out / f"data/{text}.txt",), str(out / "tokenizer"), out / name)


def _train(name: str, out: Path, tier: str) -> None:
    with signals.leaving_at_ctrl_c():
        import jax

        from distilbert_jax.pretraining.run import pretrain

    with signals.leaving_when_asked():
        pretrain(_configs().get_config(f"{tier}{name}", str(out)))
    jax.clear_caches()  # each run compiles its own step


def _glue(out: Path, tier: str) -> None:
    from distilbert_jax.cli.glue import GlueCommand

    config = _configs().get_config(f"{tier}glue", str(out))
    with signals.leaving_when_asked(), runtime.compiling_once():  # the models share programs
        for name in TRAININGS:
            run = dataclasses.replace(config.run, directory=str(out / name / "glue"))
            GlueCommand(
                dataclasses.replace(config, model=str(out / name / "model"), run=run), tasks=TASKS, seeds=(0,)
            ).run()


def _fill_mask(out: Path) -> None:
    from distilbert_jax.cli.texts import FillMaskCommand

    print("\nA mask filled by the student, a toy of two layers that has read Python's documentation only:")
    FillMaskCommand(("Return a [MASK] object .",), str(out / "student/model")).run()
    print(
        "With a network, a real checkpoint:\n"
        "  hf download distilbert-base-uncased --local-dir distilbert-base-uncased\n"
        '  distilbert-jax fill-mask --model distilbert-base-uncased "Hello I\'m a [MASK] model."\n'
    )


def _report(out: Path) -> None:
    from distilbert_jax.experiments.report import report

    report(
        tuple(str(out / name) for name in TRAININGS),
        str(out),
        heldout=str(out / "heldout"),
        teacher=str(out / "teacher"),
    )


def _configs() -> typing.Any:
    return importlib.import_module("distilbert_jax.configs.demo")


COMMANDS = {"demo": calling(demo)}
