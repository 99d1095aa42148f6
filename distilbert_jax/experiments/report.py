"""Report on several pre-training runs side by side: one table, results.json, and their curves as a PNG."""

import dataclasses
import itertools
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from distilbert_jax.base import config_io
from distilbert_jax.base.files import atomic_file, check_results_place
from distilbert_jax.base.hub import locate
from distilbert_jax.config import DataConfig, FinetuneConfig, ModelConfig, PretrainConfig, Sequences, Variant
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.experiments.figures import ComparisonWith, RunFigures
from distilbert_jax.experiments.seeds import over_seeds
from distilbert_jax.experiments.views import beside_test, curves, differences, markdown, mean_of, table
from distilbert_jax.finetuning.results import RunResult, read_result
from distilbert_jax.glue import bootstrap
from distilbert_jax.glue.results import Comparison, SweepRun, by_task
from distilbert_jax.glue.summary import (
    begun_with,
    check_same_dev,
    choices,
    config_of,
    mean_score,
    mnli_models,
    read_runs,
    remarks,
    summary,
)
from distilbert_jax.models import MaskedLM, PreTraining, hf_format
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.params import count, split
from distilbert_jax.pretraining.cost import step_flops
from distilbert_jax.pretraining.evaluate import HeldoutFigures, evaluate_mlm
from distilbert_jax.pretraining.setup import architecture
from distilbert_jax.probes.speed import speeds, throughputs
from distilbert_jax.training import run_directory
from distilbert_jax.training.logging import read_metrics


def measure(
    run: Path,
    tuned: Sequence[SweepRun],
    *,
    heldout: str,
    teacher: str,
    length: int,
    sequences: Sequences = "line",
    max_rows: int | None = None,
    known: Variant | None = None,
) -> RunFigures:
    """The figures of one run by itself.

    Args:
        tuned: what fine-tuning left in it.
        heldout: a corpus; empty: no held-out figures.
        teacher: a run; KL to it is 0 for the teacher itself, and none where it has no masked-LM head.
        length: tokens in a row of held-out text.
        max_rows: of held-out text.
        known: the variant of an experiment that the run is.

    Raises:
        InputError: the run has something damaged in it.
    """
    model = run / "model"
    config, trained = read_config(model), _config(run)
    held: HeldoutFigures | None = None
    if heldout and MaskedLM.is_whole(model):
        itself = bool(teacher) and Path(teacher).resolve() == run.resolve()
        teacher_model = str(Path(teacher) / "model") if teacher and not itself else ""
        if teacher_model and not MaskedLM.is_whole(teacher_model):
            teacher_model = ""  # it taught by its layers, and gives no probabilities
        held = evaluate_mlm(
            str(model), heldout, teacher=teacher_model, length=length, sequences=sequences, max_rows=max_rows
        )
        if itself:
            held = dataclasses.replace(held, kl_to_teacher=0.0)
    every = [*(one.result for one in tuned), *_choosing(tuned)]
    tasks = summary(tuned)
    said = [*_remark(known)]
    if held and trained and trained.data.length != length:
        said.append(
            f"trained in rows of {trained.data.length} tokens, asked held-out text in rows of {length} like the others"
        )
    steps, seconds, flops = _training(run)
    return RunFigures(
        layers=config.num_hidden_layers,
        parameters=count(split(_widest(model).from_pretrained(model))[1]),
        steps=steps,
        train_seconds=seconds,
        train_flops=flops,
        kl_to_teacher=held and held.kl_to_teacher,
        mlm_loss=held and held.mlm_loss,
        mlm_accuracy=held and held.mlm_accuracy,
        loss_mlm=held and held.loss_mlm,
        loss_nsp=held and held.loss_nsp,
        nsp_accuracy=held and held.nsp_accuracy,
        perplexity=held and held.perplexity,
        heldout_parts=_heldout_parts(run),
        heldout_tokens=held and held.tokens,
        tuning_seconds=round(sum(one.train_seconds / one.together for one in every), 1) if every else None,
        tuning_flops=sum(one.flops for one in every) if every else None,
        tasks={name: row.median for name, row in tasks.items()},
        seeds={name: tuple(row.scores.values()) for name, row in tasks.items()},
        majority={name: row.majority for name, row in tasks.items()},
        remarks=(*said, *choices(tasks), *remarks(tasks)) if tasks else tuple(said),
        published=(known and known.published) or None,
    )


def _remark(known: Variant | None) -> tuple[str, ...]:
    return (known.remark,) if known and known.remark else ()


def _training(run: Path) -> tuple[int | None, float | None, float | None]:
    """Steps, seconds and FLOPs of a run's pre-training; None where there is no log of it.

    Raises:
        InputError: the log is damaged, or the run's teacher is not where its config says.
    """
    steps = [entry for entry in read_metrics(run / "metrics.jsonl") if entry.kind == "train"]
    if not steps and ((config := _config(run)) is None or config.steps):
        return None, None, None
    # Of a step of several students each has its share.
    seconds = [one["seconds"] / one.get("together", 1) for one in (e.values for e in steps) if "seconds" in one]
    if len(seconds) < len(steps):
        raise InputError(
            f"{run / 'metrics.jsonl'}: damaged, has steps without their seconds; remove the run's directory",
            path=run / "metrics.jsonl",
            field="seconds",
        )
    return steps[-1].step if steps else 0, round(sum(seconds), 1), _train_flops(run)


def _heldout_parts(run: Path) -> dict[str, float]:
    """The parts of a run's loss, `loss_<term>`, on its own held-out text after the last step, but for those that any model has."""
    held = [entry.values for entry in read_metrics(run / "metrics.jsonl") if entry.kind == "eval"]
    parts = {name: value for name, value in (held[-1] if held else {}).items() if name.startswith("loss_")}
    return {name: value for name, value in parts.items() if name not in ("loss_mlm", "loss_nsp")}


def _choosing(tuned: Sequence[SweepRun]) -> list[RunResult]:
    """The runs that the settings of these were chosen from, without those of another sweep, which stand beside them."""
    choices = {run.directory.parent / "choice" / run.result.task: run.choice for run in tuned if run.choice}
    found = []
    for place, choice in sorted(choices.items()):
        names = {f"{one.setting.name}-{seed}" for one in choice.settings for seed in choice.seeds or ()}
        of_these = lambda path, names=names: not names or path.parent.name in names  # of an earlier version all
        found += [read_result(path) for path in filter(of_these, sorted(place.glob("*/results.json")))]
    return found


def _tuned(run: Path, only: Collection[tuple[str, int]] | None = None) -> list[SweepRun]:
    """The runs of fine-tuning that `distilbert-jax glue` left in a run. only: as `read_runs` takes it.

    Raises:
        InputError: they are of another model than the run's, by the fingerprint that each was trained from.
    """
    tuned = read_runs(str(run / "glue"), only) if any((run / "glue").glob("*/results.json")) else []
    models = (run / "model", *mnli_models(run / "glue")) if tuned else ()
    known = {None, *(digest for model in models for digest in hf_format.known_fingerprints(model))}
    for one in tuned:
        if begun_with(one) not in known:
            raise InputError(
                f"{one.directory}: was not fine-tuned from {run / 'model'} as it is now; remove it and run "
                "distilbert-jax glue again",
                path=one.directory,
            )
    return tuned


def _tunings(runs: Sequence[SweepRun]) -> list[FinetuneConfig]:
    return [config for one in runs if (config := config_of(one.directory))]


def common_tasks(tasks: Iterable[Collection[str]]) -> list[str]:
    """The tasks that all have, WNLI aside, where they have some at all. tasks: of each run."""
    tuned = [names for names in tasks if names]
    return [name for name in (tuned[0] if tuned else ()) if name != "wnli" and all(name in names for names in tuned)]


def _config(run: Path) -> PretrainConfig | None:
    """How a run was trained; None where it is a model alone.

    Raises:
        InputError: its config is damaged, or was edited since.
    """
    run_directory.check_unedited(run)
    return config_io.read_config(PretrainConfig, run / "config.json") if (run / "config.json").is_file() else None


def _widest(model: Path) -> type[MaskedLM | PreTraining]:
    """What a run has trained: with next-sentence prediction where the files have its head."""
    whole = read_config(model).family.has_next_sentence and PreTraining.is_whole(model)
    return PreTraining if whole else MaskedLM


def _data(runs: Sequence[Path]) -> list[DataConfig]:
    """How those of the runs that were trained read their text."""
    return [config.data for run in runs if (config := _config(run))]


def _train_flops(run: Path) -> float | None:
    """Of all steps that a run's config asks for; None where a part of its loss is not known here, or its teacher is gone."""
    if not (config := _config(run)):
        return None
    try:
        teacher = _teacher(run, config)
    except InputError as error:
        warn_once(f"{run}: FLOPs of its training left out: {error}")
        return None
    try:
        return config.steps * step_flops(config, teacher)
    except InputError as error:  # a term or an objective of a file that is not at hand
        warn_once(
            f"{run}: FLOPs of its training left out: {error}; `distilbert-jax --with FILE.py report …` knows them"
        )
        return None


def _teacher(run: Path, config: PretrainConfig) -> ModelConfig | None:
    """The architecture that a run was taught by; None without a teacher.

    Raises:
        InputError: where its config says there is none now, or another one.
    """
    if not config.teacher:
        return None
    whole = read_config(locate(config.teacher))
    # Rows of no token are cut off before it teaches.
    teacher = dataclasses.replace(whole, vocab_size=min(whole.vocab_size, config.model.vocab_size))
    if run_directory.recorded_inputs(run).get("teacher's config") not in (None, architecture(teacher)):
        raise InputError(f"{config.teacher} is not the teacher that it had", path=config.teacher, field="teacher")
    return teacher


def compared(ours: Sequence[SweepRun], theirs: Sequence[SweepRun], tasks: Collection[str]) -> Comparison | None:
    """`bootstrap.compare_runs` of what fine-tuning left in two runs, of these tasks; None where none is common to both."""
    common = [name for name in by_task(ours) if name in tasks and name in by_task(theirs)]
    return bootstrap.compare_runs([ours], [theirs], common) if common else None


def report(
    runs: Sequence[str],
    out: str,
    *,
    heldout: str = "",
    teacher: str = "",
    against: str = "",
    length: int | None = None,
    max_rows: int | None = None,
    only: Mapping[Path, Collection[tuple[str, int]]] = MappingProxyType({}),
    known: Mapping[Path, Variant] = MappingProxyType({}),
) -> dict[str, RunFigures]:
    """Measure the runs, print the table, write results.json ({run's name: its figures}), report.md and curves.png into `out`; where
    some differ in their seed of pre-training alone, seeds.json as well.

    Args:
        heldout: a corpus; empty: no held-out figures.
        teacher: run that KL divergence, share of the score and speed are relative to.
        against: run that scores are compared with in pairs; then differences.png is drawn, too.
        length: tokens in a row, for held-out text and speed; None: as many as the run with the shortest has.
        max_rows: of held-out text.
        only: of a run, task and seed of the fine-tuning that counts; of one that is not named, all that is there.
        known: of a run, the variant of an experiment that it is: what was published beside it, and what has to be said of it.

    Raises:
        InputError: a run's directory has no model yet, its model or log is not what it has written, `out` is a file; nothing is
            measured yet.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise InputError("no run given; name directories that distilbert-jax train made", field="runs")
    if len({path.name for path in paths}) < len(paths):
        raise InputError(
            f"{', '.join(runs)}: two runs have the same name; the figures of a run go by its directory's name",
            field="runs",
        )
    for path in (*paths, *map(Path, filter(None, (teacher, against)))):
        if not hf_format.has_weights(path / "model"):
            if hf_format.has_weights(path) and path.name == "model":
                hint = str(path.parent)
                raise InputError(f"{path}: is a model; a report takes its run, {hint}", path=path, hint=hint)
            raise InputError(f"{path}: has no model/model.safetensors; finish the run first", path=path)
        for name in ("model/", run_directory.METRICS):
            run_directory.check_outputs(path, name)
    for path in paths:
        if _training(path)[0] is None:
            print(f"{path}: has no metrics.jsonl; its steps, seconds and curves are left out", file=sys.stderr)
    check_results_place(out, "--out")
    for name, value in (("--length", length), ("--max-rows", max_rows)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: expected 1 or more", field=name)
    for path in paths:
        if length and length > (positions := read_config(path / "model").max_length):
            raise InputError(
                f"--length {length} is beyond the {positions} positions of {path}", path=path, field="--length"
            )
    every = (*paths, *map(Path, filter(None, (teacher, against))))
    tuned = {path.resolve(): _tuned(path, only.get(path)) for path in every}
    # In one table scores are compared, whether in pairs or not.
    for one, other in itertools.combinations(tuned.values(), 2):
        check_same_dev(one, other)
    Path(out).mkdir(parents=True, exist_ok=True)
    trained = _data(paths)
    if length is None:
        length = min((data.length for data in trained), default=128)
    kinds: set[Sequences] = {data.sequences for data in trained}
    asked = {"heldout": heldout, "teacher": teacher, "length": length, "max_rows": max_rows}
    # Packed in another way a run of pairs and a run of lines are asked the same.
    sequences = kinds.pop() if len(kinds) == 1 else "line"
    rows = {
        path.name: measure(path, tuned[path.resolve()], **asked, sequences=sequences, known=known.get(path))
        for path in paths
    }
    outside = tuned.keys() - set(map(Path.resolve, paths))
    counted = common_tasks([row.tasks for row in rows.values()] + [by_task(tuned[path]) for path in outside])
    # With itself no run is compared.
    beside_of = lambda path, other: (
        compared(tuned[path.resolve()], tuned[Path(other).resolve()], counted)
        if other and path.resolve() != Path(other).resolve()
        else None
    )
    print("timing the encoders", file=sys.stderr)
    beside = speeds(paths, Path(teacher), length) if teacher else {}
    read_at = throughputs(paths, beside, length)
    for path in paths:
        row, other = rows[path.name], beside_of(path, against)
        rows[path.name] = dataclasses.replace(
            row,
            score=mean_score({name: row.tasks[name] for name in counted}) if row.tasks else None,
            of_teacher=beside_of(path, teacher),
            against=other and ComparisonWith(**vars(other), name=Path(against).name),
            speed=beside.get(path.name),
            tokens_per_second=read_at[path.name],
        )
    config_io.write_config(rows, Path(out) / "results.json")
    configs = {path: _config(path) for path in tuned}
    same = over_seeds(
        {path: rows[path.name] for path in paths}, tuned, configs, counted, teacher=teacher, against=against
    )
    if same:
        config_io.write_config(same, Path(out) / "seeds.json")
    else:  # what an earlier report of other runs has written
        (Path(out) / "seeds.json").unlink(missing_ok=True)
    with atomic_file(Path(out) / "report.md") as file:
        trained_as = {path.name: _config(path) for path in paths}
        tuned_as = {path.name: _tunings(tuned[path.resolve()]) for path in paths}
        file.write(markdown(rows, counted, trained_as, same, tuned_as).encode())
    ends = {name: {"mlm_loss": row.mlm_loss, "kl_to_teacher": row.kl_to_teacher} for name, row in rows.items()}
    curves(paths, Path(out) / "curves.png", ends)
    if any(row.against for row in rows.values()):
        differences(rows, Path(out) / "differences.png")
    else:  # what an earlier report of other runs has drawn
        (Path(out) / "differences.png").unlink(missing_ok=True)
    console = Console(markup=False)  # a run's name may have brackets
    if not console.is_terminal:
        console.width = 160  # in a log nothing forces figures to be cut
    console.print(table(rows, counted))
    for said in (*([mean_of(counted)] if counted else []), *beside_test(rows)):
        console.print(said, soft_wrap=True)
    for path in paths:
        for said in _remark(known.get(path)):
            console.print(f"{path.name}: {said}", soft_wrap=True)
    print(f"{out}/results.json, report.md and the plots written")
    return rows
