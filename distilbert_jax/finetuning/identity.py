"""Identity of a fine-tuning run: what it began with, whether it has ended, and what an earlier version left."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from distilbert_jax.base.files import read_json
from distilbert_jax.base.hub import locate
from distilbert_jax.config import FinetuneConfig, ends
from distilbert_jax.errors import InputError
from distilbert_jax.finetuning import datasets
from distilbert_jax.finetuning.objective import layer_terms
from distilbert_jax.finetuning.predictions import has_predictions
from distilbert_jax.finetuning.results import RunResult, read_result
from distilbert_jax.finetuning.tasks import find_task, sources
from distilbert_jax.models import hf_format
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.layers import dropout_bits
from distilbert_jax.training import run_directory
from distilbert_jax.training.terms import Weighted, check_terms

_BESIDE = "seeds side by side"  # in inputs.json
BATCHES = "random"  # of what is trained now; scores of other batches are of another way of training


def bits_of_dropout(config: FinetuneConfig) -> str:
    model = read_config(locate(config.model))
    of_head = model.qa_dropout if find_task(config.task).kind == "answers" else model.classifier_dropout
    return dropout_bits(model.hidden_dropout, model.attention_dropout, of_head)


def enter(config: FinetuneConfig, directory: Path, given: dict[str, str]) -> None:
    """Write the config and inputs of a run into its directory, or compare them with those that it began with.

    Args:
        given: `inputs_of` the config.

    Raises:
        InputError: they differ.
    """
    run_directory.enter(config, directory)
    check_batches(directory)
    proposer = config.augment.model if config.augment.copies else ""
    models = {"model": config.model, "distill.teacher": config.teacher, "augment.model": proposer}
    known = {name: hf_format.known_fingerprints(model) for name, model in models.items() if model}
    bits, has_results = bits_of_dropout(config), (directory / "results.json").is_file()
    drawn = {} if has_results else {"batches": BATCHES}
    run_directory.check_inputs(directory, given | drawn, known, inputs_by_name(config), dropout=bits)
    if not has_results:
        run_directory.check_dropout(directory, bits)


def inputs_of(config: FinetuneConfig) -> dict[str, str]:
    """Fingerprints of what a run trains with and is scored on."""
    if not config.model:
        raise InputError("model is not set: name an HF directory with --model", field="model", hint="--model")
    task = find_task(config.task)
    check_asked(config)
    if config.distill.teacher and (asked := layer_terms(config.distill)):
        check_terms(asked, 0, *(read_config(locate(name)) for name in (config.model, config.teacher)))
    inputs = {"model": hf_format.fingerprint(config.model), **sources(task)}
    if not task.trained_by:
        inputs |= {_data(split): datasets.fingerprint(task, split, config.data) for split in _splits(config)}
    if config.augment.copies:
        inputs["augment.model"] = hf_format.fingerprint(config.augment.model)
    if config.distill.teacher:
        inputs["distill.teacher"] = hf_format.fingerprint(config.teacher)
    return inputs


def check_read(config: FinetuneConfig, directory: Path) -> None:
    """Raise InputError where what a run has read beside its model is not what its config names now, as far as that is at hand: the
    hub is not asked.

    Args:
        config: with the run's task and seed.
    """
    task, recorded = find_task(config.task), run_directory.recorded_inputs(directory)
    now: dict[str, Collection[str]] = {}
    for split in _splits(config) if config.data else ():
        if datasets.has_split(task, split, config.data):
            now[_data(split)] = [datasets.fingerprint(task, split, config.data)]
    for name, model in (("distill.teacher", config.teacher), ("augment.model", config.augment.model)):
        if model and Path(model).is_dir():
            now[name] = hf_format.known_fingerprints(model)
    if changed := [name for name, known in now.items() if name in recorded and recorded[name] not in known]:
        raise InputError(
            f"{directory}: {', '.join(changed)} changed since this run began; remove the directory to begin anew",
            path=directory,
            field=changed[0],
        )


def check_asked(config: FinetuneConfig) -> None:
    """Raise InputError where what a config asks for lacks something, such as a teacher, changes nothing, or is not of the task's
    kind. No model is read, and no data."""
    asked, task = layer_terms(config.distill), find_task(config.task)
    if config.class_weights != "none" and (task.kind != "classification" or config.augment.copies):
        why = "copies of rows have none" if config.augment.copies else f"{task.name} is {task.kind.replace('_', ' ')}"
        raise InputError(
            f"class_weights = {config.class_weights!r}: is of the classes of texts, and {why}: --class-weights none",
            field="class_weights",
            hint="--class-weights none",
        )
    if config.freeze == "encoder":
        _check_beside_frozen(config, asked)
    if asked and not config.distill.teacher:
        field = asked[0].field
        raise InputError(
            f"{field} = {asked[0].weight}: compares layers with those of a teacher, and none is named: --distill.teacher DIR, or "
            f"--{field.replace('_', '-')} 0",
            field="distill.teacher",
            hint="--distill.teacher",
        )
    if config.distill.layer_epochs and not asked:
        raise InputError(
            f"distill.layer_epochs = {config.distill.layer_epochs}: no term of layers has a weight: --distill.hidden.weight 1, or "
            "--distill.layer-epochs 0",
            field="distill.layer_epochs",
            hint="--distill.layer-epochs 0",
        )
    if config.class_weights != "none" and config.distill.teacher and set(ends(config.distill.alpha)) == {1}:
        raise InputError(
            f"class_weights = {config.class_weights!r}: weighs the task's labels, of which distill.alpha = 1 leaves none in the "
            "loss: --class-weights none, or --distill.alpha 0.5",
            field="class_weights",
            hint="--class-weights none",
        )
    if config.distill.teacher and not any(ends(config.distill.alpha)) and not asked and not config.augment.copies:
        raise InputError(
            f"distill.teacher = {config.distill.teacher}: with distill.alpha = 0 and no term of layers nothing is learned of it: "
            "--distill.alpha 0.5, or no teacher",
            field="distill.teacher",
            hint="--distill.alpha",
        )
    if not config.augment.copies:
        return
    said = f"augment.copies = {config.augment.copies}: "
    if task.kind == "choices":
        raise InputError(
            f"{said}in {task.title} each choice repeats the context, and copies of it would differ: --augment.copies 0",
            field="augment.copies",
            hint="--augment.copies 0",
        )
    if not config.distill.teacher:
        raise InputError(
            f"{said}copies have no labels but a teacher's, and none is named: --distill.teacher DIR, or --augment.copies 0",
            field="distill.teacher",
            hint="--distill.teacher",
        )
    if not config.augment.model:
        raise InputError(
            f"{said}names no masked LM that proposes words: --augment.model DIR, such as what the teacher was fine-tuned from",
            field="augment.model",
            hint="--augment.model",
        )
    if not any(ends(config.distill.alpha)) and not asked:
        raise InputError(
            f"{said}with distill.alpha = 0 nothing is learned from copies: --distill.alpha 0.5",
            field="distill.alpha",
            hint="--distill.alpha",
        )


def _check_beside_frozen(config: FinetuneConfig, asked: Sequence[Weighted]) -> None:
    """Raise InputError for what is of the encoder's layers alone, where these stay as they are."""
    without = {"layer_decay": (config.layer_decay, 1), "distill.layer_epochs": (config.distill.layer_epochs, 0)}
    without |= {one.field: (one.weight, 0) for one in asked}
    for field, (value, none) in without.items():
        if value != none:
            option = f"--{field.replace('_', '-')} {none}"
            raise InputError(
                f"{field} = {value}: changes nothing where freeze = 'encoder', which trains the head alone: {option}, or "
                "--freeze nothing",
                field=field,
                hint=option,
            )


def _splits(config: FinetuneConfig) -> tuple[str, ...]:
    """The labelled splits that a run reads."""
    return ("train",) if config.selection_split else ("train", *find_task(config.task).dev)


def _data(split: str) -> str:
    """What a run's inputs call a split."""
    return f"data ({split})"


def inputs_by_name(config: FinetuneConfig) -> dict[str, str]:
    """What an earlier version recorded of splits on the hub."""
    task = find_task(config.task)
    return {} if config.data else {_data(split): datasets.hub_name(task, split) for split in _splits(config)}


def ended(config: FinetuneConfig, directory: Path) -> RunResult | None:
    """The results of a run that has left everything that it is asked for.

    Raises:
        InputError: they are damaged, or of another run.
    """
    if not (directory / "results.json").is_file():
        return None
    result = read_result(directory / "results.json")
    said = {
        "task": (result.task, config.task),
        "seed": (result.seed, config.run.seed),
        "model": (result.model, config.model),
    }
    if other := [name for name, (there, asked) in said.items() if there != asked]:
        raise InputError(
            f"{directory}: its results.json is of {result.task}, seed {result.seed}, model {result.model}; remove the directory to "
            "train it again",
            path=directory,
            field=other[0],
        )
    run_directory.check_outputs(directory)
    run_directory.check_log(directory)
    unsaved = config.save_model and not run_directory.finished(directory)
    if result.diverged or not (unsaved or _unpredicted(config, directory, result)):
        return result
    lacking = "its model was not saved" if unsaved else "there are test splits to predict"
    print(f"{directory}: finished before, but {lacking}: trained once more, to the same scores", file=sys.stderr)
    return None


def check_batches(directory: Path, *, ended: bool = False) -> None:
    """Raise InputError for a run that took other batches than are taken now: one that has begun, or that has `ended`."""
    result, inputs = directory / "results.json", directory / "inputs.json"
    if ended and result.is_file():
        drawn = read_result(result).batches
    elif not result.is_file() and (directory / "metrics.jsonl").is_file() and inputs.is_file():
        drawn = read_json(inputs, dict).get("batches")
    else:
        return
    if drawn != BATCHES:
        raise InputError(
            f"{directory}: took batches of similar lengths, as an earlier version drew them, and what is to be trained now takes "
            "random ones; name another --run.directory, or remove the run to train it again",
            path=directory,
            field="batches",
        )


def record_beside(directory: Path, seeds: Sequence[int]) -> None:
    """Record which seeds a run trains side by side with, its own among them."""
    run_directory.record_input(directory, _BESIDE, " ".join(map(str, seeds)))


def began_beside(directory: Path) -> tuple[int, ...]:
    """`record_beside` of a run that has begun; of another one nothing."""
    return tuple(map(int, run_directory.recorded_inputs(directory).get(_BESIDE, "").split()))


def _unpredicted(config: FinetuneConfig, directory: Path, result: RunResult) -> bool:
    """Whether test splits are asked for that are there now and were not predicted."""
    if not config.predict_test:
        return False
    splits = datasets.test_splits(find_task(config.task), config.data)
    asked = {file: datasets.fingerprint_of_test(of, split, config.data) for of, split, file in splits}
    before = {} if config.data else {file: datasets.hub_name(of, split) for of, split, file in splits}
    return result.tested not in (asked, before) or not has_predictions(directory, asked)
