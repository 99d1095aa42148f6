"""Checkpoints of the whole train state, through orbax: asynchronous, sharded, each file under a SHA-256 checked on restore.

The digests are written into the checkpoint's temporary directory before orbax renames it into place, so that a checkpoint
either is complete with its digests or is not there.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from distilbert_jax.base.files import kind_of_place, read_json, sha256_of
from distilbert_jax.errors import InputError
from distilbert_jax.training.step import TrainState

DIGESTS = "sha256.json"
RUN = "run.sha256"  # the digest of the run that a checkpoint belongs to
LOG = "metrics.sha256"  # that of the run's log up to the checkpoint's step
NOTE = "note.json"  # what a run has to know beside its state to go on
ITEM = "default"  # orbax' name for the one item in a checkpoint
SPARE = 2 << 20  # bytes that a checkpoint's many files may take beyond its arrays


def _digests(item: Path) -> dict[str, str]:
    files = sorted(path for path in item.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {str(path.relative_to(item)): sha256_of(path) for path in files}


def _problem(directory: Path, step: int) -> str | None:
    """What is wrong with the files of a checkpoint of a run, or None."""
    item = directory / str(step) / ITEM
    try:
        recorded = read_json(item / DIGESTS, dict)
    except (OSError, InputError):
        return f"{DIGESTS} is missing or damaged"
    digests = _digests(item)
    wrong = [name for name, digest in recorded.items() if digests.get(name) != digest]
    if wrong:
        return f"{wrong[0]} is missing or damaged"
    # Of a file without a digest nobody knows whether it is what was written.
    unknown = sorted(digests.keys() - recorded.keys())
    return f"{DIGESTS} is damaged, it lacks {unknown[0]}" if unknown else None


def _check_readable(directory: Path) -> None:
    """Raise InputError where orbax would read a pipe or a device among what it says of checkpoints, for ever and into memory:
    it does so before any digest is looked at. What lies within a checkpoint has its digests."""
    for path in (*directory.glob("*"), *directory.glob("*/*")):
        if path.exists() and not path.is_dir() and not path.is_file():
            raise InputError(
                f"{path}: is {kind_of_place(path.stat().st_mode)}, and orbax reads a file there; put it back, or remove "
                f"{path.parent if path.parent != directory else path}",
                path=path,
            )


def whole_steps(directory: Path) -> list[int]:
    """The steps, ascending, of a run's checkpoints whose files are as they were written; none where there is no such directory."""
    steps = sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())
    return [step for step in steps if _problem(directory, step) is None]


def common_step(directories: Sequence[Path]) -> int:
    """The last step of which all these runs have a whole checkpoint; 0: there is none."""
    return max(set.intersection(*({0, *whole_steps(one)} for one in directories)))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a tree, by path; dictionaries, tuples and dataclasses have paths of one form."""
    part = lambda key: str(next(getattr(key, kind) for kind in ("key", "name", "idx") if hasattr(key, kind)))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(map(part, path)): tuple(leaf.shape) for path, leaf in leaves}


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _said_before(traceback: types.TracebackType | None) -> bool:
    """Whether an error is of tensorstore's threads, which report that a file could not be written to an event loop that has ended
    with the first of these reports."""
    return traceback is not None and traceback.tb_frame.f_code.co_name == "call_soon_threadsafe"


@functools.cache  # once a process
def _quieten_threads() -> None:
    """Leave out what `_said_before` tells, a traceback for each of a hundred files."""
    hook = sys.unraisablehook

    def shorter(unraisable: "sys.UnraisableHookArgs") -> None:
        if not _said_before(unraisable.exc_traceback):
            hook(unraisable)

    sys.unraisablehook = shorter


class Checkpoints:
    """The checkpoints of one run, `<directory>/<step>/`, at most `keep` of them.

    Args:
        run: digest of the run (`run_directory.identity`), which each of them carries; "" of a run of an earlier version.

    `save` and `wait` raise an OSError where the disk is full; the checkpoints before are kept.
    """

    def __init__(self, directory: Path, keep: int, *, run: str = ""):
        self.directory, self._run = directory.absolute(), run
        self._log = self._note = ""  # of what is being saved
        self._damaged: list[int] = []
        # What orbax logs of an error, in each of its threads, it raises too: the user is told once.
        logging.getLogger("absl").addFilter(_not_of_orbax)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        _quieten_threads()
        _check_readable(self.directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,  # of a run that was killed while it saved
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def _seal(self) -> None:
        """Runs in the saving thread when all data is written, before the rename."""
        if jax.process_index() == 0:
            for partial in self.directory.glob(f"*.orbax-checkpoint-tmp*/{ITEM}"):
                for name, said in ((RUN, self._run), (LOG, self._log), (NOTE, self._note)):
                    if said:
                        (partial / name).write_text(said)
                (partial / DIGESTS).write_text(json.dumps(_digests(partial)))

    def _said(self, step: int, name: str) -> str:
        """A digest or note that a checkpoint carries; "" where it has none."""
        file = self.directory / str(step) / ITEM / name
        return file.read_text() if file.is_file() else ""

    def log_digest(self, step: int) -> str:
        """The digest that the run's log had at this step (`RunLog.digest`); "" where no checkpoint says."""
        return self._said(step, LOG)

    def note(self, step: int) -> str:
        """What `save` was given as the note of this step; "" where there was none."""
        return self._said(step, NOTE)

    def _check_run(self, step: int) -> None:
        """Raise InputError unless a checkpoint belongs to this run: of the same shapes it would be taken for its own."""
        if self._said(step, RUN) != self._run:
            raise InputError(
                f"{self.directory / str(step)}: belongs to another run, of another config or other inputs; remove it, or the run's "
                "directory to begin anew",
                path=self.directory / str(step),
            )

    def _check_shapes(self, step: int, abstract: Any) -> None:
        """Raise InputError unless a checkpoint holds the arrays of `abstract`. orbax would find it out halfway through."""
        with ocp.StandardCheckpointer() as reader:
            stored = _shapes(reader.metadata(self.directory / str(step) / ITEM).item_metadata.tree)
        wanted = _shapes(abstract)
        if other := sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name)):
            name = other[0]
            raise InputError(
                f"{self.directory / str(step)}: holds the state of another model or optimiser ({name} has the shape "
                f"{stored.get(name)}, this run's {wanted.get(name)}); remove the run's directory to begin anew",
                path=self.directory / str(step),
            )

    def newest(self, last: int | None = None) -> int | None:
        """The newest step whose files are as they were written; None where no checkpoint is. Damaged ones are named on stderr.

        Args:
            last: later ones are removed; 0: all are, and the run begins anew.

        Raises:
            InputError: there are checkpoints, and all are damaged; or the newest is of another run.
        """
        self._damaged = []
        if last is not None:
            for step in [step for step in self._manager.all_steps() if step > last]:
                self._manager.delete(step)
        for step in sorted(self._manager.all_steps(), reverse=True):
            problem = _problem(self.directory, step)
            if problem is None:
                self._check_run(step)
                return step
            print(f"{self.directory / str(step)}: skipped: {problem}", file=sys.stderr)
            self._damaged.append(step)
        if self._damaged:
            raise InputError(
                f"{self.directory}: every checkpoint is damaged; remove the run's directory to begin anew",
                path=self.directory,
            )
        return None

    def read(self, step: int, abstract: Any) -> Any:
        """The state of the step that `newest` gave, placed as `abstract` says. Damaged ones after it are removed then, since their
        steps will be saved again.

        Raises:
            InputError: it is of another model.
        """
        self._check_shapes(step, abstract)
        state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        for later in self._damaged:
            self._manager.delete(later)
        return state

    def restore(self, abstract: TrainState, last: int | None = None) -> TrainState | None:
        """`read` of the `newest` state; None where no checkpoint is."""
        step = self.newest(last)
        return None if step is None else self.read(step, abstract)

    def save(self, step: int, state: Any, log: str = "", note: str = "") -> None:
        """Begin to save; returns when the state is copied to the host, waits for an earlier save that still runs.

        Args:
            log: the digest of the run's log up to this step.
            note: what else the run has to know to go on, JSON.
        """
        if step in self._manager.all_steps():
            return
        self.wait()
        self._log, self._note = log, note  # read by the saving thread, which has ended with the save before
        # Asked beforehand: on a disk that runs full while it writes, tensorstore's threads print tracebacks of their own.
        if shutil.disk_usage(self.directory).free < 1.05 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))
        with self._full_disk():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def wait(self) -> None:
        """Return when what was saved is on disk; an error of the saving thread is raised here."""
        with self._full_disk():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        """A full disk, or a file that may not grow, as the OSError that it is; tensorstore makes a ValueError of it."""
        try:
            yield
        except ValueError as error:
            if "RESOURCE_EXHAUSTED" in str(error) or "Error writing" in str(error):
                number = errno.EFBIG if os.strerror(errno.EFBIG) in str(error) else errno.ENOSPC
                raise OSError(number, os.strerror(number), str(self.directory)) from error
            raise

    def close(self) -> None:
        """End the saving thread. An error that it holds was raised by `save` or `wait`, or follows one that is on its way."""
        with contextlib.suppress(Exception):
            self._manager.close()
