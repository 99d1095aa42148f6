"""A run's model to the Hugging Face hub: as the run wrote it, and as its card says."""

from pathlib import Path

from distilbert_jax.base.files import sha256_of
from distilbert_jax.base.hub import CARD
from distilbert_jax.errors import InputError
from distilbert_jax.models.push import Pushed, push_model
from distilbert_jax.training.model_card import weights_of
from distilbert_jax.training.run_directory import OUTPUTS, check_outputs


def push_to_hub(directory: str | Path, repo_id: str, *, private: bool = False, message: str = "") -> Pushed:
    """Upload a model's directory: config, weights, tokenizer and README.md. The repository is made where there is none.

    The token is that of `HF_TOKEN` or `hf auth login`.

    Args:
        directory: an HF directory on this machine, such as RUN/model.
        repo_id: USER/NAME; NAME alone is one of the token's owner.
        private: of a new repository.
        message: of the commit.

    Raises:
        InputError: it holds no model, or a damaged one; its files are not those that its run has written, or its card is of other
            weights; or `base.hub.upload` says why the hub does not take it.
    """
    directory = Path(directory).expanduser()
    run = directory.resolve().parent
    if directory.resolve().name == "model" and (run / OUTPUTS).is_file():
        check_outputs(run, "model/")
    _check_card(directory)
    return push_model(directory, repo_id, private=private, message=message)


def _check_card(directory: Path) -> None:
    """Raise InputError where a model's card names other weights than lie beside it: its scores are not theirs."""
    card, weights = directory / CARD, directory / "model.safetensors"
    if not card.is_file() or not weights.is_file():
        return
    told = weights_of(card)
    if told and told != sha256_of(weights):
        raise InputError(
            f"{card}: is of other weights than {weights.name} (SHA-256 {told[:12]} …): its scores are not those of this model; "
            "remove it, or the line that names them",
            path=card,
        )
