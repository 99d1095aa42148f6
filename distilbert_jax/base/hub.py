"""Hub ids and model directories (config.json, model.safetensors, tokenizer.json): found by path or id, written whole, uploaded."""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from distilbert_jax import families
from distilbert_jax.errors import InputError

_FILES = (
    *("config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
POOLING = "1_Pooling/config.json"  # how a sentence encoder makes one vector of a text; read where it is served
CARD = "README.md"  # of a model's directory: what people read, and nothing that is loaded
_CARD_DIGEST = re.compile(r"<!-- .* SHA-256 of what stands above: ([0-9a-f]{64}) -->\n\Z")


def model_files() -> list[str]:
    """Patterns of all that is read of a model. Weights in other formats stay where they are."""
    return [*_FILES, *(name for kind in families.tokenizers() for name in kind.files)]


def is_edited(card: Path) -> bool:
    """Whether a README.md is there that is not as a run has written it: the last line has the digest of what stands above."""
    if not card.exists():
        return False
    text = card.read_bytes().decode("utf-8", "replace")
    last = _CARD_DIGEST.search(text)
    return last is None or hashlib.sha256(text[: last.start()].encode()).hexdigest() != last[1]


def is_from_hub(path_or_id: str) -> bool:
    """Whether a model that was loaded by this name came from the hub: a path that is gone may look like an id; no cache has it."""
    if not _HUB_ID.fullmatch(path_or_id) or Path(path_or_id).exists():
        return False
    from huggingface_hub import try_to_load_from_cache  # brings an HTTP client

    return isinstance(try_to_load_from_cache(path_or_id, "config.json"), str)


def locate(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The directory at a path or, where there is none, that of a model on the Hugging Face hub (`distilbert-base-uncased`).

    A model from the hub comes through the cache of huggingface_hub: what it holds is not downloaded again, `HF_HUB_OFFLINE=1`
    asks for nothing else, and `HF_TOKEN` or `hf auth login` open private and gated models.

    Args:
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        InputError: neither a directory nor reachable on the hub; the line says how to get a local copy.
    """
    if not str(path_or_id):
        raise InputError("the name of the model is empty; expected a directory or a hub id", field="model")
    try:
        path = Path(path_or_id).expanduser()
    except RuntimeError:
        raise InputError(
            f"{path_or_id}: there is no home of this user; expected a directory or a hub id", path=path_or_id
        ) from None
    if path.is_dir():
        if revision is not None:
            raise InputError(
                f"{path_or_id}: revision {revision!r} was asked for, but this is a directory, which has no revisions",
                path=path_or_id,
                field="revision",
            )
        return path
    if path.exists():
        raise InputError(
            f"{path_or_id}: is a file; expected the directory with config.json and model.safetensors", path=path_or_id
        )
    if not isinstance(path_or_id, str) or not _HUB_ID.fullmatch(path_or_id):
        raise InputError(
            f"{path_or_id}: no such directory; expected a model with config.json and model.safetensors, or a hub id",
            path=path_or_id,
        )
    return _download(path_or_id, revision)


@functools.cache  # one snapshot a process: its config, weights and tokenizer belong together
def _download(name: str, revision: str | None) -> Path:
    # Imported here: it brings an HTTP client, and most runs stay on the disk.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    absent = f"{name}: no such directory here, and"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*model_files(), POOLING]))
    except GatedRepoError:
        raise InputError(
            f"{absent} the hub gives this model to members only: ask for access there, then set HF_TOKEN",
            path=name,
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{absent} no such model on the hub (if it is a private one, set HF_TOKEN)", path=name
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{absent} the hub's model has no revision {revision!r}", path=name) from None
    except HFValidationError:
        raise InputError(f"{absent} this cannot be the name of a model on the hub", path=name) from None
    except HfHubHTTPError as error:
        raise InputError(f"{absent} the hub refused: {error}", path=name) from None
    except OSError as error:  # among them: not in the cache, and no connection or offline
        if error.errno is not None:  # of the disk, not of the network
            raise
        raise InputError(
            f"{absent} the hub's model is neither in the cache nor reachable: where there is a network, "
            f"`hf download {name} --local-dir DIR` makes a copy; name that directory instead",
            path=name,
        ) from None


def upload(files: Mapping[str, Path], repo_id: str, *, private: bool, message: str) -> str:
    """Make a model's repository on the hub where there is none, and commit files to its main branch; the URL of the commit.

    The token is that of `HF_TOKEN` or `hf auth login`; it stands in no message.

    Args:
        files: by their names in the repository. What else is there stays.
        private: of a repository that is made; one that is there stays as it is.

    Raises:
        InputError: `repo_id` is none, there is no token or it may not write there, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - its HTTP client's, and its versions have several
        OfflineModeIsEnabled,
    )
    from huggingface_hub.utils import validate_repo_id

    refused = lambda what, **fields: InputError(f"{repo_id}: {what}", path=repo_id, **fields)
    try:
        validate_repo_id(repo_id)
        if not _HUB_ID.fullmatch(repo_id):
            raise HFValidationError
    except HFValidationError:
        raise refused("no name of a repository; expected USER/NAME", field="repo_id", hint="USER/NAME") from None
    token = get_token()
    if not token:
        hint = "hf auth login, or HF_TOKEN=…"
        raise refused(f"there is no token to write to the hub with: {hint}", field="token", hint=hint)
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise refused("the token has characters that no token has; set HF_TOKEN anew", field="token")
    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        return api.create_commit(repo.repo_id, operations, commit_message=message).commit_url
    except (HTTPError, OfflineModeIsEnabled, RuntimeError, ValueError) as error:
        # What stops the weights while they go up is inside another error.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, OSError) and not isinstance(cause, HTTPError | OfflineModeIsEnabled):
            raise cause from None  # of the disk
        if isinstance(cause, HfHubHTTPError):
            status = {401: "the hub does not know this token", 403: "this token may not write there"}
            why, field = status.get(cause.response.status_code, "the hub refused"), "repo_id"
            why += f": {cause.server_message or cause}"
        elif isinstance(cause, OfflineModeIsEnabled):
            why, field = "HF_HUB_OFFLINE is set, and nothing is uploaded", "HF_HUB_OFFLINE"
        elif isinstance(cause, HTTPError):  # what the client says of a request may quote its headers
            why, field = f"the hub cannot be reached at {api.endpoint} ({type(cause).__name__})", "HF_ENDPOINT"
        else:  # among them the card's metadata, as the hub reads them
            why, field = f"the hub refused: {cause}", CARD if CARD in str(cause) else "repo_id"
        raise refused(" ".join(why.replace(token, "…").split()), field=field) from None


def write_directory(directory: str | Path, write: Callable[[Path], None], *, new: bool = False) -> None:
    """Let `write` fill a directory that appears whole or not at all; in one that is there, file by file is replaced.

    Args:
        new: refuse a directory in which something is, also if another process has put it there meanwhile.

    Raises:
        InputError: there is a file, something is in it, or another process is writing it.
    """
    directory = Path(directory).absolute()  # "." has no name of its own
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file; name a directory to write to", path=directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial")
    with _of_one_process(partial, directory):
        try:
            if new and directory.exists() and any(directory.iterdir()):
                raise InputError(f"{directory}: is there and not empty; name a new directory", path=directory)
            for left in partial.iterdir():  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            write(partial)
            if directory.exists():
                for file in partial.iterdir():
                    file.replace(directory / file.name)
                partial.rmdir()
            else:
                partial.replace(directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def _of_one_process(partial: Path, directory: Path) -> Iterator[None]:
    """Make `partial` this process' own, in which `directory` is written; errors of the file system name the latter.

    The lock is on the directory itself, and goes where it is moved to.
    """
    busy = InputError(f"{directory}: another process is writing it", path=directory)
    held = -1
    try:
        partial.mkdir(exist_ok=True)
        held = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), partial.stat()):
                yield
                return
        raise busy  # which has ended since the directory was opened
    except OSError as error:
        if str(error.filename).startswith(str(partial)):
            error.filename = str(directory) + str(error.filename).removeprefix(str(partial))
        raise
    finally:
        if held >= 0:
            os.close(held)
