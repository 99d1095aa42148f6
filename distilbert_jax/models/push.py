"""Models for the Hugging Face hub: of a directory what a model is made of goes up, and nothing else that lies there."""

from dataclasses import dataclass
from pathlib import Path

import distilbert_jax
from distilbert_jax.base.hub import CARD, upload
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.models.hf_format import check_sizes, loaded_files, read_config, read_headers

_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was uploaded. url: of the commit; files: their names."""

    url: str
    files: tuple[str, ...]


def push_model(directory: str | Path, repo_id: str, *, private: bool = False, message: str = "") -> Pushed:
    """Upload a model's directory as it is, as `training.push.push_to_hub` does of one that may be a run's.

    Raises:
        InputError: it holds no model, or a damaged one; or `base.hub.upload` says why the hub does not take it.
    """
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; expected a model with config.json", path=directory)
    files = model_parts(directory)
    if not any(name.startswith(("tokenizer", "vocab")) for name in files):
        warn_once(f"{directory}: has no tokenizer, so none is uploaded; save_pretrained writes one that it is given")
    message = message or f"Model saved by distilbert_jax {distilbert_jax.__version__}"
    url = upload({name: directory / name for name in files}, repo_id, private=private, message=message)
    return Pushed(url=url, files=tuple(files))


def model_parts(directory: Path) -> list[str]:
    """The files that a model is made of, its card among them, by their names in its directory.

    Raises:
        InputError: config or weights are missing or damaged, or are not of one model.
    """
    config = read_config(directory)
    headers = read_headers(directory)
    check_sizes(config, headers, str(directory))
    weights = {tensor.file.relative_to(directory).as_posix() for tensor in headers.values()}
    if "model.safetensors" not in weights:
        weights.add(_INDEX)
    names = [*loaded_files(directory), *([CARD] if (directory / CARD).is_file() else [])]
    return sorted(name for name in names if name in weights or not name.endswith((".safetensors", _INDEX)))
