"""Run directory: its config, and whether the command that is given again goes on, has ended, or is another run.

config.json · inputs.json · metrics.jsonl · tensorboard/ · checkpoints/ · outputs.json · model/ (the HF directory, written last).
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distilbert_jax.base.config_io import differences, read_config, to_json
from distilbert_jax.base.files import atomic_file, check_writable, fingerprint_of, read_json, sha256_of, write_json
from distilbert_jax.base.hub import CARD, model_files
from distilbert_jax.errors import InputError

# Fields that do not change what is computed: they may differ when a run goes on. With a dot at the end: all below.
FREE = (
    "run.directory",
    "run.log_every",
    "run.eval_every",
    "run.save_every",
    "run.keep",
    "run.callbacks",
    "run.wandb",
    "mesh.",
    "data",  # where a task's files lie; inputs.json says what is in them
    "save_model",
    "predict_test",
)

# Fields that say where something lies whose content is among the run's inputs: whoever moves it may edit config.json.
PLACES = ("data.corpus", "data.heldout", "teacher", "init.source", "model", "distill.teacher", "augment.model")

FOLDERS = ("tensorboard", "checkpoints", "model", "profile")
INPUTS, OUTPUTS, METRICS = "inputs.json", "outputs.json", "metrics.jsonl"
BEGUN = (METRICS, "checkpoints", "model", "results.json")  # one of them is there: the run has begun
DROPOUT = "dropout"  # in inputs.json of a run with dropout: which bits it draws
_RUN = "run"  # in both: the digest of the run, beside those of what it reads or leaves
_CONFIG = "config"  # in inputs.json: digest of the fields of config.json that bind the run, those of places aside


def enter(config: Any, directory: Path) -> Path:
    """Make `directory` the run's, or check that it already is; returns it.

    A run that was refused before its first step has not begun: its config binds nobody.

    Raises:
        InputError: the directory holds a run of another config (the fields that differ are named), or something that is no run.
    """
    _check_place(directory)
    check_config(config, directory)
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / "config.json") as file:
        file.write(to_json(config).encode())
    # A later version writes more fields. Of a run that begins, `check_inputs` records it.
    if _has_begun(directory) and (recorded := _recorded(directory / INPUTS)):
        write_json(directory / INPUTS, recorded | {_CONFIG: _config_digest(_binding(directory))})
    return directory


def check_config(config: Any, directory: Path) -> None:
    """Raise InputError where a directory holds a run of another config, see `enter`, or one whose config was edited since."""
    recorded = directory / "config.json"
    if recorded.is_file() and _has_begun(directory):
        old = read_config(type(config), recorded)
        changed = [difference for difference in differences(old, config) if not is_free(difference.field)]
        if changed:
            raise InputError(
                f"{directory}: holds a run of another config ({'; '.join(map(str, changed))}): "
                "choose another --run.directory, or remove that one",
                path=directory,
                field=changed[0].field,
            )
        check_unedited(directory)


def check_unedited(directory: Path) -> None:
    """Raise InputError where config.json says otherwise how a run was trained than when the run was last entered: whoever edits it
    changes what is said of the run, and nothing of what it is. Of a run of an earlier version nothing is known.
    """
    file, known = directory / "config.json", _recorded(directory / INPUTS).get(_CONFIG)
    if known and file.is_file() and known != _config_digest(_binding(directory)):
        raise InputError(
            f"{file}: was edited since this run began, by its {INPUTS}; put the old values back, or train with the new ones in "
            "another --run.directory",
            path=file,
        )


def is_free(field: str) -> bool:
    """Whether a field of a config, by its dotted name, changes nothing of what is computed."""
    return any(field.startswith(free) if free.endswith(".") else field == free for free in FREE)


def _has_begun(directory: Path) -> bool:
    return any((directory / name).exists() for name in BEGUN)


def _check_place(directory: Path) -> None:
    """Raise InputError unless a run may live in `directory`."""
    check_writable(directory, "--run.directory", directory=True)
    if directory.is_dir() and not _is_runs(directory):
        raise InputError(f"{directory}: is not empty and holds no run; choose another --run.directory", path=directory)
    for name in FOLDERS:
        if (directory / name).exists() and not (directory / name).is_dir():
            raise InputError(
                f"{directory / name}: is a file, and a run has a directory there; put it back, or remove the file",
                path=directory / name,
            )


def _is_runs(directory: Path) -> bool:
    """Whether a directory is empty, but for traces of what ended early, or has the config of a run."""
    if (directory / "config.json").is_file():
        return "optimizer" in read_json(directory / "config.json", dict)
    return all(path.name.startswith(".") for path in directory.iterdir())


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory, which is made where it is not there, during the `with` block.

    Raises:
        InputError: another process is in it, or it holds something that is no run.
    """
    _check_place(directory)
    with locked(directory):
        yield


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """`alone` without a look at what the directory holds. Of a run that ends before it has begun, nothing is left."""
    new = [place for place in (directory, *directory.parents) if not place.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(directory):
            yield
    except BaseException:
        if not _has_begun(directory):
            for name in (".lock", "config.json", "inputs.json") if directory in new else ():
                (directory / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for place in new:
                    place.rmdir()
        raise


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{directory}: another process trains here; wait for it, or choose another --run.directory",
                path=directory,
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def check_inputs(
    directory: Path,
    inputs: dict[str, str],
    before: Mapping[str, Collection[str]] = MappingProxyType({}),
    by_name: Mapping[str, str] = MappingProxyType({}),
    *,
    dropout: str = "",
    files: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Record what the run reads (name → fingerprint) and its digest, or check that it is what the run began with.

    Args:
        before: fingerprints that a run of an earlier version may have recorded for the same.
        by_name: names that an earlier version recorded in the place of fingerprints.
        dropout: the bits by which a run that begins now drops (`layers.dropout_bits`), see `check_dropout`.
        files: fingerprints of files that the inputs come from, recorded and not compared: those of equal weights may differ.

    Raises:
        InputError: an input has changed since the run began.
    """
    begun = _has_begun(directory)
    recorded = _recorded(directory / INPUTS) if begun else {}
    recorded |= {name: inputs[name] for name, known in by_name.items() if known == recorded.get(name)}
    if _RUN in recorded:
        changed = [name for name in inputs if recorded.get(name) != inputs[name]]
    else:  # of an earlier version, in which not all was looked at
        same = lambda name: recorded[name] in (inputs[name], *before.get(name, ()))
        changed = [name for name in inputs if name in recorded and not same(name)]
    if changed:
        raise InputError(
            f"{directory}: {', '.join(changed)} changed since this run began; remove the directory to begin anew",
            path=directory,
        )
    if not begun:
        inputs = inputs | ({DROPOUT: dropout} if dropout else {})
    digests = {} if begun else _identity(_binding(directory), inputs)
    write_json(directory / INPUTS, recorded | inputs | digests | dict(files))


def check_dropout(directory: Path, bits: str) -> None:
    """Raise InputError for a run that has begun and whose dropout drew other bits than it would now.

    Args:
        bits: of `layers.dropout_bits`, as `check_inputs` has recorded them; "" of a run without dropout.
    """
    if bits and _has_begun(directory) and _recorded(directory / INPUTS).get(DROPOUT) != bits:
        raise InputError(
            f"{directory}: began with other bits of dropout, as an earlier version drew them, and cannot go on with these; name "
            "another --run.directory, or remove the run to train it again",
            path=directory,
            field=DROPOUT,
        )


def _recorded(file: Path) -> dict[str, str]:
    """What inputs.json or outputs.json says; nothing where it is not there."""
    if not file.is_file():
        return {}
    hint = "remove the run's directory to begin anew"
    try:
        values = read_json(file, dict)
    except InputError as error:
        raise InputError(f"{error}; {hint}", path=file, hint=hint) from None
    if not all(isinstance(value, str) for value in values.values()):
        raise InputError(f"{file}: damaged, expected names and digests; {hint}", path=file, hint=hint)
    return values


def _binding(directory: Path) -> dict[str, Any]:
    """The fields of a run's config that decide its bits, by their dotted names. With what the run reads they are its identity."""
    fields = _flat(read_json(directory / "config.json", dict))
    return {name: value for name, value in fields.items() if not is_free(name)}


def _identity(binding: dict[str, Any], inputs: dict[str, str]) -> dict[str, str]:
    """What inputs.json says of a run that begins, beside its inputs."""
    return {_RUN: _digest([binding, inputs]), _CONFIG: _config_digest(binding)}


def _config_digest(binding: dict[str, Any]) -> str:
    return _digest({name: value for name, value in binding.items() if name not in PLACES})


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"run.seed": 0} of {"run": {"seed": 0}}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def recorded_inputs(directory: Path) -> dict[str, str]:
    """What inputs.json says of a run, by name; nothing where it is not there."""
    return _recorded(directory / INPUTS)


def record_input(directory: Path, name: str, value: str) -> None:
    """Add something to inputs.json that is no part of the run's identity."""
    write_json(directory / INPUTS, _recorded(directory / INPUTS) | {name: value})


def identity(directory: Path) -> str:
    """The digest of the run in a directory, of its config and inputs; "" of a run of an earlier version."""
    return _recorded(directory / INPUTS).get(_RUN, "")


def record_outputs(
    directory: Path, places: Mapping[str, Path], last: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Record the digests of the run, of its log and of the files that it leaves, before the last of them takes its name. Not of the
    model's card: nothing is computed from it, and it is there to be edited.

    Args:
        places: {folder of the run: where its files lie now}.
        last: {file's name: what will be in it}, of those that are written after this.
    """
    for place in places.values():
        for cut_off in place.rglob(".*.partial"):  # by a kill, before it had its name
            cut_off.unlink()
    files = {
        f"{name}/{path.relative_to(place).as_posix()}": path
        for name, place in places.items()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name != CARD
    }
    if (log := directory / METRICS).is_file():
        files[METRICS] = log
    digests = {name: sha256_of(path) for name, path in files.items()}
    digests |= {name: hashlib.sha256(content).hexdigest() for name, content in last.items()}
    write_json(directory / OUTPUTS, {_RUN: identity(directory), **digests})


def check_outputs(directory: Path, start: str = "", *, whole: bool = False) -> None:
    """Raise InputError unless the files that a run has left, those whose names have that `start` (empty: all), are as it wrote
    them, and its model has no more that would be loaded. Of a run of an earlier version nothing is known.

    Args:
        whole: what is missing is an error, too; else somebody has removed it.
    """
    recorded, file = _recorded(directory / OUTPUTS), directory / OUTPUTS
    if recorded.get(_RUN, "") != identity(directory):
        why = (
            "of another run"
            if _RUN in recorded
            else "does not say of which run it is"
            if recorded
            else "missing or empty"
        )
        raise InputError(f"{file}: {why}: whether what lies here is what this run has written is not known", path=file)
    for name in recorded:
        if name != _RUN and name.startswith(start):
            check_output(directory, name)
            if whole and not (directory / name).is_file():
                raise InputError(f"{directory / name}: missing", path=directory / name)
    if recorded and start in ("", "model/"):
        _check_no_more(directory / "model", recorded)


def _check_no_more(model: Path, recorded: Collection[str]) -> None:
    """Raise InputError where files that are loaded of a model lie among those that a run has written."""
    there = {path.name for pattern in model_files() for path in model.glob(pattern)}
    for name in sorted(there):
        if f"model/{name}" not in recorded:
            raise InputError(
                f"{model / name}: not what this run has written, by its {OUTPUTS}; remove it", path=model / name
            )


def check_log(directory: Path) -> None:
    """Raise InputError unless the log of a finished run is there and as it wrote it."""
    hint = "put the file back, or remove the run's directory to begin anew"
    try:
        check_outputs(directory, METRICS, whole=True)
    except InputError as error:
        raise InputError(f"{error}; {hint}", path=error.path, hint=hint) from None


def check_output(directory: Path, name: str) -> None:
    """`check_outputs` of one file, as far as it is there and the run has recorded it."""
    digest, file = _recorded(directory / OUTPUTS).get(name), directory / name
    if digest is not None and file.is_file() and fingerprint_of(file) != digest:
        raise InputError(f"{file}: damaged or replaced: not what this run has written, by its {OUTPUTS}", path=file)


def finished(directory: Path) -> bool:
    """Whether the run's model is there; it is written last."""
    return (directory / "model" / "model.safetensors").is_file()
