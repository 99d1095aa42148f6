"""An experiment: models that are pre-trained, or taken as they are, measured on held-out text, fine-tuned, and compared in pairs.

    distilbert-jax experiment miniature --text TEXT … --heldout-text TEXT … --data FOLDER

Every part is done once and found again: interrupted, the same command goes on.
"""

import contextlib
import dataclasses
import functools
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from distilbert_jax.base import runtime, signals
from distilbert_jax.base.hub import locate, write_directory
from distilbert_jax.config import STAGES, ExperimentConfig, FinetuneConfig, ModelConfig, PretrainConfig, Stage, Variant
from distilbert_jax.errors import InputError, few, nearest
from distilbert_jax.experiments.report import report
from distilbert_jax.finetuning.identity import check_read
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import TEST_SCORES
from distilbert_jax.glue.summary import apart, choice_of, config_of
from distilbert_jax.glue.sweep import available, check_ahead, check_chosen, check_shape, run_sweep
from distilbert_jax.models.hf_format import fingerprint, has_weights, loaded_files, read_config, read_tensors
from distilbert_jax.pretraining.build_corpus import build_corpus, describe, totals
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.run import check_finished, pretrain, pretrain_together
from distilbert_jax.pretraining.setup import check_teacher, check_teacher_at
from distilbert_jax.pretraining.together import why_apart
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.training import run_directory


def build_corpora(config: ExperimentConfig, text: Sequence[Path], heldout_text: Sequence[Path]) -> None:
    """The corpora that the variants name, from these files.

    Raises:
        InputError: files are given for one of the two alone, none are given and a corpus is not there, or the variants name
            several corpora.
    """
    data = [variant.pretrain.data for variant in config.variants if variant.pretrain]
    if not data and (text or heldout_text):
        raise InputError(
            "--text, --heldout-text: no variant of this experiment is pre-trained; leave them out", field="--text"
        )
    if not data:
        return
    wanted = []
    for option, places, files in (
        ("--text", {one.corpus for one in data}, text),
        ("--heldout-text", {one.heldout for one in data}, heldout_text),
    ):
        if len(places) > 1:
            raise InputError(
                f"{option}: the variants have {len(places)} corpora ({', '.join(sorted(places))}), expected one",
                path=option,
            )
        for place in filter(None, places):
            if not files and not (Path(place) / "manifest.json").is_file():
                raise InputError(
                    f"{place}: there is no corpus yet; name the files that it is made of with {option}", path=place
                )
            wanted.append((files, place))
    tokenizer = load_tokenizer(config.tokenizer)  # perhaps from the hub: what else is missing has been said
    for files, place in wanted:
        if files:
            _check_text(config, Path(place), files)
            print(f"{place}: {totals(build_corpus(files, tokenizer, Path(place)))}")


def _copy_model(source: Path, to: Path) -> None:
    for name in loaded_files(source):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, to / name)


def _check_text(config: ExperimentConfig, corpus: Path, files: Sequence[Path]) -> None:
    """Raise InputError where a corpus that variants have been trained on would become another, and the next variants with it."""
    begun = [
        variant.name
        for variant in config.variants
        if variant.pretrain and (config.run_of(variant) / "inputs.json").is_file()
    ]
    if not begun:
        return
    given = before = describe(files)
    with contextlib.suppress(InputError):  # what is not there or damaged is made again
        before = Corpus.open(corpus).manifest.sources
    if before != given:
        raise InputError(
            f"{corpus}: was made of other text than {', '.join(map(str, files))}, and {', '.join(begun)} trained on it: name the "
            f"same files, leave them out, or remove {config.directory} and {corpus} to begin anew",
            path=corpus,
        )


def check(config: ExperimentConfig, variants: Sequence[Variant], stages: Sequence[Stage]) -> None:
    """Raise InputError, before any work, for what would stop a later stage: a model, a variant or a task that is not there, runs
    that were fine-tuned otherwise."""
    tasks: list[str] = []
    if "glue" in stages:
        seeds = dict.fromkeys(seed for variant in variants for seed in variant.seeds)
        to_come = [config.run_of(variant) / "model" for variant in variants] if "pretrain" in stages else []
        tunings: list[FinetuneConfig] = []
        for tuning in map(config.glue_of, variants):
            if tuning not in tunings:
                check_ahead(tuning, config.tasks, list(seeds), config.sweep, to_come, together=config.vmap_seeds)
                tunings.append(tuning)
        tasks = [task.name for task in available(config.glue, config.tasks)]
    models = {_place(config.run_of(variant) / "model"): variant for variant in config.variants}
    for variant in variants:
        if variant.published not in ("", *TEST_SCORES):
            hint = nearest(variant.published, TEST_SCORES)
            raise InputError(
                f"{variant.name}: published = {variant.published!r}: no such row; {hint}", field="published", hint=hint
            )
        architecture = _architecture(variant, models)
        if "glue" in stages:
            check_shape(config.glue_of(variant), tasks, variant.seeds, architecture, variant.name)
            check_settings(config, variant, tasks)
        if "pretrain" in stages and not has_weights(config.run_of(variant) / "model"):
            trained = variant.pretrain
            for place in (trained.init.source, trained.teacher) if trained else (variant.model,):
                if (other := models.get(_place(place))) and other not in variants and not has_weights(Path(place)):
                    raise InputError(
                        f"{variant.name}: begins with {place}, which is not there yet; "
                        f"--stages pretrain --variants {other.name} makes it",
                        path=variant.name,
                    )
            if not trained:
                continue
            for place in filter(None, (trained.data.corpus, trained.data.heldout)):
                if "corpus" not in stages and not (Path(place) / "manifest.json").is_file():
                    raise InputError(
                        f"{place}: there is no corpus yet; --stages corpus with --text and --heldout-text makes it",
                        path=place,
                    )
            _check_teacher(trained, models)
    if "pretrain" in stages:
        _check_weights(config, [one for one in variants if one.model and _place(one.model) not in models])


def _place(directory: str | Path) -> Path:
    """One name of a directory, however a config spells it; of an id of the hub one that no variant has."""
    return Path(directory).expanduser().resolve()


def _origin(variant: Variant, models: Mapping[Path, Variant]) -> Variant:
    """The variant that trains what a variant is, or copies it from outside; models: {HF directory: variant that makes it}."""
    made_by = models.get(_place(variant.model)) if variant.model else None
    return _origin(made_by, models) if made_by else variant


def _architecture(variant: Variant, models: Mapping[Path, Variant]) -> ModelConfig:
    """Of a variant's model, which may be yet to be made."""
    origin = _origin(variant, models)
    return origin.pretrain.model if origin.pretrain else read_config(locate(origin.model))


def _check_teacher(config: PretrainConfig, models: Mapping[Path, Variant]) -> None:
    """Raise InputError where a term of a run's loss cannot be computed with its teacher, which may be yet to be made.

    Args:
        models: {HF directory: variant that makes it}.
    """
    if config.objective != "distillation":
        return
    variant = models.get(_place(config.teacher))
    made_by = variant and _origin(variant, models)
    if made_by and made_by.pretrain:
        check_teacher(config, made_by.pretrain.model)
    else:
        check_teacher_at(config, made_by.model if made_by else config.teacher)


def _check_weights(config: ExperimentConfig, variants: Sequence[Variant]) -> None:
    """Raise InputError for variants that are not copied yet and have no weights to copy: some of the hub have a pickle alone."""
    absent = [variant.model for variant in variants if not has_weights(config.run_of(variant) / "model")]
    if lacking := [model for model in absent if not has_weights(locate(model))]:
        raise InputError(
            f"{few(lacking, ', ')}: no model.safetensors there, and weights of other formats are not read; with torch and "
            "transformers AutoModelForPreTraining.from_pretrained(NAME).save_pretrained(NAME) converts them, once, into a folder "
            "that is then read in the place of the hub's",
            path=lacking[0],
        )


def side_by_side(config: ExperimentConfig, variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants in groups that train in one program, in an order in which what a variant begins with, or is taught by, is there
    before it. Why students train in turn is said."""
    models = {_place(config.run_of(variant) / "model"): variant.name for variant in variants}
    groups: list[list[Variant]] = []
    for variant in variants:
        if (wanted := variant.pretrain) is None or not config.together:
            groups.append([variant])
            continue
        needed = {models.get(_place(place)) for place in (wanted.init.source, wanted.teacher) if place}
        later = 1 + max((i for i, group in enumerate(groups) if needed & {one.name for one in group}), default=-1)
        why = ""
        for group in groups[later:]:
            if (first := group[0].pretrain) is None or first.objective != "distillation":
                continue
            if not (reason := why_apart(first, wanted)):
                group.append(variant)
                break
            why = why or f"{variant.name}: not side by side with {group[0].name}: {reason}"
        else:
            groups.append([variant])
            if why and wanted.objective == "distillation":
                print(why, file=sys.stderr)
    return groups


def train(config: ExperimentConfig, group: Sequence[Variant]) -> None:
    """Pre-train variants side by side, or make the one that there is."""
    if len(group) == 1:
        make(config, group[0])
        return
    pretrain_together([variant.pretrain for variant in group if variant.pretrain])
    jax.clear_caches()


def make(config: ExperimentConfig, variant: Variant) -> Path:
    """Pre-train a variant, or copy the directory that it is: its HF directory."""
    if variant.pretrain:
        model = pretrain(variant.pretrain)
        jax.clear_caches()  # each variant compiles its own step
        return model
    model, source = config.run_of(variant) / "model", locate(variant.model)
    with run_directory.locked(config.run_of(variant)):
        if not model.is_dir():
            # What cannot be fine-tuned is said before it is copied.
            for read in (read_config, read_tensors, load_tokenizer):
                read(source)
            write_directory(model, functools.partial(_copy_model, source))
        else:
            _check_copy(variant, model)
    return model


def _check_copy(variant: Variant, model: Path) -> None:
    if fingerprint(model) != fingerprint(variant.model):
        raise InputError(
            f"{model}: is damaged, or not the model that {variant.name} is now, {variant.model}: remove it, "
            "or name the variant otherwise",
            path=model,
        )


def check_made(config: ExperimentConfig, variant: Variant) -> None:
    """Raise InputError where the model that lies there of a variant is not what the config describes now."""
    run = config.run_of(variant)
    if not has_weights(run / "model"):
        return
    if variant.pretrain is None:
        _check_copy(variant, run / "model")
        return
    with run_directory.locked(run):
        check_finished(variant.pretrain, run)


def check_tuned(config: ExperimentConfig, variant: Variant) -> None:
    """Raise InputError as `check_settings`, or where a variant's setting was chosen among others than the sweep has now."""
    check_settings(config, variant, config.tasks)
    base = config.run_of(variant) / "glue"
    for task, seed in asked_of(config, variant):
        if config_of(directory := base / f"{task}-{seed}") is not None:
            check_chosen(choice_of(task, directory), config.sweep, base / "choice" / task)


def check_settings(config: ExperimentConfig, variant: Variant, tasks: Sequence[str]) -> None:
    """Raise InputError where a variant was fine-tuned on some tasks otherwise than the config describes now, the fields that a
    sweep chooses among aside, or on other rows or with another teacher."""
    base, tried, tuning = config.run_of(variant) / "glue", config.sweep.tried(), config.glue_of(variant)
    for task, seed in asked_of(dataclasses.replace(config, tasks=tuple(tasks)), variant):
        directory = base / f"{task}-{seed}"
        if (old := config_of(directory)) is None:
            continue
        epochs = tuning.epochs or find_task(task).epochs
        run = dataclasses.replace(tuning.run, seed=seed)
        now = dataclasses.replace(tuning, task=task, epochs=epochs, run=run)
        if (directory / "results.json").is_file():  # digests of files and those of the hub's rows are of two kinds
            check_read(now if old.data else dataclasses.replace(now, data=""), directory)
        changed = [each for each in apart(old, now) if each.old not in tried.get(each.field, ())]
        if changed:
            raise InputError(
                f"{directory}: was fine-tuned with other settings than the experiment has now "
                f"({'; '.join(map(str, changed))}): remove it and run --stages glue, or give the settings that it had",
                path=directory,
                field=changed[0].field,
            )


def asked_of(config: ExperimentConfig, variant: Variant) -> list[tuple[str, int]]:
    """Task and seed of all that a variant is fine-tuned for."""
    return [(find_task(name).name, seed) for name in config.tasks for seed in variant.seeds]


def tune(config: ExperimentConfig, variant: Variant) -> None:
    """Fine-tune a variant on every task; each model chooses its settings from the same sweep."""
    run = config.run_of(variant)
    if not has_weights(run / "model"):
        raise InputError(f"{run}: has no model yet; --stages pretrain makes it", path=run)
    run_directory.check_outputs(run, "model/")
    print(f"{variant.name}: fine-tuning", file=sys.stderr)
    given = config.glue_of(variant)
    where = dataclasses.replace(given.run, directory=str(run / "glue"))
    tuning = dataclasses.replace(given, model=str(run / "model"), run=where)
    run_sweep(tuning, config.tasks, variant.seeds, sweep=config.sweep, together=config.vmap_seeds)
    jax.clear_caches()


def compare(config: ExperimentConfig, variants: Sequence[Variant]) -> None:
    """One table of the variants that are there, as far as they are."""
    missing = [variant.name for variant in config.variants if not has_weights(config.run_of(variant) / "model")]
    if absent := [
        name for name in missing if name in (config.teacher, config.student, *(variant.name for variant in variants))
    ]:
        print(f"{config.directory}: not there yet, and left out: {', '.join(absent)}", file=sys.stderr)
    if not (there := [str(config.run_of(variant)) for variant in variants if variant.name not in missing]):
        raise InputError(
            f"{config.directory}: none of these variants is there yet; --stages pretrain makes them",
            path=config.directory,
        )
    for variant in config.variants:
        if str(config.run_of(variant)) in there or variant.name in (config.teacher, config.student):
            check_tuned(config, variant)
    first = next((variant.pretrain.data for variant in config.variants if variant.pretrain), None)
    beside = lambda name: "" if name in missing else f"{config.directory}/{name}"
    report(
        there,
        config.directory,
        heldout=first.heldout if first else "",
        max_rows=config.heldout_rows,
        teacher=beside(config.teacher),
        against=beside(config.student),
        only={config.run_of(variant): asked_of(config, variant) for variant in config.variants},
        known={config.run_of(variant): variant for variant in config.variants},
    )


def run_experiment(
    config: ExperimentConfig,
    stages: Sequence[Stage] = STAGES,
    variants: Sequence[str] = (),
    text: Sequence[Path] = (),
    heldout_text: Sequence[Path] = (),
) -> None:
    """Run an experiment, or some stages of it, or some variants. What has ended is found.

    Args:
        stages: in the order of `STAGES`.
        variants: names of those to pre-train, fine-tune and report; all if none is given.
        text: files to train on, see `TextSources`; none once the corpus is there.
        heldout_text: files for evaluation only.

    Raises:
        InputError: a file, a stage or a variant is not there, or a stage cannot be done (`check`).
    """
    for path in (*text, *heldout_text):
        if not path.is_file():
            raise InputError(f"{path}: no such file", path=path)
    if not stages:
        raise InputError(f"--stages: expected one or more of {', '.join(STAGES)}", field="--stages")
    names = [variant.name for variant in config.variants]
    if len(set(variants)) < len(variants):
        raise InputError(f"--variants {' '.join(variants)}: expected each once", field="--variants")
    for name in variants:
        if name not in names:
            hint = nearest(name, names)
            raise InputError(
                f"--variants {name}: no such variant in this experiment; {hint}", field="--variants", hint=hint
            )
    chosen = [variant for variant in config.variants if not variants or variant.name in variants]
    check(config, chosen, stages)
    if "corpus" in stages:
        build_corpora(config, text, heldout_text)
    if "pretrain" in stages:
        for group in side_by_side(config, chosen):
            with signals.leaving_when_asked():
                train(config, group)
    beside = (config.teacher, config.student) if "report" in stages else ()
    for variant in config.variants if {"glue", "report"} & set(stages) else ():
        if variant not in (chosen if "pretrain" in stages else ()) and (variant in chosen or variant.name in beside):
            check_made(config, variant)
    if "glue" in stages:
        with signals.leaving_when_asked(), runtime.compiling_once():
            for variant in chosen:
                tune(config, variant)
    if "report" in stages:
        with signals.leaving_when_asked():
            compare(config, chosen)
